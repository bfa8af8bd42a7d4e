//! Tests of checkpoints made by the keeper and by `spotkeep checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::terminal::JournalLine;
use serde_json::Value;

use crate::support::{Lab, git, prompt_of};

impl Lab {
    /// Returns the output of `checkpoint ls NAME --json`, newest first.
    fn checkpoints(&self, name: &str) -> Vec<Value> {
        let said = self.run(&["checkpoint", "ls", name, "--json"]).ok().json();
        said["checkpoints"].as_array().unwrap().clone()
    }

    /// Waits for a checkpoint with this trigger.
    fn wait_checkpoint(&self, name: &str, trigger: &str) -> Value {
        self.until(&format!("{name} has a checkpoint for {trigger}"), || {
            let all = self.checkpoints(name);
            all.into_iter().find(|one| one["trigger"] == trigger)
        })
    }

    /// Returns everything that a rollback has to restore.
    fn picture(&self, name: &str) -> (String, Vec<(PathBuf, Vec<u8>)>) {
        let dir = self.workspace(name);
        let status = git(&dir, &["status", "--porcelain=v2", "-z", "-uall"]);
        let mut files = Vec::new();
        read_files(&dir, &mut files);
        files.sort();
        (status, files)
    }

    /// Creates a repository outside of the data directory, with a commit on `main`.
    fn upstream(&self) -> PathBuf {
        let dir = self.dir.join("upstream");
        fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "main"]);
        fs::write(dir.join("tracked.txt"), "as committed\n").unwrap();
        git(&dir, &["add", "."]);
        git(&dir, &["commit", "-qm", "A commit"]);
        dir
    }

    fn add_from(&self, name: &str, repo: &Path, more: &[&str]) -> String {
        let repo = repo.to_str().unwrap();
        self.run(&[&["add", name, "--repo", repo], more].concat())
            .ok()
            .out
    }
}

fn read_files(dir: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_name() == ".git" {
            continue;
        }
        if path.is_dir() {
            read_files(&path, into);
        } else {
            into.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn a_turn_that_ends_leaves_a_checkpoint_and_status_says_when() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let made = lab.wait_checkpoint("a", "turn-ended");
    assert!(made["files"].as_u64() >= Some(3), "{made}");
    assert_eq!(made["left_out"], Value::Array(Vec::new()));
    let at = lab.until("status shows the checkpoint", || {
        let at = lab.agent("a")["last_checkpoint"].clone();
        at.is_string().then_some(at)
    });
    assert!(at.as_str() >= made["at"].as_str(), "{at} {made}");
    assert!(lab.run(&["status"]).ok().out.contains("CHECKPOINT"));
    let diff = lab.run(&["checkpoint", "diff", "a"]).ok();
    assert!(diff.err.contains("nothing has changed"), "{diff:?}");
}

#[test]
fn a_busy_agent_is_checkpointed_periodically() {
    let lab = Lab::new();
    lab.declare("a", "tool", "checkpoint_every = \"1s\"");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    let later = lab.workspace("a").join("later.txt");
    let mut count = 0;
    lab.until("a periodic checkpoint is made", || {
        count += 1;
        fs::write(&later, format!("by a build, {count}\n")).unwrap();
        let all = lab.checkpoints("a");
        all.iter().any(|one| one["trigger"] == "time").then_some(())
    });
    lab.until("the later file is in the newest checkpoint", || {
        let newest = lab.checkpoints("a")[0]["commit"].as_str()?.to_owned();
        let tree = format!("{newest}:worktree");
        let files = git(&lab.workspace("a"), &["ls-tree", "--name-only", &tree]);
        files.contains("later.txt").then_some(())
    });
}

#[test]
fn a_rollback_refuses_while_the_agent_runs_stops_it_on_request_and_can_be_undone() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpoint("a", "turn-ended");
    let good = lab.picture("a");
    fs::write(lab.workspace("a").join("tracked.txt"), "wrecked\n").unwrap();
    fs::remove_file(lab.workspace("a").join("untracked.txt")).unwrap();
    git(&lab.workspace("a"), &["reset", "-q"]);
    let wrecked = lab.picture("a");
    let newest = lab.checkpoints("a")[0]["id"].as_str().unwrap().to_owned();
    lab.run(&["checkpoint", "rollback", "a"])
        .refused(3, "a is running", "--stop");
    let plan = lab
        .run(&["checkpoint", "rollback", "a", &newest, "--dry-run"])
        .ok();
    assert!(plan.out.contains("tracked.txt"), "{plan:?}");
    assert_eq!(
        lab.picture("a"),
        wrecked,
        "the refused rollback changed something"
    );

    let said = lab
        .run(&["checkpoint", "rollback", "a", &newest, "--stop"])
        .ok();
    assert_eq!(lab.picture("a"), good, "{said:?}");
    lab.wait_up("a", 2);
    let event = lab.wait_event("a", "rolled-back", 1);
    assert_eq!(event.data["to"], newest.as_str());
    let undo = event.data["undo"].as_str().unwrap();
    assert!(said.out.contains(undo), "{said:?}");
    lab.wait_state("a", "idle");
    lab.run(&["checkpoint", "rollback", "a", undo, "--stop"])
        .ok();
    assert_eq!(lab.picture("a"), wrecked);
}

