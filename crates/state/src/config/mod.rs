//! The configuration file `spotkeep.toml`: parsing, checks, and edits that keep comments.
//!
//! Unknown keys are errors. The only module that uses `toml_edit`.

mod backup;
mod checkpoint;
mod edit;
mod notify;
mod span;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::AgentName;
use sys::cloud_provider::Choice;
use sys::error::{Context as _, Error, Hint as _, Result, anyhow};
use sys::files;

pub use backup::{Backup, KeepBackups};
pub use checkpoint::{CHECKPOINT_EVERY, Checkpoint, Keep, Remote};
pub use edit::{add_agent, remove_agent, template};
pub use notify::{Format, Notify, NotifyKind};
pub use span::Span;
pub use sys::size::Size;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The cloud of this machine.
    pub cloud: Cloud,
    /// Settings of the machine rather than of an agent.
    pub machine: Machine,
    /// Checkpoints of uncommitted work.
    pub checkpoint: Checkpoint,
    /// Receivers of notifications.
    pub notify: Notify,
    /// Defaults for every agent.
    pub defaults: Defaults,
    /// Backups.
    pub backup: Backup,
    /// The agents.
    pub agents: BTreeMap<AgentName, Agent>,
}

/// Source of the preemption notice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cloud {
    /// The cloud provider whose metadata server is used.
    pub provider: Choice,
    /// `HOST:PORT` of another metadata server.
    pub metadata: Option<String>,
    /// Length of the notice that the VM was created with.
    pub notice: Option<Span>,
}

/// Settings for a new boot disk and for the machine's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Paths of the home directory that are kept in `<data-dir>/home`.
    pub home: Vec<PathBuf>,
    /// A script that runs on each new boot disk.
    pub on_new_machine: Option<PathBuf>,
    /// After this time with all agents finished, the machine saves and shuts down.
    pub stop_when_idle: Option<Span>,
    /// The command that shuts it down; `systemctl poweroff` where it is not set.
    pub poweroff: Option<Vec<String>>,
}

/// Settings of every agent that does not have its own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Arguments for Claude, before an agent's own.
    pub args: Vec<String>,
    /// The `claude` to run; relative to the data directory. Found automatically where this is not
    /// set.
    pub claude: Option<PathBuf>,
    /// What happens when Claude ends without being stopped.
    pub restart: Restart,
    /// Interval of checkpoints while an agent works.
    pub checkpoint_every: Option<Span>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// A file of environment variables, relative to the data directory; never shown.
    pub env_file: Option<PathBuf>,
    /// Memory limit of an agent with all its processes. It needs cgroups, so the systemd units.
    pub memory_max: Option<Size>,
}

/// When an agent that ended without being stopped is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Always, however it ended.
    Always,
    /// If it failed.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

/// A declared agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its working directory, relative to the data directory.
    pub workspace: PathBuf,
    /// Its first prompt.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Arguments for Claude, after the defaults.
    #[serde(default)]
    pub args: Vec<String>,
    /// Like the default.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// Like the default.
    #[serde(default)]
    pub checkpoint_every: Option<Span>,
    /// Environment variables, over the defaults.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A file of environment variables, over the defaults.
    #[serde(default)]
    pub env_file: Option<PathBuf>,
    /// Like the default.
    #[serde(default)]
    pub memory_max: Option<Size>,
}

/// What [`Config::lay_down`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaidDown {
    /// Nothing: the file exists.
    Nothing,
    /// The last file that a keeper accepted.
    LastGood,
    /// The file of a new data directory.
    Template,
}

impl Config {
    /// Reads the file.
    ///
    /// The file is missing or blank, which is damage. A syntax error, an unknown key, a wrong type:
    /// with line and column. Two agents share a workspace.
    pub fn load(path: &Path) -> Result<Self> {
        if Self::is_lost(path) {
            return lost(path, &copy_beside(path));
        }
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text)
                .and_then(|config| config.check_on_disk(path).map(|()| config))
                .with_context(|| format!("{} is invalid", path.display()))
                .hint(format!("edit {}; nothing was changed", path.display())),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Reads the file for a fleet that has to come back: where the file is missing or invalid, the
    /// last accepted one is used until it is repaired, and the error is returned beside it.
    ///
    /// # Errors
    /// The file is missing or invalid, and no keeper ever accepted one.
    pub fn load_or_last_good(path: &Path, copy: &Path) -> Result<(Self, Option<Error>)> {
        match Self::load(path) {
            Ok(config) => Ok((config, None)),
            Err(error) => match Self::last_good(copy) {
                Some(config) => Ok((config, Some(error))),
                None => Err(error),
            },
        }
    }

