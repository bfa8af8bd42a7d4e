//! Checks of the keeper, agents and sessions, and of what could end the tmux server.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::{Check, count, service};
use crate::keeper::status::Status;
use claude::session_file;
use state::layout::DataDir;
use state::{AgentRecord, AgentState, Desired, Fleet};

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let status = match &facts.status {
        Some(Ok(status)) => status,
        Some(Err(error)) => {
            return vec![Check::failed("keeper", error, &facts.spotkeep("status"))];
        }
        None => return Vec::new(),
    };
    let mut checks = vec![check_keeper(facts, status)];
    checks.extend(check_agents(facts, status));
    if let Ok(data_dir) = &facts.data_dir {
        checks.push(check_sessions(&holders(data_dir)));
    }
    let pid = status.agents.iter().find_map(|agent| agent.pid);
    let cgroup = pid.and_then(|pid| facts.machine.read(&format!("proc/{pid}/cgroup")));
    if let (Some(cgroup), true) = (cgroup, facts.systemd) {
        let user = facts.owner.as_ref().map_or("", |owner| owner.name.as_str());
        checks.extend(check_cgroup(&ServerCgroup {
            cgroup: &cgroup,
            kill_at_logout: service::setting(&facts.machine, "logind.conf", "KillUserProcesses")
                .is_some_and(|value| service::is_yes(&value)),
            lingers: facts
                .machine
                .path("var/lib/systemd/linger")
                .join(user)
                .exists(),
            has_units: facts.has_units,
            user,
        }));
    }
    checks
}

fn check_keeper(facts: &Facts, status: &Status) -> Check {
    if let Some(trouble) = status.trouble.first() {
        let more = status.trouble.len() - 1;
        let detail = match more {
            0 => trouble.clone(),
            more => format!("{trouble}; and {more} more"),
        };
        return Check::wrong("keeper", detail, facts.spotkeep("status"));
    }
    let this = env!("CARGO_PKG_VERSION");
    let desired = status
        .agents
        .iter()
        .any(|agent| agent.desired == Desired::Running);
    let by_unit = facts.has_units || facts.has_own_unit;
    let start = match by_unit {
        true => "sudo systemctl start spotkeep".to_owned(),
        false => facts.spotkeep("up"),
    };
    let runs = status.keeper.runs();
    match (runs, &status.keeper_version, status.fleet, &status.notice) {
        (true, Some(version), _, _) if version == this => {
            Check::good("keeper", format!("runs, version {this}"))
        }
        (true, version, _, _) => {
            let other = version.as_deref().unwrap_or("(unknown, older)");
            let restart = match by_unit {
                true => "sudo systemctl restart spotkeep".to_owned(),
                false => format!(
                    "{}    # shows the keeper's pid: end it with kill, then {}",
                    facts.spotkeep("status"),
                    facts.spotkeep("up")
                ),
            };
            let detail = format!("version {other} runs, and this program is version {this}");
            Check::warn("keeper", detail, restart)
        }
        (false, _, Fleet::Down, _) => {
            Check::good("keeper", "not running: the fleet is down, as requested")
        }
        (false, _, _, Some(_)) => Check::warn(
            "keeper",
            "not running: this boot has had its preemption notice, and agents resume at the next \
             boot",
            facts.spotkeep("restore"),
        ),
        (false, _, _, None) if desired => {
            Check::wrong("keeper", "not running, and agents should run", start)
        }
        (false, _, _, None) => Check::good("keeper", "not running, and no agent should run"),
    }
}

fn check_agents(facts: &Facts, status: &Status) -> Option<Check> {
    if !status.keeper.runs() {
        return None;
    }
    let first = |state: AgentState| status.agents.iter().find(move |agent| agent.state == state);
    let named = |name: &str, why: &Option<String>| {
        format!(
            "{name}: {}",
            why.as_deref().unwrap_or("for an unknown reason")
        )
    };
    if let Some(agent) = first(AgentState::Failed) {
        let fix = facts.spotkeep(&format!(
            "logs {0}; {1}",
            agent.name,
            facts.spotkeep(&format!("start {}", agent.name))
        ));
        return Some(Check::wrong(
            "agents",
            named(agent.name.as_str(), &agent.why),
            fix,
        ));
    }
    let blocked = first(AgentState::Stalled).or_else(|| first(AgentState::Waiting));
    Some(match blocked {
        Some(agent) => Check::warn(
            "agents",
            named(agent.name.as_str(), &agent.why),
            facts.spotkeep(&format!("attach {}", agent.name)),
        ),
        None => Check::good(
            "agents",
            count(status.agents.len(), "agent") + ", none has failed",
        ),
    })
}

