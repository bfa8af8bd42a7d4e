//! Runs other programs to their end or to a time limit: [`Runner`], and short forms of it.

mod pipes;
mod progress;

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::process::Signal;
use super::user;
use crate::error::{Context as _, Error, Result, anyhow, ensure};
use crate::time::short;
use pipes::Pipes;
use progress::Progress;

/// Interval between checks of the stop condition and of the command's progress.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a killed command is waited for. One that hangs in the kernel is left behind.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How long the output is read after the command's end: a child that it left behind may keep its
/// pipes open.
const PIPE_LIMIT: Duration = Duration::from_secs(2);

/// Result of a command, its output as text.
#[derive(Debug)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, lossily converted to text.
    pub stdout: String,
    /// Standard error, trimmed.
    pub stderr: String,
}

/// Result of a command, its output byte for byte.
#[derive(Debug)]
pub struct Exchange {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, trimmed.
    pub stderr: String,
}

/// Time limits of a long command.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole run.
    pub total: Duration,
    /// For a time without progress: it reads next to nothing, from a disk or from a network, and
    /// does not compute.
    pub stalled: Duration,
}

/// Whether commands lead their own process group.
static OWN_GROUPS: AtomicBool = AtomicBool::new(false);

/// From now on each command of this process leads its own process group, and its children are ended
/// with it at its limit. For a process that outlives its commands by far: in any other, an
/// interrupt from the keyboard, or a signal to its group, has to reach its commands too.
pub fn lead_groups() {
    OWN_GROUPS.store(true, Ordering::Relaxed);
}

/// How a command is asked to end.
#[derive(Debug, Clone, Copy)]
struct Asked {
    signal: Signal,
    /// Time to clean up, after which it is killed.
    term_timeout: Duration,
}

/// For commands that work on files for a moment: it lets them remove their temporary files and
/// locks.
const BRIEFLY: Asked = Asked {
    signal: Signal::Term,
    term_timeout: Duration::from_millis(300),
};

/// restic takes up to 2 s to remove its locks (measured).
const PATIENTLY: Asked = Asked {
    signal: Signal::Interrupt,
    term_timeout: Duration::from_secs(5),
};

/// A command with its limits. At a limit it is asked to end first, and killed a moment later, with
/// all its children where it leads a process group.
pub struct Runner<'a> {
    command: &'a mut Command,
    input: Vec<u8>,
    until: Instant,
    /// The time limit that an error message names.
    limit: Option<Duration>,
    stalled: Option<Duration>,
    stop: &'a dyn Fn() -> Option<String>,
    line: Option<&'a mut dyn FnMut(&str)>,
    leads_group: bool,
    asked: Asked,
}

impl<'a> Runner<'a> {
    fn new(command: &'a mut Command, until: Instant) -> Self {
        Self {
            command,
            input: Vec::new(),
            until,
            limit: None,
            stalled: None,
            stop: &|| None,
            line: None,
            leads_group: OWN_GROUPS.load(Ordering::Relaxed),
            asked: BRIEFLY,
        }
    }

    /// A short command with a time limit.
    pub fn within(command: &'a mut Command, limit: Duration) -> Self {
        let mut runner = Self::new(command, Instant::now() + limit);
        runner.limit = Some(limit);
        runner
    }

    /// A command in its own process group, with a deadline that it shares with others.
    pub fn until(command: &'a mut Command, until: Instant) -> Self {
        let mut runner = Self::new(command, until);
        runner.leads_group = true;
        runner
    }

    /// A long command in its own process group; it is ended when it hangs, and as soon as `stop`
    /// returns a reason.
    pub fn watched(
        command: &'a mut Command,
        limits: Limits,
        stop: &'a dyn Fn() -> Option<String>,
    ) -> Self {
        let mut runner = Self::within(command, limits.total);
        runner.stalled = Some(limits.stalled);
        runner.stop = stop;
        runner.leads_group = true;
        runner.asked = PATIENTLY;
        runner
    }

    /// Sets its standard input.
    #[must_use]
    pub fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// Runs it. Its standard output goes where the command says; if that is a pipe, it is returned.
    ///
    /// # Errors
    /// It cannot be started, or had to be ended.
    pub fn run(self) -> Result<Exchange> {
        Ok(self.run_until(Instant::now)?.0)
    }

    /// Runs it and calls `line` for each line of its output as it arrives. A carriage return ends a
    /// line too: progress bars use it. The last 64 KiB of standard error are returned.
    ///
    /// # Errors
    /// Like [`Runner::run`].
    pub fn each_line(mut self, line: &'a mut dyn FnMut(&str)) -> Result<Exchange> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.line = Some(line);
        self.run()
    }

