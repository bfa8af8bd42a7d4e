//! Runtime directory: where the keeper's sockets are, and how clients find them.
//!
//! The sockets are never in the data directory, because a socket is useless on the next machine.
//! The keeper that holds the lock writes the directory of its sockets into the lock file, so that a
//! login shell, a cron job and a systemd unit, whose environments differ, all find the same ones.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use state::VERSION;
use state::layout::DataDir;
use sys::error::{Context as _, Result, ensure};
use sys::process::ProcessId;
use sys::{files, user};

/// The longest path of the directory: Linux allows 108 bytes for a socket's path with its name.
const PATH_MAX: usize = 94;

/// The keeper that holds a data directory, as the lock file names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The version of the lock file's format.
    pub version: u32,
    /// The keeper's process id.
    pub pid: u32,
    /// The id of its boot.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// The directory of its sockets.
    pub runtime: PathBuf,
}

impl Holder {
    /// Describes this process, with its sockets in `runtime`.
    #[must_use]
    pub fn this(boot_id: &str, runtime: &Path) -> Self {
        Self {
            version: VERSION,
            pid: std::process::id(),
            boot_id: boot_id.into(),
            runtime: runtime.into(),
        }
    }

    /// Reads the last holder of a data directory, which may have ended long ago.
    #[must_use]
    pub fn read(data_dir: &DataDir) -> Option<Self> {
        state::load(&data_dir.lock()).ok().flatten()
    }

    /// Returns whether no process has this pid any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        i32::try_from(self.pid).is_ok_and(|pid| ProcessId::from_pid(pid).is_none())
    }
}

/// Returns the directory for the sockets of a data directory in this boot: the one that an earlier
/// keeper of the same boot used, since the agents' tmux server listens there, or a new one.
///
/// # Errors
/// There is no directory that only this user can write to.
pub fn directory(data_dir: &DataDir, data_dir_id: &str, boot_id: &str) -> Result<PathBuf> {
    if let Some(holder) = Holder::read(data_dir)
        && holder.boot_id == boot_id
        && holder.runtime.is_dir()
    {
        return Ok(holder.runtime);
    }
    let short = data_dir_id
        .get(..8)
        .context("the data directory's id is too short")?;
    let dir = base().join(short);
    files::create_private_dir(&dir)?;
    let meta = std::fs::symlink_metadata(&dir)?;
    ensure!(
        meta.is_dir() && meta.uid() == user::id() && meta.mode() & 0o022 == 0,
        "{} is not a directory that only this user can write to",
        dir.display()
    );
    ensure!(
        dir.as_os_str().len() <= PATH_MAX,
        "{} is too long a path for a socket",
        dir.display()
    );
    Ok(dir)
}

/// Returns the control sockets of all keepers of this user, for any data directory: in every place
/// where [`directory`] may have put them.
#[must_use]
pub fn sockets() -> Vec<PathBuf> {
    let uid = user::id();
    let mut found: Vec<PathBuf> = bases()
        .into_iter()
        .filter(|base| std::fs::metadata(base).is_ok_and(|meta| meta.uid() == uid))
        .filter_map(|base| std::fs::read_dir(base).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(socket(&entry.ok()?.path()))))
        .filter(|socket| socket.exists())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Returns the directories for sockets, the preferred one first; the last one can always be
/// created.
fn bases() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("SPOTKEEP_RUNTIME_DIR") {
        return vec![dir.into()];
    }
    let uid = user::id();
    let is_mine = |dir: &Path| std::fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid);
    let of_unit = PathBuf::from("/run/spotkeep");
    let of_user = std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from(format!("/run/user/{uid}")), PathBuf::from);
    let mut bases = Vec::new();
    if is_mine(&of_unit) {
        bases.push(of_unit);
    }
    if is_mine(&of_user) {
        bases.push(of_user.join("spotkeep"));
    }
    bases.push(PathBuf::from(format!("/tmp/spotkeep-{uid}")));
    bases
}

fn base() -> PathBuf {
    bases().into_iter().next().unwrap_or_default()
}

/// Returns the path of the control socket in a runtime directory.
#[must_use]
pub fn socket(runtime: &Path) -> PathBuf {
    runtime.join("keeper.sock")
}
