//! `spotkeep events`: shows the event log.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::output::{complain, print_line};
use state::layout::DataDir;
use state::{JournalEntry, lines};
use sys::error::{Context as _, Result};
use sys::inotify::Watch;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spotkeep events -n 50\n  spotkeep events --follow --json")]
pub(super) struct Args {
    /// Show this many of the newest events.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    lines: usize,
    /// Keep running and show new events.
    #[arg(short, long)]
    follow: bool,
    /// Print the lines of the event log (JSON).
    #[arg(long)]
    json: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let path = data_dir.journal();
    let end = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let (all, damaged) = lines(&path)?;
    if damaged > 0 {
        complain(&format!(
            "{damaged} lines of {} are damaged and are skipped",
            path.display()
        ));
    }
    let shown: Vec<&JournalEntry> = all
        .iter()
        .filter(|line| args.json || line.event.is_news())
        .collect();
    for line in &shown[shown.len().saturating_sub(args.lines)..] {
        show(line, args.json)?;
    }
    if args.follow {
        follow(data_dir, end, args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(data_dir: &DataDir, from: u64, json: bool) -> Result<()> {
    let path = data_dir.journal();
    let watch = Watch::new()?;
    if let Some(dir) = path.parent() {
        watch.add(dir)?;
    }
    let mut file =
        std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file);
    let mut text = String::new();
    loop {
        let was_replaced = is_another(&reader, &path);
        while reader.read_line(&mut text)? > 0 {
            // A partial line stays in the buffer until the rest of it has been written.
            if text.ends_with('\n') {
                let line = JournalEntry::parse(&text);
                if let Some(line) = line.filter(|line| json || line.event.is_news()) {
                    show(&line, json)?;
                }
                text.clear();
            }
        }
        match was_replaced.then(|| std::fs::File::open(&path)) {
            Some(Ok(file)) => reader = BufReader::new(file),
            _ => {
                watch.wait(Duration::from_secs(1));
            }
        }
    }
}

/// Returns whether the journal is another file now, so that this one gets no more lines.
fn is_another(reader: &BufReader<std::fs::File>, path: &Path) -> bool {
    let (Ok(ours), Ok(now)) = (reader.get_ref().metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) != (now.dev(), now.ino())
}

fn show(line: &JournalEntry, json: bool) -> Result<()> {
    if json {
        print_line(&line.text);
        return Ok(());
    }
    let agent = line.agent.as_deref().unwrap_or("-");
    print_line(&format!(
        "{}  {:<20}  {:<16}  {}",
        line.at.for_people(),
        agent,
        line.name,
        line.fields()
    ));
    Ok(())
}
