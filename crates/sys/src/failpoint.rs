//! Fail points: places at which a test makes the process abort, as if it were killed there.
//!
//! `SPOTKEEP_CRASH_AT=save/transcripts-safe` aborts it at that point; with `:3` after the name, at
//! the third pass. All of this exists only in builds with debug assertions, like those of tests. In
//! a release build a point is empty: the variable and the names are not in the binary
//! (`tests/it/crash.rs` compiles this file both ways and checks).

/// Declares the points, so that a point that is not in the list does not compile, and the list is
/// complete.
macro_rules! points {
    ($($point:ident = $name:literal: $what:literal,)*) => {
        /// A place at which a test may abort the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $what] $point,)*
        }

        impl Point {
            /// All points with their names; none in a release build.
            #[cfg(debug_assertions)]
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$point, $name),)*];
        }
    };
}

points! {
    // A state file is replaced.
    StateDrafted = "state/drafted": "The new file is written beside the old one.",
    StateSynced = "state/synced": "The new file is durable.",
    StateReplaced = "state/replaced": "The new file has replaced the old one.",
    JournalWritten = "journal/written": "A line of the journal is written and not yet synced.",

    // A save.
    SaveNoticed = "save/noticed": "The notice is in the journal, and no step is done yet.",
    SaveEnded = "save/ended": "All agents have ended.",
    SaveTranscripts = "save/transcripts": "Transcripts are durable, and no manifest says so.",
    SaveTranscriptsSafe = "save/transcripts-safe": "The manifest says that they are.",
    SaveSynced = "save/synced": "The whole file system is durable.",
    SaveSafe = "save/safe": "Manifest and journal say that it is.",
    SaveWorkspaces = "save/workspaces": "Checkpoints are created, and not in the manifest yet.",
    SaveSaved = "save/saved": "The journal says that the save has ended.",

    // The next boot.
    RestoreEpoch = "restore/epoch": "The epoch is incremented, the lock names no holder.",
    RestoreLogged = "restore/logged": "The journal says that a keeper has started.",
    RestoreTold = "restore/told": "The journal says which agents will be resumed.",
    RestoreSeeded = "restore/seeded": "Claude's configuration has all workspaces.",
    RestoreRepaired = "restore/repaired": "A repository was checked after an unclean end.",
    RestorePlanned = "restore/prepared": "A launch is planned, and stored nowhere.",
    RestorePersisted = "restore/persisted": "The launch is in the record, and not in the journal.",
    RestoreStarting = "restore/starting": "The launch is in the journal, and not started.",
    RestoreLaunched = "restore/launched": "The process exists, and its pid is not recorded.",
    RestoreRecorded = "restore/recorded": "Its pid is in the record.",

    // A checkpoint.
    CheckpointLooked = "checkpoint/looked": "Blobs and trees are written.",
    CheckpointCommitted = "checkpoint/committed": "The commit is written, and no ref leads to it.",
    CheckpointNamed = "checkpoint/named": "The ref exists, and its directory is not synced.",
    CheckpointTaken = "checkpoint/taken": "It is durable, and not recorded as the newest.",

    // A rollback.
    RollbackLocked = "rollback/locked": "The index is locked, and nothing is changed.",
    RollbackFiles = "rollback/files": "The files are restored, HEAD and the index are not.",
    RollbackHeads = "rollback/heads": "The files and HEAD are restored, the index is not.",

    // A backup, and the recovery of lost files from one.
    BackupLooked = "backup/looked": "Something has changed, and restic was not started.",
    BackupFounded = "backup/founded": "The repository is created, and empty.",
    BackupBegun = "backup/begun": "The state file names the process that makes the backup.",
    BackupMade = "backup/made": "restic has made the backup, and no state file says so.",
    BackupStored = "backup/stored": "The state file of root says so, and the public one does not.",
    BackupCopied = "backup/copied": "The copy is made, and no state file says so.",
    BroughtQuarantined = "backup/brought-quarantined": "Lost files are in quarantine.",
    BroughtPlaced = "backup/brought-placed": "Lost files are in their place.",

    // A set-up.
    SetupStep = "setup/step": "A step is about to start.",
    SetupDone = "setup/done": "A step is done.",
    SetupPrevious = "setup/previous": "The old program is saved, the new one is missing.",
    UpgradeCopied = "upgrade/copied": "The new program is beside the old one.",
    UpgradeSwapped = "upgrade/swapped": "It is installed, and the keeper does not run it.",
    UndoStep = "undo/step": "A part of a set-up is about to be removed.",
}

/// Aborts the process here if a test has requested it.
#[cfg(debug_assertions)]
pub fn point(here: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static REQUESTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let requested = REQUESTED.get_or_init(|| {
        let text = std::env::var("SPOTKEEP_CRASH_AT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    let Some((name, times)) = requested else {
        return;
    };
    let is_here = Point::ALL
        .iter()
        .any(|(point, known)| *point == here && known == name);
    if is_here && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times {
        std::process::abort();
    }
}

/// Does nothing: this build is not for tests.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_here: Point) {}
