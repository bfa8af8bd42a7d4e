//! Import of existing Claude Code sessions as agents.
//!
//! [`scan()`] finds the sessions, [`plan()`] decides without changing anything, and
//! [`import_session()`] carries out one entry of the plan. Nothing is deleted: a transcript is
//! copied and compared, and the original of a workspace that moves to another filesystem is kept
//! beside it. An import that is interrupted at any point is completed by running it again: the
//! transcript comes first, then the record, then the workspace, and the declaration last.

mod import;
mod location;
mod plan;
mod record;
mod scan;

pub use import::{ImportResult, Request, import_session};
pub use location::{Tie, WorkspaceLocation};
pub use plan::{Choice, Decision, Entry, Occupied, WorkspaceTransfer, plan, where_it_runs};
pub use record::{Past, remember, session_mark};
pub use scan::{ExistingSession, Live, Pane, SessionJob, SessionScan, scan};
