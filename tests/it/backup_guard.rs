//! Tests of backups that root makes for a user.
//!
//! Files that the user can write do not control what root does, and an agent cannot change the
//! backups.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::backup::{furnished, has_restic, put};
use crate::support::{Lab, SPOTKEEP, is_root, said, skip};

/// The uid of a user other than root.
const OTHER_UID: u32 = 65534;

/// A user's data directory below a directory of root's, with a program that the user can run.
struct Guarded {
    lab: Lab,
    program: PathBuf,
}

impl Guarded {
    fn new(test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "acting for another user needs root");
            return None;
        }
        if !has_restic(test) {
            return None;
        }
        let lab = furnished();
        let program = lab.dir.join("bin/spotkeep");
        fs::copy(SPOTKEEP, &program).unwrap();
        give(&lab.data_dir());
        give(&lab.dir.join("run"));
        // As `setup` leaves it.
        std::os::unix::fs::chown(lab.data_dir(), Some(0), Some(OTHER_UID)).unwrap();
        fs::set_permissions(lab.data_dir(), fs::Permissions::from_mode(0o1775)).unwrap();
        Some(Self { lab, program })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.program(self.program.to_str().unwrap());
        command
            .arg("--data-dir")
            .arg(self.lab.data_dir())
            .args(args);
        command
    }

    fn as_user(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.uid(OTHER_UID).gid(OTHER_UID).current_dir("/");
        command
    }
}

/// Gives everything below a path to the user.
fn give(path: &Path) {
    let owner = format!("{OTHER_UID}:{OTHER_UID}");
    let chown = Command::new("chown")
        .args(["-Rh", &owner])
        .arg(path)
        .status();
    assert!(chown.unwrap().success());
}

#[test]
fn the_user_cannot_delete_roots_backups_and_owns_what_root_writes_outside() {
    let Some(guarded) =
        Guarded::new("the_user_cannot_delete_roots_backups_and_owns_what_root_writes_outside")
    else {
        return;
    };
    let lab = &guarded.lab;
    said(&mut guarded.command(&["backup", "now", "--scheduled"])).ok();
    for path in ["backups", "backups/config", "backups.key"] {
        assert_eq!(fs::metadata(lab.file(path)).unwrap().uid(), 0, "{path}");
    }
    assert_eq!(
        fs::metadata(lab.file("session-state/backup.json"))
            .unwrap()
            .uid(),
        OTHER_UID
    );
    let mut rm = lab.program("rm");
    rm.args(["-rf", "backups", "backups.key"])
        .current_dir(lab.data_dir())
        .uid(OTHER_UID)
        .gid(OTHER_UID);
    assert_ne!(said(&mut rm).code, 0);
    assert!(lab.file("backups/config").exists() && lab.file("backups.key").exists());
    said(&mut guarded.as_user(&["backup", "ls"])).refused(1, "belongs to root", "sudo");
    said(&mut guarded.command(&["backup", "ls"])).ok();
    // `status` shows the user the state of the backups even so.
    let status = said(&mut guarded.as_user(&["status", "--json"]))
        .ok()
        .json();
    assert!(status["backup"]["at"].is_string(), "{status}");
}

