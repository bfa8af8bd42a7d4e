//! The kinds of damage that the matrix does to a file.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::is_root;

/// A kind of damage to a file.
pub struct Damage {
    pub name: &'static str,
    pub inflict: fn(&Path),
}

/// All kinds. `of another` and `read-only` need a lab that runs as an ordinary user.
pub const ALL: [Damage; 7] = [
    Damage {
        name: "missing",
        inflict: |path| fs::remove_file(path).unwrap(),
    },
    Damage {
        name: "empty",
        inflict: |path| overwrite(path, b""),
    },
    Damage {
        name: "truncated",
        inflict: |path| {
            let bytes = fs::read(path).unwrap();
            overwrite(path, &bytes[..bytes.len() / 2]);
        },
    },
    Damage {
        name: "nul",
        // As after a power cut, when the length was written and the data was not.
        inflict: |path| {
            let mut bytes = fs::read(path).unwrap();
            let from = bytes.len() / 2;
            bytes[from..].fill(0);
            bytes.resize(bytes.len() + 512, 0);
            overwrite(path, &bytes);
        },
    },
    Damage {
        name: "of another",
        inflict: |path| {
            if is_root() {
                chown(path, Some(0), Some(0)).unwrap();
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        },
    },
    Damage {
        name: "read-only",
        inflict: |path| fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap(),
    },
    Damage {
        name: NEWER,
        inflict: newer,
    },
];

pub const NEWER: &str = "of a newer version";

/// Changes a file as a later version would write it: another version number, and a field unknown to
/// this version.
fn newer(path: &Path) {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|kind| kind == "jsonl") {
        let text = String::from_utf8(bytes).unwrap();
        let last = text.lines().last().unwrap();
        let mut line: Value = serde_json::from_str(last).unwrap();
        line["version"] = json!(99);
        line["seq"] = json!(line["seq"].as_u64().unwrap() + 1);
        line["event"] = json!("teleported");
        line["novelty"] = json!({"of": ["the", "future"]});
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
        return;
    }
    let mut all: Value = serde_json::from_slice(&bytes).unwrap();
    all["version"] = json!(99);
    all["novelty"] = json!({"of": ["the", "future"]});
    overwrite(path, all.to_string().as_bytes());
}

/// Overwrites a file, also a read-only one like git's objects; owner and mode stay.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}
