//! Runs the programs of a drill as an unprivileged user, if the drill runs as root.
//!
//! A drill starts claude, git, tmux and their children. None of them needs root, and a program from
//! a cloned repository must not run as root. Root itself only makes the sandbox, mounts its disk
//! and cuts the power of that disk. The user id has no account and no other processes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Sandbox;
use crate::claude_program;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::user;

/// The user ids that systemd allocates to running services, and that no distribution gives to an
/// account (systemd.io/UIDS-GIDS).
const IDS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

impl Sandbox {
    /// As root, sets an unprivileged user for all programs of the sandbox.
    ///
    /// # Errors
    /// The program cannot be copied, or the kernel refuses a change of owner or mode.
    pub fn unprivileged(mut self) -> Result<Self> {
        if user::id() != 0 {
            return Ok(self);
        }
        let count = IDS.end() - IDS.start() + 1;
        // Not from the pid, which is 1 in the PID namespace of every drill.
        let random = u32::from_str_radix(&self.id, 16).unwrap_or_default();
        self.user = Some(IDS.start() + random % count);
        set_mode(&self.dir, 0o711)?;
        set_mode(&self.dir.join("bin"), 0o755)?;
        // The program may be in a directory that other users cannot enter.
        let copy = self.dir.join("bin/spotkeep");
        fs::copy(&self.exe, &copy).context("cannot copy the program into the sandbox")?;
        set_mode(&copy, 0o755)?;
        self.exe = copy;
        for dir in ["root", "home", "run", "tmp"] {
            self.chown(&self.dir.join(dir))?;
        }
        Ok(self)
    }

    /// Returns a command that runs a program as the sandbox's user.
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

    /// Makes the sandbox's user the owner of a file.
    fn chown(&self, path: &Path) -> Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        lchown(path, Some(user), Some(user))
            .with_context(|| format!("cannot change the owner of {}", path.display()))
    }

    /// Returns a path of a claude that the sandbox's user can run: of a copy, if it is in a
    /// directory that only root can read.
    ///
    /// # Errors
    /// The disk is full, or it is a script, which needs the files beside it.
    pub fn within_reach(&self, claude: &Path) -> Result<PathBuf> {
        if self.user.is_none() || claude_program::is_executable_by_all(claude) {
            return Ok(claude.to_owned());
        }
        let failed = || format!("cannot copy {} into the sandbox", claude.display());
        if !is_binary(claude).with_context(failed)? {
            return Err(anyhow!(
                "{} is a script in a directory that only root can read, and as root a drill runs \
                 claude as an unprivileged user",
                claude.display()
            ))
            .hint("spotkeep drill --claude PATH, with a path that all users can read");
        }
        let copy = self.dir.join("bin/claude");
        fs::copy(claude, &copy).with_context(failed)?;
        set_mode(&copy, 0o755)?;
        Ok(copy)
    }
}

/// Whether the sandbox's user can reach files in `dir`.
pub(super) fn can_reach(dir: &Path) -> bool {
    user::id() != 0 || claude_program::is_executable_by_all(dir)
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
