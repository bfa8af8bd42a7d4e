//! Runs a command, and checks its exit code and output.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use serde_json::Value;
use sys::command::{self, Output};
use sys::error::Result;

use testing::wait::{FOREVER, during};

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// Parses standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that the exit code is 0.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts that the exit code is `code`, that standard error begins with an error and contains
    /// `error`, and that a hint contains `hint`.
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

    /// As [`CommandOutput::refused`], with other lines allowed before the error.
    pub fn refused_somewhere(self, code: i32, error: &str, hint: &str) -> Self {
        let from = self
            .err
            .find("error: ")
            .unwrap_or_else(|| panic!("{self:?}"));
        let err = self.err[from..].to_owned();
        Self { err, ..self }.refused(code, error, hint)
    }

    /// Asserts that the program did not panic, and that its exit code is 0 to 3.
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

/// Runs a command to its end, and returns its exit code and output.
pub fn said(command: &mut Command) -> CommandOutput {
    let output = run(command).unwrap();
    let code = output
        .status
        .code()
        .unwrap_or_else(|| -output.status.signal().unwrap_or(1));
    CommandOutput {
        code,
        out: output.stdout,
        err: output.stderr,
    }
}
