//! Figures 21 to 23: CPU time and latency of `spotkeep top`, and the time of `spotkeep logs`.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use claude::TranscriptLookup;
use claude::locate;
use state::layout::DataDir;
use state::{AgentName, lines};
use sys::error::{Context as _, Result, bail, ensure};
use sys::time::Timestamp;

use super::fleet::Fleet;
use super::idle::Counters;
use super::options::Options;
use super::place::{self, Environment};
use super::stats::Sample;
use super::table::Figure;

/// The figures of `--only top`.
pub const NUMBERS: std::ops::RangeInclusive<u8> = 21..=23;

/// The number of agents.
const AGENTS: usize = 50;
/// The limit of CPU time, in percent of a core.
const MUST_CPU: f64 = 1.0;
/// The limit of the time until a change is shown, in milliseconds.
const MUST_SEE: f64 = 500.0;
/// The limit of the time of `logs`, in milliseconds.
const MUST_START: f64 = 1_000.0;
/// How long work after a start lasts.
const QUIET: Duration = Duration::from_secs(8);
/// The limit of any command.
const LIMIT: Duration = Duration::from_secs(30);
/// The size of each transcript, in bytes: a gigabyte for fifty.
const BYTES: usize = 20 << 20;

/// Measures with the fake, because Claude does not affect these figures.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    // A gigabyte does not fit into the separate file system that other fleets have.
    let mut fleet = Fleet::create_in(place.sandbox(false)?, AGENTS, "idle", None)?;
    fleet.boot()?;
    fleet.wait_until_idle()?;
    let mut figures = Vec::new();
    if options.wants(21) || options.wants(22) {
        let terminal = Terminal::open(&fleet)?;
        terminal.wait("50 agents")?;
        if options.wants(21) {
            figures.push(idle(&fleet, &terminal, options)?);
        }
        if options.wants(22) {
            figures.push(change(&fleet, &terminal, options)?);
        }
    }
    if options.wants(23) {
        figures.push(logs(&fleet, options)?);
    }
    Ok(figures)
}

fn idle(fleet: &Fleet, terminal: &Terminal, options: &Options) -> Result<Figure> {
    std::thread::sleep(QUIET);
    let pids = [terminal.pid()?, fleet.keeper()?];
    let read =
        || -> Result<Vec<Counters>> { pids.iter().map(|pid| Counters::read(*pid)).collect() };
    let before = read()?;
    std::thread::sleep(Duration::from_secs(if options.quick { 20 } else { 60 }));
    let after = read()?;
    let percent: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.percent_since(before))
        .collect();
    Ok(Figure {
        number: 21,
        name: format!("top with {AGENTS} agents at rest"),
        must: format!("{MUST_CPU} % of a core"),
        measured: format!(
            "{:.2} %; the keeper with it {:.2} %",
            percent[0], percent[1]
        ),
        reached: Some(percent[0] < MUST_CPU),
        how: "in a tmux pane of 140 by 40; utime + stime of /proc/PID, children not among them"
            .into(),
    })
}

fn change(fleet: &Fleet, terminal: &Terminal, options: &Options) -> Result<Figure> {
    let (mut records, mut states) = (Sample::default(), Sample::default());
    let transcripts = transcripts(fleet)?;
    for (number, path) in transcripts.iter().take(options.times(20, 10)).enumerate() {
        let mark = format!("seen-{number:03}");
        let began = Instant::now();
        append(path, &mark)?;
        terminal.wait(&mark)?;
        records.push(began.elapsed().as_secs_f64() * 1e3);
    }
    for number in 0..options.times(10, 5) {
        let name = &fleet.names[number];
        place::run(
            fleet.spotkeep()?.args(["stop", name]).stdin(Stdio::null()),
            LIMIT,
        )?;
        terminal.wait(&format!("stopped   {name}"))?;
        let seen = Timestamp::now();
        let journal = fleet.sandbox.data_dir().join("session-state/journal.jsonl");
        let (lines, _) = lines(&journal)?;
        let stopped = lines
            .iter()
            .rfind(|line| line.name == "exited" && line.agent.as_deref() == Some(name))
            .context("no end is in the journal")?;
        states.push(seen.since(stopped.at).as_secs_f64() * 1e3);
    }
    Ok(Figure {
        number: 22,
        name: "a change to its place on the screen".into(),
        must: format!("{MUST_SEE} ms"),
        measured: format!(
            "records {}; states {}",
            records.text(" ms", 0),
            states.text(" ms", 0)
        ),
        reached: Some(records.p95() <= MUST_SEE && states.p95() <= MUST_SEE),
        how: "from the write of a record to its text in the pane; from the journal's `exited` to \
              the state; \
              the pane is captured every few milliseconds; the 95th percentile counts"
            .into(),
    })
}

