//! Unattended starts of the real Claude Code.
//!
//! Dialogs that can be answered in advance do not appear. Any other is shown to the user, and the
//! start is not confirmed until it is answered.

use std::fs;
use std::path::Path;

use claude::transcript::locate::slug;
use serde_json::{Value, json};

use crate::real_claude::{KEY, lab, with_each_version};
use crate::support::{Lab, prompt_of, said};

fn config_path(lab: &Lab) -> std::path::PathBuf {
    lab.file(".claude/.claude.json")
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The part of a key that Claude remembers.
fn key_tail() -> &'static str {
    &KEY[KEY.len() - 20..]
}

/// Presses a key in an agent's terminal, as an attached user does.
fn press(lab: &Lab, name: &str, key: &str) {
    let mut tmux = lab.program("tmux");
    tmux.arg("-S")
        .arg(lab.tmux().socket())
        .args(["send-keys", "-t", name, key]);
    said(&mut tmux).ok();
}

#[test]
fn a_new_data_dir_starts_unattended_and_the_users_keys_survive_a_damaged_file() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        assert!(!config_path(&lab).exists(), "nothing is seeded");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        assert!(
            lab.events("a", "waiting").is_empty(),
            "no dialog: {}",
            lab.account()
        );
        lab.run(&["stop", "a"]).ok();
        lab.wait_state("a", "stopped");

        // The user adds keys before, between and after those that spotkeep needs.
        let mut config = json_of(&config_path(&lab));
        config["editorMode"] = json!("vim");
        config["ofTheUser"] = json!({"list": [1, 2], "text": "\u{fc}"});
        config
            .as_object_mut()
            .unwrap()
            .remove("hasCompletedOnboarding");
        config["projects"] = json!({"/elsewhere": {"allowedTools": ["Read"]}});
        fs::write(config_path(&lab), config.to_string()).unwrap();
        let settings = lab.file(".claude/settings.json");
        fs::write(
            &settings,
            json!({"env": {"OF_THE_USER": "1"}, "cleanupPeriodDays": 9999}).to_string(),
        )
        .unwrap();
        let assert_kept = |lab: &Lab| {
            let config = json_of(&config_path(lab));
            assert_eq!(config["editorMode"], "vim");
            assert_eq!(
                config["ofTheUser"],
                json!({"list": [1, 2], "text": "\u{fc}"})
            );
            assert_eq!(
                config["projects"]["/elsewhere"]["allowedTools"],
                json!(["Read"])
            );
            let workspace = fs::canonicalize(lab.workspace("a")).unwrap();
            assert_eq!(
                config["projects"][workspace.to_str().unwrap()]["hasTrustDialogAccepted"],
                true
            );
            let settings = json_of(&settings);
            assert_eq!(settings["env"]["OF_THE_USER"], "1");
            assert_eq!(settings["cleanupPeriodDays"], 9999);
            assert_eq!(settings["skipDangerousModePermissionPrompt"], true);
        };
        lab.run(&["start", "a"]).ok();
        lab.wait_state("a", "idle");
        assert_kept(&lab);

        // The power is cut while the file is written.
        lab.run(&["stop", "a"]).ok();
        lab.wait_state("a", "stopped");
        let whole = fs::read(config_path(&lab)).unwrap();
        let damaged = &whole[..whole.len() / 2];
        fs::write(config_path(&lab), damaged).unwrap();
        lab.run(&["start", "a"]).ok();
        lab.wait_state("a", "idle");
        assert_kept(&lab);
        let entries = fs::read_dir(lab.file(".claude"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let quarantined: Vec<_> = entries
            .filter(|path| path.to_string_lossy().contains(".claude.json.damaged-"))
            .collect();
        assert_eq!(quarantined.len(), 1, "{quarantined:?}");
        assert_eq!(fs::read(&quarantined[0]).unwrap(), damaged);
        assert!(
            lab.events("a", "waiting").is_empty(),
            "no dialog: {}",
            lab.account()
        );
        lab.assert_nothing_lost("a");
    });
}

