//! Tests of `spotkeep adopt`: existing sessions become agents.
//!
//! The fake Claude runs as a process that a user has started by hand, outside of spotkeep.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claude::transcript::locate::slug;
use drill::session_file::transcript_marks;
use serde_json::Value;
use sys::process::ProcessId;

use crate::real_claude::Person;
use crate::support::{Lab, arguments, git, prompt_of};

/// The user's own Claude configuration directory (`~/.claude`).
pub fn own_config(lab: &Lab) -> PathBuf {
    lab.dir.join("home/.claude")
}

/// Creates a repository outside of the data directory, with uncommitted work in it.
pub fn outside(lab: &Lab, name: &str) -> PathBuf {
    let inside = lab.make_workspace(name);
    let place = lab.dir.join("work").join(name);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::rename(inside, &place).unwrap();
    place
}

/// Starts a session by hand in `cwd`, and waits until the model has received its prompt.
pub fn start_person(lab: &Lab, cwd: &Path, name: &str, plan: &str) -> Person {
    let person = Person::with_own_config(lab, &own_config(lab), cwd, &[&prompt_of(name, plan, 1)]);
    lab.until("the model was asked", || {
        let request_log = lab.model.request_log();
        let account = request_log.agents.get(name)?;
        let there = account.open.is_some() || account.turns_ended > 0;
        there.then_some(())
    });
    person
}

/// Returns the id of a session that was started by hand and whose Claude has ended.
fn ended_session(lab: &Lab, cwd: &Path, name: &str) -> String {
    let person = start_person(lab, cwd, name, "idle");
    let session = person.session();
    wait_written(lab, name, &session);
    person.leaves();
    session
}

/// Waits until all messages of the session are in its transcript: the fake writes them a tenth of a
/// second later.
fn wait_written(lab: &Lab, name: &str, session: &str) {
    lab.until("all messages are in the transcript", || {
        let written = transcript_marks(&own_config(lab), session);
        let request_log = lab.model.request_log();
        let records = &request_log.agents.get(name)?.records;
        let all = records
            .iter()
            .all(|record| written.contains(&record.marker));
        all.then_some(())
    });
}

/// Returns the row of a session in the plan.
fn row(lab: &Lab, args: &[&str], session: &str) -> Value {
    let said = lab.run(&[&["adopt", "--json"], args].concat()).sound();
    let plan = said.json();
    let rows = plan["sessions"].as_array().unwrap();
    let is_meant = |row: &&Value| row["session_id"] == session;
    rows.iter().find(is_meant).cloned().unwrap_or(Value::Null)
}

/// Asserts that the session continues as an agent, under the same id and with nothing lost.
fn assert_goes_on(lab: &Lab, name: &str, session: &str) {
    lab.wait_up(name, 1);
    lab.wait_state(name, "idle");
    assert_eq!(lab.session_of(name), session);
    lab.run(&["send", name, &prompt_of(name, "idle", 2)]).ok();
    lab.until("its next turn ends", || {
        (lab.model.request_log().agents[name].turns_ended == 2).then_some(())
    });
    lab.assert_nothing_lost(name);
    assert_eq!(lab.transcripts().len(), 1);
}

#[test]
fn without_yes_the_plan_is_shown_and_nothing_is_done() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let session = ended_session(&lab, &place, "api");
    let config = lab.config_text();
    let said = lab.run(&["adopt", &session]).ok();
    for words in [
        "api",
        &session[..8],
        place.to_str().unwrap(),
        "nothing was done",
    ] {
        assert!(said.out.contains(words), "{words}: {said:?}");
    }
    let row = row(&lab, &["--move", &session], &session);
    assert_eq!(row["action"], "move", "{row}");
    assert_eq!(row["done"], false);
    let to = lab.workspace("api");
    assert_eq!(row["workspace"], to.to_str().unwrap());
    assert!(row["workspace_bytes"].as_u64().unwrap() > 0, "{row}");
    assert!(row["transcript_bytes"].as_u64().unwrap() > 0, "{row}");
    assert!(
        row["changed_at"].is_string() && row["live"].is_null(),
        "{row}"
    );
    assert_eq!(lab.config_text(), config);
    assert!(place.is_dir() && !to.exists());
    assert!(lab.transcripts().is_empty() && lab.record("api").is_null());
    lab.run(&["adopt", "nothing"])
        .refused(2, "there is no session", "adopt --all");
}