/// Measures `spotkeep logs` with long transcripts.
fn logs(fleet: &Fleet, options: &Options) -> Result<Figure> {
    let line = record(&"and so on, for a whole line of words, ".repeat(20));
    let block = line.repeat(BYTES / line.len() + 1);
    for path in transcripts(fleet)? {
        let mut file = fs::OpenOptions::new().append(true).open(path)?;
        file.write_all(block.as_bytes())?;
    }
    let (mut one, mut all) = (Sample::default(), Sample::default());
    for run in 0..options.times(25, 8) {
        for (sample, names) in [(&mut one, &fleet.names[..1]), (&mut all, &[][..])] {
            let mut command = fleet.spotkeep()?;
            command
                .arg("logs")
                .args(names)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let began = Instant::now();
            let status = command.status()?;
            let took = began.elapsed();
            ensure!(status.success(), "spotkeep logs: {status}");
            // The first runs bring the program and the ends of the files into memory.
            if run >= 3 {
                sample.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(Figure {
        number: 23,
        name: "logs on a gigabyte of transcripts".into(),
        must: format!("{MUST_START} ms"),
        measured: format!(
            "of one agent {}; of all {AGENTS} {}",
            one.text(" ms", 1),
            all.text(" ms", 0)
        ),
        reached: Some(one.p95() <= MUST_START && all.p95() <= MUST_START),
        how: format!("{AGENTS} transcripts of 20 MiB; from the start of the process to its end"),
    })
}

/// The transcripts, by the agents' records: an agent may have ended for another figure.
fn transcripts(fleet: &Fleet) -> Result<Vec<PathBuf>> {
    let data_dir = DataDir::open(&fleet.sandbox.data_dir())?;
    let mut found = Vec::new();
    for name in &fleet.names {
        let record = data_dir.load_record(&AgentName::new(name)?)?;
        let record = record.with_context(|| format!("{name} has no record"))?;
        match locate(&data_dir.claude(), &record.session_id) {
            TranscriptLookup::Present(path) => found.push(path),
            other => bail!("{name} has no transcript: {other:?}"),
        }
    }
    Ok(found)
}

fn record(text: &str) -> String {
    let message = serde_json::json!({"role": "assistant", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": text}]});
    let record = serde_json::json!({"type": "assistant", "isSidechain": false, "uuid": "u",
        "timestamp": Timestamp::now(), "message": message});
    format!("{record}\n")
}

fn append(path: &PathBuf, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    Ok(file.write_all(record(text).as_bytes())?)
}

/// A pane of a separate tmux server with `spotkeep top`. The sandbox ends it.
struct Terminal<'a> {
    fleet: &'a Fleet,
}

impl<'a> Terminal<'a> {
    fn open(fleet: &'a Fleet) -> Result<Self> {
        let terminal = Self { fleet };
        let top = fleet.spotkeep()?;
        let mut words = vec![top.get_program().to_string_lossy().into_owned()];
        words.extend(
            top.get_args()
                .map(|word| word.to_string_lossy().into_owned()),
        );
        words.push("top".into());
        let mut arguments = vec!["new-session", "-d", "-x", "140", "-y", "40", "--"];
        arguments.extend(words.iter().map(String::as_str));
        terminal.tmux(&arguments)?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let like = self.fleet.spotkeep()?;
        let mut tmux = Command::new("tmux");
        tmux.env_clear()
            .envs(
                like.get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .arg("-S")
            .arg(self.fleet.sandbox.data_dir().with_file_name("pane.sock"))
            .args(["-f", "/dev/null"])
            .args(arguments);
        place::run(&mut tmux, LIMIT)
    }

    fn pid(&self) -> Result<u32> {
        Ok(self
            .tmux(&["display-message", "-p", "#{pane_pid}"])?
            .trim()
            .parse()?)
    }

    fn wait(&self, text: &str) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if screen.contains(text) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{text} is not shown:\n{screen}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
