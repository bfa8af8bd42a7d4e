//! `gcp preempt`: a drill on a real VM.
//!
//! Compute Engine simulates a maintenance event, which preempts a Spot VM. Then the group recreates
//! the VM, and the report is made from the VM's own journal.

use std::time::Duration;

use serde::Serialize;

use super::create::progress;
use super::discover::Member;
use super::gcloud::{Cloud, ask_quietly, make};
use super::gcloud_command::Call;
use super::gcloud_error::Refusal;
use super::queries;
use super::ssh::{Fleet, Guest, GuestReport, is_permanent};
use state::{Desired, JournalEvent, VERSION};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::{Timestamp, short};

/// The number of journal lines to read: enough for some hundred agents.
const EVENTS: u32 = 2000;

/// The result of a preemption.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this format.
    pub version: u32,
    /// The number of agents that ran before.
    pub agents_total: usize,
    /// The number of these that run in the same session again.
    pub sessions_resumed: usize,
    /// The number of turns that went on automatically.
    pub turns_continued: usize,
    /// From the notice until all was safe, in milliseconds; null if it was not.
    pub notice_to_safe_ms: Option<u64>,
    /// Whether the save was clean.
    pub save_clean: Option<bool>,
    /// From the boot of the new machine until the last agent was resumed, in milliseconds.
    pub boot_to_resumed_ms: Option<u64>,
    /// From the call until the last agent was resumed, in milliseconds, by the clock of this
    /// machine.
    pub away_ms: u64,
    /// `pass` or `fail`.
    pub verdict: &'static str,
    /// The losses and failures.
    pub losses: Vec<String>,
}

/// Returns the call that preempts the VM.
#[must_use]
pub fn call(guest: &Guest) -> Call {
    Call::change(
        "let Compute Engine preempt the VM",
        "compute instances simulate-maintenance-event",
    )
    .arg(&guest.vm)
    .flag("zone", &guest.zone)
    .switch("async")
}

/// Preempts the VM, waits until the next boot has resumed its agents, and reports.
///
/// # Errors
/// There is no data directory on the VM; gcloud failed; or the VM is not back within `timeout`.
pub fn run(cloud: &dyn Cloud, group: &str, guest: &Guest, timeout: Duration) -> Result<Report> {
    let before = guest
        .wait_started(cloud, timeout)?
        .fleet
        .with_context(|| format!("there is no data directory on {}", guest.vm))
        .hint("spotkeep gcp create")?;
    let began = cloud.now();
    make(cloud, &call(guest))?;
    cloud.show(&format!(
        "$ {}   (again until it is back)",
        guest.report_call(EVENTS)
    ));
    cloud.show(&format!(
        "$ {}   (while the VM does not answer)",
        queries::members(group, &guest.zone)
    ));
    let mut shown = String::new();
    loop {
        let state = match guest.probe(cloud, EVENTS) {
            Ok(guest_report) => match arrived(&before, &guest_report) {
                None => {
                    let away = cloud.now().since(began);
                    return Ok(report(&before, &guest_report, away));
                }
                Some(state) => state,
            },
            Err(refusal) if is_permanent(&refusal) => return Err(refusal.explained()),
            Err(refusal) => away(cloud, group, guest, &refusal),
        };
        let waited = cloud.now().since(began);
        if waited >= timeout {
            return Err(anyhow!(
                "{} is not back after {}: {state}",
                guest.vm,
                short(waited)
            ))
            .hint(format!(
                "spotkeep gcp status --name={group}; the group goes on trying"
            ))
            .kind(ErrorKind::NotAsDeclared);
        }
        if state != shown {
            cloud.show(&format!("  after {}: {state}", short(waited)));
            shown = state;
        }
        cloud.pause(Duration::from_secs(5));
    }
}

