//! A long command under watch: what it says is passed on as it comes, it can be asked to end, and one
//! that hangs is ended.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::command::Group;
use super::process::{Pidfd, ProcessId, Signal};
use super::thread;
use crate::error::{Context as _, Result, anyhow};

/// How often the watch looks up when the command says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a command that was interrupted may clean up; restic takes up to 2 s (measured).
const GRACE: Duration = Duration::from_secs(5);

/// How long a killed command is waited for. One that hangs in the kernel is left behind.
const CORPSE: Duration = Duration::from_secs(5);

/// A command that reads less than this in a [`Limits::stalled`] is not at work,
const A_SIGN_OF_LIFE: u64 = 64 << 10;

/// unless it has computed for so long, in hundredths of a second: restic derives a key from a password,
/// which takes a machine with a load of 40 more than a minute, and reads nothing meanwhile (measured).
const A_SIGN_OF_WORK: u64 = 20;

/// Lines of standard error that are kept.
const LINES_KEPT: usize = 200;

/// How long a command may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub total: Duration,
    /// Without reading anything to speak of, from a disk or from a network, and without computing.
    pub stalled: Duration,
}

/// How a watched command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// The end of its standard error.
    pub stderr: String,
}

/// Runs a command in a process group of its own, each line of its output given to `line`. It is
/// interrupted, and killed where that does not help, as soon as `stop` gives a reason.
///
/// # Errors
/// It cannot be started, it was stopped, it hung.
pub fn run(
    command: &mut Command,
    limits: Limits,
    stop: &dyn Fn() -> Option<String>,
    line: &mut dyn FnMut(&str),
) -> Result<Ended> {
    command.stdout(Stdio::piped());
    watch(command, limits, stop, line)
}

/// As [`run`], with the output going into a file or a pipe.
///
/// # Errors
/// As [`run`].
pub fn run_into(
    command: &mut Command,
    output: impl Into<Stdio>,
    limits: Limits,
    stop: &dyn Fn() -> Option<String>,
) -> Result<Ended> {
    command.stdout(output);
    watch(command, limits, stop, &mut |_| {})
}

fn watch(
    command: &mut Command,
    limits: Limits,
    stop: &dyn Fn() -> Option<String>,
    line: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    // A child that has ended is a corpse until it is waited for, so the pid is still its own.
    let pidfd = i32::try_from(child.id())
        .ok()
        .and_then(ProcessId::of)
        .and_then(ProcessId::open);
    let out = lines_of(child.stdout.take());
    let err = lines_of(child.stderr.take());
    let mut stderr: Vec<String> = Vec::new();
    let mut pulse = Pulse::new(child.id());
    let began = Instant::now();
    let why = loop {
        match out.recv_timeout(LOOK_EVERY) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Timeout) => {}
            // Its output is closed: it is ending, or has none.
            Err(RecvTimeoutError::Disconnected) => {
                if has_ended(pidfd.as_ref(), &mut child, LOOK_EVERY) {
                    break None;
                }
            }
        }
        keep(&mut stderr, &err);
        if let Some(why) = stop() {
            break Some(anyhow!("{name} was stopped: {why}"));
        }
        if began.elapsed() > limits.total {
            break Some(anyhow!(
                "{name} did not end within {}",
                crate::time::short(limits.total)
            ));
        }
        if pulse.silent_for() > limits.stalled {
            break Some(anyhow!(
                "{name} hangs: it read nothing for {}",
                crate::time::short(limits.stalled)
            ));
        }
    };
    if let Some(why) = why {
        end(pidfd.as_ref(), &mut child);
        return Err(why);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    for text in out.try_iter() {
        line(&text);
    }
    // A child of its own may keep the pipe open. What it said itself is in the pipe; who reads it may
    // have to wait for a processor.
    while let Ok(text) = err.recv_timeout(GRACE) {
        push(&mut stderr, text);
    }
    Ok(Ended {
        status,
        stderr: stderr.join("\n"),
    })
}

fn has_ended(pidfd: Option<&Pidfd>, child: &mut Child, limit: Duration) -> bool {
    match pidfd {
        Some(pidfd) => pidfd.wait(Some(Instant::now() + limit)),
        None => matches!(child.try_wait(), Ok(Some(_)) | Err(_)),
    }
}

fn end(pidfd: Option<&Pidfd>, child: &mut Child) {
    if let Some(pidfd) = pidfd {
        let group = Group::of(child, true);
        group.signal(Signal::Interrupt);
        let cleaned_up = pidfd.wait(Some(Instant::now() + GRACE));
        // What it has started may outlive it.
        group.signal(Signal::Kill);
        if !cleaned_up && !pidfd.wait(Some(Instant::now() + CORPSE)) {
            return;
        }
    }
    // It has ended; its corpse is taken away.
    child.try_wait().ok();
}

