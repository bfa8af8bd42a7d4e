//! Transcript follower: reads the transcripts of all agents as they grow.
//!
//! The end of each transcript is read first, since that is what the user looks at. The tokens of a
//! long transcript are counted once by a background thread, and kept up to date from there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::snapshot::Glance;
use crate::keeper::status::AgentStatus;
use claude::transcript::render::TranscriptLine;
use claude::transcript::summary::Story;
use claude::{Reader, TranscriptLookup};
use state::AgentName;
use sys::inotify::{Bell, Watch};
use sys::process;
use sys::thread;

/// Bytes at the end of a transcript that are read first.
const FIRST_LOOK: u64 = 256 << 10;

/// How often to look for a transcript that does not exist yet.
const SEARCH_EVERY: Duration = Duration::from_secs(2);

/// The transcripts of all agents.
pub struct Transcripts {
    config_dir: PathBuf,
    all: BTreeMap<AgentName, Followed>,
    jobs: Sender<Recount>,
    counted: Receiver<Counted>,
}

/// A transcript that the background thread is to read from its beginning.
struct Recount {
    name: AgentName,
    path: PathBuf,
}

/// A transcript that the background thread has read.
struct Counted {
    name: AgentName,
    reader: Reader,
    story: Story,
}

/// The transcript of one agent.
#[derive(Default)]
struct Followed {
    session_id: String,
    open: Option<Open>,
    searched_at: Option<Instant>,
}

struct Open {
    reader: Reader,
    story: Story,
    is_whole: bool,
    /// Device, inode and length when it was last read.
    seen: (u64, u64, u64),
}

impl Transcripts {
    /// Starts without transcripts; `bell` wakes the caller when one has been counted.
    pub fn new(config_dir: PathBuf, bell: Bell) -> Self {
        let (jobs, queue) = mpsc::channel();
        let (done, counted) = mpsc::channel();
        let thread = thread::spawn("count", move || count(&queue, &done, &bell));
        if let Err(error) = thread {
            tracing::debug!("tokens of long transcripts are not counted: {error}");
        }
        Self {
            config_dir,
            all: BTreeMap::new(),
            jobs,
            counted,
        }
    }

    /// Reads new records of these agents.
    pub fn refresh(&mut self, agents: &[AgentStatus], watch: &Watch) {
        self.all
            .retain(|name, _| agents.iter().any(|agent| agent.name == *name));
        // First, so that a count that is requested below is applied by the next call, which the
        // bell causes.
        self.take_counted();
        for agent in agents.iter().filter(|agent| !agent.session_id.is_empty()) {
            let followed = self.all.entry(agent.name.clone()).or_default();
            if followed.session_id != agent.session_id {
                *followed = Followed {
                    session_id: agent.session_id.clone(),
                    ..Followed::default()
                };
            }
            if followed.open.is_none() && followed.may_search() {
                followed.searched_at = Some(Instant::now());
                followed.open = open(&self.config_dir, &agent.session_id);
                if let Some(open) = &followed.open {
                    open.reader.path().parent().map(|dir| watch.add(dir).ok());
                    if !open.is_whole {
                        let path = open.reader.path().to_path_buf();
                        let name = agent.name.clone();
                        self.jobs.send(Recount { name, path }).ok();
                    }
                }
            }
            if let Some(open) = &mut followed.open {
                open.read();
            }
        }
    }

    fn take_counted(&mut self) {
        while let Ok(Counted {
            name,
            reader,
            story,
        }) = self.counted.try_recv()
        {
            let followed = self.all.get_mut(&name).and_then(|one| one.open.as_mut());
            // The agent may have another session now.
            if let Some(open) = followed.filter(|open| open.reader.path() == reader.path()) {
                *open = Open {
                    reader,
                    story,
                    is_whole: true,
                    seen: (0, 0, 0),
                };
            }
        }
    }

    /// Returns a summary of each transcript.
    pub fn glances(&self) -> BTreeMap<AgentName, Glance> {
        let open = self
            .all
            .iter()
            .filter_map(|(name, one)| Some((name, one.open.as_ref()?)));
        open.map(|(name, open)| (name.clone(), open.glance()))
            .collect()
    }

    /// Returns the messages of an agent, newest last.
    pub fn lines_of(&self, name: &AgentName) -> Vec<TranscriptLine> {
        let open = self.all.get(name).and_then(|one| one.open.as_ref());
        open.map(|open| open.story.lines().cloned().collect())
            .unwrap_or_default()
    }
}

