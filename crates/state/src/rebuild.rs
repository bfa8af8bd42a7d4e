//! Rebuilds a lost identity or agent record from the journal and the saves. Pure functions.

use super::JournalEvent::{self, Resumed, SessionChanged, Started, Starting};
use super::{AgentName, AgentRecord, Desired, Identity, JournalEntry, Manifest};

/// Sets `fresh` to what the journal knows of this data directory. Returns whether it knows
/// anything.
pub fn data_dir(fresh: &mut Identity, lines: &[JournalEntry]) -> bool {
    let Some(last) = lines.last() else {
        return false;
    };
    fresh.data_dir_id.clone_from(&last.data_dir_id);
    fresh.epoch = lines.iter().map(|line| line.epoch).max().unwrap_or(0);
    let fleet = lines.iter().rev().find_map(|line| match line.event {
        JournalEvent::Fleet { desired } => Some(desired),
        _ => None,
    });
    fresh.fleet = fleet.unwrap_or_default();
    true
}

/// Sets `fresh` to the record of the agent of that name, as far as it is known. Returns whether the
/// agent was known at all: then it never gets a new session.
pub fn agent(fresh: &mut AgentRecord, lines: &[JournalEntry], save: Option<&Manifest>) -> bool {
    let name = fresh.name.clone();
    let saved = save
        .into_iter()
        .flat_map(|save| &save.agents)
        .find(|saved| saved.name == name);
    let of_it = || lines_of(lines, &name);
    let sessions = of_it().filter_map(|line| match &line.event {
        Starting { session_id, .. } | Started { session_id } | Resumed { session_id, .. } => {
            Some(session_id)
        }
        SessionChanged { to, .. } => Some(to),
        _ => None,
    });
    let mut had: Vec<String> = saved.iter().map(|saved| saved.session_id.clone()).collect();
    for session in sessions {
        // The session that was resumed last is the current one.
        had.retain(|known| known != session);
        had.push(session.clone());
    }
    let Some(session) = had.pop() else {
        return false;
    };
    fresh.session_id = session;
    fresh.past_sessions = had;
    if let Some(saved) = saved {
        fresh.agent_id.clone_from(&saved.agent_id);
    }
    let was_up = of_it().any(|line| matches!(line.event, Started { .. } | Resumed { .. }));
    let spoke =
        saved.is_none_or(|saved| saved.transcript_bytes.is_some() || !saved.transcript_safe);
    fresh.prompt_delivered =
        was_up && spoke || saved.is_some_and(|saved| saved.transcript_bytes.is_some());
    let request = of_it().rev().find_map(|line| match line.event {
        JournalEvent::Desired { desired, .. } => Some(desired),
        _ => None,
    });
    if request == Some(Desired::Stopped) {
        fresh.desired = Desired::Stopped;
    }
    true
}

