//! Checks of the state files: declarations, workspaces, records, saves, the journal; and of the
//! clock.

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

/// A clock that was set back by less than this is ignored.
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
    checks.push(check_saves(&data_dir.saves()));
    let backups = facts.spotkeep("backup ls");
    let newest = match state::lines(&data_dir.journal()) {
        Ok((lines, _))
            if lines.is_empty() && data_dir.identity().is_ok_and(|data_dir| data_dir.epoch > 0) =>
        {
            checks.push(Check::warn(
                "journal",
                "session-state/journal.jsonl is missing or has no line that can be read: \
                 earlier events are unknown",
                format!("{backups}    # restore it from a backup, if there is one"),
            ));
            None
        }
        Ok((lines, damaged)) => {
            checks.extend(check_last_save(&lines, &data_dir.saves(), &backups));
            checks.push(check_journal(
                lines.len(),
                damaged,
                &facts.spotkeep("events -n 50"),
            ));
            lines.last().cloned()
        }
        Err(error) => {
            let list = format!("ls -l {}", data_dir.session_state().display());
            checks.push(Check::failed("journal", &error, &list));
            None
        }
    };
    let synchronised = match facts.systemd {
        true => facts
            .machine
            .output("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]),
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

/// A declared workspace.
#[derive(Debug)]
struct DeclaredWorkspace {
    agent: String,
    path: PathBuf,
    exists: bool,
    /// Whether it is inside the data directory, links resolved.
    kept: bool,
    /// Its repository, if that is outside the data directory.
    stray: Option<PathBuf>,
    /// The path of its index, if that is missing although it has a checkpoint.
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

/// Returns the path of a missing index. Without it nothing is staged, and git shows every file as
/// deleted.
fn lost_index(data_dir: &DataDir, name: &AgentName, workspace: &Path) -> Option<PathBuf> {
    let record = data_dir.load_record(name).ok()??;
    checkpoint::last(&data_dir.checkpoints(&record.agent_id))?;
    let index = workspace::git_dir(workspace)?.join("index");
    (!index.exists()).then_some(index)
}

fn check_workspaces(workspaces: &[DeclaredWorkspace]) -> Check {
    if let Some(missing) = workspaces.iter().find(|workspace| !workspace.exists) {
        let path = missing.path.display();
        return Check::wrong(
            "workspaces",
            format!(
                "the workspace {path} of {} is missing: the agent cannot start",
                missing.agent
            ),
            format!("git clone URL {path}"),
        );
    }
    if let Some(outside) = workspaces.iter().find(|workspace| !workspace.kept) {
        let path = outside.path.display();
        return Check::warn(
            "workspaces",
            format!(
                "{} works in {path}, outside the data directory: \
                 it may not be on the disk that survives",
                outside.agent
            ),
            format!("move {path} into the data directory and change workspace in spotkeep.toml"),
        );
    }
    let lost = workspaces
        .iter()
        .find_map(|workspace| Some((workspace, workspace.lost_index.as_ref()?)));
    if let Some((workspace, index)) = lost {
        return Check::warn(
            "workspaces",
            format!(
                "the git index of {} is missing ({}); what was staged is in its checkpoints",
                workspace.agent,
                index.display()
            ),
            format!("spotkeep checkpoint ls {}", workspace.agent),
        );
    }
    let stray = workspaces
        .iter()
        .find_map(|workspace| Some((workspace, workspace.stray.as_ref()?)));
    match stray {
        Some((workspace, repository)) => Check::warn(
            "workspaces",
            format!(
                "the repository of {} is outside the data directory: {}",
                workspace.agent,
                repository.display()
            ),
            format!(
                "clone it into the data directory and add the worktree {} again from there",
                workspace.path.display()
            ),
        ),
        None => Check::good(
            "workspaces",
            count(workspaces.len(), "workspace") + ", in the data directory",
        ),
    }
}

fn check_records(data_dir: &DataDir) -> Check {
    let list = format!("ls -l {}/agents", data_dir.session_state().display());
    match data_dir.all_records() {
        Err(error) => Check::failed("records", &error, &list),
        Ok(records) => match records.iter().find_map(|(_, record)| record.as_ref().err()) {
            Some(error) => Check::failed("records", error, &list),
            None => Check::good("records", count(records.len(), "agent") + ", all readable"),
        },
    }
}

fn check_saves(saves: &Path) -> Check {
    let list = format!("ls -l {}", saves.display());
    match state::damaged_manifests(saves).as_deref() {
        Ok([]) => Check::good("saves", "all manifests are readable"),
        Ok([newest, ..]) => Check::warn(
            "saves",
            format!("{newest:#}; it is ignored"),
            hint_of(newest).unwrap_or(&list),
        ),
        Err(error) => Check::failed("saves", error, &list),
    }
}

/// Checks that the manifest of the last save in the journal exists.
fn check_last_save(lines: &[JournalEntry], saves: &Path, backups: &str) -> Option<Check> {
    let id = lines.iter().rev().find_map(|line| match &line.event {
        JournalEvent::Safe { save, .. } => Some(save),
        _ => None,
    })?;
    let is_there = saves.join(format!("{id}.json")).exists();
    (!is_there).then(|| {
        Check::warn(
            "last-save",
            format!(
                "the manifest of the last save, session-state/saves/{id}.json, is missing: \
                 what was saved is unknown"
            ),
            format!("{backups}    # restore it from a backup, if there is one"),
        )
    })
}

fn check_journal(good: usize, damaged: usize, events: &str) -> Check {
    match damaged {
        0 => Check::good("journal", count(good, "line")),
        damaged => Check::warn(
            "journal",
            format!(
                "{damaged} of {} lines cannot be read and are ignored",
                good + damaged
            ),
            events,
        ),
    }
}

/// Checks the clock. spotkeep decides nothing by comparing the clocks of two boots; but dates that
/// go backwards mislead people, the check of certificates, and the cloud.
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
    fn a_clock_behind_the_journal_is_wrong_and_an_unsynchronised_one_has_a_warning() {
        let now = Timestamp::now();
        let line = |at: Timestamp| {
            let text = serde_json::json!({
                "version": 1, "seq": 1, "at": at, "data_dir_id": "", "epoch": 1, "boot_id": "",
                "event": "",
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
    fn a_workspace_that_is_missing_or_outside_the_data_directory_is_named() {
        let workspace = |exists, kept, stray: Option<&str>| DeclaredWorkspace {
            agent: "issue-123".into(),
            path: "/r/workspaces/api".into(),
            exists,
            kept,
            stray: stray.map(PathBuf::from),
            lost_index: None,
        };
        assert!(
            check_workspaces(&[workspace(true, true, None)])
                .fix
                .is_none()
        );
        let good = workspace(true, true, None);
        let missing = check_workspaces(&[good, workspace(false, false, None)]);
        assert!(
            !missing.ok && missing.detail.contains("issue-123"),
            "{missing:?}"
        );
        assert!(check_workspaces(&[workspace(true, false, None)]).warning);
        assert!(check_workspaces(&[workspace(true, true, Some("/home/ann/api/.git"))]).warning);
    }
}
