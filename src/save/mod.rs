//! The save: ends the agents and makes everything durable between a notice and the machine's end.
//!
//! The most valuable data come first. If the machine ends at any point of a save, what was saved
//! until then is usable.
//!
//! ```text
//! notice ─ agents end ─ transcripts durable ─▶ manifest "transcripts safe"
//!        ─ syncfs ─▶ "safe" ─ workspaces ─▶ done
//! ```

mod drain;
mod end_agents;
mod transcripts;
mod workspaces;

use std::sync::Arc;
use std::time::{Duration, Instant};

use state::config;
use state::layout::DataDir;
use state::{
    AgentRecord, AgentSaved, JournalEvent, Manifest, last_save_id, new_save_id, prune_manifests,
    store_manifest,
};
use supervisor::notice::Notice;
use sys::deadline::Deadline;
use sys::error::Result;
use sys::failpoint::{Point, point};
use sys::files;
use sys::process::ProcessId;
use sys::time_limit::within;

/// One agent as the save needs it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its record.
    pub record: AgentRecord,
    /// Its process, if it runs.
    pub process: Option<ProcessId>,
}

/// Writes a line into the journal and returns when it is durable.
pub type Note = Arc<dyn Fn(&JournalEvent) -> Result<()> + Send + Sync>;

/// What a save needs.
pub struct Save<'a> {
    /// The data directory.
    pub data_dir: &'a DataDir,
    /// How checkpoints are made, and where they are pushed.
    pub settings: &'a config::Checkpoint,
    /// The data directory's id.
    pub data_dir_id: &'a str,
    /// The keeper's epoch.
    pub epoch: u64,
    /// The boot's id.
    pub boot_id: &'a str,
    /// Writes to the journal; `None` where it cannot be opened, which does not stop a save.
    pub journal: Option<Note>,
    /// Every agent, running or not.
    pub agents: Vec<Subject>,
}