#[test]
fn root_starts_and_sends_nothing_by_the_users_file_until_root_approves() {
    let Some(guarded) =
        Guarded::new("root_starts_and_sends_nothing_by_the_users_file_until_root_approves")
    else {
        return;
    };
    let lab = &guarded.lab;
    let (ran, copy) = (lab.dir.join("ran"), lab.dir.join("copy"));
    let script = lab.workspace("a").join("key");
    put(
        &script,
        &format!("#!/bin/sh\ntouch {}\necho secret\n", ran.display()),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[backup]\nkey_command = \"{}\"\ncopy_to = \"{}\"\n",
        script.display(),
        copy.display()
    ));
    let made = said(&mut guarded.command(&["backup", "now", "--json"]));
    assert_eq!(made.code, 3, "{made:?}");
    let trouble = made.json()["trouble"].to_string();
    assert!(
        trouble.contains("copy_to, key_command") && trouble.contains("approve"),
        "{trouble}"
    );
    assert!(!ran.exists() && !copy.exists());
    // Nor may a link to a file of root's make the data directory count as root's own.
    let identity = lab.file("session-state/root.json");
    let (moved, of_root) = (lab.dir.join("root.json"), lab.dir.join("of-root.json"));
    fs::copy(&identity, &of_root).unwrap();
    fs::rename(&identity, &moved).unwrap();
    std::os::unix::fs::symlink(&of_root, &identity).unwrap();
    said(&mut guarded.command(&["backup", "now", "--always"])).sound();
    assert!(!ran.exists() && !copy.exists());
    fs::remove_file(&identity).unwrap();
    fs::rename(&moved, &identity).unwrap();
    // Nor may a file of the user's count as root's approval.
    let approved = lab.file("backups.approved.json");
    fs::write(&approved, "{\"version\":1,\"copy_to\":\"/x\"}").unwrap();
    std::os::unix::fs::chown(&approved, Some(OTHER_UID), None).unwrap();
    said(&mut guarded.command(&["backup", "now"])).refused(
        1,
        "users other than root",
        "chown root",
    );
    fs::remove_file(&approved).unwrap();

    lab.write_config(&format!(
        "{text}\n[backup]\ncopy_to = \"{}\"\n",
        copy.display()
    ));
    said(&mut guarded.command(&["backup", "approve"])).ok();
    said(&mut guarded.command(&["backup", "now"])).ok();
    assert!(copy.join("config").exists());
    // Nor may an agent make root remove backups.
    let approved = lab.config_text();
    lab.write_config(&format!(
        "{approved}keep = {{ last = 1, hourly = 0, daily = 0, weekly = 0 }}\n"
    ));
    said(&mut guarded.command(&["backup", "now", "--always"])).sound();
    said(&mut guarded.command(&["backup", "check", "--prune"])).sound();
    let list = said(&mut guarded.command(&["backup", "ls", "--json"]))
        .ok()
        .json();
    assert!(list["backups"].as_array().unwrap().len() > 1, "{list}");
    lab.write_config(&approved);
    said(&mut guarded.as_user(&["backup", "approve"])).refused(2, "nothing to approve", "sudo");
}

#[test]
fn restored_files_belong_to_the_user_and_root_follows_no_link_of_the_user() {
    let Some(guarded) =
        Guarded::new("restored_files_belong_to_the_user_and_root_follows_no_link_of_the_user")
    else {
        return;
    };
    let lab = &guarded.lab;
    let session = sys::uuid::new_uuid();
    let transcript = lab.file(&format!(".claude/projects/-a/{session}.jsonl"));
    put(
        &transcript,
        "{\"type\":\"user\",\"message\":{\"content\":\"hello\"}}\n",
    );
    let record = serde_json::json!({
        "version": 1, "name": "a", "agent_id": sys::uuid::new_uuid(), "session_id": session,
        "cwd": "workspaces/a", "prompt_delivered": true,
    });
    put(&lab.record_path("a"), &record.to_string());
    give(&lab.file(".claude"));
    give(&lab.record_path("a"));
    said(&mut guarded.command(&["backup", "now"])).ok();
    let words = fs::read(&transcript).unwrap();
    fs::remove_dir_all(lab.file(".claude/projects")).unwrap();
    fs::remove_dir_all(lab.workspace("a")).unwrap();
    said(&mut guarded.command(&["backup", "recover"])).ok();
    assert_eq!(fs::read(&transcript).unwrap(), words);
    assert_eq!(fs::metadata(&transcript).unwrap().uid(), OTHER_UID);
    let file = lab.workspace("a").join("src/main.rs");
    assert_eq!(fs::metadata(&file).unwrap().uid(), OTHER_UID);

    // A directory of root's, through a link of the user's.
    let of_root = lab.dir.join("of-root");
    fs::create_dir(&of_root).unwrap();
    fs::set_permissions(&of_root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(lab.file(".claude/projects")).unwrap();
    std::os::unix::fs::symlink(&of_root, lab.file(".claude/projects")).unwrap();
    assert_ne!(said(&mut guarded.command(&["backup", "recover"])).code, 0);
    assert_eq!(fs::read_dir(&of_root).unwrap().count(), 0);
    said(&mut guarded.command(&["backup", "restore", "latest", "workspaces/a"])).refused(
        2,
        "root does not write",
        "--to",
    );
}
