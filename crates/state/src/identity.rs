//! `session-state/root.json`: which data directory this is, and how often a keeper has taken it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VERSION;
use sys::time::Timestamp;
use sys::user;
use sys::uuid::new_uuid;

/// Whether the fleet as a whole is wanted; it outlives a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fleet {
    /// Agents that are wanted run.
    #[default]
    Up,
    /// Nothing runs until `spotkeep up`.
    Down,
}

/// The identity of a data directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this file's format.
    pub version: u32,
    /// The data directory's own id, the same on every machine that it is ever attached to.
    #[serde(alias = "root_id")]
    pub data_dir_id: String,
    /// Raised and made durable by each keeper before it does anything: a higher epoch has taken over.
    pub epoch: u64,
    /// Where it was mounted when it was made.
    pub mount_path: PathBuf,
    /// The user whose agents live here.
    pub user: String,
    /// That user's id.
    pub uid: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether the fleet shall run.
    #[serde(default)]
    pub fleet: Fleet,
    /// Boots of the machine that it has had.
    #[serde(default, alias = "lives")]
    pub boots: u64,
    /// Those of them that a cloud's notice ended.
    #[serde(default)]
    pub preemptions: u64,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Identity {
    /// A new data directory at `mount_path`, for the user who calls.
    #[must_use]
    pub fn new(mount_path: PathBuf) -> Self {
        let uid = user::id();
        Self {
            version: VERSION,
            data_dir_id: new_uuid(),
            epoch: 0,
            mount_path,
            user: user::name(uid),
            uid,
            created_at: Timestamp::now(),
            fleet: Fleet::Up,
            boots: 0,
            preemptions: 0,
            unknown: Map::new(),
        }
    }
}
