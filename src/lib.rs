//! spotkeep keeps Claude Code agents alive across spot VM preemptions.
//!
//! # The rooms
//!
//! The crates below this one, each of which says in its manifest which others it may use:
//!
//! | crate | what it is for |
//! |---|---|
//! | [`sys`] | files, processes, signals; one blocking GET; clocks; errors with hints |
//! | [`state`] | the directory that survives: its layout, what we remember in it, what the user declares |
//! | [`claude`] | all that is known of Claude Code; nothing else knows it |
//! | [`checkpoint`] | uncommitted work as hidden commits, by the real git with nothing of the repository executed |
//! | [`supervisor`] | what the keeper decides, purely: events in, actions out; one [`supervisor::notice::Notice`] |
//! | [`gcp`] | the VM from outside: made with gcloud so that it comes back by itself |
//! | [`drill`] | both journeys rehearsed in a sandbox, and counted against the model's own log |
//!
//! The rooms of this one:
//!
//! | room | what it is for |
//! |---|---|
//! | [`cli`] | one file per verb: arguments in, text out, no decisions |
//! | [`top`] | the fleet on a screen: a pure model and a pure view, a feed that waits for changes |
//! | [`keeper`] | the daemon: one loop around the supervisor, effects that act, the control socket |
//! | [`save`], [`resume`] | the two journeys: from a notice to *safe*; from the next boot to resumed agents |
//! | [`adopt`] | sessions that exist already become agents |
//! | [`agent`] | how a process becomes an agent's claude, and how it ends |
//! | [`setup`], [`doctor`] | a VM made ready, and looked over |
//! | [`report`] | what became of the fleet over a week, out of the journal: figures, and a page to look at |
//! | [`metadata`] | the metadata server of a cloud: who tells that the machine is about to end |
//! | [`notify`] | telling somebody else: a webhook, a command |
//! | [`backup`] | history in a restic repository: made, copied, checked, given back |
//! | [`storage`], [`systemd`] | the disk, its mount and the links to it; units, cgroups, the word to the service manager |
//! | [`tmux`] | our own tmux server, one session per agent |
//!
//! # The way of the data
//!
//! Signals, the metadata server, the control socket, Claude's session files and the ends of processes become
//! [events](supervisor::Event). the supervisor takes one at a time, together with the time, and answers with
//! [actions](supervisor::Action); the effects do them, and what comes of them are events again. A notice is one
//! action, [`supervisor::Action::Save`], and one journey, [`save::Save::run_final`]; each start goes through
//! [`resume::prepare`], which decides it as one [`resume::LaunchPlan`], is made durable, and only then through
//! [`resume::run`].
//!
//! # What always holds
//!
//! 1. From a notice until somebody says that this boot goes on, nothing is started in it, whoever asks and
//!    however often the keeper is restarted.
//! 2. No session is ever run twice, and none that had words is ever begun anew.
//! 3. What is used has been made durable before: session ids, launches, requests, the epoch.
//! 4. Every wait has an end, and everything in a save ends by its one deadline.
//!
//! `ARCHITECTURE.md` says why, and where each of these is proved.

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
