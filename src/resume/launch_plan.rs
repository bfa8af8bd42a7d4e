//! Launch plan: decides from the facts how one agent is launched, or refuses with a cause. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::decision::{self, SessionFault, SessionStart};
use super::launch_facts::LaunchFacts;
use super::note;
use claude::command_line::{Start, arguments, check_extra};
use state::{AgentRecord, Launch, StartKind};
use sys::error::{Error, anyhow};

/// The complete plan of one launch of one agent.
#[derive(Debug)]
pub struct LaunchPlan {
    /// The session's id.
    pub session_id: String,
    /// How the session begins.
    pub how: StartKind,
    /// The absolute path of the working directory.
    pub cwd: PathBuf,
    /// The program, its arguments and its marker; the cgroup once the tmux server is known.
    pub launch: Launch,
    /// The boot's id.
    boot_id: String,
    /// The arguments that are declared for it.
    pub(super) extra: Vec<String>,
    /// The environment that is declared for it.
    pub(super) environment: BTreeMap<String, String>,
    /// A transcript without a conversation, to be moved away before the launch.
    pub(super) quarantine: Option<PathBuf>,
    /// A file to write before the launch: its path and text.
    pub(super) note: Option<(PathBuf, String)>,
}

impl LaunchPlan {
    /// Writes the launch into the agent's record, which has to be durable before tmux is asked.
    pub fn remember(&self, record: &mut AgentRecord) {
        record.launch = Some(self.launch.clone());
        record.boot_id = Some(self.boot_id.clone());
        record.process = None;
    }
}

/// Why an agent is not launched. Its text is the reason that the user sees.
#[derive(Debug)]
pub enum Refused {
    /// Another Claude has its session open. Claude Code has no lock, so each would lose the other's
    /// work.
    InUse {
        /// The pid of the other process.
        pid: i32,
    },
    /// A start would lose data of the session, or cannot work.
    Session {
        /// What is wrong with the session.
        fault: SessionFault,
        /// Why nothing could be recovered, as sentences.
        failures: Vec<String>,
    },
    /// The configuration, the installation or the disk does not let it start; this needs a human.
    Unfit(Error),
    /// Something failed that may work later.
    Failed(Error),
}

impl Refused {
    /// Returns whether another try may succeed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::Failed(_) => true,
            Self::Session { fault, .. } => fault.may_pass(),
            Self::Unfit(_) => false,
        }
    }
}

impl<E: Into<Error>> From<E> for Refused {
    /// Converts an error that may not occur again later.
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { pid } => {
                write!(f, "its session is in use by another claude (pid {pid})")
            }
            Self::Session { fault, failures } => {
                write!(f, "{fault}")?;
                failures.iter().try_for_each(|why| write!(f, "; {why}"))
            }
            Self::Unfit(why) | Self::Failed(why) => write!(f, "{why:#}"),
        }
    }
}

