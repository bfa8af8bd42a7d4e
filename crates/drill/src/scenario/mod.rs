//! Runs one drill: a fleet works, the machine ends, and the next boot resumes the fleet.
//!
//! Sessions, records and workspaces are then compared with those before the cut.

mod totals;
mod wait;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fake_api::Model;
use super::fake_api::conversation::Plan;
use super::fake_api::log::{Account, RequestLog};
use super::fake_api::marker as mark;
use super::fake_api::script::{CONTINUED_FILE, OPEN_FILE};
use super::fake_metadata::Metadata;
use super::report::Report;
use super::sandbox::Sandbox;
use super::session_file::{Live, live, transcript_marks};
use super::verify::workspace_digest::Digest;
use super::{LossKind, Options, claude_program};
use state::{Manifest, latest_manifest};
use sys::error::{Context as _, Result};
use sys::signal;
use sys::time::Timestamp;

/// How long the drill waits for the checkpoints of a save after everything is safe.
const AFTER_SAFE: Duration = Duration::from_secs(10);
/// The minimum age of data that must survive a power cut: the keeper syncs every 5 s.
const STABLE_FOR: Duration = Duration::from_millis(6_500);

/// Runs a drill. Failures during it are in the report.
///
/// # Errors
/// The sandbox cannot be made.
pub(super) fn rehearse(options: &Options, isolation: &str) -> Result<Report> {
    let on_loop = options.kind == LossKind::PowerCut;
    let sandbox = Sandbox::create(options.keep, on_loop)?.unprivileged()?;
    let sandbox = Arc::new(sandbox);
    let interrupted = Arc::clone(&sandbox);
    signal::listen(move |_| {
        interrupted.clear();
        std::process::exit(130);
    })?;
    let report = Rehearsal::prepare(options, Arc::clone(&sandbox)).map(|mut rehearsal| {
        let failure = rehearsal.run().err();
        rehearsal.report(isolation, failure.as_ref())
    });
    // The signal thread has a reference too, so the sandbox is not dropped here.
    sandbox.clear();
    report
}

struct Rehearsal {
    options: Options,
    sandbox: Arc<Sandbox>,
    model: Model,
    metadata: Metadata,
    claude: String,
    agents: Vec<DrillAgent>,
    boot_id: u32,
    keeper: Option<(Child, Instant)>,
    /// When the machine was lost, or when the preemption was announced.
    cut: Option<Instant>,
    /// The fake API's log when all processes had ended.
    at_cut: RequestLog,
    manifest: Option<Manifest>,
    notice_to_save_ms: Option<u64>,
    losses: Vec<String>,
}

/// An agent of the drill.
struct DrillAgent {
    name: String,
    plan: Plan,
    session_id: Option<String>,
    before: Digest,
    resumed: bool,
    /// When it was seen in its session again, for an agent that sends no request.
    seen_again: Option<Instant>,
}

impl DrillAgent {
    fn is_cut(&self) -> bool {
        self.plan != Plan::Idle
    }
}

impl Rehearsal {
    fn run(&mut self) -> Result<()> {
        self.start_boot()?;
        self.wait_for_the_cut_points()?;
        self.record_workspaces()?;
        match self.options.kind {
            LossKind::Notice => self.preempt_with_a_notice()?,
            LossKind::Kill => self.kill_everything()?,
            LossKind::PowerCut => self.cut_the_power()?,
        }
        self.compare_workspaces(&[])?;
        self.start_boot()?;
        self.wait_for_the_fleet()?;
        self.compare_workspaces(&[CONTINUED_FILE])
    }

    fn prepare(options: &Options, sandbox: Arc<Sandbox>) -> Result<Self> {
        let (model, metadata) = (Model::start()?, Metadata::start()?);
        let program = match &options.claude {
            Some(path) => Some(sandbox.within_reach(path)?),
            None => None,
        };
        let claude = match &program {
            Some(path) => claude_program::version(path, sandbox.command(path))?,
            None => "fake".to_owned(),
        };
        sandbox.declare(&metadata.address(), &model.url(), program.as_deref())?;
        // In a power-cut drill, an agent has to write, so that a loss can be seen.
        let plans = match options.writing || options.kind == LossKind::PowerCut {
            false => [Plan::Tool, Plan::Stream, Plan::Second, Plan::Idle],
            true => [Plan::Steady, Plan::Tool, Plan::Stream, Plan::Idle],
        };
        let agents = plans.into_iter().cycle().zip(1..=options.agents);
        let agents: Vec<DrillAgent> = agents
            .map(|(plan, number)| DrillAgent {
                name: format!("agent-{number}"),
                plan,
                session_id: None,
                before: Digest::default(),
                resumed: false,
                seen_again: None,
            })
            .collect();
        for DrillAgent { name, plan, .. } in &agents {
            sandbox.make_workspace(name)?;
            let workspace = format!("workspaces/{name}");
            let prompt = format!("DRILL agent={name} plan={} [[{name}:p:1]]", plan.as_str());
            let args = ["add", name, "--workspace", &workspace, "--prompt", &prompt];
            sandbox.verb(1, &metadata.address(), &args)?;
        }
        Ok(Self {
            options: options.clone(),
            sandbox,
            model,
            metadata,
            claude,
            agents,
            boot_id: 0,
            keeper: None,
            cut: None,
            at_cut: RequestLog::default(),
            manifest: None,
            notice_to_save_ms: None,
            losses: Vec::new(),
        })
    }

