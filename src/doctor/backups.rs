//! Check of the backups: the last one, its copy elsewhere, the last integrity check.

use super::Check;
use super::facts::Facts;
use crate::backup::BackupState;
use sys::time::{Timestamp, short};

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let Ok(data_dir) = &facts.data_dir else {
        return Vec::new();
    };
    match BackupState::load_copy(data_dir) {
        Ok(state) => vec![evaluate(
            facts,
            state.as_ref(),
            facts.config.backup.every().is_some(),
        )],
        Err(error) => vec![Check::failed(
            "backup",
            &error,
            &facts.spotkeep("backup now"),
        )],
    }
}

/// Evaluates the state of the backups. The age of a backup does not matter: where nothing changes
/// none is made. A failed attempt is wrong.
fn evaluate(facts: &Facts, state: Option<&BackupState>, is_on: bool) -> Check {
    let now = facts.spotkeep("backup now");
    let Some(state) = state else {
        return match is_on {
            true => Check::good("backup", "none yet; the keeper makes the first one"),
            false => Check::warn("backup", "none, and backups are turned off", now),
        };
    };
    if let Some(trouble) = state.troubles().into_iter().next() {
        let damaged = state
            .check
            .as_ref()
            .is_some_and(|check| !check.damage.is_empty());
        let fix = if damaged {
            facts.spotkeep("backup check --all")
        } else {
            now
        };
        return Check::wrong("backup", trouble, fix);
    }
    let age = |at: Option<Timestamp>| {
        at.map_or_else(
            || "never".to_owned(),
            |at| format!("{} ago", short(Timestamp::now().since(at))),
        )
    };
    let mut detail = age(state.last.as_ref().map(|made| made.at));
    if let Some(copy) = &state.copy {
        detail.push_str(&format!("; copied to {} {}", copy.to, age(copy.at)));
    }
    detail.push_str(&format!(
        "; checked {}",
        age(state.check.as_ref().map(|check| check.at))
    ));
    Check::good("backup", detail)
}
