//! Prometheus metrics: the fleet's status in the text format that Prometheus reads. Pure.
//!
//! The server reads it, and so does the textfile collector of the node exporter. Values are in base
//! units, moments in seconds since 1970, and counters end in `_total`. Unknown values are left out.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::status::{AgentStatus, Status};
use state::{AgentState, Fleet};
use sys::files::Space;
use sys::time::Timestamp;

/// Every state, so that a state without agents is reported as 0 and not left out.
const STATES: [AgentState; 10] = [
    AgentState::Running,
    AgentState::Waiting,
    AgentState::Idle,
    AgentState::Starting,
    AgentState::Stalled,
    AgentState::Failed,
    AgentState::Stopped,
    AgentState::Saving,
    AgentState::Backoff,
    AgentState::Unknown,
];

/// The keeper's counters since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lines of the journal, by event.
    pub events: BTreeMap<String, u64>,
    /// Turns that the API ended, by reason.
    pub stalls: BTreeMap<String, u64>,
}

/// The values of one exposition.
#[derive(Debug)]
pub struct Sample<'a> {
    /// The fleet's status.
    pub status: &'a Status,
    /// Boots of the machine with this data directory, and how many of them a preemption ended.
    pub boots: (u64, u64),
    /// Free and total space of the data directory's disk, where known.
    pub space: Option<Space>,
    /// The keeper's start and its counters; `None` where no keeper runs.
    pub keeper: Option<(Timestamp, &'a Counters)>,
}

/// Returns the metrics as text.
#[must_use]
pub fn text(sample: &Sample<'_>) -> String {
    let mut out = Exposition::default();
    machine(&mut out, sample);
    fleet(&mut out, sample.status);
    saved(&mut out, sample.status);
    agents(&mut out, &sample.status.agents);
    if let Some((_, counters)) = sample.keeper {
        counted(&mut out, counters);
    }
    out.0
}

fn machine(out: &mut Exposition, sample: &Sample<'_>) {
    let status = sample.status;
    out.metric(
        "keeper_up",
        "Whether a keeper runs.",
        flag(sample.keeper.is_some()),
    );
    let labels = [
        ("data_dir", status.data_dir.display().to_string()),
        ("data_dir_id", status.data_dir_id.clone()),
        ("version", status.keeper_version.clone().unwrap_or_default()),
    ];
    let help = "The data directory, and the version of its keeper; always 1.";
    out.family("info", GAUGE, help, [(&labels[..], "1".to_owned())]);
    if let Some((since, _)) = sample.keeper {
        out.metric(
            "keeper_start_time_seconds",
            "When the keeper started.",
            moment(since),
        );
    }
    out.metric(
        "epoch",
        "Raised by each keeper of this data directory.",
        status.epoch.to_string(),
    );
    let (boots, preemptions) = sample.boots;
    let help = "Boots of the machine that this data directory has had.";
    out.family("boots_total", COUNTER, help, [(&[][..], boots.to_string())]);
    let help = "Boots that ended with a preemption notice.";
    out.family(
        "preemptions_total",
        COUNTER,
        help,
        [(&[][..], preemptions.to_string())],
    );
    if let Some(space) = sample.space {
        out.metric(
            "disk_free_bytes",
            "Free space on the data directory's disk.",
            space.free.to_string(),
        );
        out.metric(
            "disk_size_bytes",
            "Size of the data directory's disk.",
            space.total.to_string(),
        );
    }
}

fn fleet(out: &mut Exposition, status: &Status) {
    out.metric(
        "fleet_desired",
        "Whether the fleet is set to run (up) or not (down).",
        flag(status.fleet == Fleet::Up),
    );
    out.metric(
        "fleet_paused",
        "Whether the whole fleet waits, for example for a login.",
        flag(status.paused.is_some()),
    );
    let help = "Whether this boot has had its preemption notice: no agent is started in it.";
    out.metric("notice_received", help, flag(status.notice.is_some()));
    if let Some(deadline) = status.notice.as_ref().and_then(|notice| notice.deadline) {
        out.metric(
            "notice_deadline_timestamp_seconds",
            "When the machine is expected to end.",
            moment(deadline),
        );
    }
    let help = "Number of problems that hold up the keeper.";
    out.metric("troubles", help, status.trouble.len().to_string());
    let counts = STATES.map(|state| {
        let count = status
            .agents
            .iter()
            .filter(|agent| agent.state == state)
            .count();
        ([("state", state.as_str().to_owned())], count.to_string())
    });
    let rows = counts
        .iter()
        .map(|(labels, count)| (&labels[..], count.clone()));
    out.family("agents", GAUGE, "Agents by state.", rows);
}

