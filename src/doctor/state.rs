//! What is written down: declarations, records, the journal; and the clock that dates it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::Facts;
use super::{Check, count};
use checkpoint::workspace;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, JournalEntry, JournalEvent};
use sys::error::hint_of;
use sys::time::{Timestamp, short};

/// Clocks that were set right by so little are of no concern.
const SLACK: Duration = Duration::from_secs(5);

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let Ok(data_dir) = &facts.data_dir else {
        return Vec::new();
    };
    let mut checks = vec![
        check_declarations(facts),
        check_workspaces(&workspaces(data_dir, &facts.config)),
        check_records(data_dir),
    ];
    checks.push(check_saves(state::damaged_manifests(&data_dir.saves())));
    let newest = match state::lines(&data_dir.journal()) {
        Ok((lines, _))
            if lines.is_empty() && data_dir.identity().is_ok_and(|data_dir| data_dir.epoch > 0) =>
        {
            checks.push(Check::warn(
                "journal",
                "session-state/journal.jsonl is gone or has no line that can be read: what happened before is not known",
                "spotkeep backup ls, if there is one to take it from",
            ));
            None
        }
        Ok((lines, torn)) => {
            checks.extend(check_last_save(&lines, &data_dir.saves()));
            checks.push(check_journal(
                lines.len(),
                torn,
                &facts.spotkeep("events -n 50"),
            ));
            lines.last().cloned()
        }
        Err(error) => {
            checks.push(Check::failed("journal", &error, "ls -l session-state"));
            None
        }
    };
    let synchronised = match facts.systemd {
        true => facts
            .machine
            .ask("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]),
        false => None,
    };
    let synchronised = match synchronised.as_deref().map(str::trim) {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => None,
    };
    checks.push(check_clock(Timestamp::now(), newest.as_ref(), synchronised));
    checks
}

fn check_declarations(facts: &Facts) -> Check {
    if let Some(error) = &facts.config_wrong {
        return Check::failed("spotkeep.toml", error, "edit spotkeep.toml");
    }
    let agents = facts.config.agents.len();
    Check::good("spotkeep.toml", count(agents, "agent"))
}

/// A workspace as it is declared.
#[derive(Debug)]
struct DeclaredWorkspace {
    agent: String,
    path: PathBuf,
    exists: bool,
    /// Inside the data directory, links resolved.
    kept: bool,
    /// Its repository, where that lies outside of the data directory.
    stray: Option<PathBuf>,
    /// Its index, where git has none although it had a checkpoint.
    lost_index: Option<PathBuf>,
}

fn workspaces(data_dir: &DataDir, config: &Config) -> Vec<DeclaredWorkspace> {
    let agents = config.agents.iter();
    agents
        .map(|(name, agent)| {
            let path = data_dir.absolute(&agent.workspace);
            let repository = workspace::common_dir(&path);
            DeclaredWorkspace {
                agent: name.to_string(),
                exists: path.is_dir(),
                kept: data_dir.holds(&path),
                stray: repository.filter(|dir| dir.exists() && !data_dir.holds(dir)),
                lost_index: lost_index(data_dir, name, &path),
                path,
            }
        })
        .collect()
}

/// What was staged is gone with it, and git shows every file as deleted.
fn lost_index(data_dir: &DataDir, name: &AgentName, workspace: &Path) -> Option<PathBuf> {
    let record = data_dir.load_record(name).ok()??;
    checkpoint::last(&data_dir.checkpoints(&record.agent_id))?;
    let index = workspace::git_dir(workspace)?.join("index");
    (!index.exists()).then_some(index)
}

fn check_workspaces(places: &[DeclaredWorkspace]) -> Check {
    if let Some(place) = places.iter().find(|place| !place.exists) {
        let path = place.path.display();
        return Check::wrong(
            "workspaces",
            format!(
                "{} has none: {path} is missing, and it does not start",
                place.agent
            ),
            format!("git clone URL {path}"),
        );
    }
    if let Some(place) = places.iter().find(|place| !place.kept) {
        let path = place.path.display();
        return Check::warn(
            "workspaces",
            format!(
                "{} works in {path}, outside of the data directory: it is not on the disk that survives",
                place.agent
            ),
            format!("move {path} into the data directory, and change workspace in spotkeep.toml"),
        );
    }
    let lost = places
        .iter()
        .find_map(|place| Some((place, place.lost_index.as_ref()?)));
    if let Some((place, index)) = lost {
        return Check::warn(
            "workspaces",
            format!(
                "git has no index for {} any more ({}); what was staged is in its checkpoints",
                place.agent,
                index.display()
            ),
            format!("spotkeep checkpoint ls {}", place.agent),
        );
    }
    let stray = places
        .iter()
        .find_map(|place| Some((place, place.stray.as_ref()?)));
    match stray {
        Some((place, repository)) => Check::warn(
            "workspaces",
            format!(
                "the repository of {} is outside of the data directory: {}",
                place.agent,
                repository.display()
            ),
            format!(
                "git clone it into the data directory, and make the worktree {} anew",
                place.path.display()
            ),
        ),
        None => Check::good(
            "workspaces",
            count(places.len(), "workspace") + ", in the data directory",
        ),
    }
}

