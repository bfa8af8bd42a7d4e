//! Reads the state of a lab (status, journal, records, transcripts) and waits for changes of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use drill::fake_api::Model;
use drill::fake_api::log::RequestLog;
use drill::session_file::transcript_marks;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spotkeep::tmux::Tmux;
use state::{AgentName, lines};
use sys::inotify::Watch;
use sys::process::ProcessId;
use sys::time::Timestamp;

use crate::old_program::renamed;
use crate::support::{Lab, said};
use testing::wait::{until, until_with};

/// How long one wait for a notification lasts before the condition is checked again.
const WAIT_STEP: Duration = Duration::from_millis(500);

/// A line of the journal as JSON: tests check the format of the file, not the program's own types.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    pub version: u32,
    pub seq: u64,
    pub at: Timestamp,
    #[serde(alias = "root_id")]
    pub data_dir_id: String,
    pub epoch: u64,
    #[serde(alias = "life")]
    pub boot_id: String,
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(flatten)]
    pub data: Map<String, Value>,
}

impl Lab {
    /// The output of `status --json`.
    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).sound().json()
    }

    /// One agent in `status --json`.
    pub fn agent(&self, name: &str) -> Value {
        let status = self.status();
        let agents = status["agents"].as_array().unwrap();
        agents
            .iter()
            .find(|agent| agent["name"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// Waits until an agent is in this state; returns its entry in `status --json`.
    pub fn wait_state(&self, name: &str, state: &str) -> Value {
        self.until(&format!("{name} is {state}"), || {
            let agent = self.agent(name);
            (agent["state"] == state).then_some(agent)
        })
    }

    /// Waits until an agent whose plan leaves a turn open runs its open tool.
    pub fn wait_open(&self, name: &str) {
        self.until_model(&format!("{name} is at its open call"), |request_log| {
            let account = request_log.agents.get(name);
            account.is_some_and(|account| account.open.is_some())
        });
        self.until("the open tool runs and is in the transcript", || {
            let runs = self.workspace(name).join("open.txt").exists();
            (runs && self.unwritten(name).is_empty()).then_some(())
        });
    }

    /// Waits until an agent has ended a turn and is idle, with its whole transcript written.
    pub fn wait_done(&self, name: &str) {
        self.wait_rest(name);
        self.assert_nothing_lost(name);
    }

    /// Waits for the first checkpoint of an agent, which the keeper makes automatically.
    pub fn wait_checkpointed(&self, name: &str) {
        self.until(&format!("{name} has its checkpoint"), || {
            self.agent(name)["last_checkpoint"]
                .is_string()
                .then_some(())
        });
    }

    /// Waits until an agent has ended a turn and is idle. An agent that was ended during an answer
    /// may lack that answer and its tool's result.
    pub fn wait_rest(&self, name: &str) {
        self.until_model(&format!("{name} has ended a turn"), |request_log| {
            let account = request_log.agents.get(name);
            account.is_some_and(|account| account.turns_ended > 0)
        });
        self.wait_state(name, "idle");
        self.until(&format!("{name} lacks one message at most"), || {
            (self.unwritten(name).len() <= 3).then_some(())
        });
    }

    /// The records that the fake API sent or received for an agent and that its transcripts lack.
    pub fn unwritten(&self, name: &str) -> Vec<String> {
        let request_log = self.model.request_log();
        let record = self.record(name);
        let config = self.data_dir().join(".claude");
        let mut sessions = vec![record["session_id"].as_str().unwrap_or_default().to_owned()];
        for past in record["past_sessions"].as_array().into_iter().flatten() {
            sessions.push(past.as_str().unwrap().to_owned());
        }
        let written: Vec<_> = sessions
            .iter()
            .flat_map(|id| transcript_marks(&config, id))
            .collect();
        let records = request_log
            .agents
            .get(name)
            .map(|account| account.records.clone())
            .unwrap_or_default();
        let lost = records
            .iter()
            .filter(|record| !written.contains(&record.marker));
        lost.map(|record| record.marker.to_string()).collect()
    }

    /// Waits until no record of an agent is missing. An agent writes a tenth of a second later.
    pub fn assert_nothing_lost(&self, name: &str) {
        let records = self
            .model
            .request_log()
            .agents
            .get(name)
            .map_or(0, |account| account.records.len());
        assert!(records > 0, "{name} has no records that could be lost");
        self.until(&format!("{name} has all its records"), || {
            self.unwritten(name).is_empty().then_some(())
        });
    }

    /// An agent's record, as JSON.
    pub fn record(&self, name: &str) -> Value {
        let text = fs::read(self.record_path(name)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    pub fn record_path(&self, name: &str) -> PathBuf {
        self.file(&format!("session-state/agents/{name}.json"))
    }

    pub fn session_of(&self, name: &str) -> String {
        self.record(name)["session_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// An agent's process.
    pub fn process(&self, name: &str) -> ProcessId {
        let pid = self.agent(name)["pid"]
            .as_i64()
            .unwrap_or_else(|| panic!("{name} runs: {}", self.account()));
        ProcessId::from_pid(i32::try_from(pid).unwrap()).unwrap()
    }

    /// All readable lines of the journal.
    pub fn journal(&self) -> Vec<JournalLine> {
        lines(&self.file("session-state/journal.jsonl"))
            .map(|(lines, _)| lines)
            .unwrap_or_default()
            .iter()
            .map(|entry| serde_json::from_str(&entry.text).unwrap())
            .collect()
    }

    /// The events of one kind for one agent, or those without an agent where `agent` is empty.
    pub fn events(&self, agent: &str, event: &str) -> Vec<JournalLine> {
        let of_agent = |line: &JournalLine| line.agent.as_deref().unwrap_or("") == agent;
        self.journal()
            .into_iter()
            .filter(|line| line.event == event && of_agent(line))
            .collect()
    }

    /// Waits until an event has been logged `count` times; returns the last of them.
    pub fn wait_event(&self, agent: &str, event: &str, count: usize) -> JournalLine {
        self.until(&format!("{count} times {event} of {agent:?}"), || {
            let found = self.events(agent, event);
            (found.len() >= count).then(|| found[count - 1].clone())
        })
    }

    /// Waits until `count` starts of an agent are confirmed.
    pub fn wait_up(&self, agent: &str, count: usize) {
        self.until(&format!("{agent} is up for the {count}th time"), || {
            let starts = self.events(agent, "started").len() + self.events(agent, "resumed").len();
            (starts >= count).then_some(())
        });
    }

    /// All transcripts.
    pub fn transcripts(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.file(".claude/projects"))
            .into_iter()
            .flatten()
            .flatten();
        let files =
            folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
        let mut paths: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
        paths.sort();
        paths
    }

    /// Waits for the transcript of an agent's session: Claude shows a message before it writes it.
    pub fn transcript(&self, name: &str) -> PathBuf {
        let file = format!("{}.jsonl", self.session_of(name));
        self.until(&format!("{name} has a transcript"), || {
            self.transcripts()
                .into_iter()
                .find(|path| path.ends_with(&file))
        })
    }

    /// The manifests of saves, oldest first.
    pub fn manifests(&self) -> Vec<Value> {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.file("session-state/saves"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
            .collect()
    }

    /// The tmux server of this data directory's agents.
    pub fn tmux(&self) -> Tmux {
        let data_dir: Value =
            serde_json::from_slice(&fs::read(self.file("session-state/root.json")).unwrap())
                .unwrap();
        let id = renamed(&data_dir, "data_dir_id");
        Tmux::new(&self.dir.join("run").join(&id.as_str().unwrap()[..8]))
    }

    /// Types into an agent's terminal and presses Enter, without spotkeep.
    pub fn type_into(&self, name: &str, text: &str) {
        self.tmux()
            .paste(&AgentName::new(name).unwrap(), text)
            .unwrap();
        self.press_enter(name);
    }

    /// Presses Enter in an agent's terminal.
    pub fn press_enter(&self, name: &str) {
        self.tmux()
            .press_enter(&AgentName::new(name).unwrap())
            .unwrap();
    }

    /// Waits for a change of state in the data directory or in Claude's session files.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let watch = Watch::new().unwrap();
        for dir in [
            "session-state",
            "session-state/agents",
            "session-state/saves",
            ".claude/sessions",
        ] {
            watch.add(&self.data_dir().join(dir)).ok();
        }
        // Changes elsewhere, as in a process, are found by polling.
        let pause = || {
            watch.wait(Duration::from_millis(100));
        };
        until_with(what, || self.account(), pause, look)
    }

    /// Waits until the fake API's request log meets a condition.
    pub fn until_model(&self, what: &str, so: impl Fn(&RequestLog) -> bool) {
        until_model(&self.model, what, || self.account(), so);
    }

    /// Waits until the metadata server holds a request of the keeper, so that the keeper sees the
    /// next change at once.
    pub fn wait_asked(&self) {
        until("the metadata server is asked", || {
            self.metadata().wait_for_pollers(1, WAIT_STEP).then_some(())
        });
    }

    /// Waits until the metadata server has sent `count` answers.
    pub fn wait_answered(&self, count: usize) {
        until(
            &format!("the metadata server has answered {count} times"),
            || {
                self.metadata()
                    .wait_for_answers(count, WAIT_STEP)
                    .then_some(())
            },
        );
    }

    /// The journal, the keeper's log and the status, for the message of a failed test.
    pub fn account(&self) -> String {
        let journal =
            fs::read_to_string(self.file("session-state/journal.jsonl")).unwrap_or_default();
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let status = said(&mut self.spotkeep(&["status"]));
        format!(
            "journal:\n{journal}\nkeeper:\n{log}\nstatus:\n{}{}",
            status.out, status.err
        )
    }
}

/// Waits until a fake API's request log meets a condition.
pub fn until_model(
    model: &Model,
    what: &str,
    account: impl Fn() -> String,
    so: impl Fn(&RequestLog) -> bool,
) {
    let look = || model.wait(WAIT_STEP, &so).then_some(());
    until_with(what, account, || (), look);
}

/// The arguments that a process was started with.
pub fn arguments(process: ProcessId) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap();
    let words = bytes
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned());
    words.filter(|word| !word.is_empty()).collect()
}
