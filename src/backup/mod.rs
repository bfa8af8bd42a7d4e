//! Backups with restic: create, list, check, copy, prune, restore, recover.
//!
//! `backups/` is an ordinary restic repository, which restic itself can read. Only this module
//! starts restic.
//!
//! ```text
//! run ─ lock ─ changed? ─ restic backup ─ state ─ copy ─ maintain (check, then forget and prune)
//! recover ── find the longest ── restic dump | child process of the owner ── move into place
//! ```
//!
//! # Privileges
//!
//! A repository belongs to the user who owns the agents, or, where the units are installed, to
//! root, so that an agent's `rm -rf` cannot reach it. Then root acts on a tree that the user can
//! write. Root *reads* that tree, through restic, which follows no link; a child process that runs
//! as the user writes everything outside of `backups/`; and settings that start programs or send
//! data elsewhere take effect only as root has approved them ([`settings`]).
//!
//! # Concurrency
//!
//! Only one spotkeep process at a time holds [`lock::BackupLock`], an `flock`, which ends with its
//! process. A restic that is run by hand is excluded by restic's own locks: a backup takes a shared
//! one, check and prune an exclusive one. A lock whose process has provably ended is removed, any
//! other is respected ([`lock`]).
//!
//! # Interruption
//!
//! restic writes each file under a temporary name and renames it, and a snapshot last: an
//! interrupted backup is not listed, and its data are reused by the next backup or removed by the
//! next prune.

pub mod bootstrap;
pub mod cancel;
pub mod check;
pub mod copy;
pub mod fingerprint;
pub mod include;
pub mod lock;
pub mod maintain;
pub mod privileged_write;
pub mod recover;
pub mod restic;
pub mod restore;
pub mod retention;
pub mod run;
pub mod settings;
pub mod snapshots;
pub mod state;

pub use cancel::Stop;
pub use restic::{Progress, Repository};
pub use settings::Settings;
pub use snapshots::Snapshot;
pub use state::BackupState;
