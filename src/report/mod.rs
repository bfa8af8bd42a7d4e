//! Fleet report: preemptions, losses, and what each agent did over a span of time.
//!
//! It is computed from the journal and the manifests of saves only; all functions except [`read`]
//! are pure. Free text (messages of an agent, text of a screen) is never part of a report, since
//! users share reports.

mod events;
pub mod html;
mod preemptions;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;

use std::time::Duration;

use serde::Serialize;

use state::layout::DataDir;
use state::{AgentState, JournalEntry, Manifest, VERSION};
use sys::error::Result;
use sys::time::Timestamp;

pub use preemptions::{BootEnd, Preemption};
pub use timeline::{Resumed, Span};

/// What an agent is doing, in the categories of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// In a turn.
    Working,
    /// Waits for a human.
    Waiting,
    /// Running, with nothing to do.
    Idle,
    /// Starting, or in a pause after a failure.
    Starting,
    /// Stopped in a turn by an error or a limit of the API.
    Stalled,
    /// Failed; not restarted any more.
    Failed,
    /// Not running, as requested.
    Stopped,
    /// Not running because of a preemption: from the notice, or the last journal line of a boot,
    /// until it is resumed.
    Away,
    /// Unknown: no keeper runs, so it is not observed.
    Unwatched,
}

impl Doing {
    /// All categories, in the order of display.
    pub const ALL: [Self; 9] = [
        Self::Working,
        Self::Waiting,
        Self::Idle,
        Self::Starting,
        Self::Stalled,
        Self::Failed,
        Self::Stopped,
        Self::Away,
        Self::Unwatched,
    ];

    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Away => "away",
            Self::Unwatched => "unwatched",
        }
    }

    fn from_state(state: AgentState) -> Self {
        match state {
            AgentState::Running => Self::Working,
            AgentState::Waiting => Self::Waiting,
            AgentState::Idle => Self::Idle,
            AgentState::Starting | AgentState::Backoff => Self::Starting,
            AgentState::Stalled => Self::Stalled,
            AgentState::Failed => Self::Failed,
            AgentState::Stopped => Self::Stopped,
            AgentState::Saving => Self::Away,
            AgentState::Unknown => Self::Unwatched,
        }
    }

    /// Returns whether the end of the machine interrupts the agent.
    fn is_up(self) -> bool {
        !matches!(self, Self::Failed | Self::Stopped | Self::Away)
    }
}

/// Time per category, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "one field per variant of Doing")]
pub struct Uptime {
    pub working_ms: u64,
    pub waiting_ms: u64,
    pub idle_ms: u64,
    pub starting_ms: u64,
    pub stalled_ms: u64,
    pub failed_ms: u64,
    pub stopped_ms: u64,
    pub away_ms: u64,
    pub unwatched_ms: u64,
}

impl Uptime {
    /// Returns the time in one category.
    #[must_use]
    pub fn time_in(&self, doing: Doing) -> Duration {
        let mut copy = *self;
        Duration::from_millis(*copy.part(doing))
    }

    /// Returns the sum of all categories.
    #[must_use]
    pub fn total(&self) -> Duration {
        Doing::ALL.iter().map(|doing| self.time_in(*doing)).sum()
    }

    fn part(&mut self, doing: Doing) -> &mut u64 {
        match doing {
            Doing::Working => &mut self.working_ms,
            Doing::Waiting => &mut self.waiting_ms,
            Doing::Idle => &mut self.idle_ms,
            Doing::Starting => &mut self.starting_ms,
            Doing::Stalled => &mut self.stalled_ms,
            Doing::Failed => &mut self.failed_ms,
            Doing::Stopped => &mut self.stopped_ms,
            Doing::Away => &mut self.away_ms,
            Doing::Unwatched => &mut self.unwatched_ms,
        }
    }

    fn add(&mut self, doing: Doing, time: Duration) {
        *self.part(doing) += u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    }
}

/// What one agent did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentTime {
    /// Its name.
    pub name: String,
    /// Time per category.
    pub uptime: Uptime,
    /// When it was resumed.
    pub resumed: Vec<Resumed>,
    /// How often it was restarted after it had exited.
    pub restarts: usize,
    /// How often it stalled.
    pub stalls: usize,
    /// How often it was asked to continue.
    pub nudges: usize,
    /// What it was doing, without gaps while the agent is known.
    pub timeline: Vec<Span>,
}

/// Sums over the whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Number of preemptions.
    pub preemptions: usize,
    /// Number of preemptions with everything saved in time.
    pub clean: usize,
    /// Sum of the times from each preemption until the last agent was resumed, if known.
    pub away_ms: u64,
    /// Sum of the times that all agents were away.
    pub agents_away_ms: u64,
    /// Interrupted turns.
    pub turns_cut: usize,
    /// Interrupted turns that were continued.
    pub turns_continued: usize,
    /// Interrupted turns that were not continued.
    pub turns_lost: usize,
    /// Transcript records that are known to be lost.
    pub records_lost: usize,
    /// Preemptions with unknown losses: without a notice, up to the last two seconds of a
    /// transcript each.
    pub ends_that_cannot_tell: usize,
    /// Time per category, summed over all agents.
    pub uptime: Uptime,
}

