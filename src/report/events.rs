//! What a report needs of the journal: its lines, life by life, with words that others chose left out.

use serde_json::Value;

use super::Doing;
use state::Line;
use sys::time::Timestamp;

/// A word from outside that is longer is cut; ours are short.
const WORD: usize = 40;

/// What one line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    KeeperStarted {
        since_boot_ms: Option<u64>,
    },
    KeeperStopped,
    Notice {
        source: String,
    },
    Safe {
        save: String,
        clean: bool,
    },
    Survived,
    Restore {
        names: Vec<String>,
        short: usize,
        torn: usize,
    },
    Starting {
        continues: bool,
    },
    Up {
        continued: bool,
    },
    /// With a word on why, from a closed set.
    Doing(Doing, Option<String>),
    Restarts,
    Nudged,
    Fleet {
        up: bool,
    },
    /// Changes of state, each with its own agent and moment; `None`: it is not declared any more.
    Activity(Vec<(String, Timestamp, Option<Doing>)>),
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) at: Timestamp,
    pub(super) agent: Option<String>,
    pub(super) said: Said,
}

/// One life of the machine, as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Life {
    pub(super) id: String,
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) facts: Vec<Fact>,
}

impl Life {
    /// When the machine began, where its keeper could tell; else the first word of this life.
    pub(super) fn began(&self) -> Timestamp {
        let boot = self.facts.iter().find_map(|fact| match fact.said {
            Said::KeeperStarted { since_boot_ms } => Some((fact.at, since_boot_ms?)),
            _ => None,
        });
        match boot {
            Some((at, ms)) => at.before(std::time::Duration::from_millis(ms)),
            None => self.first_at,
        }
    }
}

/// Takes the next line, in the journal's order, into the lives.
pub(super) fn take(lives: &mut Vec<Life>, line: &Line) {
    let is_same = lives.last().is_some_and(|life| life.id == line.life);
    if !is_same {
        lives.push(Life {
            id: line.life.clone(),
            first_at: line.at,
            last_at: line.at,
            facts: Vec::new(),
        });
    }
    let Some(life) = lives.last_mut() else { return };
    life.last_at = line.at;
    if let Some(said) = said(line) {
        life.facts.push(Fact {
            at: line.at,
            agent: line.agent.clone(),
            said,
        });
    }
}

/// `None`: nothing that a report tells of, such as an event that only a newer version knows.
fn said(line: &Line) -> Option<Said> {
    let data = &line.data;
    let is_true = |key: &str| data.get(key) == Some(&Value::Bool(true));
    let kind = || {
        let cause = data.get("cause").and_then(|cause| cause.get("kind"));
        cause.and_then(word)
    };
    Some(match line.event.as_str() {
        "keeper-started" => Said::KeeperStarted {
            since_boot_ms: data.get("since_boot_ms").and_then(Value::as_u64),
        },
        "keeper-stopped" => Said::KeeperStopped,
        "notice" => Said::Notice {
            source: data.get("source").and_then(word).unwrap_or_default(),
        },
        "safe" => Said::Safe {
            save: data.get("save").and_then(word).unwrap_or_default(),
            clean: is_true("clean"),
        },
        "survived" => Said::Survived,
        "restore" => Said::Restore {
            names: names(data.get("names")),
            short: names(data.get("short")).len(),
            torn: names(data.get("torn")).len(),
        },
        "starting" => Said::Starting {
            continues: data.get("how").and_then(Value::as_str) == Some("continue"),
        },
        "started" => Said::Up { continued: false },
        "resumed" => Said::Up {
            continued: is_true("continued"),
        },
        "waiting" => Said::Doing(Doing::Waiting, None),
        "stalled" => Said::Doing(Doing::Stalled, data.get("reason").and_then(word)),
        "exited" => Said::Doing(Doing::Stopped, kind()),
        "stopped" => Said::Doing(Doing::Stopped, None),
        "failed" => Said::Doing(Doing::Failed, kind()),
        "backoff" => Said::Restarts,
        "nudged" => Said::Nudged,
        "fleet" => Said::Fleet {
            up: data.get("wanted").and_then(Value::as_str) == Some("up"),
        },
        "activity" => Said::Activity(changes(data.get("changes"))),
        _ => return None,
    })
}

fn changes(list: Option<&Value>) -> Vec<(String, Timestamp, Option<Doing>)> {
    let one = |change: &Value| {
        let text = |key: &str| change.get(key).and_then(Value::as_str);
        let at = Timestamp::parse(text("at")?)?;
        Some((text("agent")?.to_owned(), at, Doing::of(text("state")?)))
    };
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(one).collect()
}

fn names(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

fn word(value: &Value) -> Option<String> {
    Some(value.as_str()?.chars().take(WORD).collect())
}