    /// Boots a machine: starts a metadata server without a preemption, and a keeper.
    fn start_boot(&mut self) -> Result<()> {
        self.boot_id += 1;
        if self.boot_id > 1 {
            self.metadata = Metadata::start()?;
            let path = self.sandbox.data_dir().join("spotkeep.toml");
            let text = std::fs::read_to_string(&path)?;
            let text = super::sandbox::point_at(&text, &self.metadata.address());
            self.sandbox.write(&path, &text)?;
        }
        self.model.next_boot();
        let started = Instant::now();
        let keeper = self
            .sandbox
            .keeper(self.boot_id, &self.metadata.address())?;
        self.keeper = Some((keeper, started));
        self.log(&format!("boot {}: the keeper runs", self.boot_id));
        Ok(())
    }

    fn wait_for_the_cut_points(&mut self) -> Result<()> {
        let mut asked_again: Vec<String> = Vec::new();
        self.until("every agent is at its cut point", |stage| {
            let request_log = stage.model.request_log();
            let running = live(&stage.config());
            let mut waiting = Vec::new();
            for agent in &stage.agents {
                let name = &agent.name;
                let Some(account) = request_log.agents.get(name) else {
                    waiting.push(format!("{name} has sent no request"));
                    continue;
                };
                let Some(at) = running.iter().find(|at| at.name == *name) else {
                    waiting.push(format!("{name} has no session file"));
                    continue;
                };
                let second = agent.plan == Plan::Second && account.turns_ended == 1;
                if second && at.status == "idle" && !asked_again.contains(name) {
                    let prompt = format!("DRILL agent={name} plan=second turn=2 [[{name}:p:2]]");
                    stage.verb(&["send", name, &prompt])?;
                    asked_again.push(name.clone());
                }
                if !stage.is_at_its_cut_point(agent, account, at) {
                    waiting.push(format!("{name} is not at its cut point yet"));
                }
            }
            Ok(waiting)
        })?;
        let running = live(&self.config());
        for agent in &mut self.agents {
            let found = running.iter().find(|at| at.name == agent.name);
            let found = found.with_context(|| format!("{} has no session file", agent.name))?;
            agent.session_id = Some(found.session_id.clone());
        }
        self.log("every agent is at its cut point");
        Ok(())
    }

    fn is_at_its_cut_point(&self, agent: &DrillAgent, account: &Account, at: &Live) -> bool {
        let is_idle = at.status == "idle";
        // A keeper sees a turn only after the prompt is in the transcript.
        let written = transcript_marks(&self.config(), &at.session_id);
        let mut prompts = account
            .records
            .iter()
            .filter(|record| record.marker.kind == mark::MarkerKind::Prompt);
        if !prompts.all(|record| written.contains(&record.marker)) {
            return false;
        }
        // The file exists before its content is written.
        let runs = || {
            let file = self.sandbox.workspace(&agent.name).join(OPEN_FILE);
            std::fs::metadata(file).is_ok_and(|meta| meta.len() > 0)
        };
        match agent.plan {
            Plan::Tool | Plan::Second | Plan::Hold => account.open.is_some() && runs(),
            Plan::Stream => account.open.is_some(),
            Plan::Idle => account.turns_ended > 0 && is_idle,
            Plan::Steady => account.records.len() >= 6,
        }
    }