fn lines_of<'a>(
    lines: &'a [JournalEntry],
    name: &'a AgentName,
) -> impl DoubleEndedIterator<Item = &'a JournalEntry> {
    lines
        .iter()
        .filter(move |line| line.agent.as_deref() == Some(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fleet;
    use serde_json::{Value, json};

    fn line(event: &str, agent: Option<&str>, more: Value) -> JournalEntry {
        let mut line = json!({
            "version": 1, "seq": 1, "at": "2026-11-22T03:00:00.000Z", "data_dir_id": "r",
            "epoch": 7, "boot_id": "l", "event": event,
            "agent": agent, "how": "resume", "continued": false, "by": "ann",
        });
        for (key, value) in more.as_object().unwrap() {
            line[key] = value.clone();
        }
        JournalEntry::parse(&line.to_string()).unwrap()
    }

    #[test]
    fn a_data_directory_is_rebuilt_from_the_journal() {
        let fresh = || Identity::new("/r".into());
        let mut known = fresh();
        let lines = [
            line("fleet", None, json!({"desired": "down"})),
            line("keeper-started", None, json!({})),
        ];
        assert!(data_dir(&mut known, &lines));
        assert_eq!(
            (known.data_dir_id.as_str(), known.epoch, known.fleet),
            ("r", 7, Fleet::Down)
        );
        let mut unknown = fresh();
        assert!(!data_dir(&mut unknown, &[]));
        assert_eq!(unknown.epoch, 0);
    }

    #[test]
    fn an_agent_has_the_session_that_it_was_last_seen_in() {
        let fresh = || AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
        let mut lines = vec![
            line("starting", Some("b"), json!({"session_id": "9"})),
            line("starting", Some("a"), json!({"session_id": "1"})),
            line("started", Some("a"), json!({"session_id": "1"})),
            line(
                "session-changed",
                Some("a"),
                json!({"from": "1", "to": "2"}),
            ),
            line("resumed", Some("a"), json!({"session_id": "2"})),
        ];
        let mut record = fresh();
        assert!(agent(&mut record, &lines, None));
        assert_eq!(
            (record.session_id.as_str(), record.past_sessions.as_slice()),
            ("2", &["1".to_owned()][..])
        );
        assert!(record.prompt_delivered && record.desired == Desired::Running);
        lines.push(line("desired", Some("a"), json!({"desired": "stopped"})));
        assert!(agent(&mut record, &lines, None));
        assert_eq!(record.desired, Desired::Stopped);
        let mut unknown = fresh();
        assert!(!agent(&mut unknown, &lines[..1], None));
        assert!(unknown.past_sessions.is_empty());
    }

    fn save(transcript_bytes: Option<u64>, transcript_safe: bool) -> Manifest {
        let of = json!({
            "name": "a", "agent_id": "id", "session_id": "1", "end": "", "exit_ms": null,
            "open": "",
            "transcript_bytes": transcript_bytes, "transcript_safe": transcript_safe,
            "workspace": {"checkpoint": null, "note": ""},
        });
        let other = json!({"name": "b", "agent_id": "x", "session_id": "9"});
        let mut save = Manifest::begin("s".into(), "r".into(), 1, "l".into(), "unit".into(), true);
        let mut before = of.clone();
        for (key, value) in other.as_object().unwrap() {
            before[key] = value.clone();
        }
        save.agents = serde_json::from_value(json!([before, of])).unwrap();
        save
    }

    #[test]
    fn the_highest_epoch_and_the_last_request_for_the_fleet_count() {
        let mut lines = [
            line("fleet", None, json!({"desired": "down"})),
            line("fleet", None, json!({"desired": "up"})),
            line("desired", Some("a"), json!({"desired": "down"})),
        ];
        lines[1].epoch = 9;
        let mut known = Identity::new("/r".into());
        assert!(data_dir(&mut known, &lines));
        assert_eq!((known.epoch, known.fleet), (9, Fleet::Up));
    }

    #[test]
    fn a_prompt_is_sent_again_only_if_a_save_saw_an_empty_transcript() {
        let up = || line("started", Some("a"), json!({"session_id": "1"}));
        let about = || line("starting", Some("a"), json!({"session_id": "1"}));
        for (lines, save, delivered) in [
            (vec![], Some(save(Some(9), true)), true),
            (vec![], Some(save(None, true)), false),
            (vec![about()], None, false),
            (vec![up()], None, true),
            (vec![up()], Some(save(None, true)), false),
            (vec![up()], Some(save(None, false)), true),
            (vec![up()], Some(save(Some(9), true)), true),
        ] {
            let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
            assert!(agent(&mut record, &lines, save.as_ref()));
            assert_eq!(record.session_id, "1");
            assert_eq!(record.agent_id == "id", save.is_some());
            assert_eq!(record.prompt_delivered, delivered, "{lines:?} {save:?}");
            assert_eq!(record.desired, Desired::Running);
        }
    }

    #[test]
    fn the_session_resumed_last_is_the_current_one_and_each_is_listed_once() {
        let lines = [
            line(
                "session-changed",
                Some("a"),
                json!({"from": "1", "to": "2"}),
            ),
            line("resumed", Some("a"), json!({"session_id": "1"})),
            line("exited", Some("a"), json!({"session_id": "3"})),
        ];
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
        assert!(agent(&mut record, &lines, Some(&save(Some(9), true))));
        assert_eq!(
            (record.session_id.as_str(), record.past_sessions),
            ("1", vec!["2".to_owned()])
        );
    }
}
