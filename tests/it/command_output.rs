//! What a command said, and what it should have.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use serde_json::Value;
use sys::command::{self, Output};
use sys::error::Result;

use testing::wait::{FOREVER, during};

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless it ended with 0.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Fails unless it ended with `code`, said `error` and gave a hint that holds `hint`.
    pub fn refused(self, code: i32, error: &str, hint: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(
            self.err.starts_with("error: ") && self.err.contains(error),
            "{self:?}"
        );
        let hints: Vec<&str> = self
            .err
            .lines()
            .filter(|line| line.starts_with("hint: "))
            .collect();
        assert!(hints.iter().any(|line| line.contains(hint)), "{self:?}");
        self
    }

    /// As [`Said::refused`], where other lines come first.
    pub fn refused_somewhere(self, code: i32, error: &str, hint: &str) -> Self {
        let from = self
            .err
            .find("error: ")
            .unwrap_or_else(|| panic!("{self:?}"));
        let err = self.err[from..].to_owned();
        Self { err, ..self }.refused(code, error, hint)
    }

    /// Fails if the program panicked.
    pub fn sound(self) -> Self {
        assert!(
            !self.err.contains("panicked") && (0..=3).contains(&self.code),
            "{self:?}"
        );
        self
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command) -> Result<Output> {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let line: Vec<_> = std::iter::once(command.get_program().to_string_lossy())
        .chain(words)
        .collect();
    let line = format!("the end of {}", line.join(" "));
    during(&line, || command::run(command, FOREVER))
}

/// Runs a command to its end, and takes down what it said.
pub fn said(command: &mut Command) -> Said {
    let output = run(command).unwrap();
    let code = output
        .status
        .code()
        .unwrap_or_else(|| -output.status.signal().unwrap_or(1));
    Said {
        code,
        out: output.stdout,
        err: output.stderr,
    }
}
