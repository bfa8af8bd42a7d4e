//! Pure: what is looked at, and what a key means. News and keys in, effects out.

use std::time::Duration;

use super::key::Key;
use super::pager::Pager;
use super::row::Row;
use super::snapshot::{FleetSnapshot, News};
use state::{AgentName, AgentState};
use sys::time::Timestamp;

/// For how long the answer to a command is shown.
const SAID_FOR: Duration = Duration::from_secs(8);

/// How many rows a page is, where the screen is not known.
const PAGE: usize = 10;

/// The longest filter, in characters.
const FILTER_MAX: usize = 40;

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Leave the screen to an agent's terminal, and come back.
    Attach(AgentName),
    /// Run this program with these arguments, aside.
    Run {
        /// As they would be typed.
        arguments: Vec<String>,
        /// What it prints is to be read in full.
        show: bool,
    },
    /// Tell what this agent says, from now on; nobody's where none is named.
    Listen(Option<AgentName>),
    /// The end.
    Quit,
}

/// What may be done to an agent, and is asked about before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It ends, and stays so.
    Stop,
    /// It runs again.
    Start,
    /// It ends and is resumed.
    Restart,
}

impl Deed {
    /// The verb for it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// What keys mean now.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// The table.
    Table,
    /// The filter is typed.
    Filter,
    /// A deed waits for a yes.
    Asked(Deed, AgentName),
    /// The keys are explained.
    Help,
    /// Something is read: an agent's words, or a difference.
    Reading(Pager),
}

/// The answer to the last command.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// In a line.
    pub text: String,
    /// Whether it worked; `None` while it is under way.
    pub worked: Option<bool>,
    at: Timestamp,
}

/// All that is shown.
#[derive(Debug, Clone)]
pub struct Model {
    /// What is known.
    pub fleet: FleetSnapshot,
    /// The time that ages are told by.
    pub now: Timestamp,
    /// What keys mean.
    pub mode: Mode,
    /// Only agents whose name, state, branch or doing holds this are shown.
    pub filter: String,
    /// The answer to the last command.
    pub answer: Option<Answer>,
    selected: Option<AgentName>,
}

impl Model {
    /// With a first look at the world.
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

    /// The agents that are shown.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let desired = self.filter.to_lowercase();
        let agents = self.fleet.status.agents.iter();
        agents
            .map(|agent| Row::new(&self.fleet, agent, self.now))
            .filter(|row| desired.is_empty() || text_of(row).contains(&desired))
            .collect()
    }

    /// Where among the rows the chosen one is; the first, where the chosen one is not shown.
    #[must_use]
    pub fn cursor(&self) -> usize {
        let rows = self.rows();
        let chosen = self.selected.as_ref();
        let found = chosen.and_then(|name| rows.iter().position(|row| row.agent.name == *name));
        found.unwrap_or(0)
    }

    /// The agent that keys are about.
    #[must_use]
    pub fn chosen(&self) -> Option<AgentName> {
        let rows = self.rows();
        rows.get(self.cursor()).map(|row| row.agent.name.clone())
    }

    /// Takes in what was found out.
    pub fn apply(&mut self, news: News) {
        match news {
            News::Tick(now) => self.now = now,
            News::FleetSnapshot(fleet) => {
                self.fleet = *fleet;
                if let (Mode::Reading(pager), Some((name, words))) =
                    (&mut self.mode, &self.fleet.words)
                {
                    pager.append(name, words);
                }
            }
            News::Said {
                command,
                text,
                worked,
                show,
            } => self.show_result(&command, &text, worked, show),
        }
        let over =
            |answer: &Answer| answer.worked.is_some() && self.now.since(answer.at) >= SAID_FOR;
        if self.answer.as_ref().is_some_and(over) {
            self.answer = None;
        }
    }

    fn show_result(&mut self, command: &str, text: &str, worked: bool, show: bool) {
        // A table ends with what was done.
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let many = text.trim().lines().count() > 1;
        if show && worked && many {
            self.answer = None;
            self.mode = Mode::Reading(Pager::of_text(command, text));
            return;
        }
        self.answer = Some(Answer {
            text: format!("{command}: {}", last.unwrap_or("done")),
            worked: Some(worked),
            at: self.now,
        });
    }

    /// Takes a key; says what is to be done outside.
    pub fn press(&mut self, key: Key) -> Vec<Effect> {
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.in_table(key),
            Mode::Filter => self.in_filter(key),
            Mode::Asked(deed, name) => self.decided(key, deed, &name),
            // Any key leaves the help.
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
                let deed = match self.rows().iter().any(runs) {
                    true => Deed::Stop,
                    false => Deed::Start,
                };
                self.mode = Mode::Asked(deed, name);
            }
            Key::Char('r') => self.mode = Mode::Asked(Deed::Restart, name),
            Key::Char('l') => {
                self.mode = Mode::Reading(Pager::of_words(&name));
                return vec![Effect::Listen(Some(name))];
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

    /// Only a yes is a yes.
    fn decided(&mut self, key: Key, deed: Deed, name: &AgentName) -> Vec<Effect> {
        match key {
            Key::Char('y' | 'Y') => self.run(&[deed.verb(), name.as_str()], false),
            Key::Char('i') if deed == Deed::Restart => {
                self.run(&["restart", name.as_str(), "--when-idle"], false)
            }
            _ => Vec::new(),
        }
    }

    fn reading(&mut self, key: Key, mut pager: Pager) -> Vec<Effect> {
        match key {
            Key::Char('q') | Key::Escape | Key::Break => {
                return match pager.is_of_words() {
                    true => vec![Effect::Listen(None)],
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

/// What a filter looks at.
fn text_of(row: &Row<'_>) -> String {
    let branch = row.agent.branch.as_deref().unwrap_or_default();
    let (name, state) = (&row.agent.name, row.agent.state.as_str());
    format!("{name} {state} {branch} {}", row.doing()).to_lowercase()
}
