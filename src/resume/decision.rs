//! How one agent is to be started: for the first time, in its session, or not at all. Pure.

use std::path::PathBuf;

use claude::Lookup;
use state::AgentRecord;

/// The decision for one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever said in this session: it begins, with the declared prompt.
    First {
        /// A file of its name without a word in it, which Claude would stumble over.
        set_aside: Option<PathBuf>,
    },
    /// The session goes on.
    Resume {
        /// Its transcript.
        transcript: PathBuf,
    },
    /// A start would lose something, or could not work.
    Refuse {
        /// Why.
        why: String,
        /// Whether it may be otherwise later.
        retry: bool,
    },
}

/// Whether anything was ever said in the session.
pub(super) fn had_words(record: &AgentRecord) -> bool {
    // The prompt went into the first session: after `/clear` it says nothing of the one now.
    record.transcript.is_some() || (record.prompt_delivered && record.past_sessions.is_empty())
}

/// Decides by what is remembered and by what was found on the disk.
#[must_use]
pub fn decide(record: &AgentRecord, lookup: &Lookup) -> Verdict {
    let had_words = had_words(record);
    match lookup {
        Lookup::Present(path) => Verdict::Resume {
            transcript: path.clone(),
        },
        Lookup::Several(paths) => {
            let paths: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Verdict::Refuse {
                why: format!(
                    "its session {} exists more than once ({}); move all but the right one away",
                    record.session_id,
                    paths.join(", ")
                ),
                retry: false,
            }
        }
        Lookup::Unknown(why) => Verdict::Refuse {
            why: format!("its transcript cannot be looked for: {why}"),
            retry: true,
        },
        // Never a blank conversation in place of a lost one.
        Lookup::Blank(path) if had_words => Verdict::Refuse {
            why: format!(
                "its transcript {} has lost every word, and no backup has it",
                path.display()
            ),
            retry: false,
        },
        Lookup::Missing if had_words => {
            let path = record
                .transcript
                .as_ref()
                .map(|mark| mark.path.display().to_string());
            Verdict::Refuse {
                why: format!(
                    "its transcript .claude/{} is gone, and no backup has it",
                    path.unwrap_or_else(|| format!("projects/*/{}.jsonl", record.session_id))
                ),
                retry: false,
            }
        }
        Lookup::Blank(path) => Verdict::First {
            set_aside: Some(path.clone()),
        },
        Lookup::Missing => Verdict::First { set_aside: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{AgentName, TranscriptMark};

    fn record(had_words: bool) -> AgentRecord {
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "workspaces/a".into());
        record.transcript = had_words.then(|| TranscriptMark {
            session_id: record.session_id.clone(),
            path: "projects/-a/u.jsonl".into(),
            generation: 0,
            length: 9,
        });
        record
    }

    #[test]
    fn a_session_that_had_words_is_never_begun_anew() {
        for lookup in [
            Lookup::Missing,
            Lookup::Blank("/x".into()),
            Lookup::Unknown("EIO".into()),
            Lookup::Several(vec!["/x".into(), "/y".into()]),
        ] {
            assert!(
                matches!(decide(&record(true), &lookup), Verdict::Refuse { .. }),
                "{lookup:?}"
            );
        }
        let mut delivered = record(false);
        delivered.prompt_delivered = true;
        assert!(matches!(
            decide(&delivered, &Lookup::Missing),
            Verdict::Refuse { .. }
        ));
    }

    #[test]
    fn a_session_that_was_cleared_begins_until_it_has_words_of_its_own() {
        let mut cleared = record(false);
        cleared.prompt_delivered = true;
        cleared.past_sessions.push("before".into());
        assert_eq!(
            decide(&cleared, &Lookup::Blank("/x".into())),
            Verdict::First {
                set_aside: Some("/x".into())
            }
        );
        cleared.transcript = record(true).transcript;
        assert!(matches!(
            decide(&cleared, &Lookup::Missing),
            Verdict::Refuse { .. }
        ));
    }

    #[test]
    fn a_session_without_words_begins_and_one_with_words_goes_on() {
        assert_eq!(
            decide(&record(false), &Lookup::Missing),
            Verdict::First { set_aside: None }
        );
        let blank = Lookup::Blank("/x".into());
        assert_eq!(
            decide(&record(false), &blank),
            Verdict::First {
                set_aside: Some("/x".into())
            }
        );
        for had_words in [true, false] {
            let verdict = decide(&record(had_words), &Lookup::Present("/x".into()));
            assert_eq!(
                verdict,
                Verdict::Resume {
                    transcript: "/x".into()
                }
            );
        }
    }
}
