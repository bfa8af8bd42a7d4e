//! Places at which a test has this process end at once, as if it were killed just there.
//!
//! `SPOTKEEP_CRASH_AT=save/transcripts-safe` ends it when it comes to that point; with `:3` behind the name, when it comes there for the
//! third time. All of this is for builds with debug assertions, as tests have them. In a release build a point is nothing: the
//! variable and the names are not in the binary (`tests/it/crash.rs` compiles this file both ways and looks).

/// Declares the points, so that one that is not in the list does not compile, and the list lacks none.
macro_rules! points {
    ($($point:ident = $name:literal: $what:literal,)*) => {
        /// A place at which a process may be made to end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $what] $point,)*
        }

        impl Point {
            /// All of them, with the name of each; none in a release build.
            #[cfg(debug_assertions)]
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$point, $name),)*];
        }
    };
}

points! {
    // A state file is replaced.
    StateDrafted = "state/drafted": "It is written beside the old one.",
    StateSynced = "state/synced": "That is durable.",
    StateReplaced = "state/replaced": "It has its name.",
    JournalWritten = "journal/written": "A line of the journal is written and not yet synced.",

    // A save.
    SaveNoticed = "save/noticed": "The notice is in the journal, and nothing is done yet.",
    SaveEnded = "save/ended": "All agents have ended.",
    SaveTranscripts = "save/transcripts": "Transcripts are durable, and no manifest says so.",
    SaveTranscriptsSafe = "save/transcripts-safe": "The manifest says so.",
    SaveSynced = "save/synced": "The whole file system is durable.",
    SaveSafe = "save/safe": "Manifest and journal say so.",
    SaveWorkspaces = "save/workspaces": "Checkpoints are made, and the manifest does not tell of them.",
    SaveSaved = "save/saved": "The journal says that the save has come to its end.",

    // The next boot.
    RestoreEpoch = "restore/epoch": "The epoch is raised, and the lock does not say by whom.",
    RestoreLogged = "restore/logged": "The journal says that a keeper has begun.",
    RestoreTold = "restore/told": "The journal says who is to come back.",
    RestoreSeeded = "restore/seeded": "Claude has been told of all workspaces.",
    RestoreRepaired = "restore/repaired": "A repository was looked over after an unclean end.",
    RestorePrepared = "restore/prepared": "A launch is prepared and remembered nowhere.",
    RestorePersisted = "restore/persisted": "It is in the record, and not in the journal.",
    RestoreStarting = "restore/starting": "It is in the journal, and tmux was not asked.",
    RestoreLaunched = "restore/launched": "The process is there, and nobody knows its number.",
    RestoreRecorded = "restore/recorded": "Its number is in the record.",

    // A checkpoint.
    CheckpointLooked = "checkpoint/looked": "Blobs and trees are written.",
    CheckpointCommitted = "checkpoint/committed": "The commit is written, and nothing leads to it.",
    CheckpointNamed = "checkpoint/named": "The ref is there, and its directory is not synced.",
    CheckpointTaken = "checkpoint/taken": "All is durable, and no file says which is the newest.",

    // A rollback.
    RollbackLocked = "rollback/locked": "The index is locked, and nothing is changed.",
    RollbackFiles = "rollback/files": "The files are as they were, and HEAD and the index are not.",
    RollbackHeads = "rollback/heads": "So is HEAD; the index is not.",

    // A backup, and what is brought back from one.
    BackupLooked = "backup/looked": "Something has changed, and restic was not started.",
    BackupFounded = "backup/founded": "There is a repository, with nothing in it.",
    BackupBegun = "backup/begun": "It is written down who works on it.",
    BackupMade = "backup/made": "restic has made it, and we have not written it down.",
    BackupStored = "backup/stored": "It is written down where root sees it, and not for everybody.",
    BackupCopied = "backup/copied": "The copy elsewhere is made and not written down.",
    BroughtQuarantined = "backup/brought-aside": "What was lost lies aside.",
    BroughtPlaced = "backup/brought-placed": "It is in its place.",

    // A set-up.
    SetupStep = "setup/step": "A step is about to be done.",
    SetupDone = "setup/done": "A step is done.",
    SetupPrevious = "setup/previous": "The program that is replaced has been kept, and the new one is not there.",
    UpgradeCopied = "upgrade/copied": "The new program lies beside the old one.",
    UpgradeSwapped = "upgrade/swapped": "It is in its place, and the keeper does not run it.",
    UndoStep = "undo/step": "A part of a set-up is about to be taken out.",
}

/// Ends the process here if a test has asked for it.
#[cfg(debug_assertions)]
pub fn point(here: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let desired = WANTED.get_or_init(|| {
        let text = std::env::var("SPOTKEEP_CRASH_AT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    let Some((name, times)) = desired else {
        return;
    };
    let is_here = Point::ALL
        .iter()
        .any(|(point, known)| *point == here && known == name);
    if is_here && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times {
        std::process::abort();
    }
}

/// Nothing: this is not a build for tests.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_here: Point) {}