#[test]
fn without_a_keeper_checkpoints_are_created_compared_and_restored() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.run(&["down"]).ok();
    keeper.let_go();
    let file = lab.workspace("a").join("mine.txt");
    fs::write(&file, "one\n").unwrap();
    let made = lab.run(&["checkpoint", "now", "a", "--json"]).ok().json();
    let id = made["agents"][0]["id"].as_str().unwrap().to_owned();
    fs::write(&file, "two\n").unwrap();
    let diff = lab.run(&["checkpoint", "diff", "a", &id]).ok().out;
    assert!(diff.contains("-one") && diff.contains("+two"), "{diff}");
    let diff = lab
        .run(&["checkpoint", "diff", "a", &id, "--json"])
        .ok()
        .json();
    assert_eq!(
        diff["files"],
        serde_json::json!([{ "path": "mine.txt", "lines_added": 1, "lines_removed": 1 }])
    );
    assert_eq!(diff["staged"], serde_json::json!([]));
    git(&lab.workspace("a"), &["commit", "-qam", "Later"]);
    let before = lab.picture("a");
    let later = git(&lab.workspace("a"), &["rev-parse", "HEAD"]);
    let plan = |more: &[&str]| {
        let args = [&["checkpoint", "rollback", "a", &id, "--dry-run"], more].concat();
        lab.run(&args).ok().out
    };
    let said = plan(&[]);
    assert!(said.contains("HEAD would stay on main"), "{said}");
    let said = plan(&["--with-head"]);
    assert!(
        said.contains("HEAD would go from main") && said.contains("refs/heads/main would go from"),
        "{said}"
    );
    assert!(said.contains("mine.txt"), "{said}");
    assert_eq!(lab.picture("a"), before);
    assert_eq!(git(&lab.workspace("a"), &["rev-parse", "HEAD"]), later);
    lab.run(&["checkpoint", "rollback", "a", &id[..id.len() - 1]])
        .ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\n");
    assert_eq!(lab.events("a", "rolled-back").len(), 1);
    lab.run(&["checkpoint", "rollback", "a", "nonsense"])
        .refused(2, "no checkpoint nonsense", "checkpoint ls a");
    lab.run(&["checkpoint", "ls", "unknown"])
        .refused(2, "no agent", "spotkeep ls");
}