fn saved(out: &mut Exposition, status: &Status) {
    if let Some(save) = &status.last_save {
        out.metric(
            "last_save_timestamp_seconds",
            "When the last save at the end of a boot began.",
            moment(save.at),
        );
        let help = "Whether that save made everything durable in time.";
        out.metric("last_save_clean", help, flag(save.clean));
        if let Some(ms) = save.transcripts_safe_ms {
            let help = "From its notice until every transcript was durable.";
            out.metric("last_save_transcripts_safe_seconds", help, seconds(ms));
        }
        if let Some(ms) = save.notice_to_safe_ms {
            let help = "From its notice until everything was durable.";
            out.metric("last_save_safe_seconds", help, seconds(ms));
        }
    }
    let Some(backup) = &status.backup else { return };
    for (name, help, at) in [
        (
            "last_backup_timestamp_seconds",
            "When the newest backup was begun.",
            backup.at,
        ),
        (
            "last_backup_copy_timestamp_seconds",
            "When the newest copy of the backups was done.",
            backup.copied_at,
        ),
        (
            "last_backup_check_timestamp_seconds",
            "When the backups were last checked.",
            backup.checked_at,
        ),
    ] {
        if let Some(at) = at {
            out.metric(name, help, moment(at));
        }
    }
}

fn agents(out: &mut Exposition, agents: &[AgentStatus]) {
    let mut each = |name, kind, help, value: &dyn Fn(&AgentStatus) -> Option<String>| {
        let rows = agents
            .iter()
            .filter_map(|agent| Some(([("agent", agent.name.to_string())], value(agent)?)));
        let rows: Vec<_> = rows.collect();
        out.family(
            name,
            kind,
            help,
            rows.iter()
                .map(|(labels, value)| (&labels[..], value.clone())),
        );
    };
    each(
        "agent_up",
        GAUGE,
        "Whether the agent has a process.",
        &|agent| Some(flag(agent.pid.is_some())),
    );
    let help = "How often the agent was restarted after an end that was not requested.";
    each("agent_restarts_total", COUNTER, help, &|agent| {
        Some(agent.restarts.to_string())
    });
    let help = "Files with uncommitted changes.";
    each("agent_dirty_files", GAUGE, help, &|agent| {
        Some(agent.dirty?.to_string())
    });
    let help = "Size of the agent's workspace on the disk.";
    each("agent_workspace_bytes", GAUGE, help, &|agent| {
        Some(agent.size_bytes?.to_string())
    });
    let help = "When the agent's newest checkpoint was made.";
    each(
        "agent_last_checkpoint_timestamp_seconds",
        GAUGE,
        help,
        &|agent| Some(moment(agent.last_checkpoint?)),
    );
    let help = "When the newest backup that contains the agent was begun.";
    each(
        "agent_last_backup_timestamp_seconds",
        GAUGE,
        help,
        &|agent| Some(moment(agent.last_backup?)),
    );
}