impl Save<'_> {
    /// Runs the save at the end of a boot: ends every agent and makes everything durable before the
    /// deadline. The notice is in the journal already.
    ///
    /// The save always completes. Failures are in the manifest. Everything that can be made durable
    /// is, even if the manifest itself cannot be written.
    #[must_use]
    pub fn run_final(self, notice: &Notice) -> Manifest {
        point(Point::SaveNoticed);
        let began = Instant::now();
        let mut manifest = self.begin(notice.source.to_string(), true);
        manifest.deadline_ms = Some(millis(notice.deadline.remaining()));

        let ended = end_agents::end_all(&self.agents, self.data_dir, notice);
        (manifest.agents, manifest.stragglers) = (ended.rows, ended.stragglers);
        manifest.stages.agents_ended_ms = Some(millis(began.elapsed()));
        point(Point::SaveEnded);

        let transcript_safe = self.make_safe(&mut manifest, began, notice.deadline);
        manifest.clean = transcript_safe && ended.all && !notice.deadline.has_passed();
        self.keep_manifest(&mut manifest, notice.deadline);
        let safe = JournalEvent::Safe {
            save: manifest.id.clone(),
            clean: manifest.clean,
            after_ms: millis(began.elapsed()),
        };
        self.note(safe, notice.deadline);
        point(Point::SaveSafe);
        // Processes that forked faster than the first sweep get a second one, now that transcripts
        // are safe.
        manifest.stragglers += end_agents::sweep_all(&self.agents, notice.deadline);

        self.finish(&mut manifest, began, notice.deadline);
        manifest
    }

    /// Runs a save while the agents go on: makes everything durable now.
    #[must_use]
    pub fn run_in_passing(self, deadline: Deadline) -> Manifest {
        let began = Instant::now();
        let mut manifest = self.begin("command".into(), false);
        manifest.deadline_ms = Some(millis(deadline.remaining()));
        manifest.agents = self.agents.iter().map(end_agents::goes_on).collect();
        manifest.clean = self.make_safe(&mut manifest, began, deadline);
        self.finish(&mut manifest, began, deadline);
        manifest
    }

    /// Makes transcripts durable first, then the whole filesystem. Returns whether all of it is
    /// durable.
    fn make_safe(&self, manifest: &mut Manifest, began: Instant, deadline: Deadline) -> bool {
        let transcripts = transcripts::make_durable(self.data_dir, &self.agents, deadline);
        transcripts::enter(transcripts, &mut manifest.agents);
        let transcript_safe = manifest.agents.iter().all(|agent| agent.transcript_safe);
        manifest.stages.transcripts_safe_ms = transcript_safe.then(|| millis(began.elapsed()));
        point(Point::SaveTranscripts);
        self.keep_manifest(manifest, deadline);
        point(Point::SaveTranscriptsSafe);
        let synced = self.sync_filesystem(deadline);
        point(Point::SaveSynced);
        let all_safe = transcript_safe && synced;
        manifest.stages.notice_to_safe_ms = all_safe.then(|| millis(began.elapsed()));
        all_safe
    }

    fn begin(&self, source: String, is_final: bool) -> Manifest {
        Manifest::begin(
            new_save_id(last_save_id(&self.data_dir.saves()).as_deref()),
            self.data_dir_id.to_owned(),
            self.epoch,
            self.boot_id.to_owned(),
            source,
            is_final,
        )
    }

    /// Syncs the data directory's filesystem: workspaces, and Claude Code's files beside the
    /// transcripts.
    fn sync_filesystem(&self, deadline: Deadline) -> bool {
        let dir = self.data_dir.dir().to_path_buf();
        matches!(
            within(deadline, move || files::sync_filesystem(&dir)),
            Some(Ok(()))
        )
    }

    /// Makes checkpoints and pushes them after *safe*, as far as there is time.
    fn finish(&self, manifest: &mut Manifest, began: Instant, deadline: Deadline) {
        let saved = workspaces::keep(self.data_dir, self.settings, &self.agents, deadline);
        for (agent, workspace) in manifest.agents.iter_mut().zip(saved) {
            agent.workspace = workspace;
        }
        point(Point::SaveWorkspaces);
        // git syncs each object and each ref itself; its other files are synced here.
        if !deadline.has_passed() {
            self.sync_filesystem(deadline);
        }
        manifest.stages.workspaces_ms = Some(millis(began.elapsed()));
        self.keep_manifest(manifest, deadline);
        if let Some(remote) = &self.settings.push
            && !deadline.has_passed()
        {
            workspaces::push(
                self.data_dir,
                self.settings,
                remote,
                &self.agents,
                deadline,
                manifest,
            );
            self.keep_manifest(manifest, deadline);
        }
        let saved = JournalEvent::Saved {
            save: manifest.id.clone(),
        };
        self.note(saved, deadline);
        point(Point::SaveSaved);
        let data_dir = self.data_dir.clone();
        let prune = move || {
            data_dir
                .ensure_there()
                .and_then(|()| prune_manifests(&data_dir.saves()))
        };
        if let Some(Err(error)) = within(deadline, prune) {
            tracing::warn!("{error:#}");
        }
    }

    /// Writes the manifest; a failure does not stop the save.
    fn keep_manifest(&self, manifest: &mut Manifest, deadline: Deadline) {
        let (data_dir, copy) = (self.data_dir.clone(), manifest.clone());
        // It always gets a little time, so that a late save has a manifest too.
        let until = deadline.max(Deadline::after(MANIFEST_LIMIT));
        let store = move || {
            data_dir.ensure_there()?;
            store_manifest(&data_dir.saves(), &copy)
        };
        let trouble = match within(until, store) {
            Some(Ok(())) => return,
            Some(Err(error)) => format!("{error:#}"),
            None => "the manifest was not written in time".to_owned(),
        };
        tracing::error!("{trouble}");
        if !manifest.trouble.contains(&trouble) {
            manifest.trouble.push(trouble);
        }
    }

    /// Writes to the journal; a failure does not stop the save.
    fn note(&self, what: JournalEvent, deadline: Deadline) {
        what.log(None);
        let Some(journal) = self.journal.clone() else {
            return;
        };
        let until = deadline.max(Deadline::after(MANIFEST_LIMIT));
        if let Some(Err(error)) = within(until, move || journal(&what)) {
            tracing::error!("{error:#}");
        }
    }
}

/// How long writing the manifest may take after the deadline has passed.
const MANIFEST_LIMIT: Duration = Duration::from_millis(500);

/// Returns an agent's row before its transcript and workspace are saved.
fn row(subject: &Subject, end: impl Into<String>) -> AgentSaved {
    AgentSaved {
        name: subject.record.name.clone(),
        agent_id: subject.record.agent_id.clone(),
        session_id: subject.record.session_id.clone(),
        end: end.into(),
        exit_ms: None,
        open: "unknown".into(),
        transcript_bytes: None,
        transcript_safe: false,
        workspace: workspaces::untouched(),
        trouble: None,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
