//! Delivers SIGTERM, SIGHUP, SIGINT and SIGWINCH to a callback in a thread.

use super::thread;
use crate::error::{Context as _, Result};

/// A signal that asks this process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM, or SIGHUP.
    Terminate,
    /// SIGINT, from a terminal.
    Interrupt,
}

/// Starts a thread that calls `deliver` for each SIGTERM, SIGHUP and SIGINT from now on.
///
/// # Errors
/// The handlers cannot be installed.
pub fn listen(mut deliver: impl FnMut(Ask) + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGHUP, SIGINT])
        .context("cannot listen for signals")?;
    thread::spawn("signals", move || {
        for signal in signals.forever() {
            deliver(if signal == SIGINT {
                Ask::Interrupt
            } else {
                Ask::Terminate
            });
        }
    })
    .context("cannot start the signal thread")?;
    Ok(())
}

/// Starts a thread that calls `deliver` whenever the terminal's size changes.
///
/// # Errors
/// The handler cannot be installed.
pub fn on_resize(mut deliver: impl FnMut() + Send + 'static) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH])
        .context("cannot listen for signals")?;
    thread::spawn("resize", move || {
        for _ in signals.forever() {
            deliver();
        }
    })
    .context("cannot start the signal thread")?;
    Ok(())
}
