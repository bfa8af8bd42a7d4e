//! spotkeep keeps Claude Code agents alive across spot VM preemptions.
//!
//! # Crates and modules
//!
//! Each of these crates declares in its manifest which others it may use:
//!
//! | crate | purpose |
//! |---|---|
//! | [`sys`] | files, processes, signals; one blocking GET; clocks; errors with hints |
//! | [`state`] | the data directory: its layout, records, journal and configuration |
//! | [`claude`] | everything specific to Claude Code: its files, its screen, its arguments |
//! | [`checkpoint`] | uncommitted work as hidden commits, made by git without running code of the repository |
//! | [`supervisor`] | the keeper's decisions, pure: events in, actions out; [`supervisor::notice::Notice`] |
//! | [`gcp`] | VMs on Google Cloud, created with gcloud so that they restart automatically |
//! | [`drill`] | rehearsal of a preemption in a sandbox, checked against the model's own log |
//!
//! The modules of this crate:
//!
//! | module | purpose |
//! |---|---|
//! | [`cli`] | the command line: one file per verb, without decisions |
//! | [`top`] | the live view of the fleet: a pure model, a pure view, a feed that waits for changes |
//! | [`keeper`] | the daemon: one loop around the supervisor, its effects, the control socket |
//! | [`save`], [`resume`] | from a notice to *safe*; from the next boot to resumed agents |
//! | [`adopt`] | import of existing sessions as agents |
//! | [`agent`] | executing and ending an agent's process |
//! | [`setup`], [`doctor`] | preparing a VM, and checking it |
//! | [`report`] | figures on the fleet over a week, from the journal; also as a web page |
//! | [`metadata`] | the metadata server of a cloud, which announces a preemption |
//! | [`notify`] | notifications through a webhook or a command |
//! | [`backup`] | backups in a restic repository: create, copy, check, restore |
//! | [`storage`], [`systemd`] | the disk, its mount and the links to it; units, cgroups, `sd_notify` |
//! | [`tmux`] | spotkeep's own tmux server, one session per agent |
//!
//! # Data flow
//!
//! Signals, the metadata server, the control socket, Claude Code's session files and the ends of
//! processes become [events](supervisor::Event). The supervisor takes one event at a time, together
//! with the time, and returns [actions](supervisor::Action). The effects carry them out and report
//! the results as events. A notice leads to one action, [`supervisor::Action::Save`], which runs
//! [`save::Save::run_final`]. Each start of an agent goes through [`resume::prepare`], which
//! returns a [`resume::LaunchPlan`]. The plan is made durable before [`resume::run`] carries it
//! out.
//!
//! # Invariants
//!
//! 1. From a notice until the user reports that this boot goes on, nothing is started in it,
//!    however often the keeper is restarted.
//! 2. No session is ever run twice, and a session with a conversation is never replaced by an empty
//!    one.
//! 3. Session ids, launches, requests and the epoch are durable before they are used.
//! 4. Every wait has a limit, and a save ends by its one deadline.
//!
//! `docs/decisions` gives the reasons; `ARCHITECTURE.md` says where each of these is tested.

pub mod adopt;
pub mod agent;
pub mod backup;
pub mod cli;
pub mod doctor;
pub mod keeper;
pub mod metadata;
pub mod notify;
pub mod report;
pub mod resume;
pub mod save;
pub mod setup;
pub mod storage;
pub mod systemd;
pub mod tmux;
pub mod top;
