//! Who may be spoken to: over Unix sockets our owner, over the network nobody but ourselves where
//! that was asked for.

use std::os::unix::net::UnixStream;

/// The user of the process at the other end, if it is this one, or root.
#[must_use]
pub fn owner_at(stream: &UnixStream) -> Option<u32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let is_owner = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    is_owner.then(|| peer.uid.as_raw())
}

/// Forbids this process to ask anybody beyond loopback, if it is `1`. Tests and drills set it.
pub const LOOPBACK_VARIABLE: &str = "SPOTKEEP_LOOPBACK_ONLY";

/// Whether [`LOOPBACK_VARIABLE`] says so; [`loopback_only!`](crate::loopback_only) is what to ask.
#[must_use]
pub fn is_told_loopback_only() -> bool {
    std::env::var_os(LOOPBACK_VARIABLE).is_some_and(|value| value == "1")
}

/// Whether only loopback may be spoken to; always so in unit tests. A macro, since it is the crate
/// that asks which is built for a test.
#[macro_export]
macro_rules! loopback_only {
    () => {
        (cfg!(test) || $crate::socket::is_told_loopback_only())
    };
}
