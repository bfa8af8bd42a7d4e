//! The files that the matrix damages.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Lab, git};

/// A file in the data directory.
pub struct File {
    pub name: &'static str,
    pub find: fn(&Lab) -> PathBuf,
    /// A message that contains any of these words names the file.
    pub words: &'static [&'static str],
    /// Runs before the data directory is copied.
    pub before: fn(&Lab),
    pub is_whole: fn(&[u8]) -> bool,
    /// Whether the file has the version that wrote it.
    pub versioned: bool,
    /// Whether a field of a newer version is kept when the file is rewritten.
    pub survives: bool,
    pub needs_restic: bool,
}

const PLAIN: File = File {
    name: "",
    find: |_| PathBuf::new(),
    words: &[],
    before: |_| {},
    is_whole: is_json,
    versioned: true,
    survives: true,
    needs_restic: false,
};

pub const ALL: [File; 18] = [
    File {
        name: "an agent's record",
        find: |lab| lab.record_path("a"),
        words: &["agents/a.json"],
        ..PLAIN
    },
    File {
        name: "root.json",
        find: |lab| lab.file("session-state/root.json"),
        // If it belongs to another user, the data directory belongs to that user.
        words: &["root.json", "belongs to the user"],
        ..PLAIN
    },
    File {
        name: "the journal",
        find: |lab| lab.file("session-state/journal.jsonl"),
        words: &["journal.jsonl", "of the journal"],
        is_whole: |bytes| {
            bytes
                .split(|byte| *byte == b'\n')
                .all(|line| line.is_empty() || is_json(line))
        },
        ..PLAIN
    },
    File {
        name: "a manifest",
        find: |lab| only(&lab.file("session-state/saves"), ""),
        words: &["session-state/saves"],
        ..PLAIN
    },
    File {
        name: "spotkeep.toml",
        find: Lab::config,
        words: &["spotkeep.toml"],
        is_whole: |bytes| String::from_utf8_lossy(bytes).contains("[agents.b]\n"),
        versioned: false,
        ..PLAIN
    },
    File {
        name: ".claude.json",
        find: |lab| lab.file(".claude/.claude.json"),
        words: &[".claude.json"],
        versioned: false,
        ..PLAIN
    },
    File {
        name: "a transcript",
        find: |lab| lab.transcript("a"),
        words: &["transcript"],
        is_whole: is_whole_transcript,
        versioned: false,
        ..PLAIN
    },
    File {
        name: "a transcript in a backup",
        find: |lab| lab.transcript("a"),
        words: &["transcript", ".jsonl was brought back"],
        before: |lab| {
            lab.run(&["backup", "now"]).ok();
        },
        is_whole: is_whole_transcript,
        versioned: false,
        needs_restic: true,
        ..PLAIN
    },
    File {
        name: "a session file",
        // The file that a killed claude leaves.
        find: |lab| lab.file(".claude/sessions/4194000.json"),
        words: &[],
        before: |lab| {
            let session = lab.session_of("a");
            let cwd = lab.workspace("a").display().to_string();
            let text = serde_json::json!({
                "pid": 4_194_000, "sessionId": session, "cwd": cwd, "procStart": "1",
                "version": "0",
                "kind": "interactive", "name": "a", "status": "busy",
            });
            fs::write(lab.file(".claude/sessions/4194000.json"), text.to_string()).unwrap();
        },
        // Its process is gone, so it may be removed.
        is_whole: |_| true,
        versioned: false,
        ..PLAIN
    },
    File {
        name: "the index of a workspace",
        find: |lab| lab.workspace("a").join(".git/index"),
        words: &["index"],
        is_whole: |bytes| {
            bytes.starts_with(b"DIRC") && !bytes.ends_with(&[0; 20]) && bytes.len() > 150
        },
        versioned: false,
        ..PLAIN
    },
    File {
        name: "the ref of a checkpoint",
        find: |lab| {
            let refs = lab.workspace("a").join(".git/refs/spotkeep");
            only(&only(&refs, ""), "")
        },
        words: &["refs/spotkeep", "checkpoint"],
        is_whole: |bytes| bytes.len() == 41,
        versioned: false,
        ..PLAIN
    },
    File {
        name: "the commit of a checkpoint",
        find: |lab| {
            let refs = lab.workspace("a").join(".git/refs/spotkeep");
            let oid = fs::read_to_string(only(&only(&refs, ""), "")).unwrap();
            let objects = lab.workspace("a").join(".git/objects");
            objects.join(&oid[..2]).join(oid[2..].trim())
        },
        words: &["checkpoint", "damaged"],
        is_whole: |bytes| bytes.len() > 100 && !bytes.ends_with(&[0; 16]),
        versioned: false,
        ..PLAIN
    },
    File {
        name: "a pack",
        find: |lab| only(&lab.workspace("a").join(".git/objects/pack"), ".pack"),
        words: &["checkpoint", "damaged", "pack"],
        before: |lab| {
            git(&lab.workspace("a"), &["gc", "-q"]);
        },
        is_whole: |bytes| {
            bytes.starts_with(b"PACK") && !bytes.ends_with(&[0; 20]) && bytes.len() > 400
        },
        versioned: false,
        ..PLAIN
    },
    File {
        name: "the state of backups",
        find: |lab| lab.file("backups/spotkeep.json"),
        words: &["backups/spotkeep.json"],
        before: backed_up,
        // If it is missing, the next backup writes it again.
        is_whole: |bytes| bytes.is_empty() || is_json(bytes),
        needs_restic: true,
        ..PLAIN
    },
    File {
        name: "the shown state of backups",
        find: |lab| lab.file("session-state/backup.json"),
        words: &["backup.json"],
        before: backed_up,
        survives: false,
        // If it is missing, the next backup writes it again.
        is_whole: |bytes| bytes.is_empty() || is_json(bytes),
        needs_restic: true,
        ..PLAIN
    },
    File {
        name: "the index of backups",
        find: |lab| only(&lab.file("backups/index"), ""),
        words: &["backup"],
        before: backed_up,
        is_whole: |bytes| bytes.len() > 200 && !bytes.ends_with(&[0; 16]),
        versioned: false,
        needs_restic: true,
        ..PLAIN
    },
    File {
        name: "the key of backups",
        find: |lab| lab.file("backups.key"),
        words: &["backups.key", "backup"],
        before: backed_up,
        is_whole: |bytes| bytes.len() > 30 && !bytes.contains(&0),
        versioned: false,
        needs_restic: true,
        ..PLAIN
    },
    File {
        name: "the lock",
        find: |lab| lab.file("session-state/lock"),
        words: &["session-state/lock"],
        // Its contents are only informative, and each keeper writes them again.
        is_whole: |_| true,
        versioned: false,
        ..PLAIN
    },
];

fn backed_up(lab: &Lab) {
    lab.run(&["backup", "now"]).ok();
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok()
}

/// Whether all lines can be parsed. An agent that continues appends, so a truncated line may be in
/// the middle.
fn is_whole_transcript(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some() && lines.all(is_json)
}

/// Returns the first file by name in a directory that has this ending.
fn only(dir: &Path, end: &str) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.display().to_string().ends_with(end));
    paths.sort();
    paths.into_iter().next().unwrap()
}
