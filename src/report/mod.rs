//! What became of the fleet over a span of time: each time it was cut off, and what every agent was
//! doing. Out of the journal and the manifests of saves alone.
//!
//! Pure but for [`read`]. Free text (what an agent said, what a screen showed) never gets into a report,
//! since reports are passed on.

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

/// What an agent is doing, as far as a report tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// In a turn.
    Working,
    /// Waits for a human.
    Waiting,
    /// Alive, with nothing to do.
    Idle,
    /// On its way up, or in a pause after a failure.
    Starting,
    /// The API has ended its turn.
    Stalled,
    /// Given up.
    Failed,
    /// Not running, and not meant to.
    Stopped,
    /// Cut off: from the notice, or the last word of a boot, until it is back.
    Away,
    /// It may run; no keeper looks on.
    Unwatched,
}

impl Doing {
    /// All of them, in the order in which a person looks for them.
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

    /// The word for it.
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

    /// Whether the end of the machine takes something from it.
    fn is_up(self) -> bool {
        !matches!(self, Self::Failed | Self::Stopped | Self::Away)
    }
}

/// How long an agent did what, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the words of Doing")]
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
    /// The time of one kind.
    #[must_use]
    pub fn time_in(&self, doing: Doing) -> Duration {
        let mut copy = *self;
        Duration::from_millis(*copy.part(doing))
    }

    /// All of it: how long the agent is known.
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

/// One agent's time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentTime {
    /// Its name.
    pub name: String,
    /// How long it did what.
    pub uptime: Uptime,
    /// How often it was brought up.
    pub resumed: Vec<Resumed>,
    /// How often it was started again after it had ended by itself.
    pub restarts: usize,
    /// How often the API ended its turn.
    pub stalls: usize,
    /// How often a word to go on was typed.
    pub nudges: usize,
    /// What it was doing, without gaps as far as it is known.
    pub timeline: Vec<Span>,
}

/// Sums over the whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// How often the fleet was cut off.
    pub preemptions: usize,
    /// How often with everything safe in time.
    pub clean: usize,
    /// From each cut until the last agent was back, summed where that is known.
    pub away_ms: u64,
    /// The same of all agents together: what they would have had.
    pub agents_away_ms: u64,
    /// Turns that were cut, and of those the ones that went on, and did not.
    pub turns_cut: usize,
    /// Went on.
    pub turns_continued: usize,
    /// Did not.
    pub turns_lost: usize,
    /// Records that are known to be lost.
    pub records_lost: usize,
    /// Ends that cannot tell what was lost: without a notice, up to the last two seconds of a transcript each.
    pub ends_that_cannot_tell: usize,
    /// All agents' time together.
    pub uptime: Uptime,
}

/// The whole of it. The names are a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// The data directory's path.
    pub data_dir: String,
    /// The data directory's id.
    pub data_dir_id: String,
    /// What is told of begins then ...
    pub from: Timestamp,
    /// ... and ends then.
    pub until: Timestamp,
    /// The first word of the journal; later than `from` where it tells of less. Null where it is empty.
    pub journal_from: Option<Timestamp>,
    /// Lines of it that could not be read.
    pub torn: usize,
    /// Sums.
    pub totals: Totals,
    /// Each time that the fleet was cut off, oldest first.
    pub preemptions: Vec<Preemption>,
    /// Each agent, by name.
    pub agents: Vec<AgentTime>,
}

/// What a report is about.
#[derive(Debug, Clone)]
pub struct About {
    /// The data directory's path.
    pub data_dir: String,
    /// The data directory's id.
    pub data_dir_id: String,
    /// From when.
    pub from: Timestamp,
    /// Until when; now, as a rule.
    pub until: Timestamp,
    /// The boot of a keeper that looks on, where one does.
    pub watched_boot: Option<String>,
}

/// Reads journal and manifests. Nothing is kept of what lies before and has no effect.
///
/// # Errors
/// They cannot be read.
pub fn read(data_dir: &DataDir, about: About) -> Result<Report> {
    let mut boots = Vec::new();
    let torn = state::each_line(&data_dir.journal(), |line| {
        events::add_line(&mut boots, line)
    })?;
    let saves = state::all_manifests(&data_dir.saves())?;
    Ok(make(about, &boots, &saves, torn))
}

/// The report on these lines of the journal, oldest first, and these saves.
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

fn make(about: About, boots: &[events::Boot], saves: &[Manifest], torn: usize) -> Report {
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
        torn,
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
            // One that is not over yet has nothing to tell.
            ends_that_cannot_tell: preemptions
                .iter()
                .filter(|end| end.back_at.is_some() && end.records_lost.is_none())
                .count(),
            uptime,
        }
    }
}
