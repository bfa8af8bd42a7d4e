//! Peer checks: the owner of a Unix socket's peer, and the loopback-only setting.

use std::os::unix::net::UnixStream;

/// Returns the user of the process at the other end, if it is this user or root.
#[must_use]
pub fn owner_at(stream: &UnixStream) -> Option<u32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let is_owner = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    is_owner.then(|| peer.uid.as_raw())
}

/// Environment variable that forbids this process to connect beyond loopback, if it is `1`. Tests
/// and drills set it.
pub const LOOPBACK_VARIABLE: &str = "SPOTKEEP_LOOPBACK_ONLY";

/// Whether [`LOOPBACK_VARIABLE`] is set to `1`; use [`loopback_only!`](crate::loopback_only)
/// instead.
#[must_use]
pub fn is_loopback_only() -> bool {
    std::env::var_os(LOOPBACK_VARIABLE).is_some_and(|value| value == "1")
}

/// Whether only loopback addresses are allowed; always so in unit tests. A macro, since
/// `cfg!(test)` has to be that of the calling crate.
#[macro_export]
macro_rules! loopback_only {
    () => {
        (cfg!(test) || $crate::socket::is_loopback_only())
    };
}
