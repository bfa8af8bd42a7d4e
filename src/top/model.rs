//! Model of `spotkeep top`: what is shown, and what each key does.
//!
//! Pure: takes news and keys, returns effects.

use std::time::Duration;

use super::key::Key;
use super::pager::Pager;
use super::row::Row;
use super::snapshot::{FleetSnapshot, News};
use state::{AgentName, AgentState};
use sys::time::Timestamp;

/// How long the result of a command is shown.
const ANSWER_SHOWN_FOR: Duration = Duration::from_secs(8);

/// Rows per page: the model does not know the height of the screen.
const PAGE: usize = 10;

/// The longest filter, in characters.
const FILTER_MAX: usize = 40;

/// An action outside of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Open an agent's terminal, and come back afterwards.
    Attach(AgentName),
    /// Run this program with these arguments in the background.
    Run {
        /// The arguments.
        arguments: Vec<String>,
        /// Whether to show its output in the pager.
        show: bool,
    },
    /// Follow the transcript of this agent from now on, or of none.
    Follow(Option<AgentName>),
    /// Quit.
    Quit,
}

/// An action on an agent that needs a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentAction {
    /// Stop it.
    Stop,
    /// Start it.
    Start,
    /// Restart it.
    Restart,
}

impl AgentAction {
    /// Returns the verb of the command line.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// The mode, which decides what keys do.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// The table is shown.
    Table,
    /// The user types a filter.
    Filter,
    /// An action waits for confirmation.
    Confirm(AgentAction, AgentName),
    /// The help is shown.
    Help,
    /// The pager shows an agent's transcript, or the output of a command.
    Reading(Pager),
}

/// The result of the last command.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The result in one line.
    pub text: String,
    /// Whether the command succeeded; `None` while it runs.
    pub worked: Option<bool>,
    at: Timestamp,
}

/// The state of the screen.
#[derive(Debug, Clone)]
pub struct Model {
    /// The newest snapshot of the fleet.
    pub fleet: FleetSnapshot,
    /// The current time, for ages.
    pub now: Timestamp,
    /// The mode.
    pub mode: Mode,
    /// Only agents are shown whose name, state, branch or activity contains this text.
    pub filter: String,
    /// The result of the last command.
    pub answer: Option<Answer>,
    selected: Option<AgentName>,
}

impl Model {
    /// Returns a model of this first snapshot.
    #[must_use]
    pub fn new(fleet: FleetSnapshot, now: Timestamp) -> Self {
        Self {
            fleet,
            now,
            mode: Mode::Table,
            filter: String::new(),
            answer: None,
            selected: None,
        }
    }

