//! `spotkeep agent-exec NAME`: the first process in an agent's pane, which executes `claude`.
//!
//! It replaces itself, so that the pane's process is `claude`.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::agent::terminate::MARKER;
use crate::systemd::cgroup::Leaf;
use state::AgentName;
use state::config::{Agent, Config};
use state::layout::DataDir;
use sys::error::{Context as _, Error, Hint as _, Result, anyhow};
use sys::{files, process};

/// Replaces this process by the agent's `claude`, as its record says. Returns only on an error.
#[must_use]
pub fn become_claude(data_dir: &DataDir, name: &AgentName) -> Error {
    match prepare(data_dir, name) {
        Ok(mut command) => {
            let program = command.get_program().to_string_lossy().into_owned();
            anyhow!(command.exec()).context(format!("cannot run {program}"))
        }
        Err(error) => error,
    }
}

fn prepare(data_dir: &DataDir, name: &AgentName) -> Result<Command> {
    let record = data_dir
        .load_record(name)?
        .with_context(|| format!("the agent {name} has no record"))?;
    let launch = record
        .launch
        .with_context(|| format!("the agent {name} was never launched"))?;
    let (config, _) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
    let agent = config
        .agents
        .get(name)
        .with_context(|| format!("the agent {name} is not declared"))?;
    if let Some(dir) = &launch.cgroup {
        let limit = config.memory_max_of(agent);
        match Leaf::open(dir).enter(limit.map(|size| size.0)) {
            // A memory limit has to hold. Without one the cgroup is optional: the marker is enough.
            Err(error) if limit.is_some() => return Err(error),
            _ => {}
        }
    }
    process::reset_oom_score();
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .current_dir(data_dir.absolute(&record.cwd));
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(claude::command_line::strip) {
            command.env_remove(key);
        }
    }
    command.envs(claude::command_line::environment(&data_dir.claude()));
    command.envs(environment(data_dir, &config, agent)?);
    // The user cannot set this: sessions in another directory would not be found again.
    command.env("CLAUDE_CONFIG_DIR", data_dir.claude());
    command.env(MARKER, launch.marker);
    Ok(command)
}

/// Returns the environment that the user set for an agent: the defaults, then the agent's own;
/// files before tables.
///
/// # Errors
/// An environment file cannot be read, or other users can read it.
pub fn environment(
    data_dir: &DataDir,
    config: &Config,
    agent: &Agent,
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let scopes = [
        (&config.defaults.env_file, &config.defaults.env),
        (&agent.env_file, &agent.env),
    ];
    for (file, table) in scopes {
        if let Some(file) = file {
            all.extend(read_env_file(&data_dir.absolute(file))?);
        }
        all.extend(table.clone());
    }
    Ok(all)
}

/// Reads a file of `KEY=value` lines.
///
/// # Errors
/// The file cannot be read, or other users can read it.
pub fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>> {
    use std::os::unix::fs::PermissionsExt as _;
    let bytes = files::read_optional(path)?
        .with_context(|| format!("the env_file {} is missing", path.display()))?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(anyhow!("others can read the env_file {}", path.display()))
            .hint(format!("chmod 600 {}", path.display()));
    }
    let text =
        String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
    parse_env(&text).with_context(|| format!("cannot use the env_file {}", path.display()))
}

/// Reads `KEY=value` lines; comments, empty lines, a leading `export` and one pair of quotes
/// around the value are allowed. A value never appears in an error.
fn parse_env(text: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (key, value) = line
            .split_once('=')
            .with_context(|| format!("line {number} is not KEY=value"))?;
        let quoted = |quote| {
            value
                .strip_prefix(quote)
                .and_then(|value| value.strip_suffix(quote))
        };
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        all.insert(key.trim().to_owned(), value.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_is_read_as_shells_write_it() {
        let all = parse_env("# keys\n\nexport A=1\nB=\"two words\"\nC='x=y'\nD=\n").unwrap();
        let pairs: Vec<_> = all
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(pairs, ["A=1", "B=two words", "C=x=y", "D="]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_never_shown() {
        let error = parse_env("A=1\nhunter2\n").unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn an_environment_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.env");
        std::fs::write(&path, "A=1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_env_file(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_env_file(&path).unwrap().len(), 1);
    }
}
