//! `spotkeep logs`: shows what agents said and did.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::daemon::{named, status};
use super::output::{complain, print_line, shorten};
use crate::keeper::runtime_dir::Holder;
use crate::tmux::Tmux;
use claude::transcript::render::{LineSpeaker, TranscriptLine, render};
use claude::{Reader, TranscriptLookup};
use state::layout::DataDir;
use state::{AgentName, VERSION};
use sys::error::{Context as _, ErrorKind as Failure, Hint as _, Result, anyhow};
use sys::inotify::Watch;
use sys::time::Timestamp;

/// Bytes at the end of a transcript that are read first.
const FIRST_LOOK: u64 = 128 << 10;

/// Upper limit of bytes to read per requested line; a record may be long.
const BYTES_PER_LINE: u64 = 64 << 10;

/// The longest line, in characters; it fits on a terminal of 50 lines.
const LINE_MAX: usize = 2_000;

/// The longest call or result of a tool, in characters.
const RESULT_MAX: usize = 200;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The lines of several agents are sorted by time.

Examples:
  spotkeep logs agent-1 --follow
  spotkeep logs -n 5
  spotkeep logs agent-1 --raw")]
pub(super) struct Args {
    /// The agents; all if none is named.
    names: Vec<AgentName>,
    /// Show this many of the newest lines.
    #[arg(short = 'n', long, default_value_t = 40, value_name = "COUNT")]
    lines: usize,
    /// Keep running and show new lines.
    #[arg(short, long, conflicts_with = "raw")]
    follow: bool,
    /// Print JSON, one object per message.
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Show the text of the agent's terminal instead.
    #[arg(long)]
    raw: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let now = status(data_dir)?;
    let agents = named(&now, &args.names)?;
    if args.raw {
        return raw(data_dir, args);
    }
    let widest = agents.iter().map(|agent| agent.name.as_str().len()).max();
    let format = OutputFormat {
        json: args.json,
        name: widest.filter(|_| agents.len() > 1),
    };
    let mut followers: Vec<TranscriptFollower> = Vec::new();
    let mut all: Vec<Spoken> = Vec::new();
    for agent in &agents {
        let mut follower = TranscriptFollower {
            name: agent.name.clone(),
            session_id: agent.session_id.clone(),
            reader: None,
        };
        match follower.begin(data_dir, args.lines) {
            Ok(words) => all.extend(words),
            // With --follow its lines may come later; with several agents the others are shown.
            Err(_) if args.follow || agents.len() > 1 => {}
            Err(error) => return Err(error),
        }
        followers.push(follower);
    }
    format.print(&mut all, args.lines)?;
    for skipped in followers.iter().filter_map(TranscriptFollower::skipped) {
        complain(&skipped);
    }
    if args.follow {
        follow(data_dir, followers, &format)
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

fn raw(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let [name] = &args.names[..] else {
        return Err(anyhow!("--raw shows one agent's terminal"))
            .hint("spotkeep logs --raw NAME")
            .kind(Failure::Usage);
    };
    let holder = Holder::read(data_dir)
        .context("no keeper has run here yet")
        .hint("spotkeep up")?;
    let lines = u32::try_from(args.lines).unwrap_or(u32::MAX);
    let screen = Tmux::new(&holder.runtime)
        .history(name, lines)
        .context(format!("{name} has no terminal"))
        .hint(format!("spotkeep start {name}"))?;
    for line in screen.trim_end().lines() {
        print_line(line);
    }
    Ok(ExitCode::SUCCESS)
}

/// A message from or to an agent.
struct Spoken {
    name: AgentName,
    said: TranscriptLine,
}

/// Reads the transcript of one agent.
struct TranscriptFollower {
    name: AgentName,
    session_id: String,
    reader: Option<Reader>,
}

impl TranscriptFollower {
    /// Reads the last lines of the transcript; the rest is not read, since it may be long.
    fn begin(&mut self, data_dir: &DataDir, lines: usize) -> Result<Vec<Spoken>> {
        let path = transcript(data_dir, &self.name, &self.session_id)?;
        let most = BYTES_PER_LINE.saturating_mul(lines as u64);
        let mut bytes = FIRST_LOOK.min(most);
        loop {
            let reader = Reader::tail(&path, bytes).context("cannot read the transcript")?;
            let is_whole = reader.mark().offset == 0;
            self.reader = Some(reader);
            let words = self.read_new()?;
            if words.len() >= lines || is_whole || bytes >= most {
                return Ok(words);
            }
            bytes = bytes.saturating_mul(4).min(most);
        }
    }

    /// Reads new messages.
    fn read_new(&mut self) -> Result<Vec<Spoken>> {
        let Some(reader) = &mut self.reader else {
            return Ok(Vec::new());
        };
        let records = reader.poll().context("cannot read the transcript")?;
        let name = &self.name;
        let spoken = |said| Spoken {
            name: name.clone(),
            said,
        };
        let own = records.iter().filter(|record| !record.sidechain);
        Ok(own.flat_map(render).map(spoken).collect())
    }

    /// Opens the transcript of the agent's current session, if the session has changed or the
    /// transcript has just been created.
    fn keep_up(&mut self, data_dir: &DataDir, watch: &Watch) {
        let record = data_dir.load_record(&self.name).ok().flatten();
        if let Some(record) = record.filter(|record| record.session_id != self.session_id) {
            self.session_id = record.session_id;
            self.reader = None;
        }
        if self.reader.is_none()
            && let Ok(path) = transcript(data_dir, &self.name, &self.session_id)
        {
            path.parent().map(|dir| watch.add(dir).ok());
            self.reader = Some(Reader::open(path));
        }
    }

    fn skipped(&self) -> Option<String> {
        let reader = self.reader.as_ref()?;
        let bytes = reader.skipped().bytes;
        (bytes > 0).then(|| {
            format!(
                "{bytes} bytes of {} could not be read",
                reader.path().display()
            )
        })
    }
}

fn transcript(data_dir: &DataDir, name: &AgentName, session_id: &str) -> Result<PathBuf> {
    match claude::locate(&data_dir.claude(), session_id) {
        TranscriptLookup::Present(path) | TranscriptLookup::Blank(path) => Ok(path),
        TranscriptLookup::Several(paths) => {
            let first = paths.into_iter().next();
            first.context("its session does not exist")
        }
        TranscriptLookup::Missing => {
            Err(anyhow!("{name} has no messages yet")).hint(format!("spotkeep logs --raw {name}"))
        }
        TranscriptLookup::Unknown(why) => {
            Err(anyhow!("cannot look for the transcript of {name}: {why}"))
        }
    }
}

fn follow(
    data_dir: &DataDir,
    mut followers: Vec<TranscriptFollower>,
    format: &OutputFormat,
) -> Result<ExitCode> {
    let watch = Watch::new()?;
    for follower in &followers {
        let path = follower.reader.as_ref().map(Reader::path);
        path.and_then(|path| watch.add(path.parent()?).ok());
    }
    // A session may change, or its transcript may be created.
    watch.add(&data_dir.records()).ok();
    watch.add(&data_dir.claude().join("projects")).ok();
    loop {
        watch.wait(Duration::from_secs(1));
        let mut all = Vec::new();
        for follower in &mut followers {
            all.extend(follower.read_new()?);
            follower.keep_up(data_dir, &watch);
            all.extend(follower.read_new()?);
        }
        format.print(&mut all, usize::MAX)?;
    }
}

/// How messages are printed.
struct OutputFormat {
    json: bool,
    /// The width of names, if there are several agents.
    name: Option<usize>,
}

impl OutputFormat {
    /// Prints the last `lines` lines, sorted by time.
    fn print(&self, all: &mut [Spoken], lines: usize) -> Result<()> {
        if self.name.is_some() {
            all.sort_by_key(|spoken| spoken.said.at);
        }
        let mut printed: Vec<String> = Vec::new();
        for spoken in &*all {
            match self.json {
                true => printed.push(as_json(spoken)?),
                false => printed.extend(self.readable(spoken)),
            }
        }
        printed[printed.len().saturating_sub(lines)..]
            .iter()
            .for_each(|line| print_line(line));
        Ok(())
    }

    /// Returns the lines for a person. Messages of the user and the model keep their lines.
    fn readable(&self, spoken: &Spoken) -> Vec<String> {
        let TranscriptLine { at, who, text } = &spoken.said;
        let clock = at.map_or_else(|| " ".repeat(8), Timestamp::clock);
        let name = match self.name {
            Some(wide) => format!("{:wide$}  ", spoken.name.as_str()),
            None => String::new(),
        };
        let (word, lines) = match who {
            LineSpeaker::Result { is_error } => {
                let sign = if *is_error { "✕" } else { "→" };
                ("", vec![format!("{sign} {}", shorten(text, RESULT_MAX))])
            }
            LineSpeaker::Tool => (who.as_str(), vec![shorten(text, RESULT_MAX)]),
            LineSpeaker::User | LineSpeaker::Claude | LineSpeaker::Api => (
                who.as_str(),
                text.lines().map(|line| cut(line, LINE_MAX)).collect(),
            ),
        };
        let line = |(index, line): (usize, &String)| {
            let (clock, word) = match index {
                0 => (clock.as_str(), word),
                _ => ("        ", ""),
            };
            format!("{clock}  {name}{word:<7} {line}")
                .trim_end()
                .to_owned()
        };
        lines.iter().enumerate().map(line).collect()
    }
}

/// Cuts a line without changing its spaces, which may be part of program code.
fn cut(line: &str, longest: usize) -> String {
    match line.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn as_json(spoken: &Spoken) -> Result<String> {
    let TranscriptLine { at, who, text } = &spoken.said;
    let is_error = matches!(who, LineSpeaker::Result { is_error: true });
    Ok(serde_json::to_string(&serde_json::json!({
        "version": VERSION, "agent": spoken.name, "at": at, "who": who.as_str(),
        "is_error": is_error,
        "text": text,
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: Option<usize>, who: LineSpeaker, text: &str) -> Vec<String> {
        let format = OutputFormat { json: false, name };
        format.readable(&Spoken {
            name: AgentName::new("api").unwrap(),
            said: TranscriptLine {
                at: Timestamp::parse("2026-11-28T14:03:22Z"),
                who,
                text: text.into(),
            },
        })
    }

    #[test]
    fn messages_keep_their_lines_and_results_are_shortened() {
        assert_eq!(
            lines(None, LineSpeaker::Claude, "Two fail:\n\n  one\n  two"),
            [
                "14:03:22  claude  Two fail:",
                "",
                "                    one",
                "                    two"
            ]
        );
        let long = format!("a\nb {}", "x".repeat(300));
        let result = lines(None, LineSpeaker::Result { is_error: true }, &long);
        assert_eq!(result.len(), 1);
        assert!(result[0].starts_with("14:03:22          ✕ a b xxx") && result[0].ends_with("x…"));
        assert_eq!(
            lines(Some(5), LineSpeaker::User, "go"),
            ["14:03:22  api    user    go"]
        );
    }
}
