//! Claude Code: its command line, configuration, files, screen and transcripts.
//!
//! No other crate depends on these details. Claude Code changes every few days. Its behaviour is
//! marked "measured on 2.1.197 and 2.1.330" where it was seen on both, and its files are read so
//! that additions in later versions do no harm.
//!
//! | module | content |
//! |---|---|
//! | [`binary`] | finds the program `claude` and its version |
//! | [`command_line`] | its arguments and environment |
//! | [`retention`] | for how many days it keeps transcripts |
//! | [`onboarding`], `config_repair` | the configuration that lets it start without a user |
//! | [`credentials`] | the login of a subscription: checked, copied, restored |
//! | [`screen`] | recognizes dialogs that block a start |
//! | [`input_box`] | the input box of a pane, and when Enter may be pressed |
//! | [`session_file`] | `sessions/<pid>.json`: the session of a process, and its status |
//! | [`login`] | whether it can log in without a user |
//! | [`transcript::index`], [`background_jobs`] | the list of conversations, and Claude Code's own background jobs |
//! | [`mod@transcript::locate`] | finds the transcript of a session |
//! | `config_lock` | Claude Code's own lock on a configuration file |
//! | [`transcript::record`], `record_json`, `damaged_line`, [`transcript::reader`] | the tolerant reader of transcripts |
//! | [`transcript::tail`], `tail_state`, `api_error` | the state of a session at the end of its transcript |
//! | [`mod@transcript::render`], [`transcript::summary`], [`transcript::tokens`] | a transcript for people: its lines, the present activity, the tokens |
//! | [`resume_note`] | the prompt that tells an agent what was cut off |

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

/// Versions that all tests are run with: the two whose behaviour was measured, and one between
/// them.
pub const TESTED: [&str; 3] = ["2.1.197", "2.1.263", "2.1.330"];

pub use api_error::ApiStop;
pub use session_file::{SessionFile, Status};
pub use transcript::locate::{TranscriptLookup, locate};
pub use transcript::reader::{Mark, Reader};
pub use transcript::record::{Record, RecordKind};
pub use transcript::tail::{OpenTool, Tail};
pub use transcript::tail_state::{NUDGE_MARK, TailState};

/// Entries of its configuration directory that are not worth saving: logs, copies of programs, and
/// what the next start writes again.
pub const TRANSIENT: [&str; 7] = [
    "cache",
    "debug",
    "ide",
    "local",
    "shell-snapshots",
    "statsig",
    "telemetry",
];

/// Files with its login.
pub const SECRETS: [&str; 1] = [".credentials.json"];

pub mod transcript;