/// The holders of each session: agents by their records, processes by Claude's own files.
fn holders(data_dir: &DataDir) -> BTreeMap<String, Vec<String>> {
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let records = data_dir.all_records().unwrap_or_default();
    let records: Vec<AgentRecord> = records.into_iter().filter_map(|(_, r)| r.ok()).collect();
    for record in records {
        let key = format!("agent {}", record.session_id);
        holders
            .entry(key)
            .or_default()
            .push(record.name.to_string());
    }
    for file in session_file::live(&data_dir.claude()) {
        let key = format!("process {}", file.session_id);
        holders
            .entry(key)
            .or_default()
            .push(file.process.pid.to_string());
    }
    holders
}

/// Finds a session that two agents or two processes have. Claude has no lock: of two processes in
/// one session each does not know what the other did.
fn check_sessions(holders: &BTreeMap<String, Vec<String>>) -> Check {
    match holders.iter().find(|(_, who)| who.len() > 1) {
        Some((key, who)) => {
            let (kind, session) = key.split_once(' ').unwrap_or(("", key));
            match kind {
                "process" => Check::wrong(
                    "sessions",
                    format!(
                        "two processes have the session {session} open: pids {}",
                        who.join(" and ")
                    ),
                    format!(
                        "ps -o pid,lstart,args -p {}    # kill the one that you started by hand",
                        who.join(",")
                    ),
                ),
                _ => Check::wrong(
                    "sessions",
                    format!("{} have the same session {session}", who.join(" and ")),
                    format!(
                        "spotkeep rm {}    # then add it with another session",
                        who[who.len() - 1]
                    ),
                ),
            }
        }
        None => Check::good("sessions", "each is open once"),
    }
}

/// The cgroup of the tmux server, and what ends the processes in it.
struct ServerCgroup<'a> {
    cgroup: &'a str,
    kill_at_logout: bool,
    lingers: bool,
    has_units: bool,
    user: &'a str,
}

/// Checks the tmux server's cgroup: a server that was started from a login session belongs to it.
fn check_cgroup(server: &ServerCgroup<'_>) -> Option<Check> {
    let in_unit = server.cgroup.contains("spotkeep-tmux.service");
    let in_login = server
        .cgroup
        .lines()
        .any(|line| line.contains("/session-") && line.contains(".scope"));
    let in_user = server.cgroup.contains("/user@");
    let units = "spotkeep down; sudo systemctl restart spotkeep-tmux spotkeep; spotkeep up";
    let linger = format!("sudo loginctl enable-linger {}", server.user);
    let with_login = "the agents' tmux server belongs to a login session";
    Some(match (in_unit, in_login, in_user) {
        (true, _, _) => Check::good("tmux-server", "in its own unit"),
        (_, true, _) if server.has_units => Check::wrong(
            "tmux-server",
            format!("{with_login} and not to its unit: a shutdown may end it before the save"),
            units,
        ),
        (_, true, _) if server.kill_at_logout => Check::wrong(
            "tmux-server",
            format!("{with_login}, whose processes logind ends at logout (KillUserProcesses)"),
            format!("{linger}; spotkeep down; systemd-run --user --scope spotkeep up"),
        ),
        (_, true, _) => Check::good("tmux-server", format!("{with_login}, and survives logout")),
        (_, _, true) if !server.lingers => Check::warn(
            "tmux-server",
            "it belongs to the user's service manager, which ends with the last login session",
            linger,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_would_end_with_a_login_is_reported() {
        let server = |cgroup, kill_at_logout, lingers, has_units| ServerCgroup {
            cgroup,
            kill_at_logout,
            lingers,
            has_units,
            user: "ann",
        };
        let login = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let unit = "0::/system.slice/spotkeep-tmux.service/agents/a\n";
        let manager = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n";
        let table = [
            (server(login, false, false, true), Some((false, false))),
            (server(login, true, false, false), Some((false, false))),
            (server(login, false, false, false), Some((true, false))),
            (server(unit, true, false, true), Some((true, false))),
            (server(manager, true, false, false), Some((true, true))),
            (server(manager, true, true, false), None),
            (server("0::/\n", true, true, false), None),
        ];
        for (server, expected) in table {
            let seen = check_cgroup(&server).map(|check| (check.ok, check.warning));
            assert_eq!(seen, expected, "{}", server.cgroup);
        }
    }

    #[test]
    fn a_session_with_two_processes_or_two_agents_is_wrong() {
        let holders = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            let owned = |who: &[&str]| who.iter().map(ToString::to_string).collect();
            pairs
                .iter()
                .map(|(key, who)| ((*key).to_owned(), owned(who)))
                .collect()
        };
        assert!(check_sessions(&holders(&[("agent s", &["a"]), ("process s", &["7"])])).ok);
        let two = check_sessions(&holders(&[("process s", &["7", "9"])]));
        assert!(!two.ok && two.detail.contains("7 and 9"), "{two:?}");
        assert!(!check_sessions(&holders(&[("agent s", &["a", "b"])])).ok);
    }
}
