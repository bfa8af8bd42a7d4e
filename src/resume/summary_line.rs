//! Summary of the last preemption, in one line for the next login. Pure.
//!
//! `preempted 03:12, back 03:15 UTC: 12 of 12 agents, 0 records lost, 5 turns continued`

use std::collections::BTreeMap;
use std::time::Duration;

use super::previous_boot::History;
use state::{JournalEntry, JournalEvent};
use sys::time::Timestamp;

/// For how long after the restore the line is shown.
const NEWS: Duration = Duration::from_secs(24 * 3_600);

/// How many agents that are not back yet are named.
const NAMED: usize = 3;

/// Returns the line for the current boot. `None`: it is the first boot, it began too long ago, or
/// no keeper has started in it yet.
#[must_use]
pub fn last_preemption_line(
    lines: &[JournalEntry],
    boot_id: &str,
    now: Timestamp,
) -> Option<String> {
    let is_restore = |entry: &JournalEntry| matches!(entry.event, JournalEvent::Restore { .. });
    let began = lines
        .iter()
        .position(|entry| entry.boot_id == boot_id && is_restore(entry))?;
    let restore = &lines[began];
    let JournalEvent::Restore {
        names,
        short,
        torn: damaged,
        ..
    } = &restore.event
    else {
        return None;
    };
    if now.since(restore.at) > NEWS {
        return None;
    }
    let history = History::read(&lines[..=began], boot_id);
    let went = match (history.noticed_at, history.noticed_by.as_deref()) {
        (Some(at), Some("metadata")) => format!("preempted {}", moment(at, now)),
        (Some(at), _) => format!("shut down {}", moment(at, now)),
        (None, _) => format!("cut off after {}", moment(history.last_seen?, now)),
    };
    let back = moment(restore.at, now);
    let since: Vec<&JournalEntry> = lines[began..]
        .iter()
        .filter(|line| line.boot_id == boot_id)
        .collect();
    let parts = [
        agents(names, &since),
        describe_losses(short, damaged.len(), history.safe),
        counted(continued(&since), "turn", "continued"),
    ];
    Some(format!("{went}, back {back} UTC: {}", parts.join(", ")))
}

/// Describes how many of the desired agents are back.
fn agents(desired: &[String], since: &[&JournalEntry]) -> String {
    let total = desired.len();
    if total == 0 {
        return "no agent was to run".into();
    }
    let is_up = |name: &str| {
        since.iter().any(|entry| {
            entry.agent.as_deref() == Some(name)
                && matches!(
                    entry.event,
                    JournalEvent::Started { .. } | JournalEvent::Resumed { .. }
                )
        })
    };
    let missing: Vec<&str> = desired
        .iter()
        .map(String::as_str)
        .filter(|name| !is_up(name))
        .collect();
    let back = total - missing.len();
    let plural = if total == 1 { "agent" } else { "agents" };
    let more = missing.len().saturating_sub(NAMED);
    let named = missing[..missing.len().min(NAMED)].join(", ");
    match (missing.len(), more) {
        (0, _) => format!("{back} of {total} {plural}"),
        (_, 0) => format!("{back} of {total} {plural} (not yet: {named}; see spotkeep ls)"),
        (_, more) => format!(
            "{back} of {total} {plural} (not yet: {named} and {more} more; see spotkeep ls)"
        ),
    }
}

/// Describes what was lost. Only after a save that completed it is known that nothing is.
fn describe_losses(short: &[String], damaged: usize, safe: bool) -> String {
    match (short.is_empty(), damaged == 0, safe) {
        (false, _, _) => format!("part of the transcript of {} is missing", short.join(", ")),
        (true, false, _) => {
            counted(damaged, "record", "damaged")
                + if safe {
                    ""
                } else {
                    ", up to 2 s of the transcript lost"
                }
        }
        (true, true, true) => "0 records lost".into(),
        (true, true, false) => "up to 2 s of the transcript lost".into(),
    }
}

/// Counts the agents that continued a cut turn when they first came back.
fn continued(since: &[&JournalEntry]) -> usize {
    let mut first: BTreeMap<&str, bool> = BTreeMap::new();
    for entry in since {
        if let (JournalEvent::Resumed { continued, .. }, Some(agent)) = (&entry.event, &entry.agent)
        {
            first.entry(agent).or_insert(*continued);
        }
    }
    first.into_values().filter(|went_on| *went_on).count()
}