/// Describes why the VM does not answer, by the state of the group.
fn away(cloud: &dyn Cloud, group: &str, guest: &Guest, refusal: &Refusal) -> String {
    let members = ask_quietly(cloud, &queries::members(group, &guest.zone));
    let member = members
        .ok()
        .and_then(|members| members.as_array()?.first().map(Member::from_json));
    match member {
        Some(member) if member.is_dry() => {
            format!("{} has no capacity for this machine type", guest.zone)
        }
        Some(member) if member.status != "RUNNING" => progress(&member),
        _ => format!("it does not answer ({})", refusal.text),
    }
}

/// Returns what is still missing in the next boot; `None` if every agent is resumed or has failed.
fn arrived(before: &Fleet, guest_report: &GuestReport) -> Option<String> {
    let Some(fleet) = &guest_report.fleet else {
        return Some("the VM answers; it has no data directory yet".to_owned());
    };
    if fleet.boot_id == before.boot_id {
        return Some("it is still in the same boot".to_owned());
    }
    if fleet.keeper != "running" {
        return Some("the next boot; the keeper does not run yet".to_owned());
    }
    let coming = fleet
        .agents
        .iter()
        .filter(|agent| agent.is_coming())
        .count();
    (coming > 0).then(|| format!("the next boot; {coming} agents are not resumed yet"))
}

/// Makes the report from the state before and after. Pure.
fn report(before: &Fleet, guest_report: &GuestReport, away: Duration) -> Report {
    let after = guest_report.fleet.as_ref();
    let ran = |agent: &&super::ssh::Agent| agent.desired == Desired::Running && agent.is_up();
    let mut losses = Vec::new();
    let mut resumed = 0;
    let total = before.agents.iter().filter(ran).count();
    for agent in before.agents.iter().filter(ran) {
        let now = after.and_then(|fleet| fleet.agents.iter().find(|now| now.name == agent.name));
        match now {
            Some(now) if now.session_id != agent.session_id => {
                losses.push(format!("{} is in another session", agent.name));
            }
            Some(now) if now.is_up() => resumed += 1,
            Some(now) => losses.push(format!(
                "{} is {}{}",
                agent.name,
                now.state.as_str(),
                now.why
                    .as_deref()
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default()
            )),
            None => losses.push(format!("{} does not exist any more", agent.name)),
        }
    }
    let save = after
        .and_then(|fleet| fleet.last_save.as_ref())
        .filter(|save| {
            before
                .last_save
                .as_ref()
                .is_none_or(|old| old.id != save.id)
        });
    match save {
        None => {
            losses.push("no save at the notice: the notice did not come, or too late".to_owned());
        }
        Some(save) if !save.clean => losses.push("the save was not clean".to_owned()),
        Some(_) => {}
    }
    let boot_id = after
        .map(|fleet| fleet.boot_id.as_str())
        .unwrap_or_default();
    let of_boot = guest_report
        .events
        .iter()
        .filter(|entry| entry.boot_id == boot_id);
    let back: Vec<(Timestamp, bool)> = of_boot
        .filter_map(|entry| match entry.event {
            JournalEvent::Resumed { continued, .. } => Some((entry.at, continued)),
            _ => None,
        })
        .collect();
    let last_back = back.iter().map(|(at, _)| *at).max();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Report {
        version: VERSION,
        agents_total: total,
        sessions_resumed: resumed,
        turns_continued: back.iter().filter(|(_, continued)| *continued).count(),
        notice_to_safe_ms: save.and_then(|save| save.notice_to_safe_ms),
        save_clean: save.map(|save| save.clean),
        boot_to_resumed_ms: guest_report
            .booted
            .zip(last_back)
            .map(|(booted, back)| millis(back.since(booted))),
        away_ms: millis(away),
        verdict: if losses.is_empty() { "pass" } else { "fail" },
        losses,
    }
}

