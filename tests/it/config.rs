//! Tests of `spotkeep.toml`: errors with their position, and the last good file.

use std::fs;
use std::os::unix::fs::symlink;

use crate::pane::Pane;
use crate::support::{Lab, SPOTKEEP, git};

#[test]
fn every_mistake_in_the_file_is_reported_with_line_and_column_and_stops_no_running_agent() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let (good, process) = (lab.config_text(), lab.process("a"));
    let mistakes = [
        (
            "[defaults]\n",
            "[defaults]\nrestrt = \"always\"\n",
            "restrt",
        ),
        ("[defaults]\n", "[defaults]\nargs = \"x\"\n", "invalid type"),
        (
            "[cloud]\n",
            "[cloud]\nnotice = \"soon\"\n",
            "\"soon\" is not a duration",
        ),
        ("[cloud]\n", "[cloud]\nnotice = 120\n", "like \"60s\""),
        ("[agents.a]", "[agents.\"a.b\"]", "cannot name an agent"),
        ("[agents.a]", "[agents.a", "TOML"),
        ("provider = \"none\"", "provider = \"aws\"", "aws"),
        (
            "[defaults]\n",
            "[defaults]\nrestart = \"sometimes\"\n",
            "sometimes",
        ),
    ];
    for (from, to, said) in mistakes {
        assert!(good.contains(from), "{from}");
        lab.write_config(&good.replacen(from, to, 1));
        for verb in [&["up"][..], &["add", "new"], &["restart"]] {
            let refused = lab.run(verb).refused(1, said, "");
            assert!(
                refused.err.contains("line ") && refused.err.contains("column "),
                "{refused:?}"
            );
            assert!(refused.err.contains("spotkeep.toml"), "{refused:?}");
        }
        assert!(
            !lab.workspace("new").exists(),
            "a workspace was created for an agent that is not declared"
        );
        assert_eq!(lab.status()["agents"][0]["pid"], process.pid);
    }
    lab.write_config(&good);
    lab.run(&["up"]).ok();
    assert_eq!(lab.process("a"), process);
    assert_eq!(lab.events("a", "starting").len(), 1);
}

#[test]
fn a_fleet_starts_with_the_last_good_file_after_a_wrong_edit() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let good = lab.config_text();
    let wrong = good.replacen("[defaults]\n", "[defaults]\nrestrt = \"always\"\n", 1);
    lab.write_config(&wrong);
    lab.run(&["run"]).refused(1, "restrt", "");
    lab.write_config(&good);
    let keeper = lab.keeper();
    lab.wait_done("a");
    let session = lab.session_of("a");
    drop(keeper);
    lab.next_boot();
    lab.write_config(&wrong);
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert_eq!(lab.session_of("a"), session);
    let trouble = lab.status()["trouble"].to_string();
    assert!(
        trouble.contains("restrt") && trouble.contains("last good"),
        "{trouble}"
    );
    lab.write_config(&good);
    lab.run(&["up"]).ok();
    assert_eq!(lab.status()["trouble"], serde_json::json!([]));
}

#[test]
fn a_missing_spotkeep_toml_ends_no_agent() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let good = lab.config_text();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let process = lab.process("a");
    for lost in [None, Some(""), Some("\n \n")] {
        match lost {
            None => std::fs::remove_file(lab.config()).unwrap(),
            Some(text) => lab.write_config(text),
        }
        for verb in [&["up"][..], &["up", "--yes"], &["add", "b"]] {
            lab.run(verb)
                .refused(1, "is gone, or has nothing in it", "cp ");
        }
        assert_eq!(lab.process("a"), process);
    }
    // A truncated file looks as if the user had removed an agent.
    let short = good.split("[agents.a]").next().unwrap();
    lab.write_config(short);
    let refusal = "not declared any more, and running: a";
    lab.run(&["up"]).refused(3, refusal, "spotkeep up --yes");
    // Another change of the file does not end the agent either.
    lab.run(&["add", "b"])
        .refused(3, refusal, "spotkeep up --yes");
    assert_eq!(lab.process("a"), process);
    lab.write_config(&good);
    lab.run(&["up"]).ok();
    assert_eq!(lab.process("a"), process);
    assert_eq!(lab.events("a", "starting").len(), 1);
    lab.write_config(short);
    lab.run(&["up", "--yes"]).ok();
    lab.until("it has ended", || (!process.is_alive()).then_some(()));
}

