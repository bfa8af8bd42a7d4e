//! Backups: history in `backups/`, a repository of the real restic, made by driving it and readable with
//! it. The only room that starts restic.
//!
//! ```text
//! now ── lock ── changed? ── restic backup ── state ── copy ── tend (check, then forget and prune)
//! restore ── find the longest ── restic dump | a child of the owner's ── in place
//! ```
//!
//! # Who may do what
//!
//! A repository belongs to the user whose agents it keeps, or, where the units are installed, to root, so
//! that an agent's `rm -rf` cannot reach it. Then root acts on a tree that the user can write. It *reads*
//! that tree, through restic, which follows no link; everything that is written outside of `backups/`
//! is written by a child that runs as the user; and settings that start programs or send data elsewhere
//! count only as root has approved them ([`settings`]).
//!
//! # Why two cannot spoil it
//!
//! One of ours at a time holds [`lock::Turn`], an `flock`, which ends with its process. Against a restic by
//! hand there are restic's own locks: a backup takes a shared one, check and prune an exclusive one.
//! A lock whose process is provably gone is removed, any other is respected ([`lock`]).
//!
//! # Why a kill at any moment is harmless
//!
//! restic writes each file aside and renames it, and a snapshot last: what was interrupted is not listed,
//! and its data are found again by the next backup or removed by the next prune.

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
