//! Tests of each kind of damage to each file of spotkeep, Claude and git, with each command.
//!
//! No command panics. No new session replaces one that has a transcript. The file is restored
//! automatically, or a message names it. Once the file is repaired, the fleet continues.

mod damage;
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sys::process::{ProcessId, Signal};

use crate::support::{Lab, is_root, said, skip};
use damage::{Damage, NEWER};
use files::File;

/// The commands that are run for every file and kind of damage, before a keeper runs and while it
/// does.
const VERBS: [&[&str]; 11] = [
    &["status"],
    &["status", "--json"],
    &["ls"],
    &["doctor"],
    &["doctor", "--json"],
    &["save", "--json"],
    &["restore", "--dry-run"],
    &["up", "--dry-run"],
    &["checkpoint", "ls", "a"],
    &["backup", "now", "--dry-run"],
    &["events"],
];

/// A fleet that was saved, and a copy of its data directory.
struct Matrix {
    lab: Lab,
    /// Every transcript with its contents.
    words: BTreeMap<PathBuf, Vec<u8>>,
    sessions: BTreeMap<&'static str, String>,
}

const AGENTS: [&str; 2] = ["a", "b"];

impl Matrix {
    /// Saves two agents; one has ended its turn, the other is interrupted in a tool.
    fn new(file: &File) -> Self {
        let lab = Lab::of_a_user();
        lab.declare("a", "idle", "");
        lab.declare("b", "tool", "");
        lab.give_away();
        let keeper = lab.keeper();
        lab.wait_done("a");
        lab.wait_open("b");
        lab.run(&["save", "--final"]).ok();
        keeper.let_go();
        lab.next_boot();
        (file.before)(&lab);
        lab.give_away();
        said(
            Command::new("cp")
                .arg("-a")
                .arg(lab.data_dir())
                .arg(kept(&lab)),
        )
        .ok();
        let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
        Self {
            words: lab.transcripts().into_iter().map(read).collect(),
            sessions: AGENTS.map(|name| (name, lab.session_of(name))).into(),
            lab,
        }
    }

    /// Restores the data directory from the copy, in the next boot.
    fn reset(&self) {
        self.lab.next_boot();
        fs::remove_dir_all(self.lab.data_dir()).unwrap();
        let mut copy = Command::new("cp");
        said(copy.arg("-a").arg(kept(&self.lab)).arg(self.lab.data_dir())).ok();
        fs::write(self.lab.log(), "").unwrap();
    }

    /// Damages a file and checks the result before and after its repair.
    fn check_cell(&self, file: &File, damage: &Damage) {
        let cell = format!("{} {}", file.name, damage.name);
        let lab = &self.lab;
        self.reset();
        let path = (file.find)(lab);
        (damage.inflict)(&path);
        let mut told = self.ask(&cell);
        let keeper = Run::start(lab);
        keeper.settle(&cell);
        told += &self.ask(&cell);
        keeper.end();
        told += &fs::read_to_string(lab.log()).unwrap();
        told += &fs::read_to_string(lab.file("session-state/journal.jsonl")).unwrap_or_default();
        assert!(!told.contains("panicked"), "{cell}: {told}");

        self.assert_no_new_session(&cell, &path);
        let is_back = self.all_are_back() && is_whole(&path, file);
        let is_named = file.words.iter().any(|word| told.contains(word));
        assert!(
            is_back || is_named,
            "{cell}: the file was neither restored nor named: {told}"
        );
        if damage.name == NEWER && file.survives {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains("novelty"), "{cell}: {text}");
        }

        lab.next_boot();
        self.repair(&path, file);
        let keeper = Run::start(lab);
        for name in AGENTS {
            lab.until(
                &format!("{cell}: {name} continues after the repair"),
                || {
                    let agent = lab.agent(name);
                    (!agent["pid"].is_null() && agent["state"] == "idle").then_some(())
                },
            );
        }
        keeper.end();
        self.assert_no_new_session(&cell, Path::new(""));
        for (name, session) in &self.sessions {
            assert_eq!(lab.session_of(name), *session, "{cell}");
        }
        let work = fs::read_to_string(lab.workspace("a").join("untracked.txt"));
        assert_eq!(work.unwrap(), "untracked\n", "{cell}");
    }

    /// Runs every command, asserts that none panics, and returns their output.
    fn ask(&self, cell: &str) -> String {
        let mut told = String::new();
        for verb in VERBS {
            let said = self.lab.run(verb);
            let is_sound = (0..=3).contains(&said.code) && !said.err.contains("panicked");
            assert!(is_sound, "{cell}: {verb:?}: {said:?}");
            told += &said.out;
            told += &said.err;
        }
        told
    }

    /// Asserts that each transcript but the damaged one (`but`) has its old contents, and that no
    /// session was added.
    fn assert_no_new_session(&self, cell: &str, but: &Path) {
        let begun: Vec<_> = AGENTS
            .iter()
            .flat_map(|name| self.lab.events(name, "starting"))
            .filter(|line| line.data["how"] == "first" && line.boot_id != "boot-1")
            .collect();
        assert!(begun.is_empty(), "{cell}: {begun:?}");
        for path in self.lab.transcripts() {
            let known = self.words.get(&path);
            assert!(known.is_some(), "{cell}: {} is new", path.display());
            if path != but {
                let now = fs::read(&path).unwrap();
                let kept = known.is_some_and(|words| now.starts_with(words));
                assert!(kept, "{cell}: a part of {} is lost", path.display());
            }
        }
    }

    /// Whether both agents have been resumed in this boot, in their sessions.
    fn all_are_back(&self) -> bool {
        let boot_id = self.lab.boot_id();
        AGENTS.iter().all(|name| {
            let resumed = self.lab.events(name, "resumed");
            resumed.iter().any(|line| {
                line.boot_id == boot_id && line.data["session_id"] == self.sessions[name]
            })
        })
    }

    /// Repairs a file as a user would: restores it from the copy if it is damaged, and its owner
    /// and mode.
    fn repair(&self, path: &Path, file: &File) {
        let lab = &self.lab;
        let relative = path.strip_prefix(lab.data_dir()).unwrap();
        let copy = kept(lab).join(relative);
        let meta = fs::metadata(&copy).unwrap();
        if path.exists() {
            chown_as(path, &meta);
        }
        if !is_whole(path, file) {
            fs::remove_file(path).ok();
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(&copy, path).unwrap();
            chown_as(path, &meta);
        }
    }
}

