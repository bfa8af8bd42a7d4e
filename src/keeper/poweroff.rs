//! The end of a machine whose agents have finished: whether they have, and the end itself. And whether a machine is on
//! its way to its end, which systemd knows.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Message;
use super::effects::Effects;
use crate::agent::terminate;
use supervisor::{Event, Supervisor};
use sys::command;
use sys::process;
use sys::thread;

/// How long the command that ends the machine may take.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

/// How long systemd is asked whether the machine goes down, after a save that it was said to.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);

/// The same after a SIGTERM: the unit is killed after 22 s, and what can be made safe until then takes
/// its time too.
const SIGTERM_WAIT: Duration = Duration::from_secs(10);

/// Between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Effects {
    /// Asks whether the machine is going down, after a save that it was said to.
    pub(super) fn ask_shutdown(&self) {
        self.aside("ask-shutdown", || {
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

    /// What an agent started and left: its tools have sessions of their own, which its other children
    /// (servers of tools) do not.
    pub(super) fn look_for_work(&self, supervisor: &Supervisor) {
        let views = supervisor.views();
        let running = views.into_iter().filter_map(|view| {
            let marker = self.records.get(&view.name)?.launch?.marker;
            Some((view.name, view.process?, marker))
        });
        let running: Vec<_> = running.collect();
        self.aside("look-for-work", move || {
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
                None => Some("there is no command for it".to_owned()),
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

/// Whether systemd is taking the machine down; asked until it says so, at most for `stall_retry`. `None`:
/// it did not say, and both may be so.
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

/// What the states of systemctl(1) say of that; `unknown` is its word for not having been told.
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
    fn a_systemd_that_says_nothing_is_not_taken_for_one_that_says_no() {
        assert_eq!(going_down("stopping\n"), Some(true));
        assert_eq!(going_down("degraded\n"), Some(false));
        assert_eq!((going_down(""), going_down("unknown\n")), (None, None));
    }
}
