//! Checks of Claude Code: version, login, dialogs that would block it, retention of transcripts.

use std::path::Path;

use super::facts::Facts;
use super::{Check, LIMIT, count};
use crate::agent::exec;
use crate::resume::find_claude;
use claude::login::{self, Credentials, RETENTION_DAYS, VARIABLES};
use claude::{TESTED, binary, command_line};
use state::layout::DataDir;
use sys::time::Timestamp;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let Ok(data_dir) = &facts.data_dir else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    match find_claude(data_dir, &facts.config) {
        Err(why) => checks.push(Check::failed("claude", &why, "install Claude Code")),
        Ok(program) => {
            let version = binary::version_within(&program, LIMIT);
            checks.push(match version {
                Err(error) => Check::failed(
                    "claude",
                    &error,
                    &format!("{} --version", program.display()),
                ),
                Ok(version) => check_version(&version, &program, &facts.spotkeep("doctor --probe")),
            });
        }
    }
    let means = Means::gather(facts, data_dir);
    checks.push(check_login(&means, Timestamp::now(), data_dir));
    checks.push(check_unattended(&means));
    checks.push(check_retention(data_dir));
    checks
}

/// Checks the version: a version that was not tested may behave differently.
fn check_version(version: &str, program: &Path, probe: &str) -> Check {
    let shown = format!("{version}, {}", program.display());
    match TESTED.contains(&version) {
        true => Check::good("claude", shown),
        false => Check::warn(
            "claude",
            format!("{shown}: spotkeep was tested with {TESTED_LIST}, not with this version"),
            probe,
        ),
    }
}

/// [`TESTED`] as a sentence lists it.
const TESTED_LIST: &str = "2.1.197, 2.1.263 and 2.1.330";

/// Simulates a preemption of one agent, in a sandbox against a fake API on loopback. Adds nothing
/// if there is no claude, which another check reports. Removes the warning of an untested version
/// that behaves as expected.
pub(super) fn probe(facts: &Facts, checks: &mut Vec<Check>) {
    let program = match &facts.data_dir {
        Ok(data_dir) => find_claude(data_dir, &facts.config).ok(),
        Err(_) => None,
    };
    let Some(program) = program else {
        return;
    };
    let found = simulate(&program);
    if found.ok
        && let Some(check) = checks
            .iter_mut()
            .find(|check| check.check == "claude" && check.warning)
    {
        let detail = format!("{}; but the probe passed, see below", check.detail);
        *check = Check::good("claude", detail);
    }
    checks.push(found);
}

fn simulate(program: &Path) -> Check {
    let options = drill::Options {
        agents: 1,
        claude: Some(program.to_path_buf()),
        ..drill::Options::default()
    };
    let again = format!(
        "spotkeep drill --agents 1 --verbose --keep --claude {}",
        program.display()
    );
    match drill::run(&options) {
        Err(error) => Check::failed("claude-behaviour", &error, &again),
        Ok(report) => check_behaviour(&report, again),
    }
}

/// The result of the simulated preemption, with the version of Claude.
fn check_behaviour(report: &drill::Report, again: String) -> Check {
    let found = format!(
        "{}: simulated preemption: {} of {} resumed in its session, {} of {} continued, \
         {} of {} records lost",
        report.claude,
        report.sessions_resumed,
        report.agents_total,
        report.turns_continued,
        count(report.turns_cut, "cut turn"),
        report.records_lost,
        report.records_before
    );
    if report.passed() {
        return Check::good("claude-behaviour", found);
    }
    let losses = match &report.losses[..] {
        [] => "the drill did not pass".to_owned(),
        losses => losses.join("; "),
    };
    Check::wrong("claude-behaviour", format!("{found}; {losses}"), again)
}

/// How the agents log in, and what lets them start without a human.
#[derive(Debug, Default)]
struct Means {
    credentials: Option<Credentials>,
    /// Names of the variables that every agent has, by declarations and settings.
    declared: Vec<&'static str>,
    /// Names of the variables that this shell has.
    in_shell: Vec<&'static str>,
    /// The first agent that has no such variable.
    without: Option<String>,
    helper: bool,
    rejected: bool,
    skips_permissions: bool,
    asks: usize,
    is_root: bool,
    in_sandbox: bool,
}

