//! Configuration drift: which settings of a running agent differ from `spotkeep.toml` now.
//!
//! Settings take effect at an agent's next start, so an agent with other settings needs a restart.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::launch::find_claude;
use crate::agent::exec;
use state::AgentRecord;
use state::config::Config;
use state::layout::DataDir;
use sys::proc_usage_others;

/// Returns descriptions of the settings that the agent's process was not started with. Empty if
/// there are none, if the agent does not run, or if this cannot be found out.
#[must_use]
pub fn changes(
    data_dir: &DataDir,
    config: &Config,
    record: &AgentRecord,
    boot_id: &str,
) -> Vec<String> {
    let (Some(process), Some(launch), Some(declared)) = (
        record.live_process(boot_id),
        &record.launch,
        config.agents.get(&record.name),
    ) else {
        return Vec::new();
    };
    let mut changes = Vec::new();
    let desired = config.arguments_of(declared);
    if claude::command_line::extra_of(&launch.arguments) != desired {
        changes.push("args".to_owned());
    }
    if let Ok(environment) = exec::environment(data_dir, config, declared) {
        let has = |name: &str| proc_usage_others::variable(process.pid, name);
        changes.extend(differing(&environment, has));
    }
    if let Ok(program) = find_claude(data_dir, config)
        && (program != launch.program || is_replaced(process.pid, &program))
    {
        changes.push(program.display().to_string());
    }
    changes
}

/// Returns the names of the variables that have another value; never a value.
fn differing(
    desired: &BTreeMap<String, String>,
    has: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Vec<String> {
    let differs = |(name, value): &(&String, &String)| {
        // spotkeep sets this one itself, whatever the user declares.
        *name != "CLAUDE_CONFIG_DIR" && has(name).is_none_or(|has| has != value.as_str())
    };
    desired
        .iter()
        .filter(differs)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Returns whether the path of the running program now leads to another one. A script is run by its
/// interpreter, so it never counts as replaced.
fn is_replaced(pid: i32, program: &Path) -> bool {
    let (Ok(now), Ok(runs)) = (
        fs::canonicalize(program),
        fs::read_link(format!("/proc/{pid}/exe")),
    ) else {
        return false;
    };
    claude::binary::is_native(&now) && now != runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_new_or_has_another_value_is_reported_by_its_name() {
        let desired = [("A", "1"), ("B", "2"), ("C", "3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let has = |name: &str| match name {
            "A" => Some("1".into()),
            "B" => Some("hunter2".into()),
            _ => None,
        };
        assert_eq!(differing(&desired, has), ["B", "C"]);
    }
}
