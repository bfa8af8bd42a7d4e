//! Who may be spoken to: over Unix sockets our owner, over the network nobody but ourselves where
//! that was asked for.

use std::os::unix::net::UnixStream;

/// Whether the process at the other end belongs to this user, or to root.
#[must_use]
pub fn peer_is_owner(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Forbids this process to ask anybody beyond loopback, if it is `1`. Tests and drills set it.
pub const LOOPBACK_VARIABLE: &str = "SPOTKEEP_LOOPBACK_ONLY";

/// Whether only loopback may be spoken to; always so in our own unit tests.
#[must_use]
pub fn loopback_only() -> bool {
    cfg!(test) || std::env::var_os(LOOPBACK_VARIABLE).is_some_and(|value| value == "1")
}
