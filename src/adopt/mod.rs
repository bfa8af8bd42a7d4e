//! Sessions that exist already become agents: found, planned, taken in.
//!
//! A [survey](survey()) gathers what there is, [`plan()`] decides without touching anything, and [`take()`] does one
//! entry of the plan. Nothing is deleted: a transcript is copied and compared, and what a workspace
//! was before it moved to another filesystem is kept beside it. The order is such that a cut at any moment is
//! repaired by asking again: words first, then the record, then the workspace, and the declaration last.

mod import;
mod location;
mod plan;
mod record;
mod scan;

pub use import::{Request, Taken, import_session};
pub use location::{Tie, WorkspaceLocation};
pub use plan::{Choice, Entry, Occupied, Verdict, WorkspaceTransfer, plan, where_it_runs};
pub use record::{Past, remember, session_mark};
pub use scan::{ExistingSession, Live, Pane, SessionJob, SessionScan, scan};