#[test]
fn a_save_leaves_a_checkpoint_of_every_git_workspace_and_names_it() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let plain = lab.file("workspaces/plain");
    fs::create_dir_all(&plain).unwrap();
    let text = lab.config_text();
    let prompt = prompt_of("plain", "idle", 1);
    lab.write_config(&format!(
        "{text}\n[agents.plain]\nworkspace = \"workspaces/plain\"\nprompt = \"{prompt}\"\n"
    ));
    let _keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_rest("plain");
    let before = lab.picture("a");
    let manifest = lab.run(&["save", "--final", "--json"]).ok().json();
    let row = |name: &str| {
        let agents = manifest["agents"].as_array().unwrap();
        agents.iter().find(|row| row["name"] == name).unwrap()["workspace"].clone()
    };
    let id = row("a")["checkpoint"].clone();
    assert_eq!(id, lab.checkpoints("a")[0]["id"], "{manifest}");
    assert_eq!(row("plain")["checkpoint"], Value::Null);
    assert!(
        row("plain")["note"]
            .as_str()
            .unwrap()
            .contains("not in a git repository")
    );
    assert!(manifest["stages"]["workspaces_ms"].is_u64());
    assert_eq!(lab.picture("a"), before);
    assert!(lab.run(&["ls"]).ok().out.contains("no git"));
}

#[test]
fn damage_by_a_power_cut_is_repaired_before_the_agent_starts() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    lab.run(&["checkpoint", "now", "a"]).ok();
    lab.next_boot();
    let before = lab.picture("a");
    let dot_git = lab.workspace("a").join(".git");
    // As after a power cut: an empty object for the staged file, an empty branch file, a lock
    // without an owner.
    let staged = git(&lab.workspace("a"), &["rev-parse", ":staged-by-agent.txt"]);
    let object = dot_git
        .join("objects")
        .join(&staged[..2])
        .join(staged[2..].trim());
    fs::remove_file(&object).unwrap();
    fs::write(&object, "").unwrap();
    fs::write(dot_git.join("refs/heads/main"), "").unwrap();
    fs::write(dot_git.join("index.lock"), "").unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    // The interrupted turn continues meanwhile, and adds another file.
    let after = lab.picture("a").0;
    assert!(
        before.0.split('\0').all(|line| after.contains(line)),
        "{after:?}"
    );
    git(&lab.workspace("a"), &["fsck", "--no-dangling"]);
    git(&lab.workspace("a"), &["commit", "-qm", "It goes on"]);
    let repaired: Vec<Value> = lab
        .events("a", "repaired")
        .into_iter()
        .map(|line| line.data["what"].clone())
        .collect();
    for word in [
        "empty object",
        "refs/heads/main",
        "index.lock",
        "written again",
    ] {
        let told = |what: &Value| what.as_str().unwrap().contains(word);
        assert!(repaired.iter().any(told), "{word}: {repaired:?}");
    }
    assert!(lab.events("a", "damaged").is_empty(), "{}", lab.account());
}

#[test]
fn after_a_clean_end_no_lock_is_removed() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.run(&["save", "--final"]).ok();
    lab.next_boot();
    let lock = lab.workspace("a").join(".git/index.lock");
    fs::write(&lock, "").unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert!(lock.exists());
}

#[test]
fn a_missing_worktree_is_recreated_from_its_newest_checkpoint_and_the_note_says_so() {
    let lab = Lab::new();
    let upstream = lab.upstream();
    lab.add_from("a", &upstream, &["--prompt", &prompt_of("a", "idle", 1)]);
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpoint("a", "turn-ended");
    let before = lab.picture("a");
    assert!(before.0.contains("untracked-by-agent.txt"));
    lab.next_boot();
    fs::remove_dir_all(lab.workspace("a")).unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    // The agent answers its note meanwhile, and adds another file.
    let (status, files) = lab.picture("a");
    assert!(
        before.0.split('\0').all(|line| status.contains(line)),
        "{status:?}"
    );
    assert!(
        before.1.iter().all(|file| files.contains(file)),
        "{files:?}"
    );
    let rebuilt = lab.wait_event("a", "rebuilt", 1);
    assert!(rebuilt.data["why"].as_str().unwrap().contains("gone"));
    let note = fs::read_to_string(lab.file("session-state/notes/a.md")).unwrap();
    assert!(note.contains("recreated from a checkpoint"), "{note}");
}