#[test]
fn a_session_whose_workspace_moves_into_the_data_directory_continues_and_is_found_there() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let session = ended_session(&lab, &place, "api");
    let folder = own_config(&lab).join("projects").join(slug(&place));
    fs::create_dir_all(folder.join("memory")).unwrap();
    fs::write(folder.join("memory/MEMORY.md"), "remember").unwrap();
    let original = folder.join(format!("{session}.jsonl"));
    let words = fs::read(&original).unwrap();
    let status = git(&place, &["status", "--porcelain"]);

    lab.run(&["adopt", "--yes", "--move", &session[..8]]).ok();
    let to = lab.workspace("api");
    assert!(!place.exists());
    assert_eq!(git(&to, &["status", "--porcelain"]), status);
    assert_eq!(
        fs::read(&original).unwrap(),
        words,
        "the original was changed"
    );
    let copy = lab.transcript("api");
    assert_eq!(fs::read(&copy).unwrap(), words);
    let folder = lab.file(".claude/projects").join(slug(&to));
    assert_eq!(copy.parent().unwrap(), folder);
    assert!(folder.join("memory/MEMORY.md").exists());
    assert_eq!(lab.record("api")["transcript"]["length"], words.len());
    assert!(
        lab.config_text()
            .contains("[agents.api]\nworkspace = \"workspaces/api\""),
        "{}",
        lab.config_text()
    );

    let _keeper = lab.keeper();
    assert_goes_on(&lab, "api", &session);
    let words = arguments(lab.process("api"));
    assert!(
        words.contains(&session),
        "the session is not resumed by its id: {words:?}"
    );
    // A second plan shows it as an agent.
    let row = row(&lab, &["--all"], &session);
    assert_eq!(row["action"], "agent", "{row}");
}

#[test]
fn a_turn_that_was_cut_off_continues_after_adoption_without_a_note_of_a_preemption() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let person = start_person(&lab, &place, "api", "tool");
    lab.until("the open tool runs", || {
        place.join("open.txt").exists().then_some(())
    });
    let session = session_of(&own_config(&lab), person.claude);
    // As when the terminal is closed.
    person.leaves();
    let planned = row(&lab, &[&session], &session);
    assert!(
        planned["turn_open"].as_str().unwrap().contains("in a tool"),
        "{planned}"
    );
    lab.run(&["adopt", "--yes", &session]).ok();
    let _keeper = lab.keeper();
    lab.wait_done("api");
    let note = arguments(lab.process("api")).pop().unwrap();
    assert!(
        note.contains("restarted") && !note.contains("preempted"),
        "{note}"
    );
    assert!(place.join("continued.txt").exists());
    assert_eq!(lab.session_of("api"), session);
}

pub fn session_of(config: &Path, claude: ProcessId) -> String {
    let file = claude::session_file::read(config, claude.pid).unwrap();
    file.session_id
}

#[test]
fn a_session_in_a_terminal_is_refused_and_is_ended_and_adopted_with_end() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let person = start_person(&lab, &place, "api", "idle");
    let session = person.session();
    wait_written(&lab, "api", &session);
    let planned = row(&lab, &[&session], &session);
    assert_eq!(planned["action"], "refused", "{planned}");
    assert_eq!(planned["live"]["pid"], person.claude.pid, "{planned}");
    assert_eq!(
        planned["live"]["tmux_socket"],
        person.tmux.socket().to_str().unwrap()
    );
    assert!(
        planned["live"]["tmux_pane"]
            .as_str()
            .unwrap()
            .starts_with('%')
    );
    let hint = planned["hint"].as_str().unwrap();
    assert!(
        hint.contains(&format!("adopt --yes --end {session}")),
        "{hint}"
    );

    let said = lab.run(&["adopt", "--yes", &session]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(person.claude.is_alive() && lab.record("api").is_null());
    lab.run(&["adopt", "--yes", "--end", "--stopped", &session])
        .ok();
    assert!(!person.claude.is_alive());
    assert!(lab.config_text().contains(place.to_str().unwrap()));

    let _keeper = lab.keeper();
    assert_eq!(lab.wait_state("api", "stopped")["why"], "stopped by you");
    lab.run(&["start", "api"]).ok();
    assert_goes_on(&lab, "api", &session);
    let flag = "--dangerously-skip-permissions".to_owned();
    assert!(
        arguments(lab.process("api")).contains(&flag),
        "the agent lacks an argument of the session that was started by hand"
    );
}

