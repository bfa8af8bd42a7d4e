//! The pipes of a child process, read in one loop without a thread for each pipe.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Context as _, Result};
use crate::process::Pidfd;
use crate::thread;

/// Number of bytes kept where output is read line by line: the end of standard error, and the
/// beginning of a line without an end.
pub(super) const KEPT: usize = 64 << 10;

/// Largest output in bytes; a command that prints more is ended.
const MOST: usize = 256 << 20;

/// A child's exit and both of its output pipes.
///
/// A process's output is in the pipe before the process ends. So after its end, an empty pipe has
/// given all output of that process, even if other processes hold the pipe open; no time has to
/// pass to know that.
pub(super) struct Pipes {
    exit: Option<Pidfd>,
    stdout: Pipe,
    stderr: Pipe,
}

struct Pipe {
    /// `None`: no process can write to it any more.
    end: Option<OwnedFd>,
    read: Vec<u8>,
    /// Number of bytes that were in the pipe at the child's end, and have not been read yet.
    pending: usize,
}

impl Pipe {
    fn new(end: Option<impl Into<OwnedFd>>) -> Self {
        Self {
            end: end.map(Into::into),
            read: Vec::new(),
            pending: 0,
        }
    }

    fn count_pending(&mut self) {
        let waiting = self.end.as_ref().map(rustix::io::ioctl_fionread);
        let waiting = waiting.and_then(Result::ok).unwrap_or(0);
        self.pending = usize::try_from(waiting).unwrap_or(usize::MAX);
    }

    /// Reads once, if there is something to read.
    fn read(&mut self) {
        let Some(end) = &self.end else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(end, &mut buffer) {
            Ok(0) => self.end = None,
            Ok(length) => {
                self.read.extend(&buffer[..length]);
                self.pending = self.pending.saturating_sub(length);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // What was read before an error is still worth showing.
            Err(_) => self.end = None,
        }
    }
}

impl Pipes {
    /// Takes the pipes of a child; a thread writes `input`, so that a child that does not read it
    /// blocks no other work.
    ///
    /// # Errors
    /// No thread can be started. With an empty input instead, the child would take that for the
    /// whole of it.
    pub(super) fn start(child: &mut Child, input: Vec<u8>) -> Result<Self> {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early closes its end; its error output says why.
            thread::spawn("feed", move || stdin.write_all(&input).ok())
                .context("cannot start a thread that writes its input")?;
        }
        Ok(Self {
            exit: Pidfd::of_child(child),
            stdout: Pipe::new(child.stdout.take()),
            stderr: Pipe::new(child.stderr.take()),
        })
    }

    /// Whether its output is larger than the limit.
    pub(super) fn is_too_much(&self) -> bool {
        self.stdout.read.len() > MOST
    }

    /// Whether the standard output has ended.
    pub(super) fn is_whole(&self) -> bool {
        self.stdout.end.is_none()
    }

    /// Returns the whole standard output, and the trimmed standard error.
    pub(super) fn into_output(self) -> (Vec<u8>, String) {
        let stderr = String::from_utf8_lossy(&self.stderr.read);
        (self.stdout.read, stderr.trim().to_owned())
    }

    /// Reads until the child has ended, at most until `until`. Returns whether it has ended. Where
    /// its end cannot be waited for, the end of its output counts as its end.
    pub(super) fn read_until_exit(&mut self, until: Instant) -> bool {
        while let Some(exit) = self.exit.take() {
            let woke = self.wait(Some(exit.as_fd()), until);
            let has_ended = woke.first().is_some_and(|woke| *woke);
            self.exit = Some(exit);
            if has_ended {
                return true;
            }
            // The time limit also holds for a child that prints without a pause.
            if woke.is_empty() || self.is_too_much() || Instant::now() >= until {
                return false;
            }
        }
        self.read_the_rest(until);
        self.stdout.end.is_none() && self.stderr.end.is_none()
    }

    /// After the child's end: reads what is in the pipes, and what other processes that hold them
    /// print until `until`.
    pub(super) fn read_the_rest(&mut self, until: Instant) {
        self.stdout.count_pending();
        self.stderr.count_pending();
        while self.stdout.end.is_some() || self.stderr.end.is_some() {
            let is_all = self.stdout.pending == 0 && self.stderr.pending == 0;
            // Other processes may print for ever.
            if is_all && Instant::now() >= until {
                return;
            }
            if self.wait(None, until).is_empty() {
                return;
            }
        }
    }

    /// Calls `line` for the whole lines of the standard output, and with `all` for the last one
    /// without an end too.
    pub(super) fn lines(&mut self, line: &mut dyn FnMut(&str), all: bool) {
        let read = &mut self.stdout.read;
        let end = match read.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')) {
            _ if all || read.len() > KEPT => read.len(),
            Some(at) => at + 1,
            None => 0,
        };
        let text: Vec<u8> = read.drain(..end).collect();
        for part in String::from_utf8_lossy(&text).split(['\n', '\r']) {
            let part = part.trim_start_matches("\x1b[2K").trim_end();
            if !part.is_empty() {
                line(part);
            }
        }
    }

    /// Waits for an exit or for output, and reads the output. Returns for each of `exit`, standard
    /// output and standard error, in this order, whether it was ready; empty where the time was up.
    fn wait(&mut self, exit: Option<BorrowedFd<'_>>, until: Instant) -> Vec<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        });
        let ends = [&self.stdout.end, &self.stderr.end];
        let ends = ends.into_iter().flatten().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = exit
            .into_iter()
            .chain(ends)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let count = poll(&mut fds, Some(&timeout));
        let woke: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        match count {
            Err(Errno::INTR) => return vec![false; woke.len()],
            // An error of the wait gives no information.
            Ok(0) | Err(_) => return Vec::new(),
            Ok(_) => {}
        }
        let mut ends = woke.iter().skip(usize::from(exit.is_some()));
        for pipe in [&mut self.stdout, &mut self.stderr] {
            if pipe.end.is_some() && ends.next() == Some(&true) {
                pipe.read();
            }
        }
        // The last bytes of standard error say what went wrong; the buffer grows to twice the limit
        // before its beginning is dropped.
        let errors = &mut self.stderr.read;
        if errors.len() > 2 * KEPT {
            errors.drain(..errors.len() - KEPT);
        }
        woke
    }
}
