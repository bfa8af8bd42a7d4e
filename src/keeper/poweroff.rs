//! The end of a machine whose agents have finished: whether they have, and the end itself.

use std::time::Duration;

use super::Message;
use super::effects::Edges;
use supervisor::{Core, Event};
use sys::command;
use sys::process;
use sys::thread;

/// How long the command that ends the machine may take.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

impl Edges {
    /// What an agent started and left: its tools have sessions of their own, which its other children
    /// (servers of tools) do not.
    pub(super) fn look_for_work(&self, core: &Core) {
        let views = core.views();
        let running = views.into_iter().filter_map(|view| {
            let marker = self.ledger.get(&view.name)?.launch?.marker;
            Some((view.name, view.process?, marker))
        });
        let running: Vec<_> = running.collect();
        self.aside("look-for-work", move || {
            let found = running.into_iter().find_map(|(name, process, marker)| {
                let own = process::session_of(process.pid);
                let marker = format!("{}={marker}", crate::keeper::terminate::MARKER);
                let left = process::with_marker(&marker);
                let mut left = left.into_iter();
                left.find(|left| process::session_of(left.pid) != own)
                    .map(|left| format!("{name} has left {} running", left.pid))
            });
            Some(Event::LookedForWork(found))
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