impl Report {
    /// Whether nothing was lost.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.losses.is_empty()
    }

    /// Returns the report as lines of text.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let time = |ms: Option<u64>, never: &str| {
            ms.map_or_else(|| never.to_owned(), |ms| short(Duration::from_millis(ms)))
        };
        let mut lines = vec![
            format!(
                "notice to safe     {}",
                time(self.notice_to_safe_ms, "never became safe")
            ),
            format!(
                "boot to resumed    {}",
                time(self.boot_to_resumed_ms, "nothing was resumed")
            ),
            format!("away in all        {}", time(Some(self.away_ms), "")),
        ];
        lines.extend(
            self.losses
                .iter()
                .map(|loss| format!("lost               {loss}")),
        );
        lines.push(format!(
            "verdict            {}: {} of {} sessions back, {} cut turns went on",
            self.verdict.to_uppercase(),
            self.sessions_resumed,
            self.agents_total,
            self.turns_continued
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::ssh::parse;
    use super::*;

    fn guest_report(boot_id: &str, save: &str, agents: &str, events: &str) -> GuestReport {
        parse(&format!(
            "== startup\nready\n== booted\n1763769600\n== \
             status\n{{\"boot_id\":\"{boot_id}\",\"keeper\":\"running\",\
             \"last_save\":{save},\"agents\":[{agents}]}}\n== events\n{events}"
        ))
    }

    fn agent(name: &str, state: &str, session: &str) -> String {
        format!(
            r#"{{"name":"{name}","state":"{state}","desired":"running","session_id":"{session}"}}"#
        )
    }

    fn resumed(agent: &str, second: u32, continued: bool) -> String {
        format!(
            r#"{{"version":1,"seq":1,"at":"2025-11-22T00:00:{second:02}Z","data_dir_id":"r","epoch":2,"boot_id":"l2","event":"resumed","agent":"{agent}","session_id":"s","continued":{continued}}}"#
        )
    }

    #[test]
    fn a_preemption_ends_when_the_next_boot_has_resumed_its_agents() {
        let before = guest_report("l1", "null", &agent("a", "running", "s1"), "")
            .fleet
            .unwrap();
        let still = guest_report("l1", "null", &agent("a", "running", "s1"), "");
        assert!(arrived(&before, &still).unwrap().contains("still"));
        let coming = guest_report("l2", "null", &agent("a", "starting", "s1"), "");
        assert!(arrived(&before, &coming).unwrap().contains("1 agents"));
        let back = guest_report("l2", "null", &agent("a", "idle", "s1"), "");
        assert_eq!(arrived(&before, &back), None);
        assert!(arrived(&before, &parse("== startup\nworking\n")).is_some());
    }

    #[test]
    fn the_report_counts_sessions_and_reads_the_times_of_the_vm() {
        let save = r#"{"id":"n","clean":true,"notice_to_safe_ms":900}"#;
        let agents = |b: &str| format!("{},{}", agent("a", "running", "s1"), agent("b", "idle", b));
        let before = guest_report("l1", "null", &agents("s2"), "").fleet.unwrap();
        let events = format!("{}\n{}\n", resumed("a", 30, true), resumed("b", 41, false));
        let good = report(
            &before,
            &guest_report("l2", save, &agents("s2"), &events),
            Duration::from_secs(90),
        );
        assert_eq!(
            (good.verdict, good.sessions_resumed, good.turns_continued),
            ("pass", 2, 1)
        );
        assert_eq!(good.notice_to_safe_ms, Some(900));
        assert_eq!(good.boot_to_resumed_ms, Some(41_000));
        let other = report(
            &before,
            &guest_report("l2", save, &agents("s9"), &events),
            Duration::ZERO,
        );
        assert_eq!(other.losses, ["b is in another session"]);
        let unsaved = report(
            &before,
            &guest_report("l2", "null", &agents("s2"), ""),
            Duration::ZERO,
        );
        assert_eq!(unsaved.verdict, "fail");
        assert_eq!(unsaved.boot_to_resumed_ms, None);
    }
}
