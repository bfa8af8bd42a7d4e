//! All that is known of Claude Code, and nothing else knows it.
//!
//! Claude Code changes every few days. What is not ours is marked "measured on 2.1.197 and
//! 2.1.330" where it was seen on both, and read so that what is new there passes by unharmed.
//!
//! | file | what it knows |
//! |---|---|
//! | [`binary`] | where `claude` is, and which version |
//! | [`command_line`] | its arguments and environment |
//! | [`retention`] | for how many days Claude keeps transcripts |
//! | [`onboarding`], `repair` | the configuration that lets it start without a human |
//! | [`credentials`] | the login of a subscription, guarded |
//! | [`screen`] | what a pane shows that blocks a start |
//! | [`input_box`] | pure: the input box of a pane, and when Enter may be pressed |
//! | [`session_file`] | `sessions/<pid>.json`: which session a process has, and what it does |
//! | [`login`] | whether it can log in, and how long it keeps transcripts |
//! | [`transcript::index`], [`background_jobs`] | the conversations that there are, and Claude's own background jobs |
//! | [`mod@transcript::locate`] | where the transcript of a session is |
//! | `lock` | Claude's own lock on a file of its configuration |
//! | [`transcript::record`], `record_json`, `line`, [`transcript::reader`] | one tolerant reader of transcripts |
//! | [`transcript::tail`], `tail_state`, `api_stop` | pure: what the end of a transcript says |
//! | [`mod@transcript::render`], [`transcript::summary`], [`transcript::tokens`] | pure: a transcript for people: its lines, what is being done, what it cost
//! | [`resume_note`] | pure: the truthful note to an agent whose turn was cut |

mod api_error;
pub mod background_jobs;
pub mod binary;
pub mod command_line;
mod config_lock;
mod config_repair;
pub mod credentials;
pub mod input_box;
pub mod login;
pub mod onboarding;
pub mod resume_note;
pub mod retention;
pub mod screen;
pub mod session_file;

/// The versions that all tests are run with: the two whose behaviour was measured, and one from half-way between.
pub const TESTED: [&str; 3] = ["2.1.197", "2.1.263", "2.1.330"];

pub use api_error::ApiStop;
pub use session_file::{SessionFile, Status};
pub use transcript::locate::{TranscriptLookup, locate};
pub use transcript::reader::{Mark, Reader};
pub use transcript::record::{Record, RecordKind};
pub use transcript::tail::{OpenTool, Tail};
pub use transcript::tail_state::{NUDGE_MARK, TailState};

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

pub mod transcript;
