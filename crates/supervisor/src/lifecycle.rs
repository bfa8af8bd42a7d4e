//! Lifecycle of one agent: launched, confirmed, blocked, ended, failed.

use std::time::Instant;

use super::agent::{Purpose, START_LIMIT, Stage, jitter_seed};
use super::{Action, Activity, Attempt, Ending, Phase, Refusal, Supervisor};
use crate::cause::cause_of_exit;
use crate::restart_backoff::{Next, after_failure};
use state::config::Restart;
use state::{AgentName, Cause, Desired, Fleet, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

impl Supervisor {
    pub(super) fn launched(
        &mut self,
        now: Instant,
        name: &AgentName,
        attempt: Attempt,
        launched: (ProcessId, StartKind),
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if let Stage::Starting {
            attempt: current,
            since,
            process,
            then,
            ..
        } = &mut agent.stage
            && *current == attempt
        {
            // The time before, like that of a slow disk, does not count against Claude Code.
            *since = now;
            *process = Some(launched);
            let then = then.take();
            out.push(Action::Persist(name.clone()));
            if let Some(purpose) = then {
                self.end(name, purpose, out);
            }
        }
    }

    pub(super) fn refused(
        &mut self,
        now: Instant,
        name: &AgentName,
        of: Attempt,
        refusal: Refusal,
        out: &mut Vec<Action>,
    ) {
        let current = self.agents.get(name).map(|agent| &agent.stage);
        if matches!(current, Some(Stage::Starting { attempt, .. }) if *attempt == of) {
            let why = (refusal.why, Cause::CannotStart);
            self.failed(now, name, why, refusal.retry, out);
        }
    }

    /// Applies Claude Code's session file: it confirms a start, and follows `/clear`.
    pub(super) fn session(
        &mut self,
        now: Instant,
        name: &AgentName,
        of: ProcessId,
        session_id: String,
        activity: Activity,
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.process() != Some(of) {
            return;
        }
        match &mut agent.stage {
            Stage::Starting { .. } if session_id != agent.session_id => {
                let why = format!(
                    "claude opened the session {session_id} instead of {}",
                    agent.session_id
                );
                self.end(name, Purpose::BadStart(why), out);
            }
            Stage::Starting { process, .. } => {
                let how = process.map_or(StartKind::Resume, |(_, how)| how);
                agent.stage = Stage::Up {
                    process: of,
                    since: now,
                    activity: activity.clone(),
                };
                agent.why = None;
                agent.cause = None;
                out.push(Action::Persist(name.clone()));
                let what = match how {
                    StartKind::First => JournalEvent::Started { session_id },
                    StartKind::Resume | StartKind::Continue => JournalEvent::Resumed {
                        session_id,
                        continued: how == StartKind::Continue,
                    },
                };
                out.push(Action::journal(name, what));
                self.active(now, name, &activity, Some(how), out);
            }
            Stage::Up {
                activity: current, ..
            } => {
                let changed = *current != activity;
                *current = activity.clone();
                if session_id != agent.session_id {
                    let from = std::mem::replace(&mut agent.session_id, session_id.clone());
                    out.push(Action::Rebind {
                        name: name.clone(),
                        session_id: session_id.clone(),
                    });
                    let what = JournalEvent::SessionChanged {
                        from,
                        to: session_id,
                    };
                    out.push(Action::journal(name, what));
                }
                if changed {
                    out.push(Action::Persist(name.clone()));
                }
                if changed && let Activity::Waiting(what) = &activity {
                    let why = what.clone().unwrap_or_else(|| "a question".into());
                    out.push(Action::journal(name, JournalEvent::Waiting { why }));
                }
                let restart = agent.restart_when_idle && agent.is_idle();
                self.active(now, name, &activity, None, out);
                if restart {
                    self.end(name, Purpose::Restart, out);
                }
            }
            _ => {}
        }
    }

    pub(super) fn screen(
        &mut self,
        now: Instant,
        name: &AgentName,
        attempt: Attempt,
        seen: Option<String>,
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let Stage::Starting {
            attempt: current,
            since,
            blocker,
            ..
        } = &mut agent.stage
        else {
            return;
        };
        if *current != attempt {
            return;
        }
        if *blocker != seen {
            blocker.clone_from(&seen);
            out.push(Action::Persist(name.clone()));
            if let Some(why) = seen {
                // The process stays: the user can answer in its pane, and then it continues.
                out.push(Action::journal(name, JournalEvent::Waiting { why }));
            }
        } else if seen.is_none() && now.saturating_duration_since(*since) >= START_LIMIT {
            let why = format!(
                "claude did not report its session within {} s",
                START_LIMIT.as_secs()
            );
            self.end(name, Purpose::BadStart(why), out);
        }
    }

    pub(super) fn exited(
        &mut self,
        now: Instant,
        name: &AgentName,
        of: ProcessId,
        end: Ending,
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.process() != Some(of) {
            return;
        }
        if self.phase != Phase::Open {
            // The save is running: its manifest records the exit, and the supervisor must not write
            // meanwhile.
            agent.mark_saved();
            return;
        }
        agent.wait = None;
        let Ending { exit, last_output } = end;
        let cause = cause_of_exit(exit);
        let how = exit.to_string();
        let what = JournalEvent::Exited {
            how,
            cause: cause.clone(),
        };
        out.push(Action::journal(name, what));
        match std::mem::replace(&mut agent.stage, Stage::Down) {
            Stage::Ending {
                purpose: Purpose::BadStart(why),
                ..
            } => self.failed(now, name, (why, Cause::CannotStart), true, out),
            Stage::Ending { .. } => {
                // The reason for the stop does not apply to an agent that is desired again.
                if agent.is_desired() {
                    agent.why = None;
                }
                out.push(Action::Persist(name.clone()));
                self.enqueue(name);
            }
            Stage::Starting { .. } => {
                let tail = last_output.map(|lines| format!(" ({lines})"));
                let tail = tail.unwrap_or_default();
                let why = format!("claude ended during start-up: {exit}{tail}");
                self.failed(now, name, (why, cause), true, out);
            }
            _ => self.ended_unasked(now, name, (exit, cause), out),
        }
    }

    pub(super) fn ended_unasked(
        &mut self,
        now: Instant,
        name: &AgentName,
        (exit, cause): (Exit, Cause),
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let why = exit.to_string();
        match agent.restart {
            Restart::Always => self.failed(now, name, (why, cause), true, out),
            Restart::OnFailure if !exit.is_clean() => {
                self.failed(now, name, (why, cause), true, out);
            }
            Restart::Never if !exit.is_clean() => {
                self.failed(now, name, (why, cause), false, out);
            }
            Restart::OnFailure | Restart::Never => {
                // It is finished: the next boot does not start it either.
                agent.desired = Desired::Stopped;
                agent.why = Some(why);
                agent.cause = Some(cause);
                out.push(Action::Persist(name.clone()));
                out.push(Action::journal(
                    name,
                    JournalEvent::Stopped {
                        by: "itself".into(),
                    },
                ));
            }
        }
    }

    /// Counts a failure: pauses before the next try, or gives up.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        name: &AgentName,
        (why, cause): (String, Cause),
        retry: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.why = Some(why.clone());
        agent.cause = Some(cause.clone());
        agent.failures += 1;
        if !agent.is_desired() || self.fleet == Fleet::Down {
            agent.stage = Stage::Down;
            out.push(Action::Persist(name.clone()));
            return;
        }
        let next = if retry {
            after_failure(agent.failures, jitter_seed(name))
        } else {
            Next::GiveUp
        };
        let what = match next {
            Next::Again(pause) => {
                agent.stage = Stage::Backoff { until: now + pause };
                agent.restarts += 1;
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                JournalEvent::Backoff {
                    failures: agent.failures,
                    pause_ms,
                    why,
                    cause,
                }
            }
            Next::GiveUp => {
                agent.stage = Stage::Failed;
                JournalEvent::Failed { why, cause }
            }
        };
        out.push(Action::Persist(name.clone()));
        out.push(Action::journal(name, what));
    }

    /// Ends an agent that has a process, and removes one without a process from the queue.
    pub(super) fn end(&mut self, name: &AgentName, purpose: Purpose, out: &mut Vec<Action>) {
        let closed = self.phase != Phase::Open;
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.restart_when_idle = false;
        if closed {
            return; // The save ends all agents; the request is kept in `desired`.
        }
        match &mut agent.stage {
            Stage::Ending {
                purpose: current, ..
            } => *current = purpose,
            // Launched, and its process not yet known: it is ended as soon as that is known.
            Stage::Starting {
                process: None,
                then,
                ..
            } => *then = Some(purpose),
            Stage::Starting {
                process: Some((process, _)),
                ..
            }
            | Stage::Up { process, .. } => {
                let process = *process;
                agent.stage = Stage::Ending { process, purpose };
                out.push(Action::End {
                    name: name.clone(),
                    process,
                });
            }
            Stage::Queued | Stage::Backoff { .. } | Stage::Down | Stage::Failed => {
                if purpose == Purpose::Restart {
                    agent.stage = Stage::Down;
                    agent.failures = 0;
                    self.enqueue(name);
                } else if agent.stage != Stage::Failed {
                    agent.stage = Stage::Down;
                    out.push(Action::Persist(name.clone()));
                }
            }
            Stage::Saved => {}
        }
    }
}