    /// Returns the rows of the agents that the filter shows.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let filter = self.filter.to_lowercase();
        let agents = self.fleet.status.agents.iter();
        agents
            .map(|agent| Row::new(&self.fleet, agent, self.now))
            .filter(|row| filter.is_empty() || text_of(row).contains(&filter))
            .collect()
    }

    /// Returns the index of the chosen row; 0 if the chosen agent is not shown.
    #[must_use]
    pub fn cursor(&self) -> usize {
        let rows = self.rows();
        let chosen = self.selected.as_ref();
        let found = chosen.and_then(|name| rows.iter().position(|row| row.agent.name == *name));
        found.unwrap_or(0)
    }

    /// Returns the chosen agent, to which keys apply.
    #[must_use]
    pub fn chosen(&self) -> Option<AgentName> {
        let rows = self.rows();
        rows.get(self.cursor()).map(|row| row.agent.name.clone())
    }

    /// Applies news.
    pub fn apply(&mut self, news: News) {
        match news {
            News::Tick(now) => self.now = now,
            News::FleetSnapshot(fleet) => {
                self.fleet = *fleet;
                if let (Mode::Reading(pager), Some((name, lines))) =
                    (&mut self.mode, &self.fleet.transcript)
                {
                    pager.append(name, lines);
                }
            }
            News::CommandDone {
                command,
                text,
                worked,
                show,
            } => self.show_result(&command, &text, worked, show),
        }
        let over = |answer: &Answer| {
            answer.worked.is_some() && self.now.since(answer.at) >= ANSWER_SHOWN_FOR
        };
        if self.answer.as_ref().is_some_and(over) {
            self.answer = None;
        }
    }

    fn show_result(&mut self, command: &str, text: &str, worked: bool, show: bool) {
        // The last line of the output says what was done.
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let many = text.trim().lines().count() > 1;
        if show && worked && many {
            self.answer = None;
            self.mode = Mode::Reading(Pager::from_text(command, text));
            return;
        }
        self.answer = Some(Answer {
            text: format!("{command}: {}", last.unwrap_or("done")),
            worked: Some(worked),
            at: self.now,
        });
    }

    /// Handles a key; returns the effects to carry out.
    pub fn press(&mut self, key: Key) -> Vec<Effect> {
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.in_table(key),
            Mode::Filter => self.in_filter(key),
            Mode::Confirm(action, name) => self.confirm(key, action, &name),
            // Every key leaves the help.
            Mode::Help => Vec::new(),
            Mode::Reading(pager) => self.reading(key, pager),
        }
    }

    fn in_table(&mut self, key: Key) -> Vec<Effect> {
        self.answer = self.answer.take().filter(|answer| answer.worked.is_none());
        match key {
            Key::Char('q') | Key::Break => return vec![Effect::Quit],
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Char('k') => self.step(-1),
            Key::Down | Key::Char('j') => self.step(1),
            Key::PageUp => self.step(-steps(PAGE)),
            Key::PageDown => self.step(steps(PAGE)),
            Key::Home | Key::Char('g') => self.step(isize::MIN),
            Key::End | Key::Char('G') => self.step(isize::MAX),
            _ => {
                if let Some(name) = self.chosen() {
                    return self.on_agent(key, name);
                }
            }
        }
        Vec::new()
    }

    fn on_agent(&mut self, key: Key, name: AgentName) -> Vec<Effect> {
        match key {
            Key::Enter => return vec![Effect::Attach(name)],
            Key::Char('s') => {
                let runs = |row: &Row<'_>| {
                    row.agent.name == name
                        && !matches!(row.agent.state, AgentState::Stopped | AgentState::Failed)
                };
                let action = match self.rows().iter().any(runs) {
                    true => AgentAction::Stop,
                    false => AgentAction::Start,
                };
                self.mode = Mode::Confirm(action, name);
            }
            Key::Char('r') => self.mode = Mode::Confirm(AgentAction::Restart, name),
            Key::Char('l') => {
                self.mode = Mode::Reading(Pager::from_agent(&name));
                return vec![Effect::Follow(Some(name))];
            }
            Key::Char('c') => return self.run(&["checkpoint", "now", name.as_str()], false),
            Key::Char('d') => return self.run(&["checkpoint", "diff", name.as_str()], true),
            _ => {}
        }
        Vec::new()
    }

    fn run(&mut self, arguments: &[&str], show: bool) -> Vec<Effect> {
        self.answer = Some(Answer {
            text: format!("spotkeep {} …", arguments.join(" ")),
            worked: None,
            at: self.now,
        });
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        vec![Effect::Run { arguments, show }]
    }

    fn in_filter(&mut self, key: Key) -> Vec<Effect> {
        match key {
            Key::Enter => return Vec::new(),
            Key::Escape | Key::Break => {
                self.filter.clear();
                return Vec::new();
            }
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Char(c) if self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            _ => {}
        }
        self.mode = Mode::Filter;
        Vec::new()
    }

    /// Handles the answer: every key but `y` (and `i` for a restart) cancels.
    fn confirm(&mut self, key: Key, action: AgentAction, name: &AgentName) -> Vec<Effect> {
        match key {
            Key::Char('y' | 'Y') => self.run(&[action.verb(), name.as_str()], false),
            Key::Char('i') if action == AgentAction::Restart => {
                self.run(&["restart", name.as_str(), "--when-idle"], false)
            }
            _ => Vec::new(),
        }
    }

    fn reading(&mut self, key: Key, mut pager: Pager) -> Vec<Effect> {
        match key {
            Key::Char('q') | Key::Escape | Key::Break => {
                return match pager.is_transcript() {
                    true => vec![Effect::Follow(None)],
                    false => Vec::new(),
                };
            }
            Key::Up | Key::Char('k') => pager.up(1),
            Key::Down | Key::Char('j') | Key::Enter => pager.down(1),
            Key::PageUp | Key::Char('b') => pager.up(PAGE),
            Key::PageDown | Key::Char(' ') => pager.down(PAGE),
            Key::Home | Key::Char('g') => pager.up(usize::MAX),
            Key::End | Key::Char('G') => pager.down(usize::MAX),
            _ => {}
        }
        self.mode = Mode::Reading(pager);
        Vec::new()
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let to = self.cursor().saturating_add_signed(by).min(last);
        self.selected = rows.get(to).map(|row| row.agent.name.clone());
    }
}

fn steps(count: usize) -> isize {
    isize::try_from(count).unwrap_or(isize::MAX)
}

/// Returns the text of a row that the filter searches.
fn text_of(row: &Row<'_>) -> String {
    let branch = row.agent.branch.as_deref().unwrap_or_default();
    let (name, state) = (&row.agent.name, row.agent.state.as_str());
    format!("{name} {state} {branch} {}", row.doing()).to_lowercase()
}
