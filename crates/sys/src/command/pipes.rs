//! What goes into a command and what comes out of it, in one loop without a thread for each pipe.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Context as _, Result};
use crate::process::Pidfd;
use crate::thread;

/// Of what a command that is read line by line says, so many bytes are kept: of its errors the end, of
/// a line that does not end the beginning.
pub(super) const KEPT: usize = 64 << 10;

/// A program that says more than this at once is not listened to any longer.
const MOST: usize = 256 << 20;

/// A child's exit and both of its pipes.
///
/// What a process has written is in the pipe before the process ends. So after its end a pipe that is
/// empty, whoever else holds it open, has given all that the process itself had to say; no time has to
/// pass to know that.
pub(super) struct Pipes {
    exit: Option<Pidfd>,
    stdout: Pipe,
    stderr: Pipe,
}

struct Pipe {
    /// `None`: nobody can write to it any more.
    end: Option<OwnedFd>,
    read: Vec<u8>,
    /// Bytes that were in the pipe at the child's end, and have not been read yet.
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

    /// Reads once, where there is something to be read.
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
            // What could be read before an error is still worth showing.
            Err(_) => self.end = None,
        }
    }
}

impl Pipes {
    /// Those of a child; it gets `input` from a thread, so that one which does not read blocks nobody else.
    ///
    /// # Errors
    /// No thread can be had. An input that is empty instead would be taken for the whole of it.
    pub(super) fn start(child: &mut Child, input: Vec<u8>) -> Result<Self> {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early closes its end; its own words say why.
            thread::spawn("feed", move || stdin.write_all(&input).ok())
                .context("no thread can be had to give it its input")?;
        }
        Ok(Self {
            exit: Pidfd::of_child(child),
            stdout: Pipe::new(child.stdout.take()),
            stderr: Pipe::new(child.stderr.take()),
        })
    }

    /// Whether it has said more than can be taken.
    pub(super) fn is_too_much(&self) -> bool {
        self.stdout.read.len() > MOST
    }

    /// Whether nothing can come any more on the standard output.
    pub(super) fn is_whole(&self) -> bool {
        self.stdout.end.is_none()
    }

    /// All of the standard output, and the errors, trimmed.
    pub(super) fn into_output(self) -> (Vec<u8>, String) {
        let stderr = String::from_utf8_lossy(&self.stderr.read);
        (self.stdout.read, stderr.trim().to_owned())
    }

    /// Reads until the child has ended, at most until `until`. Returns whether it has ended. Where its end
    /// cannot be waited for, the end of its output stands for it.
    pub(super) fn read_until_exit(&mut self, until: Instant) -> bool {
        while let Some(exit) = self.exit.take() {
            let woke = self.wait(Some(exit.as_fd()), until);
            let has_ended = woke.first().is_some_and(|woke| *woke);
            self.exit = Some(exit);
            if has_ended {
                return true;
            }
            // One that never falls silent is not waited for longer than another.
            if woke.is_empty() || self.is_too_much() || Instant::now() >= until {
                return false;
            }
        }
        self.read_the_rest(until);
        self.stdout.end.is_none() && self.stderr.end.is_none()
    }

    /// After the child's end: what is in the pipes, and what others that hold them say until `until`.
    pub(super) fn read_the_rest(&mut self, until: Instant) {
        self.stdout.count_pending();
        self.stderr.count_pending();
        while self.stdout.end.is_some() || self.stderr.end.is_some() {
            let is_all = self.stdout.pending == 0 && self.stderr.pending == 0;
            // Others may go on for ever.
            if is_all && Instant::now() >= until {
                return;
            }
            if self.wait(None, until).is_empty() {
                return;
            }
        }
    }

    /// Takes the whole lines out of the standard output, and with `all` the one that has no end too.
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

    /// Waits for an exit or for output, and reads the output. Returns for each of what was waited for, in
    /// the order of `exit`, output, errors, whether it woke; nothing where the time was up.
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
            // A machine that cannot wait tells nothing either.
            Ok(0) | Err(_) => return Vec::new(),
            Ok(_) => {}
        }
        let mut ends = woke.iter().skip(usize::from(exit.is_some()));
        for pipe in [&mut self.stdout, &mut self.stderr] {
            if pipe.end.is_some() && ends.next() == Some(&true) {
                pipe.read();
            }
        }
        // Of its errors the last are what went wrong; twice as many are let come before the rest goes.
        let errors = &mut self.stderr.read;
        if errors.len() > 2 * KEPT {
            errors.drain(..errors.len() - KEPT);
        }
        woke
    }
}