fn counted(out: &mut Exposition, counters: &Counters) {
    let stalls = "Turns that the API ended, since the keeper started.";
    let events = "Lines of the journal, since the keeper started.";
    for (family, label, help, counts) in [
        ("stalls_total", "reason", stalls, &counters.stalls),
        ("events_total", "event", events, &counters.events),
    ] {
        let row = |(name, count): (&String, &u64)| ([(label, name.clone())], count.to_string());
        let rows: Vec<_> = counts.iter().map(row).collect();
        let rows = rows.iter();
        let rows = rows.map(|(labels, count)| (&labels[..], count.clone()));
        out.family(family, COUNTER, help, rows);
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Labels with their values.
type Labels<'a> = &'a [(&'static str, String)];

/// The text under construction. Writing to it cannot fail.
#[derive(Debug, Default)]
struct Exposition(String);

impl Exposition {
    fn metric(&mut self, name: &str, help: &str, value: String) {
        self.family(name, GAUGE, help, [(&[][..], value)]);
    }

    /// Writes a metric with all its samples; nothing if it has none.
    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, String)>,
    ) {
        let mut is_first = true;
        for (labels, value) in samples {
            if std::mem::take(&mut is_first) {
                write!(
                    self.0,
                    "# HELP spotkeep_{name} {help}\n# TYPE spotkeep_{name} {kind}\n"
                )
                .ok();
            }
            self.sample(name, labels, &value).ok();
        }
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: &str) -> fmt::Result {
        write!(self.0, "spotkeep_{name}")?;
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(self.0, "{before}{label}=\"{}\"", escape(text))?;
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{end} {value}")
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn flag(is_so: bool) -> String {
    u8::from(is_so).to_string()
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn moment(at: Timestamp) -> String {
    seconds(u64::try_from(at.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn status() -> Status {
        serde_json::from_value(serde_json::json!({
            "version": 1, "data_dir": "/mnt/\"per\\sist\"\nx", "data_dir_id": "r", "epoch": 7,
            "boot_id": "l", "keeper": "running", "keeper_version": "0.1.0", "fleet": "up",
            "paused": null, "trouble": ["the disk is full"],
            "notice": {"at": "2026-11-22T03:00:00.000Z", "deadline": "2026-11-22T03:00:25.000Z",
                "source": "metadata"},
            "last_save": {"id": "1", "at": "2026-11-22T02:00:00.000Z", "clean": true,
                "transcripts_safe_ms": 1230, "notice_to_safe_ms": 1610},
            "backup": {"id": "b", "at": "2026-11-22T01:00:00.000Z", "copy_to": null,
                "copied_at": null, "checked_at": null},
            "agents": [
                {"name": "a", "agent_id": "i", "state": "running", "desired": "running",
                 "session_id": "s", "pid": 7, "workspace": "/w", "branch": "main", "dirty": 3,
                 "size_bytes": 4096, "last_checkpoint": "2026-11-22T02:59:00.500Z",
                 "last_backup": null, "restarts": 2, "why": null},
                {"name": "b", "agent_id": "j", "state": "failed", "desired": "running",
                 "session_id": "t", "pid": null, "workspace": "/v", "branch": null, "dirty": null,
                 "last_checkpoint": null, "last_backup": null, "restarts": 0, "why": "x"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let status = status();
        let counters = Counters {
            events: [("resumed".to_owned(), 2)].into(),
            stalls: [("limit".to_owned(), 1)].into(),
        };
        let sample = Sample {
            status: &status,
            boots: (9, 4),
            space: Some(Space {
                free: 10,
                total: 100,
                free_inodes: 1,
                inodes: 2,
            }),
            keeper: Some((Timestamp::parse("2026-11-22T00:00:00Z").unwrap(), &counters)),
        };
        let text = text(&sample);
        check(&text);
        insta::assert_snapshot!("metrics", text);
        check(&super::text(&Sample {
            boots: (0, 0),
            space: None,
            keeper: None,
            status: &status,
        }));
    }

    /// Checks the rules of the text format, and those for names.
    pub(crate) fn check(text: &str) {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        let mut series: BTreeSet<&str> = BTreeSet::new();
        let mut now: Option<(&str, &str)> = None;
        let mut lines = text.split_terminator('\n');
        assert!(text.ends_with('\n') && !text.contains('\r'));
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(known.insert(name), "{name} is there twice");
                assert!(!help.is_empty() && !help.contains('\\'), "{line}");
                let kind = lines
                    .next()
                    .unwrap()
                    .strip_prefix(&format!("# TYPE {name} "))
                    .unwrap();
                assert!(matches!(kind, "gauge" | "counter"), "{kind}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                now = Some((name, kind));
                continue;
            }
            let (name, _) = now.expect("a sample comes after its head");
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(key), "{key} is there twice");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let labels = key.strip_prefix(name).unwrap();
            assert!(
                name.starts_with("spotkeep_")
                    && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
                "{name}"
            );
            let is_moment = name.contains("timestamp") || name.contains("start_time");
            assert!(
                !is_moment || (name.ends_with("_seconds") && value > 1e9),
                "{line}"
            );
            if !labels.is_empty() {
                check_labels(labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap());
            }
        }
    }

    fn check_labels(mut rest: &str) {
        loop {
            let (name, value) = rest.split_once("=\"").unwrap();
            assert!(
                name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
                "{name}"
            );
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next().expect("a value has an end") {
                    (at, '"') => break at,
                    (_, '\\') => assert!(matches!(chars.next(), Some((_, '\\' | '"' | 'n')))),
                    (_, c) => assert_ne!(c, '\n'),
                }
            };
            match value[end + 1..].strip_prefix(',') {
                Some(more) => rest = more,
                None => return assert_eq!(&value[end + 1..], ""),
            }
        }
    }
}
