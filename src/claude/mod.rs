//! All that is known of Claude Code, and nothing else knows it.
//!
//! Claude Code changes every few days. What is not ours is marked "measured on 2.1.197 and
//! 2.1.330" where it was seen on both, and read so that what is new there passes by unharmed.
//!
//! | file | what it knows |
//! |---|---|
//! | [`binary`] | where `claude` is, and which version |
//! | [`launch`] | its arguments and environment |
//! | [`retention`] | for how many days Claude keeps transcripts |
//! | [`seed`], `mend` | the configuration that lets it start without a human |
//! | [`credentials`] | the login of a subscription, guarded |
//! | [`screen`] | what a pane shows that blocks a start |
//! | [`input`] | pure: the input box of a pane, and when Enter may be pressed |
//! | [`session`] | `sessions/<pid>.json`: which session a process has, and what it does |
//! | [`login`] | whether it can log in, and how long it keeps transcripts |
//! | [`archive`], [`jobs`] | the conversations that there are, and Claude's own background jobs |
//! | [`mod@locate`] | where the transcript of a session is |
//! | `lock` | Claude's own lock on a file of its configuration |
//! | [`record`], `record_json`, `line`, [`transcript`] | one tolerant reader of transcripts |
//! | [`tail`], `tail_state`, `api_stop` | pure: what the end of a transcript says |
//! | [`mod@said`], [`story`], [`tally`] | pure: a transcript for people: its lines, what is being done, what it cost
//! | [`note`] | pure: the truthful note to an agent whose turn was cut |

mod api_stop;
pub mod archive;
pub mod binary;
pub mod credentials;
pub mod input;
pub mod jobs;
pub mod launch;
mod line;
pub mod locate;
mod lock;
pub mod login;
mod mend;
pub mod note;
pub mod record;
mod record_json;
pub mod retention;
pub mod said;
pub mod screen;
pub mod seed;
pub mod session;
pub mod story;
pub mod tail;
mod tail_state;
pub mod tally;
pub mod transcript;

/// The versions that all tests are run with: the two whose behaviour was measured, and one from half-way between.
pub const TESTED: [&str; 3] = ["2.1.197", "2.1.263", "2.1.330"];

pub use locate::{Lookup, locate};
pub use record::{Kind, Record};
pub use session::{SessionFile, Status};
pub use tail::{ApiStop, NUDGE_MARK, OpenTool, Tail, TailState};
pub use transcript::{Mark, Reader};

/// What lies in its configuration directory and is not worth keeping: logs, copies of programs, and what is
/// written anew by the next start.
pub const TRANSIENT: [&str; 7] = [
    "cache",
    "debug",
    "ide",
    "local",
    "shell-snapshots",
    "statsig",
    "telemetry",
];

/// Its login.
pub const SECRETS: [&str; 1] = [".credentials.json"];