#[test]
fn a_keeper_that_finds_no_spotkeep_toml_uses_the_last_good_one() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let good = lab.config_text();
    let keeper = lab.keeper();
    lab.wait_done("a");
    let (process, session) = (lab.process("a"), lab.session_of("a"));
    keeper.kill();
    fs::remove_file(lab.config()).unwrap();
    let keeper = lab.keeper();
    let trouble = lab.status()["trouble"].to_string();
    assert!(
        trouble.contains("is gone, or has nothing in it"),
        "{trouble}"
    );
    assert_eq!(lab.wait_state("a", "idle")["pid"], process.pid);
    keeper.kill();

    // Without any good file, the desired agents are unknown, and no agent is ended.
    let copy = lab.file("session-state/spotkeep.toml");
    let kept = fs::read(&copy).unwrap();
    fs::remove_file(&copy).unwrap();
    lab.run(&["run"])
        .refused(1, "is gone, or has nothing in it", "init");
    assert!(process.is_alive());
    fs::write(&copy, kept).unwrap();

    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert_eq!(lab.session_of("a"), session);
    let again = lab.run(&["init"]).ok().out;
    assert!(
        again.contains("has its last spotkeep.toml again"),
        "{again}"
    );
    assert_eq!(lab.config_text(), good);
    lab.run(&["up"]).ok();
    assert_eq!(lab.status()["trouble"], serde_json::json!([]));
}

#[test]
fn a_person_is_asked_before_up_ends_an_agent() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let good = lab.config_text();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let process = lab.process("a");
    lab.write_config(good.split("[agents.a]").next().unwrap());
    let up = format!(
        "'{SPOTKEEP}' --data-dir '{}' up; echo ended with $?",
        lab.data_dir().display()
    );
    let pane = Pane::run(&lab, 100, 30, &format!("{up}; {up}"));
    pane.wait(&["this stops a; type yes to continue:"]);
    pane.press(&["n", "o", "Enter"]);
    pane.wait(&["not declared any more, and running: a", "ended with 3"]);
    assert!(process.is_alive());
    pane.press(&["y", "e", "s", "Enter"]);
    pane.wait(&["ended with 0"]);
    lab.until("it has ended", || (!process.is_alive()).then_some(()));
}

#[test]
fn names_that_tmux_cannot_take_are_refused_with_one_that_it_can() {
    let lab = Lab::new();
    let before = lab.config_text();
    for (name, better) in [
        ("a.b", "a-b"),
        ("a:b", "a-b"),
        ("issue 7", "issue-7"),
        ("../up", "up"),
    ] {
        let said = lab.run(&["add", name]);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("cannot name an agent"), "{said:?}");
        assert!(
            said.err.contains(&format!("\"{better}\" would do")),
            "{said:?}"
        );
    }
    assert_eq!(lab.config_text(), before);
    assert_eq!(fs::read_dir(lab.file("workspaces")).unwrap().count(), 0);
}

#[test]
fn two_agents_in_one_workspace_are_refused_also_behind_a_link() {
    let lab = Lab::new();
    let dir = lab.make_workspace("a");
    symlink(&dir, lab.workspace("link")).unwrap();
    symlink(lab.file("workspaces"), lab.file("ws")).unwrap();
    lab.run(&["add", "a", "--workspace", "workspaces/a"]).ok();
    let declared = lab.config_text();
    for same in [
        "workspaces/a",
        "./workspaces/a/",
        "workspaces/link",
        "ws/a",
        dir.to_str().unwrap(),
    ] {
        lab.run(&["add", "b", "--workspace", same])
            .refused(1, "share the workspace", "");
        assert_eq!(lab.config_text(), declared);
    }
}

#[test]
fn two_agents_that_are_declared_by_hand_in_one_directory_do_not_both_start() {
    let lab = Lab::new();
    let dir = lab.make_workspace("a");
    symlink(&dir, lab.workspace("link")).unwrap();
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[agents.a]\nworkspace = \"workspaces/a\"\n[agents.b]\nworkspace \
         = \"workspaces/link\"\n"
    ));
    lab.run(&["up"]).refused(1, "share the workspace", "edit ");
    lab.run(&["run"]).refused(1, "share the workspace", "edit ");
    assert!(lab.processes().is_empty());
}