#[test]
fn a_fleet_that_starts_for_the_first_time_with_one_shared_configuration_shows_no_dialog() {
    with_each_version(|version| {
        let lab = lab(version);
        let names = ["a", "b", "c", "d", "e"];
        for name in names {
            lab.declare(name, "", "");
        }
        let _keeper = lab.keeper();
        for name in names {
            lab.wait_state(name, "idle");
            assert!(lab.events(name, "waiting").is_empty(), "{}", lab.account());
        }
        let left: Vec<_> = fs::read_dir(lab.file(".claude"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(
            !left
                .iter()
                .any(|path| path.to_string_lossy().contains(".damaged-")),
            "{left:?}"
        );
    });
}

#[test]
fn a_transcript_damaged_before_its_first_record_is_quarantined_and_the_session_begins() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "", "");
        let _keeper = lab.keeper();
        lab.wait_state("a", "idle");
        let session = lab.session_of("a");
        lab.run(&["stop", "a"]).ok();
        lab.wait_state("a", "stopped");
        // With such a file, Claude refuses both to resume the session and to begin it.
        let workspace = fs::canonicalize(lab.workspace("a")).unwrap();
        let folder = lab.file(".claude/projects").join(slug(&workspace));
        fs::create_dir_all(&folder).unwrap();
        let transcript = folder.join(format!("{session}.jsonl"));
        fs::write(&transcript, "{\"type\":\"us").unwrap();
        lab.run(&["start", "a"]).ok();
        lab.wait_state("a", "idle");
        lab.run(&["send", "a", &prompt_of("a", "idle", 1)]).ok();
        lab.wait_done("a");
        assert_eq!(lab.session_of("a"), session);
        assert_eq!(lab.transcript("a"), transcript);
        let files = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let kept =
            files.filter(|path| fs::read(path).is_ok_and(|bytes| bytes == b"{\"type\":\"us"));
        assert_eq!(kept.count(), 1, "the damaged file is kept");
    });
}

#[test]
fn a_dialog_is_shown_with_its_text_and_answering_it_lets_the_agent_start() {
    with_each_version(|version| {
        let lab = lab(version);
        // The same mode by another flag, to which the user has not agreed in advance.
        let text = lab.config_text();
        lab.write_config(&text.replace(
            "[\"--dangerously-skip-permissions\"]",
            "[\"--permission-mode\", \"bypassPermissions\"]",
        ));
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        let agent = lab.wait_state("a", "waiting");
        let why = agent["why"].as_str().unwrap();
        assert!(
            why.contains("Claude asks to accept the bypass mode"),
            "{why}"
        );
        assert!(why.contains("Yes, I accept"), "the text of the pane: {why}");
        assert!(
            lab.events("a", "resumed").is_empty(),
            "the start is not confirmed while a dialog is shown"
        );
        assert!(lab.model.request_log().agents.is_empty());
        lab.run(&["send", "a", "yes"])
            .refused(3, "waits for a human", "attach a");

        // "No, exit" is selected; the arrow has to have arrived before Enter.
        press(&lab, "a", "Down");
        lab.until("yes is selected", || {
            let screen = lab.run(&["logs", "--raw", "a"]).out;
            let lit = screen
                .lines()
                .find(|line| line.contains('\u{276f}'))?
                .contains("Yes, I accept");
            lit.then_some(())
        });
        press(&lab, "a", "Enter");
        lab.wait_done("a");
        assert_eq!(lab.events("a", "starting").len(), 1, "it is the same start");
        assert_eq!(lab.agent("a")["why"], Value::Null);
    });
}

#[test]
fn a_key_that_the_user_rejected_stays_rejected_and_status_says_not_logged_in() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        fs::create_dir_all(lab.file(".claude")).unwrap();
        fs::write(
            config_path(&lab),
            json!({"customApiKeyResponses": {"rejected": [key_tail()]}}).to_string(),
        )
        .unwrap();
        let _keeper = lab.keeper();
        // No version asks again: the session begins, and its first turn ends at once.
        let why = lab.wait_state("a", "stalled")["why"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(why.contains("Not logged in"), "{why}");
        assert_eq!(
            json_of(&config_path(&lab))["customApiKeyResponses"]["rejected"],
            json!([key_tail()])
        );
        assert!(lab.model.request_log().agents.is_empty());
    });
}
