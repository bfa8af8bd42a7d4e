//! The drill on the user's own fleet: a final save, after which the same machine goes on as if it
//! were a new boot. It ends only processes that a preemption would end too.
//!
//! Messages are counted in the transcripts, since the real model keeps no log.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::keeper::client;
use crate::keeper::status::{AgentStatus, Status};
use checkpoint::workspace;
use claude::TranscriptLookup;
use drill::report::{Report, Row};
use state::layout::DataDir;
use state::{AgentState, JournalEntry, JournalEvent, Manifest, VERSION, lines};
use sys::error::{Context as _, Hint as _, Result, ensure};
use sys::inotify::Watch;

/// How long the agents may take to resume.
const BACK_LIMIT: Duration = Duration::from_secs(180);

/// Returns the agents that a live drill would end and resume.
///
/// # Errors
/// No keeper runs, or no agent runs.
pub fn running(data_dir: &DataDir) -> Result<Vec<AgentStatus>> {
    let now = status(data_dir)?;
    let running: Vec<AgentStatus> = now
        .agents
        .into_iter()
        .filter(|agent| agent.pid.is_some())
        .collect();
    ensure!(
        !running.is_empty(),
        "no agent of {} runs",
        data_dir.dir().display()
    );
    Ok(running)
}

/// Rehearses a preemption of the fleet of `data_dir`. The caller has asked the user.
///
/// # Errors
/// The drill could not be run. `spotkeep restore` then resumes the agents.
pub fn run(data_dir: &DataDir) -> Result<Report> {
    let before: Vec<Before> = running(data_dir)?
        .into_iter()
        .map(|agent| Before::capture(data_dir, agent))
        .collect();
    let manifest = client::save(data_dir, true, false)?.context("the keeper has ended")?;
    let at_the_end: Vec<Option<String>> = before
        .iter()
        .map(|b| fingerprint(data_dir, &b.agent))
        .collect();
    let seq = lines(&data_dir.journal())?
        .0
        .last()
        .map_or(0, |line| line.seq);

    let began = Instant::now();
    client::survived(data_dir).hint("spotkeep restore")?;
    let after = wait_until_back(data_dir, &before)?;
    let boot_to_resumed_ms = u64::try_from(began.elapsed().as_millis()).ok();
    let continued = continued_since(data_dir, seq)?;

    let mut report = Report {
        version: VERSION,
        claude: claude_version(data_dir),
        kind: "notice".into(),
        isolation: format!("on the live fleet of {}", data_dir.dir().display()),
        agents_total: before.len(),
        notice_to_safe_ms: manifest.stages.notice_to_safe_ms,
        boot_to_resumed_ms,
        workspaces_identical: true,
        ..Report::default()
    };
    for (agent, fingerprint_then) in before.iter().zip(at_the_end) {
        add_row(&mut report, agent, &manifest, &after, &continued);
        if fingerprint_then != agent.fingerprint {
            report.workspaces_identical = false;
            report
                .losses
                .push(format!("{}: git status has changed", agent.agent.name));
        }
    }
    report.verdict = if report.losses.is_empty() {
        "pass".into()
    } else {
        "fail".into()
    };
    Ok(report)
}

/// The state of an agent before the drill.
struct Before {
    agent: AgentStatus,
    transcript: Option<PathBuf>,
    content: Vec<u8>,
    fingerprint: Option<String>,
}

impl Before {
    fn capture(data_dir: &DataDir, agent: AgentStatus) -> Self {
        let transcript = match claude::locate(&data_dir.claude(), &agent.session_id) {
            TranscriptLookup::Present(path) => Some(path),
            _ => None,
        };
        let content = transcript
            .as_ref()
            .and_then(|path| fs::read(path).ok())
            .unwrap_or_default();
        Self {
            fingerprint: fingerprint(data_dir, &agent),
            agent,
            transcript,
            content,
        }
    }

    /// Returns how many records the transcript had, and how many of them it has lost.
    fn records(&self) -> (usize, usize) {
        let now = self
            .transcript
            .as_ref()
            .and_then(|path| fs::read(path).ok())
            .unwrap_or_default();
        let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let same = self
            .content
            .iter()
            .zip(&now)
            .take_while(|(a, b)| a == b)
            .count();
        (count(&self.content), count(&self.content[same..]))
    }
}

