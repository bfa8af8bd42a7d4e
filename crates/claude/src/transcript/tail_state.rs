//! Follower of a transcript that keeps the state of its end.

use std::collections::VecDeque;

use super::record::{Block, Dequeue, Record, RecordKind, Speaker, ToolResult};
use super::tail::{OpenTool, Tail};
use crate::api_error::{ApiStop, Recorded};
use sys::time::Timestamp;

/// Beginning of the prompts that spotkeep sends; they do not count as requests of the user.
pub const OWN_MARK: &str = "[spotkeep] ";

/// Beginning of a nudge, which is sent to a running Claude Code after the API stopped its turn.
pub const NUDGE_MARK: &str = "[spotkeep] The API ";

/// How much of a prompt is kept, in characters.
const PROMPT_LIMIT: usize = 2_000;

/// A record continues one of this many records before it, or one that follows it.
const RECENT: usize = 64;

/// Follows a transcript record by record.
#[derive(Debug, Clone, Default)]
pub struct TailState {
    turn: Turn,
    open: Vec<OpenTool>,
    killed: Killed,
    /// Ids of background tasks.
    tasks: Vec<String>,
    queue: VecDeque<String>,
    last_activity: Option<Timestamp>,
    last_prompt: Option<String>,
    found_request: bool,
    stops: Stops,
    order: RecordOrder,
}

/// Whether records come in the order in which they were made. Claude Code writes from several
/// places at once: on a crowded machine 2.1.197 wrote the end of a turn before the prompt that it
/// answers (seen in 1 of 100 turns that end at once, for lack of a login).
#[derive(Debug, Clone, Default)]
struct RecordOrder {
    /// Ids of the last records.
    recent: VecDeque<String>,
    /// When the last message of Claude Code was made, where the record that it continues was not
    /// there yet.
    ahead: Option<Timestamp>,
}

impl RecordOrder {
    /// Whether a record was made before the message of Claude Code that is there already, and is a
    /// part of what led to it.
    fn is_late(&mut self, record: &Record) -> bool {
        if let Some(uuid) = &record.uuid {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(uuid.clone());
        }
        if matches!(
            record.kind,
            RecordKind::Assistant { .. } | RecordKind::ApiError { .. }
        ) {
            let parent = record.parent.as_ref();
            if self.ahead.is_some() || parent.is_some_and(|parent| !self.recent.contains(parent)) {
                self.ahead = record.timestamp.or(self.ahead);
            }
            return false;
        }
        let made = record.timestamp;
        let ahead = self.ahead;
        let is_late = ahead.is_some_and(|ahead| made.is_some_and(|made| made < ahead));
        if !is_late && matches!(record.kind, RecordKind::Prompt { .. }) {
            self.ahead = None;
        }
        is_late
    }
}

/// How often the API has stopped the turn that the user requested last, without an answer of the
/// model in between.
#[derive(Debug, Clone, Default)]
struct Stops {
    in_a_row: u32,
    last: Option<String>,
    /// Answers of the model in total.
    answers: u64,
}

/// Calls of this turn whose only result is the signal that ended them.
#[derive(Debug, Clone, Default)]
struct Killed {
    tools: Vec<OpenTool>,
    at: Option<Timestamp>,
    /// The model has continued since.
    passed: bool,
}

#[derive(Debug, Clone, Default)]
enum Turn {
    #[default]
    None,
    Running,
    Done {
        background_agents: u64,
    },
    Stopped(ApiStop, String),
    Interrupted,
}

