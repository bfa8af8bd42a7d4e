//! Notifications to the service manager (sd_notify(3)): ready, watchdog, status, stopping.
//!
//! Each is one datagram to the socket in `NOTIFY_SOCKET`; without that variable nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The service manager.
#[derive(Debug, Default)]
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    said: String,
}

impl Manager {
    /// The manager of this process, from its environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name);
        let Some(socket) = variable("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // The watchdog may be for another process of the unit.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours);
        Self::connect(&socket, watchdog.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!("cannot notify systemd: {error}");
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

    /// Longest time between two notifications of the main loop: a third of the watchdog's limit.
    #[must_use]
    pub fn longest_silence(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 3)
    }

    /// Notifies that the start is complete.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Feeds the watchdog, at most once in a sixth of its limit.
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

    /// Sets the text for `systemctl status`; sends it only when it changes.
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

    /// Notifies that this process ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((datagram, address)) = &self.to
            && let Err(error) = datagram.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("cannot send {text} to systemd: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn each_notification_is_a_datagram_and_a_status_is_sent_once() {
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
        assert_eq!(received(&socket), "READY=1");
        assert_eq!(received(&socket), "WATCHDOG=1");
        assert_eq!(received(&socket), "STATUS=1 of 2 agents run");
        assert_eq!(received(&socket), "WATCHDOG=1");
        assert_eq!(received(&socket), "STOPPING=1");
        assert_eq!(manager.longest_silence(), Some(Duration::from_secs(20)));
    }

    #[test]
    fn an_abstract_socket_is_used() {
        let name = format!("spotkeep-test-{}", sys::uuid::new_uuid());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let mut manager = Manager::connect(OsStr::new(&format!("@{name}")), None).unwrap();
        manager.alive(Instant::now()); // There is no watchdog.
        manager.ready();
        assert_eq!(received(&socket), "READY=1");
    }

    #[test]
    fn a_manager_that_has_ended_or_does_not_read_causes_no_wait() {
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
