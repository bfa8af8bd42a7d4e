//! `spotkeep.toml`: parsed, and edited. What a user has written there stays, and what is secret in it is in no error.

use std::fs;
use std::path::Path;

use state::AgentName;
use state::config::{Agent, Config, add_agent, remove_agent};

/// A file with something secret wherever there can be.
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

/// Reads it, edits it, and breaks a file of secrets in the way that it says.
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
        an_agent_comes_and_goes(&path, text);
        each_agent_can_be_removed(&path, text);
    } else {
        let name = AgentName::new("new").unwrap();
        add_agent(&path, &name, Path::new("w"), None, &[]).ok();
        // Where nothing good could come of it, nothing was changed.
        if Config::load(&path).is_err() {
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}

/// One edit of a good file: what a person mistypes.
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

/// An agent that is added and removed leaves the file as it was, and is read in between as it was meant.
fn an_agent_comes_and_goes(path: &Path, text: &str) {
    let before = Config::parse(text).unwrap();
    let name = AgentName::new("fuzzed-agent").unwrap();
    let prompt: String = text.chars().take(300).collect();
    let args = [prompt.chars().rev().collect(), "-x".to_owned()];
    let workspace = Path::new("workspaces/fuzzed");
    if add_agent(path, &name, workspace, Some(&prompt), &args).is_err() {
        assert_eq!(fs::read_to_string(path).unwrap(), text);
        // It may be there, or the table be of a kind that has no headers.
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
    // A last line without its newline gets one.
    let ended = after.strip_suffix('\n').unwrap_or(&after);
    assert!(after == text || ended == text, "{text:?}\n{after:?}");
}

/// `agents = { ... }` takes no further table.
fn has_no_header_for_agents(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line
            .trim_start()
            .trim_start_matches(['"', '\'', '\u{feff}']);
        line.starts_with("agents") || line.starts_with("\\u")
    })
}

/// No line comes that was not there, the others are read as before, and all above the agent's own table stays as it is.
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
            // The mark at the beginning of a file stays there.
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
