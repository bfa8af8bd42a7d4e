//! The identity of a data directory: `session-state/root.json`.
//!
//! It says which data directory this is, and how often a keeper has started on it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VERSION;
use sys::time::Timestamp;
use sys::user;
use sys::uuid::new_uuid;

/// Desired state of the fleet as a whole; it outlives a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fleet {
    /// Agents whose desired state is running run.
    #[default]
    Up,
    /// No agent runs until `spotkeep up`.
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
    /// Incremented and made durable by each keeper before it does anything: the keeper with the
    /// highest epoch is the current one.
    pub epoch: u64,
    /// Where it was mounted when it was created.
    pub mount_path: PathBuf,
    /// The user whose agents it holds.
    pub user: String,
    /// That user's id.
    pub uid: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// Desired state of the fleet.
    #[serde(default)]
    pub fleet: Fleet,
    /// Number of boots of machines that it was attached to.
    #[serde(default, alias = "lives")]
    pub boots: u64,
    /// Number of those boots that a preemption notice ended.
    #[serde(default)]
    pub preemptions: u64,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Identity {
    /// Returns the identity of a new data directory at `mount_path`, for the user of this process.
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
