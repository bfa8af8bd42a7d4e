//! Under root, whom a drill's programs run as: a user that is nobody else's.
//!
//! A drill starts a claude, git, tmux and all that these start. None of it has to be root, and what
//! root starts out of a repository that somebody cloned must not be. Root itself makes the sandbox,
//! mounts its disk and cuts that disk's power.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Sandbox;
use crate::claude_program;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::user;

/// The ids that systemd gives to services for as long as they run, and no distribution to an
/// account (systemd.io/UIDS-GIDS).
const IDS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

impl Sandbox {
    /// Has everything that is started in it run as an unprivileged user, where this is root.
    ///
    /// # Errors
    /// There is no room for a copy of the program, or the kernel refuses.
    pub fn unprivileged(mut self) -> Result<Self> {
        if user::id() != 0 {
            return Ok(self);
        }
        let count = IDS.end() - IDS.start() + 1;
        // Not by the process id, which is 1 in a process namespace of every drill's own.
        let random = u32::from_str_radix(&self.id, 16).unwrap_or_default();
        self.user = Some(IDS.start() + random % count);
        set_mode(&self.dir, 0o711)?;
        set_mode(&self.dir.join("bin"), 0o755)?;
        // Root's own copy may lie where nobody else gets to.
        let copy = self.dir.join("bin/spotkeep");
        fs::copy(&self.exe, &copy).context("cannot copy the program into the sandbox")?;
        set_mode(&copy, 0o755)?;
        self.exe = copy;
        for dir in ["root", "home", "run", "tmp"] {
            self.chown(&self.dir.join(dir))?;
        }
        Ok(self)
    }

    /// A program that runs as the sandbox's user.
    pub(super) fn run_as(&self, program: &Path) -> Command {
        let Some(user) = self.user else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={user}"))
            .args(["--clear-groups", "--no-new-privs", "--"])
            .arg(program);
        command
    }

    /// Gives a file that root has made to the sandbox's user.
    fn chown(&self, path: &Path) -> Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        lchown(path, Some(user), Some(user))
            .with_context(|| format!("cannot give {} away", path.display()))
    }

    /// The path by which the sandbox's user gets to a claude: a copy of one that lies in a
    /// directory of root's own.
    ///
    /// # Errors
    /// There is no room, or it is a script, which needs what lies beside it.
    pub fn within_reach(&self, claude: &Path) -> Result<PathBuf> {
        if self.user.is_none() || claude_program::is_everybodys(claude) {
            return Ok(claude.to_owned());
        }
        let failed = || format!("cannot copy {} into the sandbox", claude.display());
        if !is_binary(claude).with_context(failed)? {
            return Err(anyhow!(
                "{} is a script in a directory that only root can read, and as root a drill runs \
                 claude as an unprivileged user",
                claude.display()
            ))
            .hint("spotkeep drill --claude PATH, where everybody can read");
        }
        let copy = self.dir.join("bin/claude");
        fs::copy(claude, &copy).with_context(failed)?;
        set_mode(&copy, 0o755)?;
        Ok(copy)
    }
}

/// Whether the sandbox's user can get to what is made in `dir`.
pub(super) fn can_reach(dir: &Path) -> bool {
    user::id() != 0 || claude_program::is_everybodys(dir)
}

fn is_binary(program: &Path) -> std::io::Result<bool> {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let read = fs::File::open(program)?.read(&mut magic)?;
    Ok(magic[..read] == *b"\x7fELF")
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change the mode of {}", path.display()))
}
