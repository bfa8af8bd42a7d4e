//! Other programs, run to their end or to a limit.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use super::process::{Pidfd, Signal};
use super::{thread, user};
use crate::error::{Context as _, Result, ensure};

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

/// Runs a command to its end, or until `limit` has passed: then it is asked to end, and after a
/// moment killed; with all that it has started, after [`lead_groups`].
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

/// Whether a command leads a process group of its own.
static OWN_GROUPS: AtomicBool = AtomicBool::new(false);

/// From now on each command of this process leads a process group of its own, and what it has started
/// is ended with it at its limit. For a process that outlives its commands by far: of any other, an
/// interrupt from the keyboard, or who ends its group, has to reach its commands too.
pub fn lead_groups() {
    OWN_GROUPS.store(true, Ordering::Relaxed);
}

fn run_to_its_end(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    look_in_absolute_directories(command);
    let leads = OWN_GROUPS.load(Ordering::Relaxed);
    if leads {
        command.process_group(0);
    }
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    feed(&mut child, input.to_vec());
    let (status, mut ears) = hear_to_the_end(child, &name, Instant::now() + limit, leads)?
        .with_context(|| format!("{name} did not end within {} s", limit.as_secs_f32()))?;
    ears.hear_the_rest(Instant::now());
    Ok(Output {
        status,
        stdout: String::from_utf8_lossy(&ears.stdout.heard).into_owned(),
        stderr: String::from_utf8_lossy(&ears.stderr.heard)
            .trim()
            .to_owned(),
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
    hear_out(command, input, until, || {
        until.max(Instant::now() + PIPE_LIMIT)
    })
}

/// As [`exchange`]; `rest`, asked at its end, says until when its answer may take to end too.
fn hear_out(
    command: &mut Command,
    input: Vec<u8>,
    until: Instant,
    rest: impl Fn() -> Instant,
) -> Result<Exchange> {
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
    feed(&mut child, input);
    let (status, mut ears) = hear_to_the_end(child, &name, until, true)?
        .with_context(|| format!("{name} did not end in time"))?;
    // Half an answer is none, least of all an empty one: "nothing has changed" is said by saying nothing.
    ears.hear_the_rest(rest());
    ensure!(
        ears.stdout.pipe.is_none(),
        "{name} has ended, and its answer has no end"
    );
    Ok(Exchange {
        status,
        stdout: ears.stdout.heard,
        stderr: String::from_utf8_lossy(&ears.stderr.heard)
            .trim()
            .to_owned(),
    })
}

/// Root runs no program of the directory that it happens to stand in.
pub fn look_in_absolute_directories(command: &mut Command) {
    let is_set = command.get_envs().any(|(name, _)| name == "PATH");
    if user::id() == 0 && !is_set {
        command.env("PATH", user::absolute_path());
    }
}

/// Hears a child until it has ended; `None` where it had to be ended at `until`.
fn hear_to_the_end(
    mut child: Child,
    name: &str,
    until: Instant,
    leads_group: bool,
) -> Result<Option<(ExitStatus, Ears)>> {
    let mut ears = Ears::of(&mut child);
    let ended = ears.hear(until);
    if !ended {
        let group = Group::of(&child, leads_group);
        // First a word, so that it removes its own temporary files and locks.
        group.signal(Signal::Term);
        ears.hear(Instant::now() + TERM_GRACE);
        group.signal(Signal::Kill);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    Ok(ended.then_some((status, ears)))
}

/// A child and all that it has started, where it leads a process group of its own; otherwise the
/// child alone.
pub(super) struct Group {
    pid: Option<Pid>,
    is_leader: bool,
}

impl Group {
    /// That of a child that nobody has waited for yet: until then its number is its own. Whether it
    /// leads a group is known to who started it; the kernel cannot say so where the group is one of
    /// another process namespace.
    pub(super) fn of(child: &Child, is_leader: bool) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self { pid, is_leader }
    }

    /// Signals all of it; what has ended is no error.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        let signal = signal.into();
        if self.is_leader {
            rustix::process::kill_process_group(pid, signal).ok();
        } else {
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

/// So long a program may take to end after it was asked to.
const TERM_GRACE: Duration = Duration::from_millis(300);

/// A command that has ended may have left a child behind that keeps its pipes open.
const PIPE_LIMIT: Duration = Duration::from_secs(2);

/// Gives a child what it is to read, in a thread of its own: one that does not read blocks nobody else.
fn feed(child: &mut Child, input: Vec<u8>) {
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends early closes its end; its own words say why.
        if let Err(error) = thread::spawn("feed", move || pipe.write_all(&input).ok()) {
            tracing::warn!("a command gets nothing to read: {error}");
        }
    }
}

/// A child's end, and what it says until then, heard in one place.
///
/// What a process has written is in the pipe before the process ends. So after its end a pipe that is
/// empty, whoever else holds it open, has given all that the process itself had to say; no time has to
/// pass to know that.
struct Ears {
    end: Option<Pidfd>,
    stdout: Ear,
    stderr: Ear,
}

struct Ear {
    /// `None`: nobody can write to it any more.
    pipe: Option<OwnedFd>,
    heard: Vec<u8>,
    /// Bytes that were in the pipe at the child's end, and have not been read yet.
    owed: usize,
}

impl Ear {
    fn of(pipe: Option<impl Into<OwnedFd>>) -> Self {
        Self {
            pipe: pipe.map(Into::into),
            heard: Vec::new(),
            owed: 0,
        }
    }

    fn count_owed(&mut self) {
        let waiting = self.pipe.as_ref().map(rustix::io::ioctl_fionread);
        let waiting = waiting.and_then(Result::ok).unwrap_or(0);
        self.owed = usize::try_from(waiting).unwrap_or(usize::MAX);
    }

    /// Reads once, where there is something to be read.
    fn read(&mut self) {
        let Some(pipe) = &self.pipe else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                self.heard.extend(&buffer[..length]);
                self.owed = self.owed.saturating_sub(length);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // What could be read before an error is still worth showing.
            Err(_) => self.pipe = None,
        }
    }
}

impl Ears {
    fn of(child: &mut Child) -> Self {
        Self {
            end: Pidfd::of_child(child),
            stdout: Ear::of(child.stdout.take()),
            stderr: Ear::of(child.stderr.take()),
        }
    }

    /// Listens until the child has ended, at most until `until`. Returns whether it has ended. Where its end
    /// cannot be waited for, the end of its words stands for it.
    fn hear(&mut self, until: Instant) -> bool {
        while let Some(end) = self.end.take() {
            let woke = self.wait(Some(end.as_fd()), until);
            let has_ended = woke.first().is_some_and(|woke| *woke);
            self.end = Some(end);
            if has_ended {
                return true;
            }
            if woke.is_empty() {
                return false;
            }
        }
        self.hear_the_rest(until);
        true
    }

    /// After the child's end: what is in the pipes, and what others that hold them say until `until`.
    fn hear_the_rest(&mut self, until: Instant) {
        self.stdout.count_owed();
        self.stderr.count_owed();
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            let is_told = self.stdout.owed == 0 && self.stderr.owed == 0;
            // Others may go on for ever.
            if is_told && Instant::now() >= until {
                return;
            }
            if self.wait(None, until).is_empty() {
                return;
            }
        }
    }

    /// Waits for an end or for words, and takes the words. Returns for each of what was waited for, in
    /// the order of `end`, output, errors, whether it woke; nothing where the time was up.
    fn wait(&mut self, end: Option<BorrowedFd<'_>>, until: Instant) -> Vec<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        });
        let pipes = [&self.stdout.pipe, &self.stderr.pipe];
        let pipes = pipes.into_iter().flatten().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = end
            .into_iter()
            .chain(pipes)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let count = poll(&mut fds, Some(&timeout));
        let woke: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        match count {
            Err(Errno::INTR) => return vec![false; woke.len()],
            // A machine that cannot wait tells nothing either.
            Ok(0) | Err(_) => return Vec::new(),
            Ok(_) => {}
        }
        let mut pipes = woke.iter().skip(usize::from(end.is_some()));
        for ear in [&mut self.stdout, &mut self.stderr] {
            if ear.pipe.is_some() && pipes.next() == Some(&true) {
                ear.read();
            }
        }
        woke
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;

    use super::super::process::ProcessId;
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
    fn what_a_command_has_started_ends_with_it_at_the_limit() {
        lead_groups();
        let (mut held, holds) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "tail -f /dev/null & wait"]);
        run_into(&mut command, holds.into(), Duration::from_millis(300)).unwrap_err();
        drop(command);
        // At its end once nobody holds it any more.
        let mut said = Vec::new();
        held.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
    }

    /// Nobody waits for it: it is ended as soon as its number is known.
    fn end_who_holds_the_pipe(file: &std::path::Path) {
        let left = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        ProcessId::of(left)
            .unwrap()
            .open()
            .unwrap()
            .signal(Signal::Kill);
    }

    #[test]
    fn what_a_command_itself_said_is_whole_while_another_process_holds_its_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "tail -f /dev/null & echo $! >\"$0\"; head -c 300000 /dev/zero; echo end; echo why >&2",
            ])
            .arg(&file);
        let said = run(&mut command, Duration::from_secs(600));
        end_who_holds_the_pipe(&file);
        let said = said.unwrap();
        assert_eq!(said.stdout.len(), 300_004);
        assert!(said.stdout.ends_with("end\n"));
        assert_eq!(said.stderr, "why");
    }

    #[test]
    fn a_process_that_goes_on_writing_into_the_pipe_of_a_command_that_has_ended_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo said; yes & echo $! >\"$0\""])
            .arg(&file);
        let said = run(&mut command, Duration::from_secs(600)).unwrap();
        assert!(said.stdout.starts_with("said\n"));
        // It has ended by itself, since nobody reads what it writes, or does so at its next word.
    }

    #[test]
    fn an_answer_that_has_no_end_is_an_error_and_not_an_empty_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "tail -f /dev/null & echo $! >\"$0\""])
            .arg(&file);
        let late = Instant::now() + Duration::from_secs(600);
        let said = hear_out(&mut command, Vec::new(), late, Instant::now);
        end_who_holds_the_pipe(&file);
        assert!(said.is_err(), "{said:?}");
        let mut command = Command::new("sh");
        let said = exchange(command.args(["-c", "echo said"]), Vec::new(), late).unwrap();
        assert_eq!(said.stdout, b"said\n");
    }
}