    /// Returns the last file that a keeper accepted, if there was one.
    #[must_use]
    pub fn last_good(copy: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(copy).ok()?).ok()
    }

    /// Stores a copy of the file as the last accepted one.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn remember_as_good(path: &Path, copy: &Path) -> Result<()> {
        let (now, last) = (files::read_optional(path)?, files::read_optional(copy)?);
        match now {
            Some(now) if last.as_ref() != Some(&now) => files::write_atomic(copy, &now),
            _ => Ok(()),
        }
    }

    /// Whether the file is missing or blank.
    #[must_use]
    pub fn is_lost(path: &Path) -> bool {
        fs::read_to_string(path).map_or_else(
            |error| error.kind() == std::io::ErrorKind::NotFound,
            |text| text.trim().is_empty(),
        )
    }

    /// Writes the file where it is missing or blank: the last one that a keeper accepted, or else
    /// the template. A template in place of a lost file would remove the fleet from it.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn lay_down(path: &Path, copy: &Path, unattended: bool) -> Result<LaidDown> {
        if !Self::is_lost(path) {
            return Ok(LaidDown::Nothing);
        }
        let (text, laid_down) = match fs::read_to_string(copy) {
            Ok(text) if Self::parse(&text).is_ok() => (text, LaidDown::LastGood),
            _ => (template(unattended), LaidDown::Template),
        };
        files::write_atomic(path, text.as_bytes())?;
        Ok(laid_down)
    }

    /// Parses the text of the file.
    ///
    /// # Errors
    /// Like [`Config::load`].
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml_edit::de::from_str(text)
            .map_err(|error| anyhow!("{}", without_values(error.to_string().trim_end())))?;
        config.backup.check()?;
        let mut seen: BTreeMap<PathBuf, &AgentName> = BTreeMap::new();
        for (name, agent) in &config.agents {
            let parts = agent
                .workspace
                .components()
                .filter(|part| *part != Component::CurDir);
            let workspace: PathBuf = parts.collect();
            if let Some(other) = seen.insert(workspace, name) {
                return Err(shared(other, name, &agent.workspace)).hint(SHARED);
            }
        }
        Ok(config)
    }

    /// Checks what only the disk shows: two workspaces that are one directory, through a link.
    fn check_on_disk(&self, path: &Path) -> Result<()> {
        let data_dir = path.parent().unwrap_or(Path::new("."));
        let mut seen: BTreeMap<PathBuf, &AgentName> = BTreeMap::new();
        for (name, agent) in &self.agents {
            let Ok(workspace) = fs::canonicalize(data_dir.join(&agent.workspace)) else {
                continue; // It may come yet; a start looks again.
            };
            if let Some(other) = seen.insert(workspace, name) {
                return Err(shared(other, name, &agent.workspace)).hint(SHARED);
            }
        }
        Ok(())
    }

    /// Returns what happens when this agent ends without being stopped.
    #[must_use]
    pub fn restart_of(&self, agent: &Agent) -> Restart {
        agent.restart.unwrap_or(self.defaults.restart)
    }

    /// Returns the memory limit of this agent; `None`: no limit.
    #[must_use]
    pub fn memory_max_of(&self, agent: &Agent) -> Option<Size> {
        agent.memory_max.or(self.defaults.memory_max)
    }

    /// Returns the interval of checkpoints of this agent's workspace while it works.
    #[must_use]
    pub fn checkpoint_every(&self, agent: &Agent) -> std::time::Duration {
        let every = agent.checkpoint_every.or(self.defaults.checkpoint_every);
        // At a shorter interval, checkpoints would run without a pause.
        every
            .unwrap_or(CHECKPOINT_EVERY)
            .0
            .max(std::time::Duration::from_secs(1))
    }

    /// Returns the user's arguments for Claude.
    #[must_use]
    pub fn arguments_of(&self, agent: &Agent) -> Vec<String> {
        self.defaults
            .args
            .iter()
            .chain(&agent.args)
            .cloned()
            .collect()
    }
}

