//! Installation of the distribution's packages that spotkeep needs.

use std::process::Command;
use std::time::Duration;

use crate::storage::filesystem::FilesystemKind;
use sys::command;
use sys::error::{Hint as _, Result, anyhow};

/// A mirror may be slow, and another package manager may be at work on a new machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Each program with its package on Debian and Ubuntu.
const NEEDED: [(&str, &str); 5] = [
    ("tmux", "tmux"),
    ("git", "git"),
    ("restic", "restic"),
    ("mkfs.ext4", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
];

/// Returns the packages that are missing for a data directory on that kind of file system.
#[must_use]
pub fn missing(kind: FilesystemKind, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDED
        .into_iter()
        .chain((kind == FilesystemKind::Xfs).then_some(("xfs_growfs", "xfsprogs")))
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| package)
        .collect();
    packages.dedup();
    packages
}

/// Whether a program is in `PATH` or a system directory.
#[must_use]
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(system)
        .any(|dir| dir.join(program).is_file())
}

/// Installs packages without asking.
///
/// # Errors
/// There is no `apt-get`, or it fails. The hint is the command to run by hand.
pub fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=120"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Setup does not decide which services are restarted.
            .env("NEEDRESTART_SUSPEND", "1");
        command::run(&mut command, LIMIT)
    };
    let names = packages.join(" ");
    let by_hand = format!("sudo apt-get install {names}");
    if !has("apt-get") {
        return Err(anyhow!("{names} is missing, and there is no apt-get"))
            .hint("install it with this distribution's own package manager");
    }
    // Old lists may be enough; the installation decides.
    let updated = apt(&["update"]);
    let mut args = vec!["install", "--no-install-recommends"];
    args.extend(packages);
    let output = apt(&args).hint(&by_hand)?;
    if output.status.success() {
        return Ok(());
    }
    let last = output.stderr.lines().last().unwrap_or_default().to_owned();
    let lists = match updated {
        Ok(output) if output.status.success() => "",
        _ => " (the lists could not be brought up to date either)",
    };
    Err(anyhow!("apt-get cannot install {names}: {last}{lists}")).hint(by_hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_installed_and_xfs_only_where_there_is_one() {
        assert_eq!(missing(FilesystemKind::Ext4, |_| true), Vec::<&str>::new());
        assert_eq!(
            missing(FilesystemKind::Ext4, |_| false),
            ["tmux", "git", "restic", "e2fsprogs"]
        );
        assert_eq!(
            missing(FilesystemKind::Xfs, |program| program != "xfs_growfs"),
            ["xfsprogs"]
        );
        assert!(has("sh") && !has("no-such-program"));
    }
}
