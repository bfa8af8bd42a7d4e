//! How the last preemption went, in one line for whoever logs in next. Pure.
//!
//! `preempted 03:12, back 03:15 UTC: 12 of 12 agents, 0 records lost, 5 turns continued`

use std::collections::BTreeMap;
use std::time::Duration;

use super::previous_boot::History;
use state::{JournalEntry, JournalEvent};
use sys::time::Timestamp;

/// Later than this it is no news any more.
const NEWS: Duration = Duration::from_secs(24 * 3_600);

/// So many agents that are not back are named.
const NAMED: usize = 3;

/// The line for the boot that is now; `None` where there is nothing to tell: the first boot, one that
/// began a day ago, one in which no keeper has begun yet.
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
        names, short, torn, ..
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
        describe_losses(short, torn.len(), history.safe),
        counted(continued(&since), "turn", "continued"),
    ];
    Some(format!("{went}, back {back} UTC: {}", parts.join(", ")))
}

/// Who was to come back, and who has.
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

/// Only a save that came to its end knows that nothing is missing.
fn describe_losses(short: &[String], torn: usize, safe: bool) -> String {
    match (short.is_empty(), torn == 0, safe) {
        (false, _, _) => format!("words of {} are missing", short.join(", ")),
        (true, false, _) => {
            counted(torn, "record", "torn")
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

/// How many agents went on with a turn that was cut, when they first came back.
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

/// The time alone where it was today.
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
            "version": 1, "seq": 1, "at": format!("2026-11-22T03:{minute:02}:00.000Z"), "data_dir_id": "r",
            "epoch": 1, "boot_id": boot_id, "event": event, "pid": 1, "new_boot": true, "last_end": "safe",
            "deadline_ms": 25_000, "save": "1", "after_ms": 1, "agents": 2, "unclean": false, "session_id": "s",
        });
        for (key, value) in more.as_object().unwrap() {
            line[key] = value.clone();
        }
        JournalEntry::parse(&line.to_string()).unwrap()
    }

    /// A boot with a notice of this source, saved, then one with two agents to bring back.
    fn story(source: &str, short: &[&str], torn: &[&str]) -> Vec<JournalEntry> {
        vec![
            line(10, "a", "keeper-started", json!({})),
            line(12, "a", "notice", json!({ "source": source })),
            line(12, "a", "safe", json!({ "clean": true })),
            line(15, "b", "keeper-started", json!({})),
            line(
                15,
                "b",
                "restore",
                json!({ "names": ["x", "y"], "short": short, "torn": torn }),
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

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_preemption_that_went_well_is_told_in_one_line() {
        let now = at("2026-11-22T09:00:00Z");
        assert_eq!(
            last_preemption_line(&story("metadata", &[], &[]), "b", now).unwrap(),
            "preempted 03:12, back 03:15 UTC: 2 of 2 agents, 0 records lost, 1 turn continued"
        );
        let told = last_preemption_line(&story("unit", &[], &[]), "b", at("2026-11-23T01:00:00Z"))
            .unwrap();
        assert!(
            told.starts_with("shut down 2026-11-22 03:12, back 2026-11-22 03:15 UTC"),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_known_or_not_well_is_not_called_well() {
        let now = at("2026-11-22T09:00:00Z");
        let tell = |lines: &[JournalEntry]| last_preemption_line(lines, "b", now).unwrap();
        assert!(tell(&story("metadata", &["y"], &[])).contains("words of y are missing"));
        assert!(tell(&story("metadata", &[], &["y"])).contains("1 record torn"));
        let without: Vec<JournalEntry> = story("metadata", &[], &[])
            .into_iter()
            .filter(|line| !matches!(line.name.as_str(), "notice" | "safe"))
            .collect();
        let told = tell(&without);
        assert!(
            told.starts_with("cut off after 03:10") && told.contains("up to 2 s"),
            "{told}"
        );
        let unsafe_end: Vec<JournalEntry> = story("metadata", &[], &[])
            .into_iter()
            .filter(|line| line.name != "safe")
            .collect();
        assert!(tell(&unsafe_end).contains("up to 2 s of the transcript lost"));
        let half = tell(&story("metadata", &[], &[])[..6]);
        assert!(half.contains("1 of 2 agents (not yet: y;"), "{half}");
    }

    #[test]
    fn nothing_is_said_where_there_is_nothing_to_say() {
        let lines = story("metadata", &[], &[]);
        assert_eq!(
            last_preemption_line(&lines, "a", at("2026-11-22T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&lines, "c", at("2026-11-22T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&lines, "b", at("2026-11-24T09:00:00Z")),
            None
        );
        assert_eq!(
            last_preemption_line(&[], "b", at("2026-11-22T09:00:00Z")),
            None
        );
    }
}
