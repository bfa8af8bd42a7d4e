//! The keeper's log: lines on standard error, or where that is systemd's journal, entries with fields.

use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to log. `boot` is said with each entry of the journal.
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

/// systemd says in `JOURNAL_STREAM` which socket leads to its journal, as `DEVICE:INODE`. A process that
/// was started by a unit and writes elsewhere has the variable too.
fn is_standard_error(stream: &str) -> bool {
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// `SPOTKEEP_AGENT`, `SPOTKEEP_EVENT`, `SPOTKEEP_BOOT_ID`; errors, warnings and the rest by `PRIORITY`.
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
