//! Starts and ends the keeper of a lab as a foreground process.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use sys::process::{ProcessId, Signal};

use crate::support::Lab;
use testing::wait::during;

impl Lab {
    /// Starts a keeper and waits until it answers.
    pub fn keeper(&self) -> Keeper {
        self.keeper_with(&[])
    }

    /// Makes the keeper read `spotkeep.toml` again, without any other request.
    pub fn reload(&self) {
        let data_dir = state::layout::DataDir::open_of_anybody(&self.data_dir()).unwrap();
        spotkeep::keeper::client::reload(&data_dir, Vec::new())
            .unwrap()
            .expect("a keeper");
    }

    pub fn keeper_with(&self, args: &[&str]) -> Keeper {
        self.start_keeper(self.spotkeep(&[&["run"], args].concat()))
    }

    /// Starts a keeper after `change` has changed its command, for example its environment.
    pub fn keeper_by(&self, change: impl FnOnce(&mut Command)) -> Keeper {
        let mut command = self.spotkeep(&["run"]);
        change(&mut command);
        self.start_keeper(command)
    }

    fn start_keeper(&self, mut command: Command) -> Keeper {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let process = ProcessId::from_pid(i32::try_from(child.id()).unwrap()).unwrap();
        let started = format!("\"pid\":{},", process.pid);
        self.until("the keeper answers", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the keeper ended: {}",
                self.account()
            );
            let journal = fs::read(self.data_dir().join("session-state/journal.jsonl"));
            let is_open =
                journal.is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&started));
            (is_open && self.status()["keeper"] == "running").then_some(())
        });
        Keeper { child, process }
    }
}

/// A keeper in the foreground.
pub struct Keeper {
    child: Child,
    pub process: ProcessId,
}

impl Keeper {
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = self.process.open() {
            process.signal(signal);
        }
    }

    /// Ends the keeper with SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::Kill);
        self.child.wait().unwrap();
    }

    /// Ends the keeper with SIGTERM, on which it leaves the agents running.
    pub fn let_go(self) {
        self.signal(Signal::Term);
        assert_eq!(self.end().code(), Some(0));
    }

    /// Waits until the keeper has ended.
    pub fn end(mut self) -> ExitStatus {
        during("the keeper ends", || self.child.wait()).unwrap()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
