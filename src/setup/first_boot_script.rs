//! The user's `on_new_machine` script, run once on each new boot disk.
//!
//! The script is on a disk that agents write to. So it runs as the user, never as root; it may use
//! `sudo` if the user may.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use state::VERSION;
use state::config::Config;
use state::layout::DataDir;
use sys::error::{Context as _, Result, bail, ensure};
use sys::prefix::Prefix;
use sys::process::{self, Signal, with_marker};
use sys::time::Timestamp;
use sys::uuid;

/// The file with the id of the boot disk. Not `/etc/machine-id`: images can contain one.
const STAMP: &str = "/var/lib/spotkeep/machine-id";

/// The state file, in `session-state/`, and the script's output beside it.
const FILE: &str = "machine.json";
const LOG: &str = "on-new-machine.log";

/// Time limit of the script: installing compilers takes long; a script that waits for a human is
/// ended.
const SCRIPT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Time limit for processes that it left behind to end after SIGKILL.
const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// `session-state/machine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Version of this file's format.
    pub version: u32,
    /// The boot disk that the script ran on last.
    pub machine_id: String,
    /// The script, as it was declared.
    pub script: String,
    /// When it began.
    pub at: Timestamp,
    /// Its result.
    pub result: Ran,
    /// Why it failed.
    pub why: Option<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The result of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ran {
    /// It runs, or was interrupted.
    Running,
    /// It ended with 0.
    Done,
    /// It failed.
    Failed,
}

/// The id of this boot disk; `None` if it has none yet.
#[must_use]
pub fn id(place: &Prefix) -> Option<String> {
    let text = fs::read_to_string(place.join(STAMP)).ok()?;
    uuid::is_uuid(text.trim()).then(|| text.trim().to_owned())
}

/// Gives this boot disk an id.
///
/// # Errors
/// The disk refused.
pub fn stamp(place: &Prefix) -> Result<String> {
    if let Some(id) = id(place) {
        return Ok(id);
    }
    let (id, path) = (uuid::new_uuid(), place.join(STAMP));
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    sys::files::write_atomic(&path, format!("{id}\n").as_bytes())?;
    // Any user who runs `spotkeep status` may read it.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    Ok(id)
}

/// The script that has yet to run on this boot disk, as declared.
///
/// # Errors
/// `spotkeep.toml` or the state file cannot be read.
pub fn pending(data_dir: &DataDir, config: &Config, id: Option<&str>) -> Result<Option<String>> {
    let Some(script) = &config.machine.on_new_machine else {
        return Ok(None);
    };
    let ran: Option<Machine> = state::load(&data_dir.session_state().join(FILE))?;
    let is_done =
        ran.is_some_and(|ran| Some(ran.machine_id.as_str()) == id && ran.result == Ran::Done);
    Ok((!is_done).then(|| script.display().to_string()))
}

/// Runs the script as the user of this process, and records its result.
///
/// # Errors
/// The script failed. The state file and the log say why, too.
pub fn run(data_dir: &DataDir, config: &Config, id: &str) -> Result<String> {
    let Some(script) = &config.machine.on_new_machine else {
        bail!("no on_new_machine script is declared");
    };
    let file = data_dir.session_state().join(FILE);
    let mut machine = Machine {
        version: VERSION,
        machine_id: id.to_owned(),
        script: script.display().to_string(),
        at: Timestamp::now(),
        result: Ran::Running,
        why: None,
        unknown: state::load::<Machine>(&file)
            .ok()
            .flatten()
            .map_or_else(Map::new, |m| m.unknown),
    };
    state::store(&file, &machine)?;
    let ended = execute(data_dir, script);
    machine.result = if ended.is_ok() {
        Ran::Done
    } else {
        Ran::Failed
    };
    machine.why = ended.as_ref().err().map(|error| format!("{error:#}"));
    state::store(&file, &machine)?;
    let log = data_dir.session_state().join(LOG);
    ended
        .map(|()| {
            format!(
                "{} has run; its output is in {}",
                script.display(),
                log.display()
            )
        })
        .with_context(|| format!("on_new_machine; its output is in {}", log.display()))
}