fn keep(kept: &mut Vec<String>, lines: &Receiver<String>) {
    for text in lines.try_iter() {
        push(kept, text);
    }
}

fn push(kept: &mut Vec<String>, text: String) {
    if kept.len() == LINES_KEPT {
        kept.remove(0);
    }
    kept.push(text);
}

/// Reads lines in a thread of its own. A carriage return ends one too: it begins a progress bar anew.
fn lines_of(pipe: Option<impl std::io::Read + Send + 'static>) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    if let Some(pipe) = pipe {
        // Without a thread nothing is heard of the command, as if it had closed its output.
        let listening = thread::spawn("lines", move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            // A line longer than this is no line.
            while matches!((&mut reader).take(1 << 20).read_until(b'\n', &mut bytes), Ok(n) if n > 0)
            {
                let text = String::from_utf8_lossy(&bytes);
                for part in text.split('\r') {
                    let part = part.trim_start_matches("\x1b[2K").trim_end();
                    if !part.is_empty() && sender.send(part.to_owned()).is_err() {
                        return;
                    }
                }
                bytes.clear();
            }
        });
        if let Err(error) = listening {
            tracing::warn!("what a command says is not heard: {error}");
        }
    }
    lines
}

/// Whether a process still reads, or computes.
struct Pulse {
    dir: String,
    read: u64,
    computed: u64,
    at: Instant,
}

impl Pulse {
    fn new(pid: u32) -> Self {
        Self {
            dir: format!("/proc/{pid}"),
            read: 0,
            computed: 0,
            at: Instant::now(),
        }
    }

    fn silent_for(&mut self) -> Duration {
        let read = fs::read_to_string(format!("{}/io", self.dir))
            .ok()
            .and_then(|text| bytes_read(&text));
        let computed = fs::read_to_string(format!("{}/stat", self.dir))
            .ok()
            .and_then(|text| ticks(&text));
        let is_still = |now: Option<u64>, before: u64, sign: u64| {
            now.is_some_and(|now| now < before.saturating_add(sign))
        };
        // What cannot be looked at is not judged.
        if !is_still(read, self.read, A_SIGN_OF_LIFE)
            || !is_still(computed, self.computed, A_SIGN_OF_WORK)
        {
            self.read = read.unwrap_or(self.read);
            self.computed = computed.unwrap_or(self.computed);
            self.at = Instant::now();
        }
        self.at.elapsed()
    }
}

fn bytes_read(io: &str) -> Option<u64> {
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "))?;
    line.trim().parse().ok()
}

/// Time of a processor, its own and the kernel's for it: fields 14 and 15 of `stat`, in hundredths of a
/// second (proc(5)). The name in front of them may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (own, kernels) = (fields.next()?, fields.next()?);
    Some(own.parse::<u64>().ok()? + kernels.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use testing::wait::FOREVER;

    const LONG: Limits = Limits {
        total: FOREVER,
        stalled: FOREVER,
    };

    #[test]
    fn lines_come_as_they_are_said_and_the_status_at_the_end() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo one; printf 'two\\rthree\\n'; echo no >&2; exit 3",
        ]);
        let ended = run(&mut command, LONG, &|| None, &mut |line| {
            seen.push(line.to_owned());
        })
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
        let error = run(&mut command, LONG, &stop, &mut |_| ready.set(true)).unwrap_err();
        assert!(error.to_string().contains("stopped: enough"), "{error}");
        assert!(cleaned.exists());
    }

    #[test]
    fn who_computes_and_reads_nothing_is_at_work() {
        let mut pulse = Pulse::new(std::process::id());
        let look = |pulse: &mut Pulse| {
            // Never enough is read.
            pulse.read = u64::MAX / 2;
            pulse.silent_for();
        };
        look(&mut pulse);
        let (at, computed) = (pulse.at, pulse.computed);
        while pulse.at == at {
            look(&mut pulse);
        }
        assert!(pulse.computed >= computed + A_SIGN_OF_WORK);
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 12 30 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(42));
    }

    #[test]
    fn a_command_that_reads_nothing_is_ended() {
        let limits = Limits {
            stalled: Duration::from_millis(300),
            ..LONG
        };
        let mut command = Command::new("tail");
        command.args(["-f", "/dev/null"]);
        let error = run(&mut command, limits, &|| None, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("hangs"), "{error}");
    }
}