    fn record_workspaces(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.before = self.sandbox.digest(&agent.name)?;
        }
        Ok(())
    }

    fn preempt_with_a_notice(&mut self) -> Result<()> {
        let announced = Timestamp::now();
        self.cut = Some(self.metadata.preempt());
        self.log("the preemption is announced");
        let saves = self.sandbox.data_dir().join("session-state/saves");
        let mut found = None;
        self.until("everything is safe", |_| {
            found = latest_manifest(&saves)?;
            let safe = found
                .as_ref()
                .and_then(|save| save.stages.notice_to_safe_ms);
            Ok(safe
                .is_none()
                .then(|| "the save is not safe yet".to_owned())
                .into_iter()
                .collect())
        })?;
        // The machine may end at any time now; a quick save may still make its checkpoints.
        let deadline = Instant::now() + AFTER_SAFE;
        self.until("the workspaces are saved", |_| {
            found = latest_manifest(&saves)?;
            let done = found
                .as_ref()
                .is_some_and(|save| save.stages.workspaces_ms.is_some());
            let waits = !done && Instant::now() < deadline;
            Ok(waits
                .then(|| "no checkpoints yet".to_owned())
                .into_iter()
                .collect())
        })?;
        self.notice_to_save_ms = found.as_ref().map(|save| whole(save.at.since(announced)));
        self.manifest = found;
        self.end_the_boot(|sandbox| sandbox.end_everything())
    }

    fn kill_everything(&mut self) -> Result<()> {
        let mut at = None;
        self.end_the_boot(|sandbox| {
            at = Some(Instant::now());
            sandbox.end_everything()
        })?;
        self.cut = at;
        Ok(())
    }

    fn cut_the_power(&mut self) -> Result<()> {
        let settled = Instant::now() + STABLE_FOR;
        self.until("an agent goes on writing", |stage| {
            let request_log = stage.model.request_log();
            let mut records = request_log.agents.values().flat_map(|agent| &agent.records);
            let goes_on = records.any(|record| record.at >= settled);
            let waits = (!goes_on).then(|| "no agent has written since".to_owned());
            Ok(waits.into_iter().collect())
        })?;
        let mut at = None;
        self.end_the_boot(|sandbox| {
            at = Some(sandbox.cut_power()?);
            sandbox.end_everything()
        })?;
        self.cut = at;
        self.sandbox.remount()
    }

    fn end_the_boot(&mut self, end: impl FnOnce(&Sandbox) -> Result<Instant>) -> Result<()> {
        end(&self.sandbox)?;
        if let Some((mut keeper, _)) = self.keeper.take() {
            keeper.wait().context("cannot wait for the keeper")?;
        }
        self.at_cut = self.model.request_log();
        self.log("the machine has ended");
        Ok(())
    }

    fn wait_for_the_fleet(&mut self) -> Result<()> {
        let mut seen: Vec<(String, Instant)> = Vec::new();
        let result = self.until("every agent is resumed", |stage| {
            let request_log = stage.model.request_log();
            let running = live(&stage.config());
            let mut waiting = Vec::new();
            for agent in &stage.agents {
                let is_back = stage.is_back(agent, &running);
                if is_back && !seen.iter().any(|(name, _)| *name == agent.name) {
                    seen.push((agent.name.clone(), Instant::now()));
                }
                if !is_back {
                    waiting.push(format!("{} is not in its session", agent.name));
                } else if agent.is_cut() && !stage.goes_on(agent, &request_log) {
                    waiting.push(format!("{} does not go on with its turn", agent.name));
                }
            }
            Ok(waiting)
        });
        for agent in &mut self.agents {
            let found = seen.iter().find(|(name, _)| *name == agent.name);
            agent.seen_again = found.map(|(_, at)| *at);
            agent.resumed = found.is_some();
        }
        self.log("the fleet is resumed");
        result
    }

    /// Whether an agent runs in its session again, in exactly one process.
    fn is_back(&self, agent: &DrillAgent, running: &[Live]) -> bool {
        let mut same = running
            .iter()
            .filter(|at| Some(&at.session_id) == agent.session_id.as_ref());
        let first = same.next();
        first.is_some_and(|at| at.name == agent.name) && same.next().is_none()
    }

    fn goes_on(&self, agent: &DrillAgent, request_log: &RequestLog) -> bool {
        let now = request_log.agents.get(&agent.name);
        let before = self.at_cut.agents.get(&agent.name);
        let continued = |account: Option<&Account>| account.map_or(0, |account| account.continued);
        continued(now) > continued(before)
    }

    /// Adds a loss for each workspace that has changed; `written` are files that the new boot
    /// wrote.
    fn compare_workspaces(&mut self, written: &[&str]) -> Result<()> {
        for agent in &self.agents {
            let now = self.sandbox.digest(&agent.name)?;
            let mut wrong = agent.before.changed_in(&now);
            if agent.plan != Plan::Steady {
                wrong.extend(agent.before.added_in(&now));
            }
            wrong.retain(|entry| !written.iter().any(|file| *entry == format!("file {file}")));
            if let Some(first) = wrong.first() {
                let count = wrong.len();
                let loss = format!(
                    "{}: {count} changes in its workspace, first: {first}",
                    agent.name
                );
                self.losses.push(loss);
            }
        }
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.sandbox.data_dir().join(".claude")
    }

    fn verb(&self, args: &[&str]) -> Result<String> {
        self.sandbox
            .verb(self.boot_id, &self.metadata.address(), args)
    }

    fn log(&self, text: &str) {
        if self.options.verbose {
            // A closed standard error is not a reason to stop.
            writeln!(std::io::stderr(), "drill: {text}").ok();
        }
    }
}

/// Returns whole milliseconds.
fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