impl Followed {
    fn may_search(&self) -> bool {
        self.searched_at
            .is_none_or(|at| at.elapsed() >= SEARCH_EVERY)
    }
}

impl Open {
    /// Reads new records; an unchanged file is not opened.
    fn read(&mut self) {
        let seen = file_state(self.reader.path());
        if seen == self.seen {
            return;
        }
        let generation = self.reader.mark().generation;
        let Ok(records) = self.reader.poll() else {
            return;
        };
        if self.reader.mark().generation != generation {
            self.story = Story::default();
            self.is_whole = true;
        }
        records.iter().for_each(|record| self.story.push(record));
        self.seen = seen;
    }

    fn glance(&self) -> Glance {
        let counters = self.story.counters();
        Glance {
            doing: self.story.doing(),
            tokens: counters.total().fresh(),
            cached: counters.total().cache_read,
            context: counters.context(),
            is_whole: self.is_whole,
        }
    }
}

fn file_state(path: &Path) -> (u64, u64, u64) {
    std::fs::metadata(path).map_or((0, 0, 0), |meta| (meta.dev(), meta.ino(), meta.len()))
}

fn open(config_dir: &Path, session_id: &str) -> Option<Open> {
    let path = match claude::locate(config_dir, session_id) {
        TranscriptLookup::Present(path) => path,
        TranscriptLookup::Several(paths) => paths.into_iter().next()?,
        TranscriptLookup::Blank(_) | TranscriptLookup::Missing | TranscriptLookup::Unknown(_) => {
            return None;
        }
    };
    let reader = Reader::tail(path, FIRST_LOOK).ok()?;
    Some(Open {
        is_whole: reader.mark().offset == 0,
        reader,
        story: Story::default(),
        seen: (0, 0, 0),
    })
}

/// Reads long transcripts from their beginnings, one after another, with low priority.
fn count(jobs: &Receiver<Recount>, done: &Sender<Counted>, bell: &Bell) {
    process::set_nice();
    for Recount { name, path } in jobs {
        let mut story = Story::default();
        let mut reader = Reader::open(path);
        let read = reader.each(|record| {
            story.push(&record);
            true
        });
        if read.is_ok()
            && done
                .send(Counted {
                    name,
                    reader,
                    story,
                })
                .is_err()
        {
            return;
        }
        bell.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::keeper::status;
    use testing::wait::{FOREVER, during};

    fn said(text: &str, id: &str) -> String {
        format!(
            r#"{{"type":"assistant","message":{{"id":"{id}","content":[{{"type":"text","text":"{text}"}}],"usage":{{"input_tokens":1,"output_tokens":1}}}}}}"#
        ) + "\n"
    }

    #[test]
    fn a_long_transcript_shows_its_end_first_and_its_tokens_when_they_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("projects/-w");
        fs::create_dir_all(&project).unwrap();
        let path = project.join("s.jsonl");
        let prompt = r#"{"type":"user","message":{"content":"go"}}"#;
        let mut text = format!("{prompt}\n");
        for number in 0..3_000 {
            text += &said("so much was said long ago", &number.to_string());
        }
        fs::write(&path, text + &said("the end", "last")).unwrap();
        let watch = Watch::new().unwrap();
        let mut all = Transcripts::new(dir.path().to_path_buf(), watch.bell());
        let agents = [status::sample("a", "s")];
        all.refresh(&agents, &watch);
        let first = all.glances()[&agents[0].name].clone();
        assert_eq!(first.doing.as_deref(), Some("the end"));
        assert!(!first.is_whole && first.tokens < 6_002, "{first:?}");
        for _ in 0..100 {
            during("more has been read", || watch.wait(FOREVER));
            all.refresh(&agents, &watch);
            if all.glances()[&agents[0].name].is_whole {
                break;
            }
        }
        assert_eq!(all.glances()[&agents[0].name].tokens, 6_002);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(said("and more", "more").as_bytes()).unwrap();
        all.refresh(&agents, &watch);
        let last = all.glances()[&agents[0].name].clone();
        assert_eq!(
            (last.doing.as_deref(), last.tokens),
            (Some("and more"), 6_004)
        );
        assert_eq!(
            all.lines_of(&agents[0].name).last().unwrap().text,
            "and more"
        );
    }
}
