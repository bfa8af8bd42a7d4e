//! API probe: checks that the model's API can be reached before the agents are started.

use std::net::{IpAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Message;
use super::effects::Effects;
use crate::agent::exec;
use supervisor::Event;
use sys::error::Result;
use sys::loopback_only;
use sys::thread;

/// How often the prober tries again.
const EVERY: Duration = Duration::from_secs(1);

/// The timeout of one try.
const LIMIT: Duration = Duration::from_secs(3);

/// Tries before the prober gives up; the supervisor's own timeout is shorter.
const TRIES: usize = 60;

impl Effects {
    pub(super) fn probe_api(&self) {
        let Some(endpoint) = self.api_endpoint() else {
            self.send(Event::ApiAnswers); // It cannot be probed, so no launch waits for it.
            return;
        };
        let messages = self.messages.clone();
        let prober = thread::spawn("probe-api", move || {
            for _ in 0..TRIES {
                if answers(&endpoint) {
                    messages.send(Message::Event(Event::ApiAnswers)).ok();
                    return;
                }
                std::thread::sleep(EVERY);
            }
        });
        if prober.is_err() {
            self.send(Event::ApiAnswers);
        }
    }

    /// Returns the host and port of the API, from the environment of one agent. If other agents use
    /// another API, it is not probed.
    fn api_endpoint(&self) -> Option<(String, u16)> {
        let one = self.config.agents.values().next()?;
        let mut environment: Vec<(String, String)> = std::env::vars().collect();
        // An invalid environment is reported when the agent is launched.
        environment.extend(exec::environment(&self.data_dir, &self.config, one).ok()?);
        environment.extend(claude::command_line::settings_environment(
            &self.data_dir.claude(),
        ));
        let endpoint = claude::command_line::api_endpoint(&environment)?;
        let address: Result<IpAddr, _> = endpoint.0.parse();
        (!loopback_only!() || address.is_ok_and(|address| address.is_loopback()))
            .then_some(endpoint)
    }
}

/// Returns whether a server accepts a connection there; a name that does not resolve counts as no.
fn answers(endpoint: &(String, u16)) -> bool {
    let Ok(addresses) = (endpoint.0.as_str(), endpoint.1).to_socket_addrs() else {
        return false;
    };
    let mut addresses = addresses;
    addresses.any(|address| TcpStream::connect_timeout(&address, LIMIT).is_ok())
}
