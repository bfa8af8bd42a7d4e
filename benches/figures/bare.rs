//! The baseline of figure 4: starts the same commands in tmux without the keeper, some at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use claude::command_line;
use drill::session_file::live;
use spotkeep::keeper::runtime_dir::Holder;
use state::config::Config;
use state::layout::DataDir;
use supervisor::start_limits::Limits;
use sys::error::{Context as _, Result};
use sys::inotify::Watch;

use super::fleet::Fleet;
use super::place::run;

/// The limit of one tmux command.
const LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for one start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often to poll for changes that inotify does not report.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The number of starts in flight that the keeper would allow.
pub fn parallel() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Limits::for_cores(cores).parallel
}

/// Starts every agent with the keeper's last command. Returns the time of the first start.
///
/// A start has ended when Claude's session file shows a status, as for the keeper.
pub fn start(fleet: &Fleet) -> Result<Instant> {
    let data_dir = DataDir::open(&fleet.sandbox.data_dir())?;
    let commands = commands(&data_dir)?;
    let keeper = Holder::read(&data_dir).context("no keeper has ever run")?;
    let configuration = keeper.runtime.join("tmux.conf");
    let watch = Watch::new()?;
    let started = Instant::now();
    let mut in_flight: Vec<(String, Instant)> = Vec::new();
    for command in commands {
        while in_flight.len() >= parallel() {
            watch.add(&data_dir.claude().join("sessions")).ok();
            watch.wait(POLL_INTERVAL);
            let running = live(&data_dir.claude());
            let is_up = |id: &str| {
                running
                    .iter()
                    .any(|at| at.session_id == id && !at.status.is_empty())
            };
            in_flight.retain(|(id, since)| !is_up(id) && since.elapsed() < START_LIMIT);
        }
        let mut tmux = fleet.sandbox.command(Path::new("tmux"));
        tmux.arg("-S")
            .arg(fleet.sandbox.dir().join("run/bare.sock"));
        tmux.arg("-f").arg(&configuration);
        run(tmux.args(command.arguments), LIMIT)?;
        in_flight.push((command.session_id, Instant::now()));
    }
    Ok(started)
}

/// The command of one start.
struct Command {
    session_id: String,
    /// The arguments of tmux.
    arguments: Vec<String>,
}

/// The commands for all agents, sorted by name.
fn commands(data_dir: &DataDir) -> Result<Vec<Command>> {
    let config = Config::load(&data_dir.config())?;
    let mut all = Vec::new();
    for (name, agent) in &config.agents {
        let record = data_dir
            .load_record(name)?
            .context("an agent has no record")?;
        let launched = record.launch.context("an agent was never launched")?;
        let cwd = data_dir.absolute(&record.cwd).display().to_string();
        let fixed = [
            "new-session",
            "-d",
            "-s",
            name.as_str(),
            "-x",
            "200",
            "-y",
            "50",
            "-c",
            &cwd,
        ];
        let mut arguments = fixed.map(str::to_owned).to_vec();
        let environment = spotkeep::agent::exec::environment(data_dir, &config, agent)?;
        for (key, value) in command_line::environment(&data_dir.claude())
            .into_iter()
            .chain(environment)
        {
            arguments.extend(["-e".to_owned(), format!("{key}={value}")]);
        }
        arguments.extend(["--".to_owned(), launched.program.display().to_string()]);
        arguments.extend(launched.arguments);
        all.push(Command {
            session_id: record.session_id,
            arguments,
        });
    }
    Ok(all)
}
