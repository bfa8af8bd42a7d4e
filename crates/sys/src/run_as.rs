//! A process of another user's: root's one way to start one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Signal;
use crate::socket::LOOPBACK_VARIABLE;
use crate::user;

/// Which groups it has beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Those of its account on this machine.
    OfAccount,
    /// None.
    None,
}

/// A program as somebody else, by setpriv(1). It has a session of its own, so that it has no terminal of root's to
/// type into; nothing of root's environment but a `PATH` of absolute directories; and it stands in `/`, since
/// root's own directory may be where the user cannot go, and be a way to what the user cannot see.
///
/// Descriptors of root's are not closed: whoever starts such a process while it holds some that stay
/// open over an exec closes them first ([`crate::process::keep_descriptors_to_ourselves`]).
#[must_use]
pub fn run_as(
    uid: u32,
    gid: u32,
    groups: Groups,
    when_parent_ends: Signal,
    program: impl AsRef<OsStr>,
) -> Command {
    // The session is changed before the user is: no process of theirs is ever in root's. `--wait`,
    // since a leader of a process group has to fork for that.
    // Both by their full names: what the caller sets as `PATH` is for the program, and may begin with a
    // directory of the user's, and these two still run as root.
    let mut command = Command::new(tool("setsid"));
    command
        .arg("--wait")
        .arg(tool("setpriv"))
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg(match groups {
            Groups::OfAccount => "--init-groups",
            Groups::None => "--clear-groups",
        })
        // Who is interrupted leaves nobody at work behind.
        .args(["--pdeathsig", name(when_parent_ends), "--"])
        .arg(program)
        .env_clear()
        .env("PATH", user::absolute_path())
        .current_dir("/");
    if let Some(value) = std::env::var_os(LOOPBACK_VARIABLE) {
        command.env(LOOPBACK_VARIABLE, value);
    }
    command
}

fn tool(name: &str) -> PathBuf {
    user::absolute_program(name).unwrap_or_else(|| Path::new("/usr/bin").join(name))
}

fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::Term => "TERM",
        Signal::Interrupt => "INT",
        Signal::Child => "CHLD",
        Signal::Stop => "STOP",
        Signal::Kill => "KILL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Pidfd, ProcessId};

    #[test]
    fn another_user_s_process_gets_neither_environment_nor_session_nor_groups_of_root() {
        if !testing::is_root("another user's process") {
            return;
        }
        let mut command = run_as(61_200, 61_200, Groups::None, Signal::Kill, "sh");
        let script = "env; id -u; id -G; pwd; ps -o sid= -p $$; ps -o pid= -p $$";
        let output = command.args(["-c", script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        let (environment, rest) = lines.split_at(lines.len() - 5);
        assert!(
            environment.iter().all(|line| [
                "PATH=",
                "PWD=",
                "OLDPWD=",
                "SHLVL=",
                "_=",
                "SPOTKEEP_LOOPBACK_ONLY="
            ]
            .iter()
            .any(|known| line.starts_with(known))),
            "{said}"
        );
        assert_eq!(rest[..3], ["61200", "61200", "/"]);
        // setsid becomes it, where it leads no group yet.
        assert_eq!(rest[3], rest[4], "it leads a session");
    }

    #[test]
    fn no_program_of_the_user_s_path_runs_as_root() {
        if !testing::is_root("another user's process") {
            return;
        }
        let theirs = tempfile::tempdir().unwrap();
        for name in ["setsid", "setpriv"] {
            let path = theirs.path().join(name);
            std::fs::write(&path, "#!/bin/sh\necho of the user\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", theirs.path().display());
        let mut command = run_as(61_202, 61_202, Groups::None, Signal::Kill, "id");
        let output = command.arg("-u").env("PATH", path).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "61202\n");
    }

    #[test]
    fn another_user_s_process_ends_with_who_started_it() {
        if !testing::is_root("another user's process") {
            return;
        }
        let mut command = run_as(61_201, 61_201, Groups::None, Signal::Kill, "sh");
        command
            .args(["-c", "echo $$; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let theirs: Option<Pidfd> = ProcessId::from_pid(line.trim().parse().unwrap())
            .unwrap()
            .open();
        // As a leader of its group, setsid has forked.
        assert_ne!(line.trim(), child.id().to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(theirs.is_none_or(|process| process.wait(None)));
    }
}
