//! Power-off of an idle machine, and detection of a shutdown that is under way.
//!
//! The keeper checks that no agent has left work running, runs the power-off command, and asks
//! systemd whether the machine is shutting down.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Message;
use super::effects::Effects;
use crate::agent::terminate;
use supervisor::{Event, Supervisor};
use sys::command;
use sys::process;
use sys::thread;

/// The timeout of the power-off command.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

/// How long systemd is asked whether the machine shuts down, after a save at a shutdown.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);

/// How long systemd is asked after a SIGTERM. It kills the unit after 22 s, and the save needs time
/// too.
const SIGTERM_WAIT: Duration = Duration::from_secs(10);

/// The pause between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Effects {
    /// Asks systemd whether the machine is shutting down, after a save at a shutdown.
    pub(super) fn ask_shutdown(&self) {
        self.in_background("ask-shutdown", || {
            Some(Event::ShuttingDown(is_shutting_down(SHUTDOWN_WAIT)))
        });
    }

    pub(super) fn ask_whether_going_down(&self) {
        let messages = self.messages.clone();
        let ask = move || {
            let answer = is_shutting_down(SIGTERM_WAIT);
            messages.send(Message::GoingDown(answer)).ok();
        };
        thread::spawn_or_do("ask-shutdown", ask);
    }

    /// Checks whether an agent has left a process running. Its tools run in separate sessions; its
    /// other children (tool servers) do not.
    pub(super) fn check_for_work(&self, supervisor: &Supervisor) {
        let views = supervisor.views();
        let running = views.into_iter().filter_map(|view| {
            let marker = self.records.get(&view.name)?.launch?.marker;
            Some((view.name, view.process?, marker))
        });
        let running: Vec<_> = running.collect();
        self.in_background("check-for-work", move || {
            let found = running.into_iter().find_map(|(name, process, marker)| {
                let own = process::session_of(process.pid);
                let marker = format!("{}={marker}", terminate::MARKER);
                let left = process::with_marker(&marker);
                let mut left = left.into_iter();
                left.find(|left| process::session_of(left.pid) != own)
                    .map(|left| format!("{name} has left {} running", left.pid))
            });
            Some(Event::WorkChecked(found))
        });
    }

    pub(super) fn power_off(&self) {
        let words = self.config.machine.poweroff.clone();
        let words = words.unwrap_or_else(|| ["systemctl", "poweroff"].map(str::to_owned).into());
        let messages = self.messages.clone();
        let spawned = thread::spawn("power-off", move || {
            let failed = match words.split_first() {
                None => Some("the power-off command is empty".to_owned()),
                Some((program, arguments)) => {
                    let mut command = std::process::Command::new(program);
                    match command::run(command.args(arguments), POWER_OFF_LIMIT) {
                        Ok(output) if output.status.success() => None,
                        Ok(output) => Some(format!("{} {}", output.status, output.stderr)),
                        Err(error) => Some(format!("{error:#}")),
                    }
                }
            };
            if let Some(why) = failed {
                messages
                    .send(Message::Event(Event::PowerOffFailed(why)))
                    .ok();
            }
        });
        if let Err(error) = spawned {
            self.send(Event::PowerOffFailed(error.to_string()));
        }
    }
}

/// Asks systemd whether the machine is shutting down, until it answers, for `timeout` at most.
/// `None`: it did not answer.
fn is_shutting_down(timeout: Duration) -> Option<bool> {
    let until = Instant::now() + timeout;
    loop {
        if !Path::new("/run/systemd/system").exists() {
            return Some(false);
        }
        let mut ask = std::process::Command::new("systemctl");
        ask.arg("is-system-running");
        let left = until.saturating_duration_since(Instant::now());
        let said = command::run(&mut ask, left.max(ASK_AGAIN));
        if let Some(answer) = said.ok().and_then(|said| going_down(&said.stdout)) {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Reads a state of `systemctl is-system-running`; `None`: `unknown`, or no state at all.
fn going_down(state: &str) -> Option<bool> {
    match state.trim() {
        "stopping" => Some(true),
        "initializing" | "starting" | "running" | "degraded" | "maintenance" | "offline" => {
            Some(false)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_state_of_systemd_does_not_count_as_running() {
        assert_eq!(going_down("stopping\n"), Some(true));
        assert_eq!(going_down("degraded\n"), Some(false));
        assert_eq!((going_down(""), going_down("unknown\n")), (None, None));
    }
}
