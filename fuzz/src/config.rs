//! Fuzzes parsing and editing of `spotkeep.toml`.
//!
//! An edit keeps what the user wrote, and no error contains a secret.

use std::fs;
use std::path::Path;

use state::AgentName;
use state::config::{Agent, Config, add_agent, remove_agent};

/// A config with a secret in every place that can have one.
const SECRETS: &str = r#"
[notify]
webhook = "https://hooks.example/hunter2"
command = 'curl -H "X: hunter2" https://example.org'
[checkpoint]
push = "https://me:hunter2@example.org/safe.git"
[defaults]
args = ["--settings", "hunter2", "-x", "a", "hunter2"]
[defaults.env]
KEY = """
hunter2
and hunter2"""
[backup]
copy_to = "sftp:hunter2@example.org:/x"
key_command = "echo hunter2"
[agents.a]
workspace = "w"
env = { TOKEN = "hunter2", OTHER = 'hunter2' }
prompt = '''
Say hunter2.
  Then hunter2'''
args = [
    "--append-system-prompt", # hunter2
    "hunter2 hunter2",
    'hunter2', "a=hunter2",
]
"#;

/// Parses and edits the input, and makes an edit that the input chooses in a config with secrets.
pub fn check(bytes: &[u8]) {
    no_secret_is_in_an_error(bytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spotkeep.toml");
    fs::write(&path, bytes).unwrap();
    let loaded = Config::load(&path);
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(loaded.is_err());
        return;
    };
    let parsed = Config::parse(text);
    if let Ok(loaded) = loaded {
        assert_eq!(Some(loaded), parsed.ok());
        an_agent_is_added_and_removed(&path, text);
        each_agent_can_be_removed(&path, text);
    } else {
        let name = AgentName::new("new").unwrap();
        add_agent(&path, &name, Path::new("w"), None, &[]).ok();
        // If the result would not be valid, the file is not changed.
        if Config::load(&path).is_err() {
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}

/// Changes one byte of a valid config, as a user who mistypes does.
fn no_secret_is_in_an_error(bytes: &[u8]) {
    let [high, low, how, byte, ..] = *bytes else {
        return assert!(Config::parse(SECRETS).is_ok());
    };
    let mut text = SECRETS.as_bytes().to_vec();
    let at = (usize::from(high) * 256 + usize::from(low)) % text.len();
    match how % 3 {
        0 => {
            text.remove(at);
        }
        1 => text.insert(at, byte),
        _ => text[at] = byte,
    }
    let text = String::from_utf8_lossy(&text);
    if let Err(error) = Config::parse(&text) {
        let error = format!("{error:#}");
        assert!(!error.contains("hunter2"), "{text}\n{error}");
    }
}

/// Adding and removing an agent leaves the file unchanged; in between, the agent is read as it was
/// added.
fn an_agent_is_added_and_removed(path: &Path, text: &str) {
    let before = Config::parse(text).unwrap();
    let name = AgentName::new("fuzzed-agent").unwrap();
    let prompt: String = text.chars().take(300).collect();
    let args = [prompt.chars().rev().collect(), "-x".to_owned()];
    let workspace = Path::new("workspaces/fuzzed");
    if add_agent(path, &name, workspace, Some(&prompt), &args).is_err() {
        assert_eq!(fs::read_to_string(path).unwrap(), text);
        // The agent may exist, or the table may have no headers.
        let taken = before.agents.contains_key(&name);
        let shared = before.agents.values().any(|agent| {
            let parts: std::path::PathBuf = agent.workspace.components().collect();
            parts.ends_with(workspace)
        });
        assert!(taken || shared || has_no_header_for_agents(text));
        return;
    }
    let with = fs::read_to_string(path).unwrap();
    assert!(with.starts_with(text));
    let mut config = Config::load(path).unwrap();
    let agent = config.agents.remove(&name).unwrap();
    assert_eq!(config, before);
    let Agent {
        workspace: its_workspace,
        prompt: its_prompt,
        args: its_args,
        ..
    } = agent;
    assert_eq!(its_workspace, workspace);
    assert_eq!(its_prompt, Some(prompt));
    assert_eq!(its_args, args);
    remove_agent(path, &name).unwrap();
    let after = fs::read_to_string(path).unwrap();
    // A newline is added to a last line without one.
    let ended = after.strip_suffix('\n').unwrap_or(&after);
    assert!(after == text || ended == text, "{text:?}\n{after:?}");
}

/// Whether the agents are in an inline table, `agents = { ... }`, which cannot be extended.
fn has_no_header_for_agents(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line
            .trim_start()
            .trim_start_matches(['"', '\'', '\u{feff}']);
        line.starts_with("agents") || line.starts_with("\\u")
    })
}

/// Removing an agent adds no line, changes no other agent, and keeps all text above its table.
fn each_agent_can_be_removed(path: &Path, text: &str) {
    let before = Config::parse(text).unwrap();
    for name in before.agents.keys() {
        fs::write(path, text).unwrap();
        if remove_agent(path, name).is_err() {
            assert_eq!(fs::read_to_string(path).unwrap(), text);
            continue;
        }
        let after = fs::read_to_string(path).unwrap();
        let mut left = Config::parse(text).unwrap();
        left.agents.remove(name);
        assert_eq!(Config::parse(&after).unwrap(), left);
        let mut old = text.lines();
        for line in after.lines() {
            // A byte order mark stays at the beginning of the file.
            let plain = |line: &str| line.trim_start_matches('\u{feff}').to_owned();
            let is_old = old.any(|old| plain(old) == plain(line));
            assert!(is_old, "{line:?} of\n{after}\n{text}");
        }
        let header = format!("\n[agents.{name}]\n");
        let above = text.find(&header).map(|at| &text[..at]);
        if let Some(above) = above.filter(|above| !above.contains(name.as_str())) {
            assert!(after.starts_with(above.trim_end()), "{after}");
        }
    }
}