fn add_row(
    report: &mut Report,
    before: &Before,
    manifest: &Manifest,
    after: &Status,
    continued: &[String],
) {
    let name = before.agent.name.to_string();
    let saved = manifest
        .agents
        .iter()
        .find(|saved| saved.name == before.agent.name);
    let now = after
        .agents
        .iter()
        .find(|agent| agent.name == before.agent.name);
    let resumed = now.is_some_and(|now| {
        now.session_id == before.agent.session_id
            && now.pid.is_some()
            && now.pid != before.agent.pid
    });
    let went_on = continued.contains(&name);
    let (records_before, records_lost) = before.records();
    if !resumed {
        report
            .losses
            .push(format!("{name} was not resumed in its session"));
    }
    if records_lost > 0 {
        report.losses.push(format!(
            "{name}: {records_lost} transcript records are lost"
        ));
    }
    let cut = before.agent.state == AgentState::Running;
    if cut && !went_on {
        report
            .losses
            .push(format!("{name}: its interrupted turn was not continued"));
    }
    report.sessions_resumed += usize::from(resumed);
    report.turns_cut += usize::from(cut);
    report.turns_continued += usize::from(cut && went_on);
    report.records_before += records_before;
    report.records_lost += records_lost;
    report.agents.push(Row {
        name,
        open: saved.map_or_else(String::new, |saved| saved.open.clone()),
        saved: saved.map_or_else(|| "not in the save".into(), |saved| saved.end.clone()),
        back: match (resumed, went_on) {
            (true, true) => "same session, went on".into(),
            (true, false) => "same session".into(),
            (false, _) => "not back".into(),
        },
        records_before,
        records_lost,
        resumed,
        cut,
        continued: went_on,
        resumed_ms: None,
    });
}

/// Waits until every agent runs again or has failed, at most [`BACK_LIMIT`].
fn wait_until_back(data_dir: &DataDir, before: &[Before]) -> Result<Status> {
    let until = Instant::now() + BACK_LIMIT;
    let watch = Watch::new()?;
    if let Some(dir) = data_dir.journal().parent() {
        watch.add(dir)?;
    }
    loop {
        let now = status(data_dir)?;
        let settled = |name| {
            let agent = now.agents.iter().find(|agent| agent.name == name);
            agent.is_none_or(|agent| {
                let up = agent.pid.is_some() && agent.state != AgentState::Starting;
                up || agent.state == AgentState::Failed
            })
        };
        if before
            .iter()
            .all(|before| settled(before.agent.name.clone()))
            || Instant::now() >= until
        {
            return Ok(now);
        }
        watch.wait(Duration::from_secs(1));
    }
}

/// Returns the agents whose interrupted turns were continued after the journal's line `seq`.
fn continued_since(data_dir: &DataDir, seq: u64) -> Result<Vec<String>> {
    let (all, _) = lines(&data_dir.journal())?;
    let went_on = |line: JournalEntry| match line.event {
        JournalEvent::Resumed {
            continued: true, ..
        } if line.seq > seq => line.agent,
        _ => None,
    };
    Ok(all.into_iter().filter_map(went_on).collect())
}

fn status(data_dir: &DataDir) -> Result<Status> {
    client::status(data_dir, client::TIMEOUT)?
        .context("no keeper runs")
        .hint("spotkeep up")
}

/// Returns the git status of an agent's workspace; `None` if the workspace is not a git repository.
fn fingerprint(data_dir: &DataDir, agent: &AgentStatus) -> Option<String> {
    let record = data_dir.load_record(&agent.name).ok()??;
    let index = data_dir.checkpoints(&record.agent_id).join("drill");
    let status = workspace::status(
        &agent.workspace,
        &index,
        &["--porcelain=v2", "--branch", "-uall"],
    )?;
    Some(format!(
        "{:?}\n{status}",
        workspace::branch(&agent.workspace)
    ))
}

/// Returns the Claude Code version of the agents, from the session file of one of them. The program
/// that a record names is not run for it.
fn claude_version(data_dir: &DataDir) -> String {
    claude::session_file::live(&data_dir.claude())
        .into_iter()
        .find_map(|session| session.version)
        .unwrap_or_else(|| "unknown".into())
}
