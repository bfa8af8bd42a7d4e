//! Tests of restoring lost files from a backup, and a whole data directory from a remote copy.

use std::fs;
use std::path::Path;

use crate::backup::has_restic;
use crate::real_claude::{self, with_oldest_and_newest};
use crate::s3::S3;
use crate::support::{Lab, SPOTKEEP, arguments, said};

/// Returns a lab with an agent that has a transcript and a backup; no keeper and no agent runs.
fn kept() -> Lab {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    keep(&lab);
    lab
}

/// Runs one turn of the lab's agent, and makes a backup.
fn keep(lab: &Lab) {
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the transcript is on record", || {
        lab.record("a")["transcript"].is_object().then_some(())
    });
    keeper.let_go();
    lab.next_boot();
    lab.run(&["backup", "now"]).ok();
}

fn note_of(lab: &Lab) -> String {
    fs::read_to_string(lab.file("session-state/notes/a.md")).unwrap_or_default()
}

#[test]
fn a_missing_transcript_is_restored_before_the_agent_starts_and_this_is_shown() {
    if !has_restic("a_missing_transcript_is_restored_before_the_agent_starts_and_this_is_shown") {
        return;
    }
    let lab = kept();
    let (session, path) = (lab.session_of("a"), lab.transcript("a"));
    let words = fs::read(&path).unwrap();
    // As by Claude's own clean-up of old transcripts, or by an agent's `rm -rf`.
    fs::remove_dir_all(lab.file(".claude/projects")).unwrap();
    let plan = lab.run(&["restore", "--dry-run"]).ok().out;
    assert!(plan.contains("brings back the transcript"), "{plan}");
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert_eq!(lab.session_of("a"), session);
    assert!(fs::read(&path).unwrap().starts_with(&words));
    let repaired = lab.events("", "repaired");
    let told = repaired.iter().any(|line| {
        line.data["what"]
            .to_string()
            .contains("brought back from the backup of")
    });
    assert!(told, "{}", lab.account());
    let words = arguments(lab.process("a")).join(" ");
    assert!(words.contains("brought back from an older copy"), "{words}");
    assert!(
        note_of(&lab).contains("was brought back from the backup"),
        "{}",
        note_of(&lab)
    );
    // It stays in the backups for as long as the policy says.
    let list = lab
        .run(&["backup", "ls", "--session", &session, "--json"])
        .ok();
    assert_eq!(list.json()["backups"].as_array().unwrap().len(), 1);
}

#[test]
fn a_transcript_that_shrank_is_restored_and_one_that_grew_is_left_alone() {
    if !has_restic("a_transcript_that_shrank_is_restored_and_one_that_grew_is_left_alone") {
        return;
    }
    let lab = kept();
    let path = lab.transcript("a");
    let whole = fs::read(&path).unwrap();
    let second_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let half = second_line
        + whole[second_line..]
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap()
        + 1;
    fs::write(&path, &whole[..half]).unwrap();
    // The longer version is restored even when the newest backup holds the short one.
    lab.run(&["backup", "now"]).ok();
    lab.run(&["backup", "recover"]).ok();
    assert_eq!(fs::read(&path).unwrap(), whole);
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.contains(".shrunk-")),
        "{names:?}"
    );

    let mut grown = whole.clone();
    grown.extend_from_slice(b"{\"type\":\"user\",\"message\":{\"content\":\"more\"}}\n");
    fs::write(&path, &grown).unwrap();
    lab.run(&["backup", "recover"]).ok();
    assert_eq!(fs::read(&path).unwrap(), grown);
}

#[test]
fn a_missing_workspace_is_restored_with_its_staged_state() {
    if !has_restic("a_missing_workspace_is_restored_with_its_staged_state") {
        return;
    }
    let lab = kept();
    let before = crate::support::git(&lab.workspace("a"), &["status", "--porcelain"]);
    fs::remove_dir_all(lab.workspace("a")).unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    // The agent continues in it at once, so there may be more by now.
    let after = crate::support::git(&lab.workspace("a"), &["status", "--porcelain"]);
    let missing: Vec<&str> = before
        .lines()
        .filter(|line| !after.lines().any(|now| now == *line))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {after}");
    let text = fs::read_to_string(lab.workspace("a").join("tracked.txt")).unwrap();
    assert!(text.starts_with("staged, then changed\n"), "{text}");
    let left = fs::read_dir(lab.file("session-state")).unwrap().flatten();
    assert!(
        left.into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with(".brought"))
    );
}

#[test]
fn a_missing_transcript_without_a_backup_is_refused_and_no_new_session_is_started() {
    if !has_restic("a_missing_transcript_without_a_backup_is_refused_and_no_new_session_is_started")
    {
        return;
    }
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.run(&["backup", "now"]).ok();
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the transcript is on record", || {
        lab.record("a")["transcript"].is_object().then_some(())
    });
    keeper.let_go();
    lab.next_boot();
    fs::remove_dir_all(lab.file(".claude/projects")).unwrap();
    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "failed");
    assert!(
        agent["why"].as_str().unwrap().contains("no backup has it"),
        "{agent}"
    );
    assert!(lab.transcripts().is_empty());
}

