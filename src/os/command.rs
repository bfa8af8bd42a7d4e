//! Other programs, run to their end or to a limit.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::process::Pidfd;
use crate::error::{Context as _, Result, bail};

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, lossily as text.
    pub stdout: String,
    /// Its standard error, trimmed.
    pub stderr: String,
}

/// Runs a command to its end, or until `limit` has passed, when it is killed.
///
/// # Errors
/// It cannot be started, or it took too long.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    run_to_its_end(command, &[], limit)
}

/// As [`run`], with its standard output going where the caller says.
///
/// # Errors
/// As [`run`].
pub fn run_into(command: &mut Command, stdout: Stdio, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(stdout);
    run_to_its_end(command, &[], limit)
}

/// As [`run`], for a command that was given its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_fed(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdout(Stdio::piped());
    run_to_its_end(command, &[], limit)
}

/// As [`run`], with something to read.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    run_to_its_end(command, input, limit)
}

fn run_to_its_end(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // Who does not read blocks this thread only, until it ends.
        std::thread::spawn(move || stdin.write_all(&input).ok());
    }
    let pidfd = Pidfd::of_child(&child);
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    let ended = pidfd.is_none_or(|pidfd| pidfd.wait(Some(Instant::now() + limit)));
    if !ended {
        child.kill().ok();
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    if !ended {
        bail!("{name} did not end within {} s", limit.as_secs_f32());
    }
    let text = |pipe: &mpsc::Receiver<Vec<u8>>| {
        let bytes = pipe.recv_timeout(PIPE_LIMIT).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Output {
        status,
        stdout: text(&stdout),
        stderr: text(&stderr).trim().to_owned(),
    })
}

/// What a program that was fed said, byte for byte.
#[derive(Debug)]
pub struct Exchange {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, trimmed.
    pub stderr: String,
}

/// Runs a command as the leader of a process group of its own, feeds it `input`, and hears it to
/// its end. What still runs at `until` is asked to end, and after a moment killed, with all its group.
///
/// # Errors
/// It cannot be started, or it took too long.
pub fn exchange(command: &mut Command, input: Vec<u8>, until: Instant) -> Result<Exchange> {
    let name = command.get_program().to_string_lossy().into_owned();
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = Pidfd::of_child(&child);
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends early closes its end; its own words say why.
        std::thread::spawn(move || pipe.write_all(&input).ok());
    }
    let wait = |until| pidfd.as_ref().is_none_or(|pidfd| pidfd.wait(Some(until)));
    let ended = wait(until);
    if !ended && let Some(group) = group {
        // First a word, so that it removes its own temporary files and locks.
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).ok();
        wait(Instant::now() + TERM_GRACE);
        // Not waited for yet, so the number still names its group.
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    if !ended {
        bail!("{name} did not end in time");
    }
    // Half an answer is none, least of all an empty one: "nothing has changed" is said by saying nothing.
    let left = until.saturating_duration_since(Instant::now());
    let stdout = stdout
        .recv_timeout(left.max(PIPE_LIMIT))
        .ok()
        .with_context(|| format!("{name} has ended, and its answer has no end"))?;
    let text = stderr.recv_timeout(PIPE_LIMIT).unwrap_or_default();
    Ok(Exchange {
        status,
        stdout,
        stderr: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}

/// So long a program may take to end after it was asked to.
const TERM_GRACE: Duration = Duration::from_millis(300);

/// A command that has ended may have left a child behind that keeps its pipes open.
const PIPE_LIMIT: Duration = Duration::from_secs(2);

/// Reads a pipe to its end in a thread of its own, so that a full one blocks nobody.
fn read_aside(pipe: Option<impl io::Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (done, read) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read before an error is still worth showing.
            pipe.read_to_end(&mut bytes).ok();
        }
        done.send(bytes).ok();
    });
    read
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::process::{ProcessId, Signal};
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed_at_its_limit() {
        let error = run(
            Command::new("tail").args(["-f", "/dev/null"]),
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn an_answer_that_has_no_end_is_an_error_and_not_an_empty_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "tail -f /dev/null & echo $! >\"$0\""])
            .arg(&file);
        let soon = Instant::now() + Duration::from_secs(1);
        let said = exchange(&mut command, Vec::new(), soon);
        let left = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        ProcessId::of(left)
            .unwrap()
            .open()
            .unwrap()
            .signal(Signal::Kill);
        assert!(said.is_err(), "{said:?}");
        let mut command = Command::new("sh");
        let limit = Instant::now() + Duration::from_secs(10);
        let said = exchange(command.args(["-c", "echo said"]), Vec::new(), limit).unwrap();
        assert_eq!(said.stdout, b"said\n");
    }
}
