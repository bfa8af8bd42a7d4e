//! The keeper's log: lines on standard error, or entries with fields in systemd's journal.

use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. Each entry of systemd's journal has `boot_id` as a field.
pub(super) fn begin(boot_id: &str) {
    if let Ok(true) = std::env::var("JOURNAL_STREAM").map(|name| is_standard_error(&name))
        && let Ok(layer) = journal(boot_id)
    {
        tracing_subscriber::registry()
            .with(layer)
            .with(LevelFilter::INFO)
            .init();
        return;
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Returns whether standard error is the socket of `JOURNAL_STREAM`, in which systemd names the
/// socket of its journal as `DEVICE:INODE`. A process that was started by a unit and writes
/// elsewhere has the variable too.
fn is_standard_error(stream: &str) -> bool {
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// Returns the layer that writes to systemd's journal, with the fields `SPOTKEEP_AGENT`,
/// `SPOTKEEP_EVENT`, `SPOTKEEP_BOOT_ID` and `PRIORITY`.
fn journal(boot_id: &str) -> io::Result<tracing_journald::Layer> {
    use tracing_journald::{Priority, PriorityMappings};
    let priorities = PriorityMappings {
        info: Priority::Informational,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_field_prefix(Some("SPOTKEEP".into()))
        .with_syslog_identifier("spotkeep".into())
        .with_custom_fields([("SPOTKEEP_BOOT_ID", boot_id)])
        .with_priority_mappings(priorities))
}
