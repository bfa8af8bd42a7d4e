//! Reads the systemd journal of one boot.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::said;

/// The journal of one boot, oldest entry first.
#[derive(Debug)]
pub struct Journal(Vec<Value>);

impl Journal {
    /// Reads the newest boot in a directory of journals.
    pub fn newest(dir: &Path) -> Self {
        let mut read = Command::new("journalctl");
        read.args(["--output=json", "--no-pager", "--quiet", "-D"])
            .arg(dir);
        let lines = said(&mut read).out;
        let all: Vec<Value> = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let boot = all.last().map(|line| line["_BOOT_ID"].clone());
        Self(
            all.into_iter()
                .filter(|line| Some(&line["_BOOT_ID"]) == boot.as_ref())
                .collect(),
        )
    }

    /// Returns when systemd began to stop a unit.
    pub fn stopping(&self, unit: &str) -> Duration {
        self.of_job(unit, &["Stopping ", "Unmounting "])
    }

    /// Returns when a unit had stopped.
    pub fn stopped(&self, unit: &str) -> Duration {
        self.of_job(unit, &["Stopped ", "Unmounted "])
    }

    /// Returns when the shutdown began: when the first unit was stopped.
    pub fn shutdown_began(&self) -> Duration {
        let first = self
            .0
            .iter()
            .rev()
            .filter(|line| line["JOB_TYPE"] == "stop");
        let times = first.map(time_of);
        times
            .min()
            .unwrap_or_else(|| panic!("nothing was stopped:\n{}", self.text()))
    }

    /// Returns the time of the last entry with these words about a unit.
    fn of_job(&self, unit: &str, words: &[&str]) -> Duration {
        let says = |line: &&Value| {
            let message = line["MESSAGE"].as_str().unwrap_or_default();
            line["UNIT"] == unit && words.iter().any(|word| message.starts_with(word))
        };
        match self.0.iter().rev().find(says) {
            Some(line) => time_of(line),
            None => panic!("{unit} was never {words:?}:\n{}", self.text()),
        }
    }

    /// Returns every entry as text, for failure messages.
    pub fn text(&self) -> String {
        let line = |line: &Value| {
            format!(
                "{:>10.6} {}: {}\n",
                time_of(line).as_secs_f64(),
                line["SYSLOG_IDENTIFIER"].as_str().unwrap_or("-"),
                line["MESSAGE"].as_str().unwrap_or("-"),
            )
        };
        self.0.iter().map(line).collect()
    }
}

fn time_of(line: &Value) -> Duration {
    let micros = line["__MONOTONIC_TIMESTAMP"].as_str().unwrap_or_default();
    Duration::from_micros(micros.parse().unwrap())
}
