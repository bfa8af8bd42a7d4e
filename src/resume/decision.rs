//! Decision on one agent's session: start it for the first time, resume it, or refuse. Pure.

use std::fmt;
use std::path::PathBuf;

use claude::TranscriptLookup;
use state::AgentRecord;

/// How a session begins in its next process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionStart {
    /// The session never had a conversation: it starts for the first time, with the declared
    /// prompt.
    First {
        /// A file of its name without a conversation, on which Claude Code would fail.
        quarantine: Option<PathBuf>,
    },
    /// The session is resumed.
    Resume {
        /// Its transcript.
        transcript: PathBuf,
    },
}

/// Why a start would lose data or cannot work. Its text is the reason that the user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionFault {
    /// Its transcript is in more than one folder.
    Ambiguous {
        /// The session's id.
        session_id: String,
        /// The paths of its transcripts.
        paths: Vec<PathBuf>,
    },
    /// Looking for its transcript failed, with the reason.
    Unknown(String),
    /// Its transcript had a conversation and has none now.
    Blank(PathBuf),
    /// Its transcript is gone: the path, relative to Claude's configuration directory.
    Gone(String),
}

impl SessionFault {
    /// Returns whether the fault may go away without a human.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl fmt::Display for SessionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous { session_id, paths } => {
                let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                write!(
                    f,
                    "its session {session_id} exists more than once ({}); \
                     move all but the right one away",
                    paths.join(", ")
                )
            }
            Self::Unknown(why) => write!(f, "cannot look for its transcript: {why}"),
            Self::Blank(path) => write!(
                f,
                "its transcript {} has lost every record, and no backup has it",
                path.display()
            ),
            Self::Gone(path) => write!(
                f,
                "its transcript .claude/{path} is gone, and no backup has it"
            ),
        }
    }
}

/// Returns whether the session ever had a conversation.
pub(super) fn had_conversation(record: &AgentRecord) -> bool {
    // The prompt went into the first session; after `/clear` it does not tell about the current
    // one.
    record.transcript.is_some() || (record.prompt_delivered && record.past_sessions.is_empty())
}

/// Decides from the record and from the transcripts found on the disk.
///
/// # Errors
/// A start would lose data or cannot work.
pub fn decide(
    record: &AgentRecord,
    lookup: &TranscriptLookup,
) -> Result<SessionStart, SessionFault> {
    let had_conversation = had_conversation(record);
    match lookup {
        TranscriptLookup::Present(path) => Ok(SessionStart::Resume {
            transcript: path.clone(),
        }),
        TranscriptLookup::Several(paths) => Err(SessionFault::Ambiguous {
            session_id: record.session_id.clone(),
            paths: paths.clone(),
        }),
        TranscriptLookup::Unknown(why) => Err(SessionFault::Unknown(why.clone())),
        // A lost conversation is never replaced by an empty one.
        TranscriptLookup::Blank(path) if had_conversation => Err(SessionFault::Blank(path.clone())),
        TranscriptLookup::Missing if had_conversation => {
            Err(SessionFault::Gone(match &record.transcript {
                Some(mark) => mark.path.display().to_string(),
                None => format!("projects/*/{}.jsonl", record.session_id),
            }))
        }
        TranscriptLookup::Blank(path) => Ok(SessionStart::First {
            quarantine: Some(path.clone()),
        }),
        TranscriptLookup::Missing => Ok(SessionStart::First { quarantine: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{AgentName, TranscriptMark};

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

    #[test]
    fn a_session_that_had_a_conversation_is_never_begun_again() {
        for lookup in [
            TranscriptLookup::Missing,
            TranscriptLookup::Blank("/x".into()),
            TranscriptLookup::Unknown("EIO".into()),
            TranscriptLookup::Several(vec!["/x".into(), "/y".into()]),
        ] {
            assert!(decide(&record(true), &lookup).is_err(), "{lookup:?}");
        }
        let mut delivered = record(false);
        delivered.prompt_delivered = true;
        assert!(decide(&delivered, &TranscriptLookup::Missing).is_err());
    }

    #[test]
    fn a_cleared_session_starts_for_the_first_time_until_it_has_a_conversation() {
        let mut cleared = record(false);
        cleared.prompt_delivered = true;
        cleared.past_sessions.push("before".into());
        assert_eq!(
            decide(&cleared, &TranscriptLookup::Blank("/x".into())),
            Ok(SessionStart::First {
                quarantine: Some("/x".into())
            })
        );
        cleared.transcript = record(true).transcript;
        assert!(decide(&cleared, &TranscriptLookup::Missing).is_err());
    }

    #[test]
    fn a_session_with_a_conversation_is_resumed_and_one_without_starts_for_the_first_time() {
        assert_eq!(
            decide(&record(false), &TranscriptLookup::Missing),
            Ok(SessionStart::First { quarantine: None })
        );
        let blank = TranscriptLookup::Blank("/x".into());
        assert_eq!(
            decide(&record(false), &blank),
            Ok(SessionStart::First {
                quarantine: Some("/x".into())
            })
        );
        for had_conversation in [true, false] {
            let decision = decide(
                &record(had_conversation),
                &TranscriptLookup::Present("/x".into()),
            );
            assert_eq!(
                decision,
                Ok(SessionStart::Resume {
                    transcript: "/x".into()
                })
            );
        }
    }
}