fn chown_as(path: &Path, meta: &fs::Metadata) {
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode())).unwrap();
    if is_root() {
        chown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
    }
}

fn kept(lab: &Lab) -> PathBuf {
    lab.dir.join("kept")
}

/// Whether a file is complete; for most files, a missing one is not.
fn is_whole(path: &Path, file: &File) -> bool {
    (file.is_whole)(&fs::read(path).unwrap_or_default())
}

/// A keeper process that may refuse to start.
pub struct Run<'a> {
    lab: &'a Lab,
    child: Child,
}

impl<'a> Run<'a> {
    pub fn start(lab: &'a Lab) -> Self {
        let log = fs::OpenOptions::new().append(true).open(lab.log()).unwrap();
        let mut run = lab.spotkeep(&["run"]);
        run.stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Self {
            lab,
            child: run.spawn().unwrap(),
        }
    }

    /// Waits until the keeper has ended or answers.
    pub fn begun(&self, cell: &str) {
        let pid = i32::try_from(self.child.id()).unwrap();
        self.lab
            .until(&format!("{cell}: the keeper has begun"), || {
                let is_alive = ProcessId::from_pid(pid).is_some_and(ProcessId::is_alive);
                let said = self.lab.run(&["status", "--json"]);
                let status: Value = serde_json::from_str(&said.out).unwrap_or_default();
                (!is_alive || status["keeper"] == "running").then_some(())
            });
    }

    /// Waits until the keeper has ended, or until no agent is starting any more.
    pub fn settle(&self, cell: &str) {
        let pid = i32::try_from(self.child.id()).unwrap();
        self.lab
            .until(&format!("{cell}: the keeper has settled"), || {
                let is_alive = ProcessId::from_pid(pid).is_some_and(ProcessId::is_alive);
                if !is_alive {
                    return Some(());
                }
                let said = self.lab.run(&["status", "--json"]);
                let status: Value = serde_json::from_str(&said.out).unwrap_or_default();
                let rests = ["idle", "failed", "backoff", "waiting", "stalled", "stopped"];
                let agents = status["agents"].as_array()?;
                let settled = agents
                    .iter()
                    .all(|agent| rests.iter().any(|rest| agent["state"] == *rest));
                (settled && status["keeper"] == "running").then_some(())
            });
    }

    pub fn end(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        if let Some(process) = ProcessId::from_pid(pid).and_then(ProcessId::open) {
            process.signal(Signal::Term);
        }
        let code = self.child.wait().unwrap().code();
        assert!(
            code.is_some_and(|code| (0..=3).contains(&code)),
            "{code:?}: {}",
            self.lab.account()
        );
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs one row of the matrix: a file, with each kind of damage.
fn row(test: &str, name: &str) {
    let file = files::ALL.iter().find(|file| file.name == name).unwrap();
    if file.needs_restic && !crate::backup::has_restic(test) {
        return;
    }
    if !is_root() {
        skip(
            test,
            "only root can give a file to another user; the other cases run",
        );
    }
    let matrix = Matrix::new(file);
    for damage in damage::ALL {
        if damage.name != NEWER || file.versioned {
            matrix.check_cell(file, &damage);
        }
    }
}

macro_rules! rows {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            row(stringify!($test), $name);
        })*

        #[test]
        fn every_file_of_the_matrix_has_its_test() {
            let tested = [$($name),*];
            let names: Vec<&str> = files::ALL.iter().map(|file| file.name).collect();
            assert_eq!(tested.as_slice(), names);
        }
    };
}

rows! {
    any_damage_to_an_agents_record: "an agent's record",
    any_damage_to_root_json: "root.json",
    any_damage_to_the_journal: "the journal",
    any_damage_to_a_manifest: "a manifest",
    any_damage_to_spotkeep_toml: "spotkeep.toml",
    any_damage_to_claude_json: ".claude.json",
    any_damage_to_a_transcript: "a transcript",
    any_damage_to_a_transcript_that_is_in_a_backup: "a transcript in a backup",
    any_damage_to_a_session_file: "a session file",
    any_damage_to_the_index_of_a_workspace: "the index of a workspace",
    any_damage_to_the_ref_of_a_checkpoint: "the ref of a checkpoint",
    any_damage_to_the_commit_of_a_checkpoint: "the commit of a checkpoint",
    any_damage_to_a_pack: "a pack",
    any_damage_to_the_state_of_backups: "the state of backups",
    any_damage_to_the_shown_state_of_backups: "the shown state of backups",
    any_damage_to_the_index_of_backups: "the index of backups",
    any_damage_to_the_key_of_backups: "the key of backups",
    any_damage_to_the_lock: "the lock",
}