impl Means {
    fn gather(facts: &Facts, data_dir: &DataDir) -> Self {
        let claude = data_dir.claude();
        let settings = command_line::settings_environment(&claude);
        let agents: Vec<_> = facts.config.agents.iter().collect();
        let mut means = Self {
            credentials: Some(login::credentials(&claude)),
            helper: login::setting(&claude, "apiKeyHelper").is_some(),
            is_root: facts.owner.as_ref().is_some_and(|owner| owner.uid == 0),
            in_sandbox: std::env::var_os("IS_SANDBOX").is_some(),
            declared: VARIABLES.to_vec(),
            ..Self::default()
        };
        for (name, agent) in &agents {
            // The check `secrets` reports what is wrong with an env_file.
            let mut variables: Vec<(String, String)> =
                exec::environment(data_dir, &facts.config, agent)
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
            variables.extend(settings.clone());
            let value = |desired: &str| {
                let pair = variables.iter().find(|(key, _)| key == desired);
                pair.map(|(_, value)| value.as_str())
                    .filter(|value| !value.trim().is_empty())
            };
            if !VARIABLES.iter().any(|name| value(name).is_some()) {
                means.without.get_or_insert_with(|| name.to_string());
            }
            means.declared.retain(|name| value(name).is_some());
            means.rejected |=
                value("ANTHROPIC_API_KEY").is_some_and(|key| login::is_rejected(&claude, key));
            means.in_sandbox |= value("IS_SANDBOX").is_some();
            let arguments = facts.config.arguments_of(agent);
            match arguments
                .iter()
                .any(|argument| argument == "--dangerously-skip-permissions")
            {
                true => means.skips_permissions = true,
                false => means.asks += 1,
            }
        }
        if agents.is_empty() {
            means
                .declared
                .retain(|name| settings.iter().any(|(key, _)| key == name));
        }
        let in_shell = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        means.in_shell = VARIABLES.iter().filter(in_shell).copied().collect();
        means
    }
}

fn check_login(means: &Means, now: Timestamp, data_dir: &DataDir) -> Check {
    let by_hand = format!(
        "CLAUDE_CONFIG_DIR={} claude    # then /login",
        data_dir.claude().display()
    );
    if let Some(name) = means.declared.first() {
        return Check::good("login", format!("by {name}, as declared"));
    }
    if means.helper {
        return Check::good("login", "by apiKeyHelper of settings.json");
    }
    match &means.credentials {
        Some(Credentials::Token { expires, renewable }) => {
            let over = expires.is_some_and(|at| at < now);
            match (over, renewable) {
                (true, false) => Check::wrong(
                    "login",
                    "the login has expired and cannot be renewed",
                    by_hand,
                ),
                (_, true) => Check::good("login", "in the data directory, renewed by Claude"),
                (false, false) => Check::good("login", "in the data directory"),
            }
        }
        Some(Credentials::Blank) => Check::wrong("login", "no login in .credentials.json", by_hand),
        Some(Credentials::Missing) | None => match (means.in_shell.first(), &means.without) {
            (Some(name), _) => Check::warn(
                "login",
                format!("by {name} of this shell: a keeper that starts at boot does not have it"),
                "put it into a file of mode 0600, and set env_file = \"FILE\" under [defaults] in \
                 spotkeep.toml",
            ),
            (None, Some(agent)) => Check::wrong("login", format!("no login for {agent}"), by_hand),
            (None, None) => Check::wrong("login", "no login", by_hand),
        },
    }
}

fn check_unattended(means: &Means) -> Check {
    if means.rejected {
        return Check::wrong(
            "unattended",
            "the declared ANTHROPIC_API_KEY was declined in Claude once, and Claude does not use \
             it",
            "start claude by hand and choose the key in /config",
        );
    }
    if means.skips_permissions && means.is_root && !means.in_sandbox {
        return Check::wrong(
            "unattended",
            "Claude refuses --dangerously-skip-permissions as root",
            "run the agents as an ordinary user, or set env = { IS_SANDBOX = \"1\" } under \
             [defaults] in spotkeep.toml",
        );
    }
    match means.asks {
        0 => Check::good(
            "unattended",
            "no dialog blocks a start, no permission is asked for",
        ),
        asks => Check::good(
            "unattended",
            format!(
                "no dialog blocks a start; {} may ask you before running a command",
                count(asks, "agent")
            ),
        ),
    }
}