fn execute(data_dir: &DataDir, script: &Path) -> Result<()> {
    ensure!(
        !script.components().any(|part| part == Component::ParentDir),
        "{} is outside the data directory",
        script.display()
    );
    let path = data_dir.absolute(script);
    let log = data_dir.session_state().join(LOG);
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let marker = format!("SPOTKEEP_NEW_MACHINE={}", uuid::new_uuid());
    let (key, value) = marker.split_once('=').unwrap_or_default();
    let mut child = Command::new(&path)
        .current_dir(data_dir.dir())
        .env(key, value)
        .env("SPOTKEEP_DATA_DIR", data_dir.dir())
        // Its former name: scripts of users read it.
        .env("SPOTKEEP_ROOT", data_dir.dir())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let pid = i32::try_from(child.id()).context("pid out of range")?;
    let until = Instant::now() + SCRIPT_LIMIT;
    // A process that has ended and was not reaped has no handle, and needs none.
    let in_time = process::ProcessId::from_pid(pid)
        .and_then(process::ProcessId::open)
        .is_none_or(|handle| handle.wait(Some(until)));
    if !in_time {
        for left in with_marker(&marker)
            .into_iter()
            .filter_map(process::ProcessId::open)
        {
            left.signal(Signal::Kill);
            if !left.wait(Some(Instant::now() + SWEEP_LIMIT)) {
                tracing::warn!("a process of {} does not end after SIGKILL", path.display());
            }
        }
        child.kill().ok();
    }
    let status = child.wait()?;
    if !in_time {
        bail!(
            "{} did not end within {} minutes",
            path.display(),
            SCRIPT_LIMIT.as_secs() / 60
        );
    }
    ensure!(status.success(), "{} ended with {status}", path.display());
    Ok(())
}

/// The message of `status` if the script failed on this boot disk.
#[must_use]
pub fn trouble(data_dir: &DataDir) -> Option<String> {
    let id = id(&Prefix::new(None))?;
    failure(data_dir, &id)
}

fn failure(data_dir: &DataDir, id: &str) -> Option<String> {
    let machine: Machine = state::load(&data_dir.session_state().join(FILE))
        .ok()
        .flatten()?;
    let why = match machine.result {
        Ran::Failed => machine.why.unwrap_or_else(|| "it failed".to_owned()),
        Ran::Running | Ran::Done => return None,
    };
    (machine.machine_id == id).then(|| {
        format!(
            "on_new_machine failed on this machine: {why} (its output is in {}; to run it again: \
             sudo spotkeep setup)",
            data_dir.session_state().join(LOG).display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn place(script: &str) -> (tempfile::TempDir, DataDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let path = data_dir.dir().join("provision.sh");
        let draft = data_dir.dir().join("draft");
        fs::write(&draft, script).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&draft, &path).unwrap();
        let config = Config::parse("[machine]\non_new_machine = \"provision.sh\"\n").unwrap();
        (dir, data_dir, config)
    }

    #[test]
    fn the_script_runs_once_on_each_boot_disk() {
        let (_dir, data_dir, config) = place("#!/bin/sh\necho said; pwd\n");
        assert!(pending(&data_dir, &config, None).unwrap().is_some());
        run(&data_dir, &config, "one").unwrap();
        assert_eq!(pending(&data_dir, &config, Some("one")).unwrap(), None);
        assert!(pending(&data_dir, &config, Some("two")).unwrap().is_some());
        let log = fs::read_to_string(data_dir.session_state().join(LOG)).unwrap();
        assert_eq!(log, format!("said\n{}\n", data_dir.dir().display()));
        assert_eq!(failure(&data_dir, "one"), None);
    }

    #[test]
    fn a_script_that_failed_is_shown_and_run_again() {
        let (_dir, data_dir, config) = place("#!/bin/sh\nexit 3\n");
        let error = run(&data_dir, &config, "one").unwrap_err();
        assert!(format!("{error:#}").contains("exit status: 3"), "{error:#}");
        assert!(
            failure(&data_dir, "one")
                .unwrap()
                .contains("exit status: 3")
        );
        assert_eq!(failure(&data_dir, "two"), None);
        assert!(pending(&data_dir, &config, Some("one")).unwrap().is_some());
    }

    #[test]
    fn a_boot_disk_gets_an_id_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = Prefix::new(Some(dir.path()));
        assert_eq!(id(&place), None);
        let first = stamp(&place).unwrap();
        assert_eq!(stamp(&place).unwrap(), first);
        assert_eq!(id(&place), Some(first));
    }
}