    /// Also returns whether the output is complete: after the command's end the output may take
    /// until `rest` where other processes hold it open.
    fn run_until(mut self, rest: impl Fn() -> Instant) -> Result<(Exchange, bool)> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        keep_absolute_path_only(self.command);
        if self.leads_group {
            self.command.process_group(0);
        }
        let mut child = self
            .command
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        let mut pipes = match Pipes::start(&mut child, std::mem::take(&mut self.input)) {
            Ok(pipes) => pipes,
            Err(error) => {
                child.kill().and_then(|()| child.wait()).ok();
                return Err(error.context(format!("cannot run {name}")));
            }
        };
        let mut line = self.line.take();
        if let Some(why) = self.conduct(&name, &child, &mut pipes, &mut line) {
            self.end(&mut child, &mut pipes);
            return Err(why);
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for {name}"))?;
        pipes.read_the_rest(rest());
        if let Some(line) = line {
            pipes.lines(line, true);
        }
        let is_whole = pipes.is_whole();
        let (stdout, stderr) = pipes.into_output();
        Ok((
            Exchange {
                status,
                stdout,
                stderr,
            },
            is_whole,
        ))
    }

    /// Reads the output until the command ends, or until there is a reason to end it.
    fn conduct(
        &self,
        name: &str,
        child: &Child,
        pipes: &mut Pipes,
        line: &mut Option<&mut dyn FnMut(&str)>,
    ) -> Option<Error> {
        let mut progress = self.stalled.map(|_| Progress::new(child.id()));
        loop {
            let is_watched = self.stalled.is_some() || line.is_some();
            let look = match is_watched {
                true => self.until.min(Instant::now() + POLL_INTERVAL),
                false => self.until,
            };
            let has_ended = pipes.read_until_exit(look);
            if let Some(line) = line {
                pipes.lines(line, false);
            }
            if has_ended {
                return None;
            }
            if pipes.is_too_much() {
                return Some(anyhow!("the output of {name} is too large"));
            }
            if let Some(why) = (self.stop)() {
                return Some(anyhow!("{name} was stopped: {why}"));
            }
            if Instant::now() >= self.until {
                return Some(match self.limit {
                    Some(limit) => anyhow!("{name} did not end within {}", short(limit)),
                    None => anyhow!("{name} did not end in time"),
                });
            }
            if let (Some(progress), Some(stalled)) = (&mut progress, self.stalled)
                && progress.stalled_for() > stalled
            {
                return Some(anyhow!(
                    "{name} hangs: it read nothing for {}",
                    short(stalled)
                ));
            }
        }
    }

    fn end(&self, child: &mut Child, pipes: &mut Pipes) {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // It was not waited for yet, so its pid is still its own, and no other process group has
        // that number. It may have made its own group, and may have left the one that it was to
        // lead: so both are signalled.
        let signal = |signal: Signal| {
            let Some(pid) = pid else { return };
            rustix::process::kill_process_group(pid, signal.into()).ok();
            rustix::process::kill_process(pid, signal.into()).ok();
        };
        signal(self.asked.signal);
        pipes.read_until_exit(Instant::now() + self.asked.term_timeout);
        // Its children may outlive it.
        signal(Signal::Kill);
        if pipes.read_until_exit(Instant::now() + KILL_LIMIT) {
            child.try_wait().ok();
        }
    }
}

/// Runs a command to its end, or until `limit` has passed: then it is asked to end, and killed
/// after a moment; with all its children, after [`lead_groups`].
///
/// # Errors
/// It cannot be started, or it took too long.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    run_into(command, Stdio::piped(), limit)
}

/// Like [`run`], with a standard output that the caller sets.
///
/// # Errors
/// Like [`run`].
pub fn run_into(command: &mut Command, stdout: Stdio, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(stdout);
    text(Runner::within(command, limit))
}

/// Like [`run`], for a command whose standard input is set already.
///
/// # Errors
/// Like [`run`].
pub fn run_fed(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdout(Stdio::piped());
    text(Runner::within(command, limit))
}

/// Like [`run`], with text for its standard input.
///
/// # Errors
/// Like [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    text(Runner::within(command, limit).input(input.to_vec()))
}

fn text(runner: Runner<'_>) -> Result<Output> {
    let said = runner.run()?;
    Ok(Output {
        status: said.status,
        stdout: String::from_utf8_lossy(&said.stdout).into_owned(),
        stderr: said.stderr,
    })
}

/// Runs a command as the leader of a new process group, writes `input` to it, and returns its
/// complete output. At `until` it is asked to end, and killed after a moment, with its whole group.
///
/// # Errors
/// It cannot be started, or it took too long.
pub fn exchange(command: &mut Command, input: Vec<u8>, until: Instant) -> Result<Exchange> {
    exchange_until(command, input, until, || {
        until.max(Instant::now() + PIPE_LIMIT)
    })
}

