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

/// Whether only loopback may be spoken to; always so in our own unit tests.
#[must_use]
pub fn loopback_only() -> bool {
    cfg!(test) || std::env::var_os(LOOPBACK_VARIABLE).is_some_and(|value| value == "1")
}