/// Restores a data directory at another path, from the copy that this lab has made.
fn another_machine(lab: &Lab, s3: &S3) -> Lab {
    let key = lab.file("backups.key");
    let other = Lab::bare();
    let environment = other.dir.join("copy.env");
    fs::write(&environment, S3::environment()).unwrap();
    private(&environment);
    let mut restore = other.program(SPOTKEEP);
    restore
        .arg("--data-dir")
        .arg(other.data_dir())
        .args(["restore", "--json", "--from", &s3.url()])
        .arg("--password-file")
        .arg(&key)
        .arg("--env-file")
        .arg(&environment);
    let made = said(&mut restore).ok().json();
    assert_eq!(made["agents"], serde_json::json!(["a"]));
    // A second restore is refused and changes nothing.
    said(&mut restore).refused(2, "only where there is none", "restore");
    other
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Declares the remote copy in a lab's `spotkeep.toml`.
fn copy_to(lab: &Lab, s3: &S3) {
    let environment = lab.file("copy.env");
    fs::write(&environment, S3::environment()).unwrap();
    private(&environment);
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[backup]\ncopy_to = \"{}\"\nenv_file = \"copy.env\"\n",
        s3.url()
    ));
}

/// Writes the fakes and the paths of the new machine into the `spotkeep.toml` of the old one.
fn move_in(other: &Lab, old: &Lab) {
    let text = other
        .config_text()
        .replace(&old.model.url(), &other.model.url())
        .replace(
            &old.dir.display().to_string(),
            &other.dir.display().to_string(),
        );
    other.write_config(&text);
}

#[test]
fn a_data_directory_is_restored_from_the_copy_on_a_new_machine_and_its_agents_continue() {
    if !has_restic(
        "a_data_directory_is_restored_from_the_copy_on_a_new_machine_and_its_agents_continue",
    ) {
        return;
    }
    let s3 = S3::start();
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    copy_to(&lab, &s3);
    keep(&lab);
    assert!(s3.count() > 3);
    let status = lab.status();
    assert!(status["backup"]["copied_at"].is_string(), "{status}");
    let doctor = lab.run(&["doctor"]).out;
    for word in [" ago; copied to s3:", " ago; checked never"] {
        assert!(doctor.contains(word), "{word}: {doctor}");
    }
    // The environment of the copy is a secret.
    assert!(!status.to_string().contains("lab-secret"));
    let (session, words) = (lab.session_of("a"), fs::read(lab.transcript("a")).unwrap());

    let other = another_machine(&lab, &s3);
    move_in(&other, &lab);
    assert_eq!(fs::read(other.transcript("a")).unwrap(), words);
    let _keeper = other.keeper();
    other.wait_up("a", 2);
    other.wait_state("a", "idle");
    assert_eq!(other.session_of("a"), session);
    // The new data directory makes its own backups, into the same copy.
    let before = s3.count();
    put_env(&other);
    let made = other.run(&["backup", "now", "--json"]).ok().json();
    assert_eq!(made["outcome"], "made", "{made}");
    assert!(s3.count() > before);
}

fn put_env(lab: &Lab) {
    fs::write(lab.file("copy.env"), S3::environment()).unwrap();
    private(&lab.file("copy.env"));
}

#[test]
fn a_copy_that_cannot_be_reached_is_reported_and_the_backup_is_kept() {
    if !has_restic("a_copy_that_cannot_be_reached_is_reported_and_the_backup_is_kept") {
        return;
    }
    let s3 = S3::start();
    let lab = Lab::new();
    lab.declare("a", "", "");
    let file = lab.dir.join("copy");
    fs::write(&file, "not a directory").unwrap();
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[backup]\ncopy_to = \"{}/x\"\n",
        file.display()
    ));
    let made = lab.run(&["backup", "now", "--json"]);
    assert_eq!(made.code, 3, "{made:?}");
    assert_eq!(made.json()["outcome"], "made");
    let status = lab.run(&["status"]);
    assert!(
        status.code == 3 && status.out.contains("are not copied to"),
        "{status:?}"
    );
    // Once it can be reached, all missing backups are copied, although nothing has changed here.
    lab.write_config(&text);
    copy_to(&lab, &s3);
    lab.run(&["backup", "now"]).ok();
    assert_eq!(lab.run(&["status"]).code, 0);
    // A lab that may use only loopback refuses another address.
    lab.write_config(&format!("{text}\n[backup]\ncopy_to = \"gs:bucket:/x\"\n"));
    let made = lab.run(&["backup", "now", "--json"]);
    assert!(
        made.json()["trouble"]
            .to_string()
            .contains("not on loopback"),
        "{made:?}"
    );
}

#[test]
fn real_claude_continues_in_a_data_directory_that_was_restored_from_the_copy() {
    if !has_restic("real_claude_continues_in_a_data_directory_that_was_restored_from_the_copy") {
        return;
    }
    with_oldest_and_newest(|version| {
        let s3 = S3::start();
        let lab = real_claude::lab(version);
        lab.declare("a", "idle", "");
        copy_to(&lab, &s3);
        keep(&lab);
        let session = lab.session_of("a");
        let other = another_machine(&lab, &s3);
        let claude = other.dir.join("bin/claude");
        fs::remove_file(&claude).unwrap();
        std::os::unix::fs::symlink(&version.program, &claude).unwrap();
        move_in(&other, &lab);
        let _keeper = other.keeper();
        other.wait_up("a", 2);
        other.wait_state("a", "idle");
        assert_eq!(other.session_of("a"), session);
        // It knows the conversation of the other machine.
        let asked = real_claude::requests(&other, "a");
        other
            .run(&["send", "a", &crate::support::prompt_of("a", "idle", 2)])
            .ok();
        real_claude::wait_requests(&other, "a", asked + 1);
        let first = crate::support::prompt_of("a", "idle", 1);
        other.until("both prompts are in one transcript", || {
            let path = other.transcript("a");
            (real_claude::times_said(&path, &first) == 1
                && real_claude::times_said(&path, &crate::support::prompt_of("a", "idle", 2)) == 1)
                .then_some(())
        });
    });
}
