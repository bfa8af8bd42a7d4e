//! The word to the service manager: ready, alive, how it stands, ending. One datagram each, to the
//! socket that systemd names in the environment (sd_notify(3)); without one, nothing is said.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Who is told.
#[derive(Debug, Default)]
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    said: String,
}

impl Manager {
    /// The manager of this process, as its environment says.
    #[must_use]
    pub fn of_this_process() -> Self {
        let variable = |name| std::env::var_os(name);
        let Some(socket) = variable("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // A watchdog that was meant for another process of the unit is none of ours.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours);
        Self::connect(&socket, watchdog.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!("systemd cannot be told anything: {error}");
            Self::default()
        })
    }

    fn connect(socket: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(socket)?,
        };
        let datagram = UnixDatagram::unbound()?;
        // A manager whose queue is full must not keep the main loop waiting.
        datagram.set_nonblocking(true)?;
        Ok(Self {
            to: Some((datagram, address)),
            watchdog,
            fed: None,
            said: String::new(),
        })
    }

    /// The longest that the main loop may be silent: a third of what the watchdog allows.
    #[must_use]
    pub fn longest_silence(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 3)
    }

    /// What this process was started for is there.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The main loop goes round; said often enough, and no more often than that.
    pub fn alive(&mut self, now: Instant) {
        let Some(limit) = self.watchdog else {
            return;
        };
        if self
            .fed
            .is_none_or(|fed| now.saturating_duration_since(fed) >= limit / 6)
        {
            self.fed = Some(now);
            self.send("WATCHDOG=1");
        }
    }

    /// How it stands, for `systemctl status`; said once until it changes.
    pub fn status(&mut self, text: impl FnOnce() -> String) {
        if self.to.is_none() {
            return;
        }
        let text = text();
        if self.said != text {
            self.send(&format!("STATUS={text}"));
            self.said = text;
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((datagram, address)) = &self.to
            && let Err(error) = datagram.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("systemd did not hear {text}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn every_word_is_a_datagram_and_a_status_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let minute = Duration::from_secs(60);
        let mut manager = Manager::connect(path.as_os_str(), Some(minute)).unwrap();
        manager.ready();
        let now = Instant::now();
        manager.alive(now);
        manager.alive(now + Duration::from_secs(9));
        manager.status(|| "1 of 2 agents run".into());
        manager.status(|| "1 of 2 agents run".into());
        manager.alive(now + Duration::from_secs(10));
        manager.stopping();
        assert_eq!(heard(&socket), "READY=1");
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), "STATUS=1 of 2 agents run");
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), "STOPPING=1");
        assert_eq!(manager.longest_silence(), Some(Duration::from_secs(20)));
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("spotkeep-test-{}", sys::uuid::new_uuid());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let mut manager = Manager::connect(OsStr::new(&format!("@{name}")), None).unwrap();
        manager.alive(Instant::now()); // Nobody watches.
        manager.ready();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn a_manager_that_is_gone_or_deaf_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::connect(path.as_os_str(), None).unwrap();
        for _ in 0..10_000 {
            manager.ready();
        }
        drop(socket);
        manager.ready();
        Manager::default().ready();
    }
}
