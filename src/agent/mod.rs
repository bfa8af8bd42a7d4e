//! One agent: how it ends, when it is started again, how many may start at once.

mod cause;
mod end;
mod exec;
mod exit;
mod pacing;
mod patience;
mod restart;
mod weather;

pub use cause::{cause_of_exit, cause_of_stop};
pub use end::{Ended, GRACE, MARKER, SWEEP_LIMIT, end_process, launched, sweep};
pub use exec::{become_claude, environment, read_env_file};
pub use exit::Exit;
pub use pacing::{Limits, starts_allowed};
pub use patience::{Patience, after_stop};
pub use restart::{HEALTHY_AFTER, Next, after_failure};
pub use weather::Weather;