#[test]
fn a_repair_for_a_start_that_is_refused_is_reported_by_the_next_start() {
    let lab = Lab::new();
    let upstream = lab.upstream();
    lab.add_from("a", &upstream, &["--prompt", &prompt_of("a", "idle", 1)]);
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpoint("a", "turn-ended");
    keeper.let_go();
    lab.next_boot();
    fs::remove_dir_all(lab.workspace("a")).unwrap();
    // Without a claude, as on a new machine.
    let (claude, away) = (lab.dir.join("bin/claude"), lab.dir.join("bin/away"));
    fs::rename(&claude, &away).unwrap();
    let _keeper = lab.keeper();
    for _ in 0..2 {
        lab.wait_state("a", "failed");
        assert!(lab.workspace("a").exists());
        assert_eq!(lab.run(&["start", "a"]).code, 3);
    }
    fs::rename(&away, &claude).unwrap();
    lab.run(&["start", "a"]).ok();
    lab.wait_up("a", 2);
    let note = fs::read_to_string(lab.file("session-state/notes/a.md")).unwrap();
    let told = "recreated from a checkpoint";
    assert_eq!(note.matches(told).count(), 1, "{note}");
    let says_so = |line: &&JournalLine| line.data["what"].as_str().unwrap().contains(told);
    let repaired = lab.events("", "repaired");
    let count = repaired.iter().filter(says_so).count();
    assert_eq!(count, 1, "{}", lab.account());
    assert!(!lab.file("session-state/notes/a.repaired").exists());
}

#[test]
fn a_worktree_that_was_emptied_or_became_a_file_is_recreated_too() {
    let lab = Lab::new();
    let upstream = lab.upstream();
    for name in ["a", "b"] {
        lab.add_from(name, &upstream, &["--prompt", &prompt_of(name, "idle", 1)]);
    }
    let _keeper = lab.keeper();
    for name in ["a", "b"] {
        lab.wait_done(name);
        lab.wait_checkpoint(name, "turn-ended");
    }
    lab.next_boot();
    for name in ["a", "b"] {
        fs::remove_dir_all(lab.workspace(name)).unwrap();
    }
    fs::create_dir(lab.workspace("a")).unwrap();
    fs::write(lab.workspace("b"), "a file in its place\n").unwrap();
    let _keeper = lab.keeper();
    for (name, why) in [("a", "was empty"), ("b", "was gone")] {
        lab.wait_up(name, 2);
        let rebuilt = lab.wait_event(name, "rebuilt", 1);
        assert!(rebuilt.data["why"].as_str().unwrap().contains(why));
        let status = lab.picture(name).0;
        assert!(status.contains("untracked-by-agent.txt"), "{status}");
    }
    assert_eq!(
        fs::read_to_string(lab.file("workspaces/b.damaged")).unwrap(),
        "a file in its place\n"
    );
}

#[test]
fn a_missing_clone_whose_repository_is_missing_too_is_not_recreated() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpoint("a", "turn-ended");
    lab.next_boot();
    fs::remove_dir_all(lab.workspace("a")).unwrap();
    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "failed");
    let why = agent["why"].as_str().unwrap();
    assert!(
        why.contains("is missing") && why.contains("no repository is left"),
        "{why}"
    );
    assert!(!lab.workspace("a").exists());
}