/// Returns an error's text with its position, but without values of the file: otherwise a webhook
/// or a token would be in the logs and in the journal.
fn without_values(error: &str) -> String {
    let stars = |text: &str| -> String {
        let star = |c: char| if c.is_whitespace() { c } else { '*' };
        text.chars().map(star).collect()
    };
    let line = |line: &str| -> String {
        // The line of the file, after its number.
        let of_file = line
            .split_once('|')
            .filter(|(number, _)| number.trim().parse::<u32>().is_ok())
            .map(|(_, text)| text);
        if let Some(text) = of_file {
            let shown = shown_of(text);
            let (shown, hidden) = text.split_at(shown);
            let number = line.strip_suffix(text).unwrap_or_default();
            return format!("{number}{shown}{}", stars(hidden));
        }
        // The value in the file: `invalid type: string "it", expected a map`.
        let echoes = ["invalid type: string \"", "invalid value: string \""];
        match echoes.iter().find(|start| line.starts_with(**start)) {
            Some(start) => {
                let behind = line.rsplit_once("\", ").map_or("", |(_, rest)| rest);
                format!("{}, {behind}", start.trim_end_matches(" \""))
            }
            None => line.to_owned(),
        }
    };
    error.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns how much of a line of the file may be shown, in bytes: its key, or the whole header of a
/// table. A line may also be one of many of a list or of a text, and consist of a secret.
fn shown_of(text: &str) -> usize {
    let is_key = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
    if let Some((key, value)) = text.split_once('=') {
        // What looks like a key and has `=` or nothing after it may be the end of a base64 text.
        let is_whole = key.ends_with(' ') || !(value.is_empty() || value.starts_with('='));
        return match !key.trim().is_empty() && key.chars().all(is_key) && is_whole {
            true => key.len() + 1,
            false => 0,
        };
    }
    let is_header = text.trim_start().starts_with('[');
    match is_header && text.chars().all(|c| is_key(c) || "[]".contains(c)) {
        true => text.len(),
        false => 0,
    }
}

const SHARED: &str = "give each its own, for example a git worktree";

fn shared(one: &AgentName, other: &AgentName, workspace: &Path) -> Error {
    anyhow!(
        "the agents {one} and {other} share the workspace {}",
        workspace.display()
    )
}

/// Returns where a data directory keeps the last accepted file.
fn copy_beside(path: &Path) -> PathBuf {
    path.with_file_name("session-state/spotkeep.toml")
}

/// Returns the error for a file that is missing, or that a power cut has emptied: no user removes a
/// whole fleet from the file in this way.
fn lost<T>(path: &Path, copy: &Path) -> Result<T> {
    let refusal = Err(anyhow!("{} is gone, or has nothing in it", path.display()));
    if copy.exists() {
        return refusal.hint(format!("cp {} {}", copy.display(), path.display()));
    }
    let data_dir = path.parent().unwrap_or(path);
    refusal.hint(format!("spotkeep --data-dir {} init", data_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_guide_is_read() {
        let config = Config::parse(
            r#"
            [cloud]
            provider = "auto"
            metadata = "127.0.0.1:8070"
            notice = "120s"
            [defaults]
            args = ["--dangerously-skip-permissions"]
            restart = "always"
            checkpoint_every = "2m"
            env = { ANTHROPIC_BASE_URL = "http://127.0.0.1:8080" }
            [agents.agent-1-issue-123]
            workspace = "workspaces/agent-1"
            prompt = "Fix issue 123."
            restart = "never"
            "#,
        )
        .unwrap();
        let (name, agent) = config.agents.first_key_value().unwrap();
        assert_eq!(name.as_str(), "agent-1-issue-123");
        assert_eq!(config.restart_of(agent), Restart::Never);
        assert_eq!(config.defaults.checkpoint_every, Some(Span::from_secs(120)));
        assert_eq!(config.checkpoint_every(agent).as_secs(), 120);
    }

    #[test]
    fn every_error_has_line_and_column() {
        for (text, said) in [
            ("[defaults]\nrestrt = \"always\"\n", "restrt"),
            ("[defaults]\nargs = \"x\"\n", "invalid type"),
            ("[cloud]\nnotice = \"soon\"\n", "not a duration"),
            (
                "[agents.\"a.b\"]\nworkspace = \"w\"\n",
                "cannot name an agent",
            ),
            ("[defaults]\nmemory_max = \"lots\"\n", "not a size"),
            ("[agents.a]\nprompt = \"x\"\n", "workspace"),
            ("[cloud\n", "TOML"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(
                error.contains("line ") && error.contains("column "),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn no_error_contains_values_of_the_file() {
        for text in [
            "[notify]\nwebhook = \"https://hooks.example/secret\n",
            "[notify]\nwebhook = https://hooks.example/secret\n",
            "[notify]\nwebhook = [\"secret\"]\n",
            "[defaults]\nenv = { TOKEN = \"secret\" \n",
            "[defaults]\nenv = \"TOKEN=secret\"\n",
            "[defaults]\nenvs = { TOKEN = \"secret\" }\n",
            "[checkpoint]\npush = \"me:secret\\q\"\n",
            "[checkpoint]\npush = \"-secret\"\n",
            "[checkpoint]\npush = \"secret\"\n",
            "[backup]\ncopy_to = { secret = 1 }\n",
            "secret\n",
            "[defaults]\nargs = [\n  \"--token\", \"secret\" \"x\",\n]\n",
            "[defaults]\nargs = [\n  \"--token=1\", \"secret=2\" \"x\",\n]\n",
            "[notify]\ncommand = \"\"\"\nsecret \\q\"\"\"\n",
            "[notify]\ncommand = \"\"\"\nsecret\\q==\n\"\"\"\n",
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            let key = text.contains("{ secret");
            assert!(key || !error.contains("secret"), "{text}: {error}");
            assert!(error.contains("line "), "{text}: {error}");
        }
    }

    #[test]
    fn an_invalid_file_is_replaced_by_the_last_accepted_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("spotkeep.toml"), dir.path().join("copy"));
        fs::write(&path, "[agents.a]\nworkspace = \"w\"\n").unwrap();
        Config::remember_as_good(&path, &copy).unwrap();
        fs::write(&path, "[agents.a]\nworkspac = \"w\"\n").unwrap();
        let (config, error) = Config::load_or_last_good(&path, &copy).unwrap();
        assert_eq!(config.agents.len(), 1);
        assert!(format!("{:#}", error.unwrap()).contains("workspac"));
        for lost in [Some(""), Some(" \n"), None] {
            match lost {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let (config, error) = Config::load_or_last_good(&path, &copy).unwrap();
            assert_eq!(config.agents.len(), 1);
            assert!(format!("{:#}", error.unwrap()).contains("nothing in it"));
            assert!(Config::load(&path).is_err());
            let b = AgentName::new("b").unwrap();
            assert!(add_agent(&path, &b, Path::new("b"), None, &[]).is_err());
        }
        fs::write(&path, "# no agents\n").unwrap();
        let (config, error) = Config::load_or_last_good(&path, &copy).unwrap();
        assert!(config.agents.is_empty() && error.is_none());
        fs::write(&path, "[agents.a]\nworkspac = \"w\"\n").unwrap();
        fs::remove_file(&copy).unwrap();
        assert!(Config::load_or_last_good(&path, &copy).is_err());
        fs::remove_file(&path).unwrap();
        assert!(Config::load_or_last_good(&path, &copy).is_err());
    }

    #[test]
    fn a_lost_file_is_restored_from_the_last_accepted_one_or_else_the_template() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("spotkeep.toml"), dir.path().join("copy"));
        let laid_down = || Config::lay_down(&path, &copy, false).unwrap();
        let agents = || Config::load(&path).unwrap().agents.len();
        assert_eq!((laid_down(), agents()), (LaidDown::Template, 0));
        assert_eq!(laid_down(), LaidDown::Nothing);
        fs::write(&copy, "[agents.a]\nworkspace = \"w\"\n").unwrap();
        fs::write(&path, " ").unwrap();
        assert_eq!((laid_down(), agents()), (LaidDown::LastGood, 1));
        fs::remove_file(&path).unwrap();
        fs::write(&copy, "[agents").unwrap();
        assert_eq!((laid_down(), agents()), (LaidDown::Template, 0));
    }

    #[test]
    fn two_agents_on_one_workspace_are_refused() {
        let text = "[agents.a]\nworkspace = \"w\"\n[agents.b]\nworkspace = \"./w/\"\n";
        assert!(
            Config::parse(text)
                .unwrap_err()
                .to_string()
                .contains("share the workspace")
        );
    }
}
