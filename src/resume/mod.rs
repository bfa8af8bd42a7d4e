//! The restore: verifies, repairs and resumes the agents when the next boot begins.

mod config_drift;
mod decision;
mod launch;
mod launch_facts;
mod launch_plan;
mod note;
mod previous_boot;
mod recover;
mod summary_line;
mod transcript_check;
mod workspace;

use serde::Serialize;

use crate::backup::Settings;
use state::layout::DataDir;
use state::{AgentName, AgentRecord, Desired};

pub use config_drift::changes;
pub use decision::{SessionFault, SessionStart, decide};
pub use launch::{LaunchContext, ReadyLaunch, find_claude, prepare, run, seed};
pub use launch_plan::{LaunchPlan, Refused};
pub use previous_boot::History;
pub use recover::{Loss, Recovery, bring_back, from_backups, losses, may_have_checkpoint};
pub use summary_line::last_preemption_line;
pub use transcript_check::{TranscriptCheck, check_transcripts, saved_unseen};

/// What a restore would do with one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The agent.
    pub name: AgentName,
    /// Whether it would be started.
    pub starts: bool,
    /// What the restore does with it, or why it does nothing.
    pub what: String,
}

/// Plans a restore of these agents, in the given order. Nothing is changed.
#[must_use]
pub fn plan(data_dir: &DataDir, records: &[AgentRecord], boot_id: &str) -> Vec<Step> {
    records
        .iter()
        .map(|record| plan_one(data_dir, record, boot_id))
        .collect()
}

fn plan_one(data_dir: &DataDir, record: &AgentRecord, boot_id: &str) -> Step {
    let (starts, what) = match (record.live_process(boot_id), record.desired) {
        (Some(process), _) => (false, format!("runs already (pid {})", process.pid)),
        (None, Desired::Stopped) => (false, "stays stopped".to_owned()),
        (None, Desired::Running) => plan_start(data_dir, record),
    };
    Step {
        name: record.name.clone(),
        starts,
        what,
    }
}

fn plan_start(data_dir: &DataDir, record: &AgentRecord) -> (bool, String) {
    let lost: Vec<String> = losses(data_dir, record)
        .iter()
        .map(Loss::describe)
        .collect();
    let has_backups = || Settings::load(data_dir).is_ok_and(|settings| settings.has_repository());
    if !lost.is_empty() && has_backups() {
        let lost = lost.join(", ");
        let what = format!("brings back {lost} from the backups, if they have it");
        return (true, what);
    }
    match decide(
        record,
        &claude::locate(&data_dir.claude(), &record.session_id),
    ) {
        Ok(SessionStart::First { .. }) => (true, "starts for the first time".to_owned()),
        Ok(SessionStart::Resume { .. }) => {
            (true, format!("resumes the session {}", record.session_id))
        }
        Err(fault) => (false, format!("cannot start: {fault}")),
    }
}
