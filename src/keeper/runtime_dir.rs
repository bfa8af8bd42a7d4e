//! Where the keeper's sockets lie, and how others find them.
//!
//! Never on the data directory: a socket means nothing on the next machine. The holder of the lock writes
//! into it where its sockets are, so that a login shell, a cron job and a unit, whose
//! environments differ, all find the same ones.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use state::VERSION;
use state::layout::DataDir;
use sys::error::{Context as _, Result, ensure};
use sys::process::ProcessId;
use sys::{files, user};

/// The longest path that a socket may have, less the longest name in the directory (Linux: 108).
const PATH_MAX: usize = 94;

/// Who holds a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Version of the lock's text.
    pub version: u32,
    /// The keeper's process id.
    pub pid: u32,
    /// Its boot.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// Where its sockets are.
    pub runtime: PathBuf,
}

impl Holder {
    /// This process, with its sockets in `runtime`.
    #[must_use]
    pub fn this(boot_id: &str, runtime: &Path) -> Self {
        Self {
            version: VERSION,
            pid: std::process::id(),
            boot_id: boot_id.into(),
            runtime: runtime.into(),
        }
    }

    /// The last holder of a data directory; it may be long gone.
    #[must_use]
    pub fn read(data_dir: &DataDir) -> Option<Self> {
        state::load(&data_dir.lock()).ok().flatten()
    }

    /// Whether there is no process of its number any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        i32::try_from(self.pid).is_ok_and(|pid| ProcessId::from_pid(pid).is_none())
    }
}

/// The directory for the sockets of a data directory in this boot: the one that an earlier keeper of the
/// same boot used, since the agents' tmux server listens there, or a new one.
///
/// # Errors
/// No place can hold sockets that only we can use.
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
        "{} is not a directory that only we can write to",
        dir.display()
    );
    ensure!(
        dir.as_os_str().len() <= PATH_MAX,
        "{} is too long a path for a socket",
        dir.display()
    );
    Ok(dir)
}

/// The control sockets of all keepers of this user, of whatever data directory: wherever [`directory`] may have
/// put them in an environment of this user's.
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

/// Where sockets may be, the best first; the last one can always be made.
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

/// The control socket in a runtime directory.
#[must_use]
pub fn socket(runtime: &Path) -> PathBuf {
    runtime.join("keeper.sock")
}
