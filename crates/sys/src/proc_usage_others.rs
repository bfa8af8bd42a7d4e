//! Lists and inspects this user's other processes, from `/proc`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use super::process::{EXECUTES_WITHIN, ProcessId, environment_of};
use super::user;

/// Returns all processes of this user except the calling one, in no order, with the name of each.
#[must_use]
pub fn mine() -> Vec<(ProcessId, String)> {
    let (user, me) = (user::id(), std::process::id());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|metadata| metadata.uid() == user)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(me))
        .filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Some((ProcessId::from_pid(pid)?, name.trim_end().to_owned()))
        })
        .collect()
}

/// Returns a variable of the environment with which a process was started; `None` where it is not
/// set, or there is no permission to read it.
#[must_use]
pub fn variable(pid: i32, name: &str) -> Option<OsString> {
    let until = Instant::now() + EXECUTES_WITHIN;
    let environment = environment_of(pid, until)?;
    environment.split(|byte| *byte == 0).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(OsString::from_vec(value.to_vec()))
    })
}

/// Returns the arguments of a process, including its program; none where it has ended, or is just
/// executing another program.
#[must_use]
pub fn arguments(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if line.is_empty() {
        return Vec::new();
    }
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    line.split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_of_this_user_is_found_with_its_arguments_and_environment() {
        let mut child = Command::new("cat")
            .arg("-")
            .env("OTHERS_TEST", "a=b")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // `spawn` may return a moment before the new program has its name.
        testing::wait::until("a new process is known by its name", || {
            let found = mine().into_iter().find(|(process, _)| process.pid == pid)?;
            (found.1 == "cat").then_some(())
        });
        assert_eq!(arguments(pid), ["cat", "-"]);
        assert_eq!(variable(pid, "OTHERS_TEST").unwrap(), "a=b");
        assert_eq!(variable(pid, "OTHERS"), None);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(variable(pid, "OTHERS_TEST"), None);
    }
}
