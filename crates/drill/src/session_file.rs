//! Reads Claude's session files (`sessions/<pid>.json`) and transcripts for the drill.
//!
//! The drill has its own parser, because it checks the keeper's work.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fake_api::marker::Marker;
use sys::process::ProcessId;

/// A session with a living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The name of the session, which is the agent's.
    pub name: String,
    /// The id of the session.
    pub session_id: String,
    /// Claude's status: `busy`, `idle`, `waiting` ...
    pub status: String,
}

/// Returns the sessions with a living process in a Claude configuration directory.
#[must_use]
pub fn live(config: &Path) -> Vec<Live> {
    let entries = fs::read_dir(config.join("sessions"));
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| parse(&fs::read(entry.ok()?.path()).ok()?))
        // The start time distinguishes a process from a later one with the same pid.
        .filter(|(process, _)| process.is_alive())
        .map(|(_, live)| live)
        .collect()
}

/// Parses a session file; returns the process and its session.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(ProcessId, Live)> {
    let file: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| Some(file[key].as_str()?.to_owned());
    let process = ProcessId {
        pid: i32::try_from(file["pid"].as_i64()?).ok()?,
        start_time: text("procStart")?.parse().ok()?,
    };
    let live = Live {
        name: text("name")?,
        session_id: text("sessionId")?,
        status: text("status").unwrap_or_default(),
    };
    Some((process, live))
}

/// Returns every mark in the transcript of a session, in any folder.
#[must_use]
pub fn transcript_marks(config: &Path, session_id: &str) -> BTreeSet<Marker> {
    let folders = fs::read_dir(config.join("projects"));
    folders
        .into_iter()
        .flatten()
        .filter_map(|folder| {
            let path = folder.ok()?.path().join(format!("{session_id}.jsonl"));
            fs::read(path).ok()
        })
        .flat_map(|bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Marker::all_in(&text).collect::<Vec<_>>()
        })
        .collect()
}