#[test]
fn agents_of_one_repository_share_a_clone_and_have_their_own_branches() {
    let lab = Lab::new();
    let upstream = lab.upstream();
    git(&upstream, &["branch", "topic"]);
    let url = format!("file://{}", upstream.display());
    let said = lab.add_from("one", Path::new(&url), &[]);
    assert!(said.contains("on the branch main"), "{said}");
    // A file that an interrupted add has left does not block the next one.
    fs::create_dir_all(lab.file("workspaces/.new-two/half")).unwrap();
    let said = lab.add_from("two", Path::new(&url), &[]);
    assert!(said.contains("on the branch two"), "{said}");
    let said = lab.add_from("three", Path::new(&url), &["--branch", "topic"]);
    assert!(said.contains("on the branch topic"), "{said}");
    let common = |name: &str| {
        let dir = lab.workspace(name);
        let said = git(
            &dir,
            &["rev-parse", "--path-format=absolute", "--git-common-dir"],
        );
        said.trim().to_owned()
    };
    assert_eq!(
        common("one"),
        lab.file("workspaces/.repos/upstream.git").to_str().unwrap()
    );
    assert_eq!(common("one"), common("two"));
    assert_eq!(common("one"), common("three"));
    let record = lab.record("two");
    assert_eq!(record["origin"], url.as_str());
    let head = git(&upstream, &["rev-parse", "HEAD"]);
    assert_eq!(record["base_commit"], head.trim());
    // `git push` pushes to the upstream repository.
    fs::write(lab.workspace("two").join("new.txt"), "new\n").unwrap();
    git(&lab.workspace("two"), &["add", "."]);
    git(&lab.workspace("two"), &["commit", "-qm", "New"]);
    git(&lab.workspace("two"), &["push", "-q", "origin", "two"]);
    assert!(git(&upstream, &["log", "--format=%s", "two"]).starts_with("New"));
    let hidden: Vec<_> = fs::read_dir(lab.file("workspaces"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".new-"))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn add_refuses_what_cannot_become_a_workspace_and_leaves_nothing_behind() {
    let lab = Lab::new();
    let upstream = lab.upstream();
    let path = upstream.to_str().unwrap();
    let entries = || {
        fs::read_dir(lab.file("workspaces"))
            .unwrap()
            .flatten()
            .count()
    };
    lab.run(&["add", "a", "--repo", path, "--branch", "none"])
        .refused(2, "no branch none", "branch --all");
    lab.run(&["add", "a", "--repo", "/nowhere/at/all"])
        .refused(2, "no repository", "--repo");
    lab.run(&["add", "a", "--repo", "file:///nowhere/at/all"])
        .refused(1, "cannot clone", "git ls-remote");
    lab.run(&["add", "a", "--repo", "ext::sh -c true"]);
    // The clone is kept: the next add needs no download.
    assert_eq!(entries(), 1, "only .repos");
    let repos: Vec<_> = fs::read_dir(lab.file("workspaces/.repos"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(repos.len(), 1, "{repos:?}");
    fs::create_dir_all(lab.workspace("a").join("mine")).unwrap();
    lab.run(&["add", "a", "--repo", path])
        .refused(2, "already exists", "--workspace");
    assert!(!lab.config_text().contains("[agents.a]"));
}

#[test]
fn a_repository_inside_the_data_directory_is_linked_to() {
    let lab = Lab::new();
    lab.make_workspace("main-clone");
    let said = lab.add_from("b", &lab.workspace("main-clone"), &[]);
    assert!(said.contains("on the branch b"), "{said}");
    let list = git(&lab.workspace("main-clone"), &["worktree", "list"]);
    assert!(list.contains("workspaces/b "), "{list}");
    lab.run(&["rm", "b"]).ok();
    assert!(lab.workspace("b").join("tracked.txt").exists());
    lab.run(&["add", "b", "--workspace", "workspaces/b"]).ok();
}

/// Creates a remote, and configures it in `spotkeep.toml`.
fn with_remote(lab: &Lab) -> PathBuf {
    let remote = lab.dir.join("safe.git");
    git(
        &lab.dir,
        &["init", "-q", "--bare", remote.to_str().unwrap()],
    );
    lab.configure(&format!("[checkpoint]\npush = \"{}\"\n", remote.display()));
    remote
}

#[test]
fn checkpoints_are_pushed_to_the_configured_remote_and_repository_settings_are_ignored() {
    let lab = Lab::new();
    let remote = with_remote(&lab);
    lab.declare("a", "idle", "");
    let dir = lab.workspace("a");
    // Each setting would run a command that leaves a file, or push to another repository.
    let elsewhere = lab.dir.join("elsewhere.git");
    git(
        &lab.dir,
        &["init", "-q", "--bare", elsewhere.to_str().unwrap()],
    );
    let footprint = lab.dir.join("footprint");
    let touch = format!("touch '{}'; false", footprint.display());
    let plants = [
        (
            format!("url.{}.insteadOf", elsewhere.display()),
            remote.display().to_string(),
        ),
        (
            format!("url.{}.pushInsteadOf", elsewhere.display()),
            remote.display().to_string(),
        ),
        ("core.sshCommand".into(), touch.clone()),
        ("credential.helper".into(), format!("!{touch}")),
        ("remote.pushDefault".into(), elsewhere.display().to_string()),
        ("push.gpgSign".into(), "true".into()),
        ("gpg.program".into(), "/bin/false".into()),
    ];
    for (key, value) in &plants {
        git(&dir, &["config", key, value]);
    }
    for hook in ["pre-push", "reference-transaction"] {
        let path = dir.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{touch}\n")).unwrap();
        make_executable(&path);
    }
    // Plain git obeys the settings.
    git(
        &dir,
        &[
            "push",
            "-q",
            "--no-verify",
            "--no-signed",
            remote.to_str().unwrap(),
            "main",
        ],
    );
    assert!(git(&remote, &["for-each-ref"]).is_empty());
    assert!(!git(&elsewhere, &["for-each-ref"]).is_empty());
    fs::remove_file(&footprint).ok();

    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the checkpoint was pushed", || {
        let refs = git(&remote, &["for-each-ref", "--format=%(refname)"]);
        refs.contains("refs/spotkeep/").then_some(())
    });
    assert!(!footprint.exists());
    let refs = git(&remote, &["for-each-ref", "--format=%(refname)"]);
    assert!(
        refs.lines().all(|name| name.starts_with("refs/spotkeep/")),
        "{refs}"
    );
    git(&remote, &["fsck", "--no-dangling"]);
    let elsewhere = git(&elsewhere, &["for-each-ref", "--format=%(refname)"]);
    assert!(!elsewhere.contains("spotkeep"), "{elsewhere}");
}

#[test]
fn a_save_pushes_after_everything_is_safe_and_a_failed_push_does_no_harm() {
    let lab = Lab::new();
    let remote = with_remote(&lab);
    lab.declare("a", "tool", "");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    let saved = lab.run(&["save", "--json"]).ok().json();
    let note = saved["agents"][0]["workspace"]["note"].as_str().unwrap();
    assert!(note.contains("; pushed"), "{note}");
    assert!(git(&remote, &["for-each-ref"]).contains("refs/spotkeep/"));
    fs::remove_dir_all(&remote).unwrap();
    fs::write(lab.workspace("a").join("more.txt"), "more\n").unwrap();
    let saved = lab.run(&["save", "--final", "--json"]).ok().json();
    let note = saved["agents"][0]["workspace"]["note"].as_str().unwrap();
    assert!(note.contains("not pushed"), "{note}");
    assert_eq!(saved["clean"], true);
}

#[test]
fn a_failed_checkpoint_is_logged_once_and_shown_until_one_succeeds() {
    let lab = Lab::new();
    lab.declare("a", "tool", "checkpoint_every = \"1s\"");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    lab.until("a checkpoint is made", || {
        (!lab.checkpoints("a").is_empty()).then_some(())
    });
    // A config that git cannot read.
    let config = lab.workspace("a").join(".git/config");
    let good = fs::read(&config).unwrap();
    fs::write(&config, "[core\n").unwrap();
    fs::write(lab.workspace("a").join("more.txt"), "more\n").unwrap();
    lab.wait_event("a", "checkpoint-failed", 1);
    let trouble = || lab.status()["trouble"].as_array().unwrap().len();
    assert_eq!(trouble(), 1);
    fs::write(&config, good).unwrap();
    lab.until("no trouble is shown any more", || {
        (trouble() == 0).then_some(())
    });
    assert_eq!(lab.events("a", "checkpoint-failed").len(), 1);
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