/// Like [`exchange`]; `rest`, called at its end, returns until when its output may take to end too.
fn exchange_until(
    command: &mut Command,
    input: Vec<u8>,
    until: Instant,
    rest: impl Fn() -> Instant,
) -> Result<Exchange> {
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command.stdin(stdin).stdout(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let (said, is_whole) = Runner::until(command, until).input(input).run_until(rest)?;
    // Incomplete output must not be taken for the output, least of all where it is empty: that
    // means "nothing has changed".
    ensure!(is_whole, "{name} ended, but its output is incomplete");
    Ok(said)
}

/// Removes relative directories from the command's `PATH`: root must not run a program of its
/// working directory.
pub fn keep_absolute_path_only(command: &mut Command) {
    let is_set = command.get_envs().any(|(name, _)| name == "PATH");
    if user::id() == 0 && !is_set {
        command.env("PATH", user::absolute_path());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::io::Read as _;

    use super::super::process::ProcessId;
    use super::*;
    use testing::wait::FOREVER;

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
    fn a_command_that_prints_and_ignores_sigterm_is_killed_at_its_limit() {
        let mut command = Command::new("sh");
        let script = "trap '' TERM; yes & yes >&2 & yes; wait";
        command.args(["-c", script]).process_group(0);
        let error = run(&mut command, Duration::from_millis(200)).unwrap_err();
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
        // The pipe ends once no process holds it any more.
        let mut said = Vec::new();
        held.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
    }

    /// Ends the process as soon as its pid is known; it is not waited for.
    fn end_holder_of_pipe(file: &std::path::Path) {
        let left = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        ProcessId::from_pid(left)
            .unwrap()
            .open()
            .unwrap()
            .signal(Signal::Kill);
    }

    #[test]
    fn the_output_of_a_command_is_complete_while_another_process_holds_its_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "tail -f /dev/null & echo $! >\"$0\"; \
                 head -c 300000 /dev/zero; echo end; echo why >&2",
            ])
            .arg(&file);
        let said = run(&mut command, Duration::from_secs(600));
        end_holder_of_pipe(&file);
        let said = said.unwrap();
        assert_eq!(said.stdout.len(), 300_004);
        assert!(said.stdout.ends_with("end\n"));
        assert_eq!(said.stderr, "why");
    }

    #[test]
    fn a_background_process_that_writes_into_the_pipe_does_not_delay_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo said; yes & echo $! >\"$0\""])
            .arg(&file);
        let said = run(&mut command, Duration::from_secs(600)).unwrap();
        assert!(said.stdout.starts_with("said\n"));
        // The background process ends at its next write, since the pipe has no reader any more.
    }

    #[test]
    fn incomplete_output_is_an_error_and_not_empty_output() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "tail -f /dev/null & echo $! >\"$0\""])
            .arg(&file);
        let late = Instant::now() + Duration::from_secs(600);
        let said = exchange_until(&mut command, Vec::new(), late, Instant::now);
        end_holder_of_pipe(&file);
        assert!(said.is_err(), "{said:?}");
        let mut command = Command::new("sh");
        let said = exchange(command.args(["-c", "echo said"]), Vec::new(), late).unwrap();
        assert_eq!(said.stdout, b"said\n");
    }

    const LONG: Limits = Limits {
        total: FOREVER,
        stalled: FOREVER,
    };

    #[test]
    fn lines_arrive_as_they_are_printed_and_the_status_at_the_end() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo one; printf 'two\\rthree\\n'; echo no >&2; exit 3",
        ]);
        let ended = Runner::watched(&mut command, LONG, &|| None)
            .each_line(&mut |line| seen.push(line.to_owned()))
            .unwrap();
        assert_eq!(seen, ["one", "two", "three"]);
        assert_eq!(
            (ended.status.code(), ended.stderr.as_str()),
            (Some(3), "no")
        );
    }

    #[test]
    fn a_command_that_is_stopped_may_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let cleaned = dir.path().join("cleaned");
        let text = format!(
            "trap 'touch {}; exit 1' INT; echo ready; while :; do sleep 0.05; done",
            cleaned.display()
        );
        let ready = Cell::new(false);
        let mut command = Command::new("sh");
        command.args(["-c", &text]);
        let stop = || ready.get().then(|| "enough".to_owned());
        let error = Runner::watched(&mut command, LONG, &stop)
            .each_line(&mut |_| ready.set(true))
            .unwrap_err();
        assert!(error.to_string().contains("stopped: enough"), "{error}");
        assert!(cleaned.exists());
    }

    #[test]
    fn a_command_that_reads_nothing_is_ended() {
        let limits = Limits {
            stalled: Duration::from_millis(300),
            ..LONG
        };
        let mut command = Command::new("tail");
        command.args(["-f", "/dev/null"]);
        let error = Runner::watched(&mut command, limits, &|| None)
            .each_line(&mut |_| {})
            .unwrap_err();
        assert!(error.to_string().contains("hangs"), "{error}");
    }
}