#[test]
fn a_workspace_that_is_missing_or_not_a_directory_is_refused() {
    let lab = Lab::new();
    let before = lab.config_text();
    lab.run(&["add", "a", "--workspace", "workspaces/none"])
        .refused(1, "does not exist", "git clone URL");
    fs::write(lab.workspace("file"), "x").unwrap();
    let said = lab.run(&["add", "a", "--workspace", "workspaces/file"]);
    assert!(
        said.code == 2 && said.err.contains("is not a directory"),
        "{said:?}"
    );
    assert_eq!(lab.config_text(), before);
    // A workspace that was deleted after it was declared.
    lab.declare("gone", "idle", "");
    fs::remove_dir_all(lab.workspace("gone")).unwrap();
    lab.declare("good", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("good");
    let why = lab.wait_state("gone", "failed")["why"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        why.contains("its workspace") && why.contains("is missing"),
        "{why}"
    );
    lab.make_workspace("gone");
    lab.run(&["start", "gone"]).ok();
    lab.wait_done("gone");
}

#[test]
fn a_workspace_that_may_not_survive_is_allowed_with_a_warning() {
    let lab = Lab::new();
    let outside = lab.dir.join("home/project");
    fs::create_dir(&outside).unwrap();
    let said = lab
        .run(&["add", "out", "--workspace", outside.to_str().unwrap()])
        .ok();
    assert!(
        said.err.contains("warning: ") && said.err.contains("is outside the data directory"),
        "{said:?}"
    );
    // A worktree inside the data directory, whose repository is outside.
    git(&outside, &["init", "-q", "-b", "main"]);
    git(&outside, &["commit", "-q", "--allow-empty", "-m", "x"]);
    let tree = lab.workspace("tree");
    git(
        &outside,
        &[
            "worktree",
            "add",
            "-q",
            "-b",
            "tree",
            tree.to_str().unwrap(),
        ],
    );
    let said = lab
        .run(&["add", "tree", "--workspace", "workspaces/tree"])
        .ok();
    assert!(
        said.err.contains("its repository") && said.err.contains("commits may not survive"),
        "{said:?}"
    );
    let inside = lab.make_workspace("in");
    let said = lab
        .run(&["add", "in", "--workspace", inside.to_str().unwrap()])
        .ok();
    assert_eq!(said.err, "");
    let text = lab.config_text();
    assert!(
        text.contains("workspace = \"workspaces/in\""),
        "a workspace inside the data directory is not stored as a relative path: {text}"
    );
    assert!(
        text.contains(&format!("workspace = \"{}\"", outside.display())),
        "{text}"
    );
    assert_eq!(
        lab.run(&["ls", "--json"]).ok().json()["agents"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn arguments_that_would_select_another_session_are_refused() {
    let lab = Lab::new();
    let before = lab.config_text();
    for argument in [
        "--resume",
        "--continue",
        "-p",
        "--session-id=x",
        "--worktree",
        "--fork-session",
    ] {
        lab.run(&["add", "a", "--", argument])
            .refused(2, "cannot be given", "remove");
    }
    assert_eq!(lab.config_text(), before);
}

#[test]
fn comments_and_order_of_the_file_are_kept_by_add_and_rm() {
    let lab = Lab::new();
    let text = lab.config_text()
        + "# mine\n[agents.b]   # keep me\nworkspace = \"workspaces/b\"  # and me\n# the end\n";
    lab.write_config(&text);
    lab.run(&[
        "add",
        "a",
        "--prompt",
        "say \"hi\"\nand more",
        "--",
        "--model",
        "opus",
    ])
    .ok();
    let added = lab.config_text();
    for line in text.lines() {
        assert!(added.contains(line), "{line}");
    }
    lab.run(&["add", "a"])
        .refused(2, "exists already", "spotkeep rm a");
    assert_eq!(lab.config_text(), added);
    lab.run(&["rm", "a"]).ok();
    assert_eq!(lab.config_text(), text);
    lab.run(&["rm", "a"])
        .refused(2, "is not declared", "spotkeep ls");
}