fn check_records(data_dir: &DataDir) -> Check {
    match data_dir.all_records() {
        Err(error) => Check::failed("records", &error, "ls -l session-state/agents"),
        Ok(records) => match records.iter().find_map(|(_, record)| record.as_ref().err()) {
            Some(error) => Check::failed("records", error, "ls -l session-state/agents"),
            None => Check::good(
                "records",
                count(records.len(), "agent") + ", all can be read",
            ),
        },
    }
}

fn check_saves(damaged: sys::error::Result<Vec<sys::error::Error>>) -> Check {
    match damaged.as_deref() {
        Ok([]) => Check::good("saves", "all manifests can be read"),
        Ok([newest, ..]) => Check::warn(
            "saves",
            format!("{newest:#}; it is passed over"),
            hint_of(newest).unwrap_or("ls -l session-state/saves"),
        ),
        Err(error) => Check::failed("saves", error, "ls -l session-state/saves"),
    }
}

/// A manifest that is gone is missed by nobody but the journal.
fn check_last_save(lines: &[JournalEntry], saves: &Path) -> Option<Check> {
    let id = lines.iter().rev().find_map(|line| match &line.event {
        JournalEvent::Safe { save, .. } => Some(save),
        _ => None,
    })?;
    let is_there = saves.join(format!("{id}.json")).exists();
    (!is_there).then(|| {
        Check::warn(
            "last-save",
            format!("the manifest of the last save, session-state/saves/{id}.json, is gone: what it made safe is not known"),
            "spotkeep backup ls, if there is one to take it from",
        )
    })
}

fn check_journal(good: usize, torn: usize, look: &str) -> Check {
    match torn {
        0 => Check::good("journal", count(good, "line")),
        torn => Check::warn(
            "journal",
            format!("{torn} of {} lines are torn and passed over", good + torn),
            look,
        ),
    }
}

/// Nothing is decided by comparing clocks of two boots; but dates that go backwards mislead people, and
/// certificates, and a cloud.
fn check_clock(now: Timestamp, newest: Option<&JournalEntry>, synchronised: Option<bool>) -> Check {
    let fix = "sudo timedatectl set-ntp true && timedatectl";
    if let Some(line) = newest {
        let behind = line.at.since(now);
        if behind > SLACK {
            let detail = format!("{} behind the newest line of the journal", short(behind));
            return Check::wrong("clock", detail, fix);
        }
    }
    match synchronised {
        Some(false) => Check::warn("clock", "not synchronised with a time server", fix),
        Some(true) => Check::good("clock", "synchronised"),
        None => Check::good("clock", "not behind the journal"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_the_journal_is_wrong_and_one_without_a_server_is_told() {
        let now = Timestamp::now();
        let line = |at: Timestamp| {
            let text = serde_json::json!({
                "version": 1, "seq": 1, "at": at, "data_dir_id": "", "epoch": 1, "boot_id": "", "event": "",
            });
            JournalEntry::parse(&text.to_string()).unwrap()
        };
        let later = line(now.after(Duration::from_secs(7_200)));
        let check = check_clock(now, Some(&later), Some(true));
        assert!(
            !check.ok && check.detail.starts_with("2h 0m behind"),
            "{check:?}"
        );
        assert!(check_clock(now, Some(&line(now)), Some(true)).fix.is_none());
        assert!(check_clock(now, None, Some(false)).warning);
    }

    #[test]
    fn a_workspace_that_is_missing_or_would_not_survive_is_named() {
        let place = |exists, kept, stray: Option<&str>| DeclaredWorkspace {
            agent: "issue-123".into(),
            path: "/r/workspaces/api".into(),
            exists,
            kept,
            stray: stray.map(PathBuf::from),
            lost_index: None,
        };
        assert!(check_workspaces(&[place(true, true, None)]).fix.is_none());
        let missing = check_workspaces(&[place(true, true, None), place(false, false, None)]);
        assert!(
            !missing.ok && missing.detail.contains("issue-123"),
            "{missing:?}"
        );
        assert!(check_workspaces(&[place(true, false, None)]).warning);
        assert!(check_workspaces(&[place(true, true, Some("/home/ann/api/.git"))]).warning);
    }
}
