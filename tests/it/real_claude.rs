//! Runs tests with each pinned version of the real Claude Code, on loopback only.
//!
//! Claude talks to the lab's fake API, without a real key. The Claude that is installed on this
//! machine, and its files, are never used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use claude::onboarding::{Seed, seed};
use claude::session_file;
use serde_json::Value;
use spotkeep::tmux::Tmux;
use state::AgentName;
use sys::inotify::Watch;
use sys::process::{ProcessId, Signal};

use crate::loopback::{again_on_loopback, ensure_only_loopback, is_on_loopback, name_of};
use crate::support::{Lab, is_root, run, skip};
use testing::wait::{during, until, until_with};

/// A key that is not valid anywhere. Claude remembers its last 20 characters.
pub const KEY: &str = "lab-key-that-opens-nothing";

/// A pinned version of Claude Code.
pub struct Version {
    pub number: String,
    pub program: PathBuf,
}

/// Runs `check` with each pinned version. It is a closure of the test, whose name is taken from its
/// type.
pub fn with_each_version<Check: Fn(&Version)>(check: Check) {
    with(|versions| versions, check);
}

/// Runs `check` with the oldest and the newest version only, where one version takes half a minute
/// and those between have never behaved differently: whole drills, imports of sessions.
pub fn with_oldest_and_newest<Check: Fn(&Version)>(check: Check) {
    with(
        |mut versions| {
            let newest = versions.pop();
            versions.truncate(1);
            versions.extend(newest);
            versions
        },
        check,
    );
}

fn with<Check: Fn(&Version)>(which: fn(Vec<Version>) -> Vec<Version>, check: Check) {
    let test = name_of::<Check>();
    let Some(versions) = pinned(&test) else {
        return;
    };
    if !is_on_loopback() {
        return again_on_loopback(&test);
    }
    for version in which(versions) {
        eprintln!("with Claude Code {}", version.number);
        check(&version);
    }
}

/// Returns the pinned versions that are installed; `None`, with a message, where none can run.
pub fn pinned(test: &str) -> Option<Vec<Version>> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let numbers = fs::read_to_string(checkout.join("scripts/claude-versions")).unwrap();
    if !is_root() {
        skip(test, "a network namespace needs root");
        return None;
    }
    for tool in ["unshare", "ip", "tmux"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .any(|dir| dir.join(tool).is_file());
        if !found {
            skip(test, &format!("{tool} is not installed"));
            return None;
        }
    }
    let program = |number: &str| checkout.join(".claude-bin").join(number).join("claude");
    let (there, missing): (Vec<&str>, Vec<&str>) = numbers
        .split_whitespace()
        .partition(|number| program(number).is_file());
    for number in missing {
        skip(
            test,
            &format!("Claude Code {number} is not there (scripts/fetch-claude --all)"),
        );
    }
    Some(
        there
            .iter()
            .map(|number| Version {
                number: (*number).to_owned(),
                program: program(number),
            })
            .collect(),
    )
}

/// A lab whose agents are the real Claude Code.
pub fn lab(version: &Version) -> Lab {
    let lab = Lab::new();
    furnish(&lab, version);
    lab
}

/// Like [`lab`], in a cloud whose metadata server is a fake.
pub fn lab_in_a_cloud(version: &Version) -> Lab {
    let lab = Lab::in_a_cloud();
    furnish(&lab, version);
    lab
}

fn furnish(lab: &Lab, version: &Version) {
    ensure_only_loopback();
    let claude = lab.dir.join("bin/claude");
    fs::remove_file(&claude).unwrap();
    symlink(&version.program, &claude).unwrap();
    let text = lab.config_text();
    let env = format!(
        "env = {{ {}, ",
        environment(lab)
            .map(|(name, value)| format!("{name} = \"{value}\""))
            .join(", ")
    );
    let text = text.replace(
        "env = { ",
        &format!("args = [\"--dangerously-skip-permissions\"]\n{env}"),
    );
    assert!(text.contains(KEY), "{text}");
    lab.write_config(&text);
}