/// The report. Its field names are a stable interface (JSON).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// The data directory's path.
    pub data_dir: String,
    /// The data directory's id.
    pub data_dir_id: String,
    /// Start of the reported time.
    pub from: Timestamp,
    /// End of the reported time.
    pub until: Timestamp,
    /// Time of the first line of the journal; later than `from` if the journal is younger. Null if
    /// it is empty.
    pub journal_from: Option<Timestamp>,
    /// Lines of the journal that could not be read.
    pub torn: usize,
    /// Sums over the fleet.
    pub totals: Totals,
    /// Preemptions, oldest first.
    pub preemptions: Vec<Preemption>,
    /// The agents, sorted by name.
    pub agents: Vec<AgentTime>,
}

/// The data directory and the time that a report covers.
#[derive(Debug, Clone)]
pub struct About {
    /// The data directory's path.
    pub data_dir: String,
    /// The data directory's id.
    pub data_dir_id: String,
    /// Start of the reported time.
    pub from: Timestamp,
    /// End of the reported time; usually now.
    pub until: Timestamp,
    /// The boot of the running keeper, if one runs.
    pub watched_boot: Option<String>,
}

/// Reads the journal and the manifests, and returns the report. Only events with an effect on it
/// are kept in memory.
///
/// # Errors
/// A file cannot be read.
pub fn read(data_dir: &DataDir, about: About) -> Result<Report> {
    let mut boots = Vec::new();
    let damaged = state::each_line(&data_dir.journal(), |line| {
        events::add_line(&mut boots, line);
    })?;
    let saves = state::all_manifests(&data_dir.saves())?;
    Ok(make(about, &boots, &saves, damaged))
}

/// Returns the report of these journal lines, oldest first, and these saves.
#[must_use]
pub fn from_lines<'a>(
    about: About,
    lines: impl IntoIterator<Item = &'a JournalEntry>,
    saves: &[Manifest],
) -> Report {
    let mut boots = Vec::new();
    for line in lines {
        events::add_line(&mut boots, line.clone());
    }
    make(about, &boots, saves, 0)
}

fn make(about: About, boots: &[events::Boot], saves: &[Manifest], damaged: usize) -> Report {
    let About {
        data_dir,
        data_dir_id,
        from,
        until,
        watched_boot,
    } = about;
    let watched =
        watched_boot.is_some() && boots.last().map(|boot| &boot.id) == watched_boot.as_ref();
    let within = |at: Timestamp| at >= from && at <= until;
    let count = |times: &[Timestamp]| times.iter().filter(|at| within(**at)).count();
    let agents = timeline::draw(boots, until, watched)
        .into_iter()
        .map(|(name, lane)| {
            let timeline = timeline::clip(lane.spans, from, until);
            let mut uptime = Uptime::default();
            for span in &timeline {
                uptime.add(span.doing, span.until.since(span.from));
            }
            let mut resumed = lane.resumed;
            resumed.retain(|resumed| within(resumed.at));
            AgentTime {
                name,
                uptime,
                resumed,
                restarts: count(&lane.restarts),
                stalls: count(&lane.stalls),
                nudges: count(&lane.nudges),
                timeline,
            }
        })
        .filter(|agent| !agent.timeline.is_empty());
    let agents: Vec<AgentTime> = agents.collect();
    let mut preemptions = preemptions::find(boots, saves);
    preemptions.retain(|end| within(end.at) || end.back_at.is_some_and(within));
    Report {
        version: VERSION,
        data_dir,
        data_dir_id,
        from,
        until,
        journal_from: boots.first().map(|boot| boot.first_at),
        torn: damaged,
        totals: Totals::sum(&preemptions, &agents),
        preemptions,
        agents,
    }
}

impl Totals {
    fn sum(preemptions: &[Preemption], agents: &[AgentTime]) -> Self {
        let mut uptime = Uptime::default();
        for (agent, doing) in agents
            .iter()
            .flat_map(|agent| Doing::ALL.map(|doing| (agent, doing)))
        {
            uptime.add(doing, agent.uptime.time_in(doing));
        }
        let sum = |part: fn(&Preemption) -> usize| preemptions.iter().map(part).sum();
        Self {
            preemptions: preemptions.len(),
            clean: preemptions.iter().filter(|end| end.clean).count(),
            away_ms: preemptions.iter().filter_map(|end| end.away_ms).sum(),
            agents_away_ms: uptime.away_ms,
            turns_cut: sum(|end| end.turns_cut),
            turns_continued: sum(|end| end.turns_continued),
            turns_lost: sum(|end| end.turns_lost),
            records_lost: preemptions.iter().filter_map(|end| end.records_lost).sum(),
            // The losses of a preemption that is not over are not known yet.
            ends_that_cannot_tell: preemptions
                .iter()
                .filter(|end| end.back_at.is_some() && end.records_lost.is_none())
                .count(),
            uptime,
        }
    }
}
