//! Makes the report of a drill from the data of its two boots.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DrillAgent, Rehearsal, whole};
use crate::fake_api::conversation::Plan;
use crate::fake_api::log::{Account, RequestLog};
use crate::report::{Report, Row};
use crate::session_file::transcript_marks;
use crate::verify::records::{Evidence, count};
use sys::error::Error;
use sys::time::short;

impl Rehearsal {
    pub(super) fn report(mut self, isolation: &str, failure: Option<&Error>) -> Report {
        let workspaces_identical = self.losses.is_empty() && self.cut.is_some();
        if let Some(failure) = failure {
            self.losses.push(format!("{failure:#}"));
            self.explain();
        }
        let cut = self.cut.unwrap_or_else(Instant::now);
        let request_log = self.model.request_log();
        let started = self.keeper.as_ref().map(|(_, started)| *started);
        let mut report = Report {
            version: 1,
            claude: self.claude.clone(),
            kind: self.options.kind.as_str().to_owned(),
            isolation: isolation.to_owned(),
            agents_total: self.agents.len(),
            workspaces_identical,
            notice_to_save_ms: self.notice_to_save_ms,
            ..Report::default()
        };
        for agent in &self.agents {
            let row = self.row(agent, &request_log, cut, started, &mut report.losses);
            report.sessions_resumed += usize::from(row.resumed);
            report.turns_cut += usize::from(row.cut);
            report.turns_continued += usize::from(row.continued);
            report.records_before += row.records_before;
            report.records_lost += row.records_lost;
            report.agents.push(row);
        }
        let safe = self
            .manifest
            .as_ref()
            .and_then(|save| save.stages.notice_to_safe_ms);
        report.notice_to_safe_ms =
            safe.map(|safe| safe + self.notice_to_save_ms.unwrap_or_default());
        let resumed: Vec<_> = report.agents.iter().map(|row| row.resumed_ms).collect();
        // If an agent has not resumed, there is no figure.
        report.boot_to_resumed_ms = resumed
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max());
        report.losses.splice(0..0, self.losses.iter().cloned());
        let passed = report.losses.is_empty()
            && report.sessions_resumed == report.agents_total
            && report.turns_continued == report.turns_cut
            && report.workspaces_identical;
        report.verdict = if passed { "pass" } else { "fail" }.to_owned();
        let kept = self
            .options
            .keep
            .then(|| self.sandbox.dir().display().to_string());
        report.kept = kept;
        report
    }

    fn row(
        &self,
        agent: &DrillAgent,
        request_log: &RequestLog,
        cut: Instant,
        started: Option<Instant>,
        losses: &mut Vec<String>,
    ) -> Row {
        let empty = Account::default();
        let before = self.at_cut.agents.get(&agent.name).unwrap_or(&empty);
        let first = request_log
            .agents
            .get(&agent.name)
            .and_then(|now| now.first.as_ref());
        let first = first.filter(|first| first.at > cut && self.boot_id > 1);
        let session_id = agent.session_id.as_deref().unwrap_or("none");
        let count = count(
            &Evidence {
                records: &before.records,
                resumed: first.map(|seen| &seen.markers),
                transcript: &transcript_marks(&self.config(), session_id),
            },
            cut,
        );
        for lost in count.inexcusable(self.options.kind.window()) {
            let (kind, age) = (lost.marker.kind.name(), whole(lost.age));
            losses.push(format!("{}: {kind} {age} ms old is lost", agent.name));
        }
        let continued = agent.is_cut() && self.goes_on(agent, request_log);
        let back_at = first
            .map(|seen| seen.at)
            .or(agent.seen_again.filter(|_| !agent.is_cut()));
        let resumed_ms = back_at
            .zip(started)
            .map(|(at, started)| whole(at - started));
        let after = resumed_ms.map_or(String::new(), |ms| {
            format!(", {}", short(Duration::from_millis(ms)))
        });
        Row {
            name: agent.name.clone(),
            open: match agent.plan {
                Plan::Tool | Plan::Hold => "a tool call",
                Plan::Stream => "a text in progress",
                Plan::Second => "a second turn's tool call",
                Plan::Idle => "idle",
                Plan::Steady => "continuous tool calls",
            }
            .to_owned(),
            saved: self.saved(agent, count.before),
            back: match (agent.resumed, agent.is_cut(), continued) {
                (false, _, _) => "not resumed".to_owned(),
                (true, false, _) => format!("same session, idle{after}"),
                (true, true, true) => format!("same session, went on{after}"),
                (true, true, false) => "same session, stalled".to_owned(),
            },
            records_before: count.before,
            records_lost: count.lost.len(),
            resumed: agent.resumed,
            cut: agent.is_cut(),
            continued,
            resumed_ms,
        }
    }

    fn saved(&self, agent: &DrillAgent, records: usize) -> String {
        let agents = self.manifest.iter().flat_map(|save| &save.agents);
        let saved = agents
            .into_iter()
            .find(|saved| saved.name.to_string() == agent.name);
        match saved {
            Some(saved) if saved.transcript_safe => {
                let exit = saved
                    .exit_ms
                    .map_or(String::new(), |ms| format!(", ended in {ms} ms"));
                format!("{records} records{exit}")
            }
            Some(_) => "not safe".to_owned(),
            None => format!("{records} records, no notice"),
        }
    }

    /// Adds the keeper's reasons and its last log line to the losses of a failed drill.
    fn explain(&mut self) {
        let status = self.verb(&["status", "--json"]);
        let status: Value = status
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        for agent in status["agents"].as_array().into_iter().flatten() {
            if let Some(why) = agent["why"].as_str().filter(|why| !why.is_empty()) {
                let (name, state) = (agent["name"].as_str(), agent["state"].as_str());
                let (name, state) = (name.unwrap_or("?"), state.unwrap_or("?"));
                self.losses.push(format!("{name} is {state}: {why}"));
            }
        }
        let log = std::fs::read_to_string(self.sandbox.log(self.boot_id)).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        for line in lines.iter().rev() {
            self.log(&format!("keeper: {line}"));
        }
        if let Some(last) = lines.first() {
            self.losses
                .push(format!("last line of the keeper's log: {last}"));
        }
    }
}