/// The variables that keep Claude within the lab, in addition to those that the lab sets.
fn environment(lab: &Lab) -> [(&'static str, String); 4] {
    [
        ("ANTHROPIC_API_KEY", KEY.to_owned()),
        (
            "CLAUDE_CODE_TMPDIR",
            lab.dir.join("tmp").display().to_string(),
        ),
        ("DISABLE_TELEMETRY", "1".to_owned()),
        (
            "SPOTKEEP_RUNTIME_DIR",
            lab.dir.join("run").display().to_string(),
        ),
    ]
}

/// The command line with which the user runs `claude` beside the keeper, with this configuration.
/// Of the terminal's variables it gets those by which programs know their pane.
fn by_hand(lab: &Lab, config: &Path, arguments: &[&str]) -> Vec<String> {
    let clean = r#"exec env -i TMUX="$TMUX" TMUX_PANE="$TMUX_PANE" "$@""#;
    let mut words: Vec<String> = ["sh", "-c", clean, "sh"].map(str::to_owned).to_vec();
    let of_lab = [
        ("PATH", std::env::var("PATH").unwrap()),
        ("HOME", lab.dir.join("home").display().to_string()),
        ("TERM", "xterm-256color".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("IS_SANDBOX", "1".to_owned()),
        ("ANTHROPIC_BASE_URL", lab.model.url()),
        ("CLAUDE_CONFIG_DIR", config.display().to_string()),
        (
            "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL",
            "1".to_owned(),
        ),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
    ];
    words.extend(
        of_lab
            .into_iter()
            .chain(environment(lab))
            .map(|(name, value)| format!("{name}={value}")),
    );
    words.push(lab.dir.join("bin/claude").display().to_string());
    words.push("--dangerously-skip-permissions".to_owned());
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    words
}

/// Writes a Claude configuration in which the dialogs of a first start have been answered.
pub fn write_onboarded_config(lab: &Lab, config: &Path, cwd: &Path) {
    let answers = Seed {
        cwds: &[cwd],
        api_key: Some(KEY),
        skip_permissions: true,
    };
    fs::create_dir_all(config).unwrap();
    seed(config, &answers, &lab.dir.join("copy.json")).unwrap();
}

/// Runs a `claude` command that ends, with the user's configuration; returns its output.
pub fn said_by_hand(lab: &Lab, config: &Path, cwd: &Path, arguments: &[&str]) -> String {
    // Claude's own verb has to come first.
    let mut words = by_hand(lab, config, &[]);
    words.pop();
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(cwd);
    let output = run(&mut command).unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// The user's terminal with a `claude` in it.
pub struct Person {
    pub tmux: Tmux,
    name: AgentName,
    pub claude: ProcessId,
    config: PathBuf,
}

impl Person {
    /// Starts `claude` with the configuration of the agents.
    pub fn with_agent_config(lab: &Lab, cwd: &Path, arguments: &[&str]) -> Self {
        Self::with(lab, &lab.file(".claude"), cwd, arguments)
    }

    /// Starts `claude` with another configuration, in which the dialogs of a first start have been
    /// answered.
    pub fn with_own_config(lab: &Lab, config: &Path, cwd: &Path, arguments: &[&str]) -> Self {
        write_onboarded_config(lab, config, cwd);
        Self::with(lab, config, cwd, arguments)
    }

    fn with(lab: &Lab, config: &Path, cwd: &Path, arguments: &[&str]) -> Self {
        // A new directory each time: the server of an earlier person may still have its socket
        // open.
        let id = sys::uuid::new_uuid();
        let dir = lab.dir.join(format!("person-{}", &id[..8]));
        fs::create_dir_all(&dir).unwrap();
        let (tmux, name) = (Tmux::new(&dir), AgentName::new("person").unwrap());
        tmux.ensure_server().unwrap();
        let claude = tmux
            .launch(&name, cwd, &by_hand(lab, config, arguments))
            .unwrap();
        Self {
            tmux,
            name,
            claude,
            config: config.to_owned(),
        }
    }

    /// Waits until Claude is at its prompt; returns the session that it is in.
    pub fn session(&self) -> String {
        let config = &self.config;
        let watch = Watch::new().unwrap();
        let pause = || {
            watch.add(&session_file::sessions_dir(config)).ok();
            watch.wait(Duration::from_millis(100));
        };
        until_with(
            "the user's session is idle",
            || self.screen(),
            pause,
            || {
                let file = session_file::read(config, self.claude.pid)?;
                (file.status == Some(session_file::Status::Idle)).then_some(file.session_id)
            },
        )
    }

    /// Types a text, waits until the screen shows it, and presses Enter.
    pub fn says(&self, text: &str) {
        self.tmux.paste(&self.name, text).unwrap();
        until(&format!("the screen shows {text}"), || {
            self.screen().contains(text).then_some(())
        });
        self.tmux.press_enter(&self.name).unwrap();
    }

    pub fn screen(&self) -> String {
        self.tmux.screen(&self.name).unwrap_or_default()
    }

    /// Ends `claude` with SIGTERM.
    pub fn leaves(self) {
        let claude = self.claude.open().unwrap();
        claude.signal(Signal::Term);
        during("the user's claude ends", || claude.wait(None));
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.tmux.end_server();
    }
}

/// The records of a transcript whose lines are whole.
pub fn records(transcript: &Path) -> Vec<Value> {
    let text = fs::read(transcript).unwrap();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// How many user records of a transcript contain this text.
pub fn times_said(transcript: &Path, text: &str) -> usize {
    let escaped = Value::from(text).to_string();
    let inner = &escaped[1..escaped.len() - 1];
    let users = records(transcript)
        .into_iter()
        .filter(|record| record["type"] == "user");
    users
        .filter(|record| record["message"].to_string().contains(inner))
        .count()
}

/// Waits until an agent has sent `count` requests in all.
pub fn wait_requests(lab: &Lab, name: &str, count: u64) {
    lab.until_model(&format!("{name} has asked {count} times"), |request_log| {
        let account = request_log.agents.get(name);
        account.is_some_and(|account| account.requests >= count)
    });
}

/// How many requests an agent has sent.
pub fn requests(lab: &Lab, name: &str) -> u64 {
    lab.model
        .request_log()
        .agents
        .get(name)
        .map_or(0, |account| account.requests)
}