/// Checks how long transcripts are kept. Claude deletes old ones at its start, also those of agents
/// that were stopped for that long.
fn check_retention(data_dir: &DataDir) -> Check {
    let file = data_dir.claude().join("settings.json");
    let fix = match file.exists() {
        true => format!(
            "f={}; jq '.cleanupPeriodDays = 3650' $f >$f.new && mv $f.new $f",
            file.display()
        ),
        false => format!("echo '{{\"cleanupPeriodDays\": 3650}}' >{}", file.display()),
    };
    let days =
        login::setting(&data_dir.claude(), "cleanupPeriodDays").and_then(|days| days.as_u64());
    match days {
        Some(0) => Check::wrong(
            "retention",
            "cleanupPeriodDays is 0: Claude deletes every transcript",
            fix,
        ),
        Some(days) if days > RETENTION_DAYS => Check::good(
            "retention",
            format!("Claude keeps transcripts for {days} days"),
        ),
        other => {
            let days = other.unwrap_or(RETENTION_DAYS);
            let detail = format!(
                "Claude deletes transcripts after {days} days, and an agent cannot be resumed \
                 without its transcript"
            );
            Check::warn("retention", detail, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        (dir, data_dir)
    }

    #[test]
    fn the_versions_that_messages_name_are_those_that_are_tested() {
        let tested = include_str!("../../scripts/claude-versions");
        assert_eq!(tested.split_whitespace().collect::<Vec<_>>(), TESTED);
        let (last, others) = TESTED.split_last().unwrap();
        let list = format!("{} and {last}", others.join(", "));
        assert_eq!(list, TESTED_LIST);
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&format!("tested with {list};")));
    }

    #[test]
    fn the_result_of_a_probe_names_the_version() {
        let mut report = drill::Report {
            claude: "9.0.0".into(),
            agents_total: 1,
            sessions_resumed: 1,
            turns_cut: 1,
            turns_continued: 1,
            records_before: 14,
            verdict: "pass".into(),
            ..drill::Report::default()
        };
        let good = check_behaviour(&report, "again".into());
        assert!(good.ok && good.fix.is_none());
        assert_eq!(
            good.detail,
            "9.0.0: simulated preemption: 1 of 1 resumed in its session, 1 of 1 cut turn \
             continued, 0 of 14 records lost"
        );
        report.verdict = "fail".into();
        report.turns_continued = 0;
        report.losses = vec!["it has stalled".into(), "and more".into()];
        let wrong = check_behaviour(&report, "again".into());
        assert!(!wrong.ok && wrong.detail.ends_with("; it has stalled; and more"));
        assert_eq!(wrong.fix.as_deref(), Some("again"));
    }

    #[test]
    fn a_version_that_was_not_tested_has_a_warning() {
        let evaluate = |version| check_version(version, Path::new("/bin/claude"), "probe");
        assert!(evaluate(TESTED[0]).fix.is_none());
        let new = evaluate("9.0.0");
        assert!(new.ok && new.warning && new.fix.as_deref() == Some("probe"));
    }

    #[test]
    fn a_login_is_found_wherever_it_is_and_an_expired_one_is_wrong() {
        let (_dir, data_dir) = data_dir();
        let now = Timestamp::now();
        let token = |millis: i64, renewable| Means {
            credentials: Some(Credentials::Token {
                expires: Timestamp::from_millis(now.as_millis() + millis),
                renewable,
            }),
            ..Means::default()
        };
        let evaluate = |means: &Means| {
            let check = check_login(means, now, &data_dir);
            (check.ok, check.warning)
        };
        let declared = vec!["ANTHROPIC_API_KEY"];
        let in_shell = declared.clone();
        assert_eq!(
            evaluate(&Means {
                declared,
                ..Means::default()
            }),
            (true, false)
        );
        assert_eq!(
            evaluate(&Means {
                in_shell,
                ..Means::default()
            }),
            (true, true)
        );
        assert_eq!(
            evaluate(&Means {
                helper: true,
                ..Means::default()
            }),
            (true, false)
        );
        assert_eq!(evaluate(&token(1_000, false)), (true, false));
        assert_eq!(evaluate(&token(-1_000, true)), (true, false));
        assert_eq!(evaluate(&token(-1_000, false)), (false, false));
        assert_eq!(evaluate(&Means::default()), (false, false));
        let credentials = Some(Credentials::Blank);
        assert_eq!(
            evaluate(&Means {
                credentials,
                ..Means::default()
            }),
            (false, false)
        );
    }

    #[test]
    fn settings_that_claude_refuses_are_wrong() {
        let refused = Means {
            skips_permissions: true,
            is_root: true,
            ..Means::default()
        };
        assert!(!check_unattended(&refused).ok);
        assert!(
            check_unattended(&Means {
                in_sandbox: true,
                ..refused
            })
            .ok
        );
        assert!(
            !check_unattended(&Means {
                rejected: true,
                ..Means::default()
            })
            .ok
        );
    }

    #[test]
    fn transcripts_that_are_deleted_after_a_month_have_a_warning() {
        let (_dir, data_dir) = data_dir();
        assert!(check_retention(&data_dir).warning);
        let write = |days: &str| {
            let text = format!("{{\"cleanupPeriodDays\": {days}}}");
            std::fs::write(data_dir.claude().join("settings.json"), text).unwrap();
            check_retention(&data_dir)
        };
        assert!(write("3650").fix.is_none());
        assert!(write("30").fix.unwrap().contains("jq"));
        assert!(!write("0").ok);
    }
}
