//! The restore: what is done when a new life begins. Verify, repair, resume.

mod config_drift;
mod decision;
mod launch;
mod launch_plan;
mod note;
mod previous_boot;
mod recover;
mod summary_line;
mod transcript_check;
mod workspace;

use serde::Serialize;

use crate::backup::Settings;
use state::layout::Root;
use state::{AgentName, AgentRecord, Wanted};

pub use config_drift::changes;
pub use decision::{SessionFault, SessionStart, decide};
pub use launch::{LaunchContext, Prepared, find_claude, prepare, run, seed};
pub use launch_plan::{LaunchPlan, Refused};
pub use previous_boot::History;
pub use recover::{Brought, Loss, bring_back, from_backups, losses, may_have_checkpoint};
pub use summary_line::homecoming;
pub use transcript_check::{Account, account, saved_unseen};

/// What a restore would do with one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which agent.
    pub name: AgentName,
    /// Whether it would be started.
    pub starts: bool,
    /// What is done with it, or why nothing is.
    pub what: String,
}

/// The plan for the agents of a root, in the order given. Nothing is changed.
#[must_use]
pub fn plan(root: &Root, records: &[AgentRecord], life: &str) -> Vec<Step> {
    records
        .iter()
        .map(|record| plan_one(root, record, life))
        .collect()
}

fn plan_one(root: &Root, record: &AgentRecord, life: &str) -> Step {
    let step = |starts, what: String| Step {
        name: record.name.clone(),
        starts,
        what,
    };
    if let Some(process) = record.live_process(life) {
        return step(false, format!("runs already (pid {})", process.pid));
    }
    if record.wanted == Wanted::Stopped {
        return step(false, "stays stopped".into());
    }
    let lost = losses(root, record);
    let has_backups = Settings::load(root).is_ok_and(|settings| settings.has_repository());
    if !lost.is_empty() && has_backups {
        let lost: Vec<String> = lost.iter().map(Loss::what).collect();
        return step(
            true,
            format!(
                "brings back {} from the backups, if they have it",
                lost.join(", ")
            ),
        );
    }
    match decide(record, &claude::locate(&root.claude(), &record.session_id)) {
        Ok(SessionStart::First { .. }) => step(true, "starts for the first time".into()),
        Ok(SessionStart::Resume { .. }) => {
            step(true, format!("resumes the session {}", record.session_id))
        }
        Err(fault) => step(false, format!("cannot start: {fault}")),
    }
}