impl TailState {
    /// Adds the next record of the file.
    pub fn push(&mut self, record: &Record) {
        if record.sidechain {
            return;
        }
        let is_late = self.order.is_late(record);
        if record.timestamp.is_some() && !is_late {
            self.last_activity = record.timestamp;
        }
        match &record.kind {
            RecordKind::Prompt { text, by } if is_late => self.late_prompt(text, *by),
            RecordKind::Prompt { text, by } => self.prompt(text, *by),
            RecordKind::Absorbed(text) => {
                self.unqueue(Some(text));
                self.request(text);
            }
            RecordKind::Assistant { blocks, stop, .. } => self.assistant(blocks, stop.as_deref()),
            RecordKind::ToolResults(results) => {
                self.answered(results, record.timestamp);
                if !is_late {
                    self.turn = Turn::Running;
                }
            }
            RecordKind::ApiError {
                error,
                status,
                text,
                resets_at,
            } => {
                let stop = ApiStop::from_record(&Recorded {
                    error: error.as_deref(),
                    status: *status,
                    text,
                    resets_at: *resets_at,
                    at: record.timestamp,
                });
                self.stops.in_a_row += 1;
                self.stops.last.clone_from(&record.uuid);
                self.end(Turn::Stopped(stop, text.clone()));
            }
            RecordKind::Interrupted { .. } => self.end(Turn::Interrupted),
            RecordKind::TurnEnd { background_agents } => {
                if matches!(self.turn, Turn::Running | Turn::Done { .. }) {
                    self.end(Turn::Done {
                        background_agents: *background_agents,
                    });
                }
            }
            RecordKind::Enqueue(text) => self.queue.push_back(text.clone()),
            RecordKind::Dequeue(Dequeue::One(text)) => self.unqueue(text.as_deref()),
            RecordKind::Dequeue(Dequeue::All) => self.queue.clear(),
            RecordKind::Local(text) => self.task_ended(text),
            RecordKind::Summary
            | RecordKind::System(_)
            | RecordKind::Title(_)
            | RecordKind::Unknown(_) => {}
        }
    }

    /// Returns the state at the end now.
    #[must_use]
    pub fn tail(&self) -> Tail {
        match &self.turn {
            Turn::None => Tail::Empty,
            Turn::Done { background_agents } => {
                match (self.tasks.len() as u64).max(*background_agents) {
                    0 => Tail::Idle,
                    count => Tail::AwaitingTasks { count },
                }
            }
            Turn::Stopped(reason, text) => Tail::StoppedByApi {
                reason: *reason,
                text: text.clone(),
            },
            Turn::Interrupted => Tail::InterruptedByUser,
            Turn::Running => self.running(),
        }
    }

    /// Returns the state at the end of a Claude Code that was asked to stop at `at`, by the clock
    /// of that machine.
    ///
    /// A stop can be a race: 2.1.197 may send one more request when its tools are killed, and the
    /// model then ends the turn after the report of that. Such a turn was cut by the stop.
    #[must_use]
    pub fn tail_when_stopped(&self, at: Timestamp) -> Tail {
        let by_us = self.killed.at.is_some_and(|killed| killed >= at);
        let over = !matches!(self.turn, Turn::Stopped(..) | Turn::Interrupted);
        if by_us && over && !self.killed.tools.is_empty() {
            return Tail::CutInTool {
                tools: [&self.killed.tools[..], &self.open[..]].concat(),
            };
        }
        self.tail()
    }

    fn running(&self) -> Tail {
        let killed = match self.killed.passed {
            true => &[],
            false => &self.killed.tools[..],
        };
        match &self.open[..] {
            [] if killed.is_empty() => Tail::CutInStream,
            [tool, ..] if killed.is_empty() && self.open.iter().all(asks_the_user) => {
                Tail::WaitingForHuman { tool: tool.clone() }
            }
            open => Tail::CutInTool {
                tools: [killed, open].concat(),
            },
        }
    }

    /// Returns when the last record of the main conversation was made, by the clock of that
    /// machine.
    #[must_use]
    pub fn last_activity(&self) -> Option<Timestamp> {
        self.last_activity
    }

    /// Returns the user's last prompt, at most 2000 characters of it; prompts that spotkeep sent do
    /// not count.
    #[must_use]
    pub fn last_prompt(&self) -> Option<&str> {
        self.last_prompt.as_deref()
    }

    /// Returns prompts that were typed while the model worked and that it has not been given.
    /// Claude Code keeps its queue in memory, so after its end they are lost unless they are sent
    /// again.
    #[must_use]
    pub fn queued(&self) -> Vec<&str> {
        self.queue
            .iter()
            .map(String::as_str)
            .filter(|text| !text.starts_with("<task-notification>"))
            .collect()
    }

    /// Returns how often in a row the API has stopped the user's last request; zero once the model
    /// has answered again.
    #[must_use]
    pub fn stops_in_a_row(&self) -> u32 {
        self.stops.in_a_row
    }

    /// Returns the id of the record in which the API stopped a turn last.
    #[must_use]
    pub fn last_stop(&self) -> Option<&str> {
        self.stops.last.as_deref()
    }

