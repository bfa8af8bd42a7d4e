//! Starts a process as another user, from root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Signal;
use crate::socket::LOOPBACK_VARIABLE;
use crate::user;

/// Supplementary groups of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Those of its account on this machine.
    OfAccount,
    /// None.
    None,
}

/// Returns a command that runs a program as another user, by setpriv(1). It has its own session, so
/// that it cannot type into a terminal of root's; of root's environment it has only a `PATH` of
/// absolute directories; and its working directory is `/`, since root's may be where the user has
/// no access, and may lead to what the user must not see.
///
/// Descriptors of root's are not closed: a caller that holds some that stay open over an exec
/// closes them first ([`crate::process::close_descriptors_on_exec`]).
#[must_use]
pub fn run_as(
    uid: u32,
    gid: u32,
    groups: Groups,
    when_parent_ends: Signal,
    program: impl AsRef<OsStr>,
) -> Command {
    // The session is changed before the user is: no process of theirs is ever in root's. `--wait`,
    // since a leader of a process group has to fork for that. Both by their full names: the `PATH`
    // that the caller sets is for the program, and may begin with a directory of the user's, while
    // these two still run as root.
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
        // When root's process is interrupted, no process of the user stays behind.
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
    fn no_program_in_the_user_s_path_runs_as_root() {
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
    fn another_user_s_process_ends_with_its_parent() {
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