#[test]
fn a_copy_leaves_the_workspace_in_place_and_a_worktree_outside_is_neither_moved_nor_copied() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let linked = lab.dir.join("work/linked");
    git(&place, &["worktree", "add", "-q", linked.to_str().unwrap()]);
    let (first, second) = (
        ended_session(&lab, &place, "api"),
        ended_session(&lab, &linked, "linked"),
    );
    for how in ["--move", "--copy"] {
        let refused = row(&lab, &[how, &second], &second);
        assert_eq!(refused["action"], "refused", "{refused}");
        let why = refused["why"].as_str().unwrap();
        assert!(why.contains("is a worktree of"), "{why}");
    }
    let refused = row(&lab, &["--move", &first], &first);
    assert_eq!(refused["action"], "refused", "{refused}");

    lab.run(&["adopt", "--yes", "--copy", "--name", "mine", &first])
        .ok();
    let said = lab.run(&["adopt", "--yes", &second]).ok();
    assert!(
        said.err.contains("is outside the data directory"),
        "{said:?}"
    );
    assert!(place.is_dir() && linked.is_dir());
    let status = |dir: &Path| git(dir, &["status", "--porcelain"]);
    assert_eq!(status(&lab.workspace("mine")), status(&place));
    assert_eq!(lab.record("linked")["cwd"], linked.to_str().unwrap());
    assert_eq!(lab.session_of("mine"), first);
}

#[test]
fn an_interrupted_adoption_is_completed_by_the_next() {
    let lab = Lab::new();
    let place = outside(&lab, "api");
    let session = ended_session(&lab, &place, "api");
    // Interrupted before the workspace moved: the record exists, and no declaration.
    lab.run(&["adopt", "--yes", "--move", &session]).ok();
    let declared = lab.config_text();
    let undeclared = declared.split("\n[agents.api]").next().unwrap().to_owned();
    fs::rename(lab.workspace("api"), &place).unwrap();
    lab.write_config(&undeclared);
    lab.run(&["adopt", "--yes", "--move", &session]).ok();
    assert_eq!(lab.config_text().trim_end(), declared.trim_end());
    assert!(lab.workspace("api").is_dir() && !place.exists());
    // Interrupted after that.
    lab.write_config(&undeclared);
    lab.run(&["adopt", "--yes", "--move", &session]).ok();
    assert_eq!(lab.config_text().trim_end(), declared.trim_end());
    let _keeper = lab.keeper();
    assert_goes_on(&lab, "api", &session);
}

#[test]
fn a_running_keeper_starts_an_adopted_session() {
    let lab = Lab::new();
    let _keeper = lab.keeper();
    let place = outside(&lab, "api");
    let session = ended_session(&lab, &place, "api");
    let said = lab.run(&["adopt", "--yes", "--move", &session]).ok();
    assert!(said.out.contains("the keeper starts them now"), "{said:?}");
    assert_goes_on(&lab, "api", &session);
}

#[test]
fn a_workspace_on_another_filesystem_is_copied_and_the_original_is_kept() {
    let lab = Lab::new();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(&lab.dir) {
        return crate::support::skip(
            "a_workspace_on_another_filesystem_is_copied_and_the_original_is_kept",
            "/tmp and /dev/shm are one filesystem",
        );
    }
    let inside = lab.make_workspace("api");
    let place = elsewhere.path().join("api");
    spotkeep::storage::merge_tree::merge(&inside, &place).unwrap();
    fs::remove_dir_all(&inside).unwrap();
    let session = ended_session(&lab, &place, "api");
    let said = lab.run(&["adopt", "--yes", "--move", &session]).ok();
    assert!(said.out.contains("the original is kept as"), "{said:?}");
    assert!(!place.exists() && lab.workspace("api").join("untracked.txt").exists());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    let _keeper = lab.keeper();
    assert_goes_on(&lab, "api", &session);
}

#[test]
fn a_session_in_the_data_directorys_configuration_is_adopted_in_place() {
    let lab = Lab::new();
    let place = lab.make_workspace("mine");
    let person = Person::with_own_config(
        &lab,
        &lab.file(".claude"),
        &place,
        &[&prompt_of("mine", "idle", 1)],
    );
    let session = person.session();
    lab.until("its turn ends", || {
        let request_log = lab.model.request_log();
        (request_log.agents.get("mine")?.turns_ended == 1).then_some(())
    });
    person.leaves();
    let transcripts = lab.transcripts();
    lab.run(&["adopt", "--yes", &session]).ok();
    assert_eq!(lab.transcripts(), transcripts);
    let _keeper = lab.keeper();
    assert_goes_on(&lab, "mine", &session);
}