    /// Returns how many messages of the model were seen.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.stops.answers
    }

    /// Whether the beginning of the last turn was among the records: then no earlier one changes
    /// the state at the end, except for background tasks.
    #[must_use]
    pub fn found_request(&self) -> bool {
        self.found_request
    }

    fn prompt(&mut self, text: &str, by: Speaker) {
        self.task_ended(text);
        self.turn = Turn::Running;
        if by == Speaker::Machine {
            return;
        }
        self.open.clear();
        self.killed = Killed::default();
        if text.starts_with(NUDGE_MARK) {
            return; // Sent to the running process, so its background tasks still run.
        }
        if text.starts_with(OWN_MARK) {
            // The note has listed what was queued and what ran in the process before.
            self.queue.clear();
            self.tasks.clear();
            return;
        }
        self.stops.in_a_row = 0;
        self.asked(text);
    }

    /// The result of this prompt is known already.
    fn late_prompt(&mut self, text: &str, by: Speaker) {
        if by == Speaker::Human && !text.starts_with(OWN_MARK) {
            self.asked(text);
        }
    }

    fn asked(&mut self, text: &str) {
        if let Some(at) = self.queue.iter().position(|queued| queued == text) {
            self.queue.remove(at);
        }
        self.request(text);
        self.found_request = true;
    }

    fn task_ended(&mut self, notification: &str) {
        let id = notification
            .strip_prefix("<task-notification>")
            .and_then(|rest| rest.split_once("<task-id>"))
            .and_then(|(_, rest)| rest.split_once("</task-id>"))
            .map(|(id, _)| id);
        let Some(id) = id else { return };
        self.tasks.retain(|task| task != id);
        if let Turn::Done { background_agents } = &mut self.turn {
            *background_agents = background_agents.saturating_sub(1);
        }
    }

    fn request(&mut self, text: &str) {
        self.last_prompt = Some(text.chars().take(PROMPT_LIMIT).collect());
    }

    fn answered(&mut self, results: &[ToolResult], at: Option<Timestamp>) {
        for result in results {
            let Some(index) = self
                .open
                .iter()
                .position(|tool| tool.id == result.tool_use_id)
            else {
                continue;
            };
            let tool = self.open.remove(index);
            self.tasks.extend(result.background.clone());
            if matches!(tool.name.as_str(), "KillShell" | "TaskStop") {
                let input = tool.input.to_string();
                self.tasks
                    .retain(|task| !input.contains(&format!("\"{task}\"")));
            }
            if result.is_error && was_killed(&result.text) {
                if std::mem::take(&mut self.killed.passed) {
                    self.killed.tools.clear();
                }
                self.killed.tools.push(tool);
                self.killed.at = at;
            }
        }
    }

    fn assistant(&mut self, blocks: &[Block], stop: Option<&str>) {
        self.killed.passed = true;
        self.stops.in_a_row = 0;
        self.stops.answers += 1;
        let mut calls = false;
        for block in blocks {
            if let Block::ToolUse { id, name, input } = block {
                calls = true;
                self.open.push(OpenTool {
                    id: id.clone(),
                    name: name.clone(),
                    input: input.clone(),
                });
            }
        }
        // After `max_tokens` or `pause_turn` Claude Code continues automatically.
        if !calls && matches!(stop, Some("end_turn" | "stop_sequence" | "refusal")) {
            self.end(Turn::Done {
                background_agents: 0,
            });
        } else {
            self.turn = Turn::Running;
        }
    }

    fn end(&mut self, turn: Turn) {
        self.open.clear();
        self.turn = turn;
    }

    fn unqueue(&mut self, text: Option<&str>) {
        let at = match text {
            Some(text) => self.queue.iter().position(|queued| queued == text),
            None => Some(0),
        };
        if let Some(at) = at {
            self.queue.remove(at);
        }
    }
}

fn asks_the_user(tool: &OpenTool) -> bool {
    matches!(tool.name.as_str(), "AskUserQuestion" | "ExitPlanMode")
}

/// Whether a tool's result only says that it was ended from outside. On SIGTERM 2.1.330 kills the
/// running command and records this (2.1.197 mostly leaves the call open), so a call that
/// spotkeep's stop cut off looks answered.
fn was_killed(answer: &str) -> bool {
    let signs = [
        "Exit code 137",
        "Exit code 143",
        "[Request interrupted by user",
    ];
    signs
        .iter()
        .any(|sign| answer.trim_start().starts_with(sign))
}