/// Decides how an agent is launched.
///
/// # Errors
/// [`Refused`]: a start would lose data or cannot work.
pub(super) fn decide(facts: LaunchFacts<'_>) -> Result<LaunchPlan, Refused> {
    let record = facts.record;
    check_extra(&facts.extra).map_err(Refused::Unfit)?;
    let start = decision::decide(record, &facts.session).map_err(|fault| Refused::Session {
        fault,
        failures: facts.brought.failures.clone(),
    })?;
    let command_line = |start: &Start<'_>| arguments(start, &record.name, &facts.extra);
    let (how, arguments, quarantine, details) = match start {
        SessionStart::First { quarantine } => {
            // After `/clear` the session before has got the prompt already.
            let is_first = record.past_sessions.is_empty() && !record.prompt_delivered;
            let start = Start::First {
                session_id: &record.session_id,
                prompt: facts.prompt.filter(|_| is_first),
            };
            (StartKind::First, command_line(&start), quarantine, None)
        }
        SessionStart::Resume { transcript } => {
            let tail = facts.tail.as_ref();
            let tail = tail.map_err(|error| anyhow!("cannot read its transcript: {error}"))?;
            let note = note::write(&facts, tail);
            let start = Start::Resume {
                session_id: &record.session_id,
                by_file: (!facts.is_found_from_cwd).then_some(Path::new(&transcript)),
                note: note.as_ref().map(|note| note.prompt.as_str()),
            };
            let how = match note {
                Some(_) => StartKind::Continue,
                None => StartKind::Resume,
            };
            let arguments = command_line(&start);
            (how, arguments, None, note.and_then(|note| note.details))
        }
    };
    Ok(LaunchPlan {
        session_id: record.session_id.clone(),
        how,
        cwd: facts.cwd,
        launch: Launch {
            program: facts.program,
            arguments,
            marker: facts.marker,
            cgroup: None,
        },
        boot_id: facts.boot_id.to_owned(),
        extra: facts.extra,
        environment: facts.environment,
        quarantine,
        note: details.map(|text| (facts.note_file, text)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::previous_boot::History;
    use super::super::recover::Recovery;
    use super::*;
    use claude::{TailState, TranscriptLookup};
    use state::{AgentName, AgentState, TranscriptMark};
    use std::io;
    use sys::time::Timestamp;

    const PROMPT: &str = r#"{"type":"user","timestamp":"2026-11-22T03:00:00.000Z","message":{"role":"user","content":"fix it"},"uuid":"1"}"#;
    const TOOL: &str = r#"{"type":"assistant","message":{"id":"m","role":"assistant","stop_reason":"tool_use","content":[{"type":"tool_use","id":"t","name":"Bash","input":{"command":"secret"}}]},"uuid":"2"}"#;
    const END: &str = r#"{"type":"assistant","message":{"id":"m","role":"assistant","stop_reason":"end_turn","content":[{"type":"text","text":"done"}]},"uuid":"2"}"#;

    fn record(had_conversation: bool) -> AgentRecord {
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "workspaces/a".into());
        record.transcript = had_conversation.then(|| TranscriptMark {
            session_id: record.session_id.clone(),
            path: "projects/-a/u.jsonl".into(),
            generation: 0,
            length: 9,
        });
        record
    }

    fn facts<'a>(
        record: &'a AgentRecord,
        history: &'a History,
        session: TranscriptLookup,
    ) -> LaunchFacts<'a> {
        LaunchFacts {
            record,
            prompt: Some("fix it"),
            boot_id: "now",
            history,
            cwd: "/r/workspaces/a".into(),
            program: "/bin/claude".into(),
            extra: vec!["--model".into(), "opus".into()],
            environment: BTreeMap::new(),
            session,
            tail: Ok(TailState::default()),
            is_found_from_cwd: true,
            workspace: None,
            brought: Recovery::default(),
            note_file: "/r/note.md".into(),
            marker: "mark".into(),
            now: Timestamp::now(),
        }
    }

    fn present() -> TranscriptLookup {
        TranscriptLookup::Present("/c/projects/-a/u.jsonl".into())
    }

    fn tail(lines: &[&str]) -> io::Result<TailState> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        claude::transcript::tail::read(&path).map(|(state, _)| state)
    }

    /// The arguments between the declared ones and the agent's name, and the prompt.
    fn ours(plan: &LaunchPlan) -> (Vec<&str>, Option<&str>) {
        let words: Vec<&str> = plan.launch.arguments.iter().map(String::as_str).collect();
        let (declared, rest) = words.split_at(2);
        assert_eq!(declared, ["--model", "opus"]);
        assert_eq!(rest[2..4], ["-n", "a"]);
        let prompt = (rest.get(4) == Some(&"--")).then(|| rest[5]);
        (rest[..2].to_vec(), prompt)
    }

    #[test]
    fn a_session_that_had_a_conversation_is_resumed_or_refused_with_the_cause_and_never_begun() {
        let several = TranscriptLookup::Several(vec!["/x".into(), "/y".into()]);
        let table = [
            (
                TranscriptLookup::Missing,
                "is gone, and no backup has it",
                false,
            ),
            (
                TranscriptLookup::Blank("/x".into()),
                "has lost every record",
                false,
            ),
            (several.clone(), "more than once (/x, /y)", false),
            (
                TranscriptLookup::Unknown("EIO".into()),
                "look for its transcript: EIO",
                true,
            ),
        ];
        let history = History::default();
        let record = record(true);
        for (session, why, may_pass) in table {
            let mut facts = facts(&record, &history, session);
            facts.brought.failures = vec!["no key".into(), "no net".into()];
            let refused = decide(facts).unwrap_err();
            let text = refused.to_string();
            assert!(
                text.contains(why) && text.ends_with("; no key; no net"),
                "{text}"
            );
            assert_eq!(refused.may_pass(), may_pass, "{text}");
        }
        let plan = decide(facts(&record, &history, present())).unwrap();
        assert_eq!(plan.how, StartKind::Resume);
        assert_eq!(ours(&plan), (vec!["--resume", &record.session_id], None));
        // A session without a conversation is begun, but not while its transcript is ambiguous.
        let unsaid = self::record(false);
        assert!(decide(facts(&unsaid, &history, several)).is_err());
        let blank = TranscriptLookup::Blank("/x".into());
        let plan = decide(facts(&unsaid, &history, blank)).unwrap();
        assert_eq!(
            (plan.how, plan.quarantine),
            (StartKind::First, Some("/x".into()))
        );
    }

    #[test]
    fn the_declared_prompt_is_given_to_the_first_session_only() {
        let history = History::default();
        let mut record = record(false);
        let plan = decide(facts(&record, &history, TranscriptLookup::Missing)).unwrap();
        let begins = vec!["--session-id", &*record.session_id];
        assert_eq!(ours(&plan), (begins, Some("fix it")));
        record.past_sessions.push("before".into());
        for delivered in [false, true] {
            record.prompt_delivered = delivered;
            let plan = decide(facts(&record, &history, TranscriptLookup::Missing)).unwrap();
            assert_eq!((plan.how, ours(&plan).1), (StartKind::First, None));
        }
    }

    #[test]
    fn a_cut_turn_is_continued_with_a_note_and_one_that_ended_is_resumed_without_one() {
        let history = History::default();
        let mut record = record(true);
        record.boot_id = Some("now".into());
        record.why = Some("killed by SIGKILL".into());
        record.state = AgentState::Backoff;
        let with_tail = |lines: &[&str]| {
            let mut facts = facts(&record, &history, present());
            facts.tail = tail(lines);
            decide(facts).unwrap()
        };
        let plan = with_tail(&[PROMPT, TOOL]);
        assert_eq!(plan.how, StartKind::Continue);
        let prompt = ours(&plan).1.unwrap();
        assert!(
            prompt.contains("ended unexpectedly (killed by SIGKILL)"),
            "{prompt}"
        );
        assert!(
            prompt.contains("/r/note.md") && !prompt.contains("secret"),
            "{prompt}"
        );
        let (file, details) = plan.note.as_ref().unwrap();
        assert_eq!(file, Path::new("/r/note.md"));
        assert!(details.contains("secret"), "{details}");

        let plan = with_tail(&[PROMPT, END]);
        assert_eq!((plan.how, ours(&plan).1), (StartKind::Resume, None));
        assert_eq!(plan.note, None);
    }

    #[test]
    fn the_note_of_an_idle_agent_names_what_was_rebuilt_or_brought_back() {
        let history = History::default();
        let record = record(true);
        let mut rebuilt = facts(&record, &history, present());
        rebuilt.workspace = Some("Your workspace was gone.".into());
        let mut brought = facts(&record, &history, present());
        brought.brought.back = vec!["the transcript of yesterday".into()];
        for (facts, word) in [(rebuilt, "workspace was gone"), (brought, "of yesterday")] {
            let plan = decide(facts).unwrap();
            assert_eq!(plan.how, StartKind::Continue);
            assert!(plan.note.unwrap().1.contains(word), "{word}");
        }
    }

    #[test]
    fn a_transcript_that_claude_would_not_find_from_the_workspace_is_named_by_its_file() {
        let history = History::default();
        let record = record(true);
        let mut facts = facts(&record, &history, present());
        facts.is_found_from_cwd = false;
        let plan = decide(facts).unwrap();
        assert_eq!(ours(&plan).0, ["--resume", "/c/projects/-a/u.jsonl"]);
    }

    #[test]
    fn a_refusal_that_needs_a_human_is_not_tried_again_and_a_failure_is() {
        let history = History::default();
        let record = record(true);
        let mut taken = facts(&record, &history, present());
        taken.extra = vec!["--continue".into()];
        assert!(!decide(taken).unwrap_err().may_pass());
        let mut unread = facts(&record, &history, present());
        unread.tail = Err(io::Error::other("EIO"));
        let refused = decide(unread).unwrap_err();
        assert_eq!(refused.to_string(), "cannot read its transcript: EIO");
        assert!(refused.may_pass());
        assert!(Refused::InUse { pid: 1 }.may_pass());
        assert!(!Refused::Unfit(anyhow!("no claude")).may_pass());
    }

    #[test]
    fn a_launch_in_the_record_has_no_process_yet() {
        let history = History::default();
        let mut before = record(true);
        before.boot_id = Some("before".into());
        before.process = sys::process::ProcessId::current().ok();
        let plan = decide(facts(&before, &history, present())).unwrap();
        let mut after = before.clone();
        plan.remember(&mut after);
        assert_eq!(after.launch, Some(plan.launch));
        assert_eq!(
            (after.boot_id.as_deref(), after.process),
            (Some("now"), None)
        );
        assert_eq!(after.session_id, before.session_id);
    }
}
