//! How a process ended: its exit code, its signal, or out of memory.

use std::fmt;

use crate::size::Size;

/// How an agent's process ended, as tmux reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel ended it since memory ran out: its own limit in bytes, or `None` for that of the
    /// whole machine.
    OutOfMemory(Option<u64>),
    /// It is gone, and its exit was not seen, for example because its tmux server ended as well.
    Unseen,
}

impl Exit {
    /// Whether it ended because it was done.
    #[must_use]
    pub fn is_clean(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(0) => f.write_str("finished (exit 0)"),
            // Shells and Claude report a signal that they handled as 128 + its number.
            Self::Code(code @ 129..=159) => {
                write!(f, "ended by {} (exit {code})", signal_name(code - 128))
            }
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "killed by {}", signal_name(signal)),
            Self::OutOfMemory(Some(limit)) => write!(f, "out of memory: limit {}", Size(limit)),
            Self::OutOfMemory(None) => f.write_str("out of memory: the machine's limit"),
            Self::Unseen => f.write_str("gone, exit status unknown"),
        }
    }
}

/// Returns the names of the signals that end agents in practice.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP".into(),
        2 => "SIGINT".into(),
        6 => "SIGABRT".into(),
        9 => "SIGKILL".into(),
        11 => "SIGSEGV".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_described_in_words() {
        assert_eq!(Exit::Code(143).to_string(), "ended by SIGTERM (exit 143)");
        assert_eq!(Exit::Signal(9).to_string(), "killed by SIGKILL");
        assert_eq!(Exit::Code(1).to_string(), "exit 1");
        let limit = Exit::OutOfMemory(Some(6 << 30));
        assert_eq!(limit.to_string(), "out of memory: limit 6G");
        assert!(Exit::Code(0).is_clean() && !Exit::Code(143).is_clean());
    }
}