fn counted(count: usize, what: &str, done: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural} {done}")
}

/// Formats a moment: the time alone if it is today.
fn moment(at: Timestamp, now: Timestamp) -> String {
    match at.day() == now.day() {
        true => at.minute(),
        false => format!("{} {}", at.day(), at.minute()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(minute: u32, boot_id: &str, event: &str, more: Value) -> JournalEntry {
        let mut line = json!({
            "version": 1, "seq": 1, "at": format!("2026-11-22T03:{minute:02}:00.000Z"),
            "data_dir_id": "r", "epoch": 1, "boot_id": boot_id, "event": event, "pid": 1,
            "new_boot": true, "last_end": "safe", "deadline_ms": 25_000, "save": "1",
            "after_ms": 1, "agents": 2, "unclean": false, "session_id": "s",
        });
        for (key, value) in more.as_object().unwrap() {
            line[key] = value.clone();
        }
        JournalEntry::parse(&line.to_string()).unwrap()
    }

    /// A boot with a notice of this source, saved, then one with two agents to bring back.
    fn story(source: &str, short: &[&str], damaged: &[&str]) -> Vec<JournalEntry> {
        vec![
            line(10, "a", "keeper-started", json!({})),
            line(12, "a", "notice", json!({ "source": source })),
            line(12, "a", "safe", json!({ "clean": true })),
            line(15, "b", "keeper-started", json!({})),
            line(
                15,
                "b",
                "restore",
                json!({ "names": ["x", "y"], "short": short, "torn": damaged }),
            ),
            line(
                15,
                "b",
                "resumed",
                json!({ "agent": "x", "continued": true }),
            ),
            line(
                16,
                "b",
                "resumed",
                json!({ "agent": "y", "continued": false }),
            ),
            line(
                17,
                "b",
                "resumed",
                json!({ "agent": "y", "continued": true }),
            ),
        ]
    }

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_preemption_that_went_well_gives_one_line() {
        let now = time("2026-11-22T09:00:00Z");
        assert_eq!(
            last_preemption_line(&story("metadata", &[], &[]), "b", now).unwrap(),
            "preempted 03:12, back 03:15 UTC: 2 of 2 agents, 0 records lost, 1 turn continued"
        );
        let line =
            last_preemption_line(&story("unit", &[], &[]), "b", time("2026-11-23T01:00:00Z"))
                .unwrap();
        assert!(
            line.starts_with("shut down 2026-11-22 03:12, back 2026-11-22 03:15 UTC"),
            "{line}"
        );
    }

    #[test]
    fn the_line_names_losses_agents_that_are_missing_and_an_end_without_a_save() {
        let now = time("2026-11-22T09:00:00Z");
        let summary = |lines: &[JournalEntry]| last_preemption_line(lines, "b", now).unwrap();
        assert!(summary(&story("metadata", &["y"], &[])).contains("transcript of y is missing"));
        assert!(summary(&story("metadata", &[], &["y"])).contains("1 record damaged"));
        let without: Vec<JournalEntry> = story("metadata", &[], &[])
            .into_iter()
            .filter(|line| !matches!(line.name.as_str(), "notice" | "safe"))
            .collect();
        let line = summary(&without);
        assert!(
            line.starts_with("cut off after 03:10") && line.contains("up to 2 s"),
            "{line}"
        );
        let unsafe_end: Vec<JournalEntry> = story("metadata", &[], &[])
            .into_iter()
            .filter(|line| line.name != "safe")
            .collect();
        assert!(summary(&unsafe_end).contains("up to 2 s of the transcript lost"));
        let half = summary(&story("metadata", &[], &[])[..6]);
        assert!(half.contains("1 of 2 agents (not yet: y;"), "{half}");
    }

    #[test]
    fn there_is_no_line_without_a_restore_in_this_boot_or_long_after_it() {
        let lines = story("metadata", &[], &[]);
        assert_eq!(
            last_preemption_line(&lines, "a", time("2026-11-22T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&lines, "c", time("2026-11-22T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&lines, "b", time("2026-11-24T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&[], "b", time("2026-11-22T09:00:00Z")),
            None
        );
    }
}
