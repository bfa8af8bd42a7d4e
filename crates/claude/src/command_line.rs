//! Command line of Claude Code: the arguments and the environment that it is started with.

use std::path::Path;

use serde_json::Value;

use sys::error::{ErrorKind, Hint as _, Result, anyhow};

/// How a session is begun in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// For the first time, with an id that spotkeep chooses.
    First {
        /// A UUID; refused by Claude Code where it has a transcript already.
        session_id: &'a str,
        /// The first prompt.
        prompt: Option<&'a str>,
    },
    /// Resumed. The note is for a turn that was cut; an idle session is resumed without one.
    Resume {
        /// A UUID; with a name Claude Code may open its session picker and wait for the user.
        session_id: &'a str,
        /// The transcript, where Claude Code would not find it from the working directory.
        by_file: Option<&'a Path>,
        /// Prompt that is sent to the model at once.
        note: Option<&'a str>,
    },
}

/// Returns the arguments of `claude`, without the program itself.
///
/// `extra` comes first, so that an option with an optional or repeated value cannot take spotkeep's
/// arguments, and the prompt comes after `--`: without it `--add-dir /srv "prompt"` loses the
/// prompt, and a prompt that begins with a hyphen ends the start (measured on 2.1.197 and 2.1.330).
#[must_use]
pub fn arguments(start: &Start, name: &str, extra: &[String]) -> Vec<String> {
    let mut arguments = extra.to_vec();
    let mut push = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    let prompt = match *start {
        Start::First { session_id, prompt } => {
            push(&["--session-id", session_id]);
            prompt
        }
        Start::Resume {
            session_id,
            by_file,
            note,
        } => {
            let file = by_file.map(Path::to_string_lossy);
            push(&["--resume", file.as_deref().unwrap_or(session_id)]);
            note
        }
    };
    push(&["-n", name]);
    if let Some(prompt) = prompt {
        push(&["--", prompt]);
    }
    arguments
}

/// Returns the user's own arguments in a command line that `arguments` made.
#[must_use]
pub fn extra_of(arguments: &[String]) -> &[String] {
    let ours = |word: &String| matches!(word.as_str(), "--session-id" | "--resume");
    let end = arguments.iter().position(ours).unwrap_or(arguments.len());
    arguments.get(..end).unwrap_or_default()
}

/// Options that would take the session away from spotkeep, and why.
const REFUSED: &[(&str, &str)] = &[
    ("--session-id", "spotkeep chooses the session"),
    ("--resume", "spotkeep chooses the session"),
    ("-r", "spotkeep chooses the session"),
    ("--continue", "spotkeep chooses the session"),
    ("-c", "spotkeep chooses the session"),
    ("--from-pr", "spotkeep chooses the session"),
    ("--teleport", "spotkeep chooses the session"),
    (
        "--fork-session",
        "it gives the session another id at every start",
    ),
    ("--name", "the agent's name is the session's name"),
    ("-n", "the agent's name is the session's name"),
    ("--print", "an agent is interactive"),
    ("-p", "an agent is interactive"),
    (
        "--no-session-persistence",
        "the session could not be resumed",
    ),
    ("--bg", "the session would run outside the agent"),
    ("--background", "the session would run outside the agent"),
    ("--cloud", "the session would run outside the agent"),
    ("--desktop", "the session would run outside the agent"),
    ("--tmux", "the session would run outside the agent"),
    ("--worktree", "the agent's workspace is its directory"),
    ("-w", "the agent's workspace is its directory"),
    ("--help", "it ends at once"),
    ("-h", "it ends at once"),
    ("--version", "it ends at once"),
    ("-v", "it ends at once"),
    ("--", "the prompt is configured with prompt ="),
];

/// Checks the arguments that a user wants to add.
///
/// # Errors
/// One of them conflicts with spotkeep's or makes the session one that cannot be resumed.
pub fn check_extra(extra: &[String]) -> Result<()> {
    for argument in extra {
        let option = argument.split_once('=').map_or(&**argument, |pair| pair.0);
        // Short options may be combined: `-rp`.
        let short = option.starts_with('-') && !option.starts_with("--");
        let found = REFUSED.iter().find(|(refused, _)| {
            *refused == option
                || (short
                    && refused.len() == 2
                    && *refused != "--"
                    && option[1..].starts_with(&refused[1..]))
        });
        if let Some((refused, why)) = found {
            return Err(anyhow!("the argument {refused} cannot be given: {why}"))
                .kind(ErrorKind::Usage)
                .hint(format!("remove {argument} from args"));
        }
    }
    Ok(())
}

/// Options that another user's session may keep when it becomes an agent, and how many values each
/// takes; `None`: all up to the next option. Claude Code remembers none of them when it resumes.
const KEPT: &[(&str, Option<usize>)] = &[
    ("--dangerously-skip-permissions", Some(0)),
    ("--permission-mode", Some(1)),
    ("--model", Some(1)),
    ("--fallback-model", Some(1)),
    ("--effort", Some(1)),
    ("--agent", Some(1)),
    ("--settings", Some(1)),
    ("--append-system-prompt", Some(1)),
    ("--strict-mcp-config", Some(0)),
    ("--mcp-config", None),
    ("--add-dir", None),
    ("--allowedTools", None),
    ("--allowed-tools", None),
    ("--disallowedTools", None),
    ("--disallowed-tools", None),
];

/// Returns the arguments of a foreign command line that say how a session works, and not which one
/// it is. Unknown arguments are left out, prompts among them.
#[must_use]
pub fn kept_arguments(command_line: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = command_line.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        let (option, has_value) = match word.split_once('=') {
            Some((option, _)) => (option, true),
            None => (word.as_str(), false),
        };
        let Some((_, takes)) = KEPT.iter().find(|(known, _)| *known == option) else {
            continue;
        };
        kept.push(word.clone());
        let limit = if has_value {
            0
        } else {
            takes.unwrap_or(usize::MAX)
        };
        for _ in 0..limit {
            match words.next_if(|next| !next.starts_with('-')) {
                Some(value) => kept.push(value.clone()),
                None => break,
            }
        }
    }
    kept
}

/// Returns the directories that a user adds with `--add-dir`. They have to be trusted like the
/// workspace: 2.1.330 asks for each of them at a start.
#[must_use]
pub fn added_dirs(extra: &[String]) -> Vec<&Path> {
    let mut dirs = Vec::new();
    let mut takes = false;
    for argument in extra {
        if let Some(dir) = argument.strip_prefix("--add-dir=") {
            dirs.push(Path::new(dir));
            takes = true;
        } else if argument.starts_with('-') {
            takes = argument == "--add-dir";
        } else if takes {
            dirs.push(Path::new(argument));
        }
    }
    dirs
}

/// Variables of Claude Code that may be inherited: the login and the provider of the model.
const INHERITED: &[&str] = &[
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_SKIP_VERTEX_AUTH",
    "CLAUDE_CODE_SKIP_FOUNDRY_AUTH",
    "CLAUDE_CODE_CLIENT_CERT",
    "CLAUDE_CODE_CLIENT_KEY",
    "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE",
    "CLAUDE_CODE_API_KEY_HELPER_TTL_MS",
];

/// Whether an inherited variable is to be dropped. Variables that the user configures for an agent
/// are set after that and are not checked.
///
/// Variables are dropped that belong to another session (a keeper started by an agent inherits
/// `CLAUDECODE` and its ids) or to another terminal, or that prevent resuming:
/// `CLAUDE_CODE_SKIP_PROMPT_HISTORY` turns transcripts off, and the `RESUME` variables make Claude
/// Code continue automatically, with the note lost (measured on 2.1.197 and 2.1.330).
#[must_use]
pub fn strip(name: &str) -> bool {
    if INHERITED.contains(&name) {
        return false;
    }
    name == "CLAUDECODE"
        || name.starts_with("CLAUDE_")
        || matches!(name, "TMUX" | "TMUX_PANE" | "TMUX_TMPDIR" | "AI_AGENT")
        || matches!(
            name,
            "NOTIFY_SOCKET" | "LISTEN_FDS" | "LISTEN_PID" | "WATCHDOG_USEC" | "WATCHDOG_PID"
        )
}

/// Returns the environment of every Claude Code that spotkeep starts. The user's own variables come
/// later and take precedence.
#[must_use]
pub fn environment(config_dir: &Path) -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        set("CLAUDE_CONFIG_DIR", &config_dir.to_string_lossy()),
        // An automatic update while a fleet runs is a change that no user requested.
        set("DISABLE_AUTOUPDATER", "1"),
        // Otherwise each interactive start clones a repository (measured on 2.1.197).
        set("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1"),
    ]
}

/// Returns the variables that the user's settings.json sets for every Claude Code. They count like
/// the agent's own, and after them, when [`api_endpoint`] is asked.
#[must_use]
pub fn settings_environment(config_dir: &Path) -> Vec<(String, String)> {
    let Ok(bytes) = std::fs::read(config_dir.join("settings.json")) else {
        return Vec::new();
    };
    let settings: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let pairs = settings.get("env").and_then(Value::as_object);
    pairs
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Returns the API's host and port, according to an agent's environment.
///
/// `None` where that cannot be probed: behind a proxy, with another provider, or with an address
/// that cannot be read.
#[must_use]
pub fn api_endpoint(environment: &[(String, String)]) -> Option<(String, u16)> {
    let value = |desired: &str| {
        environment
            .iter()
            .rev()
            .find(|(name, _)| name == desired)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    };
    let elsewhere = [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
        "CLAUDE_CODE_USE_FOUNDRY",
    ];
    if elsewhere.iter().any(|name| value(name).is_some()) {
        return None;
    }
    match value("ANTHROPIC_BASE_URL") {
        Some(url) => host_and_port(url),
        None => Some(("api.anthropic.com".to_owned(), 443)),
    }
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let default = match scheme.to_ascii_lowercase().as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |pair| pair.1);
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        (host, after.strip_prefix(':'))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => default,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_arguments_are_found_in_a_command_line() {
        let extra = ["--model", "opus"].map(str::to_owned);
        let start = Start::Resume {
            session_id: "u",
            by_file: None,
            note: Some("--resume"),
        };
        assert_eq!(extra_of(&arguments(&start, "a", &extra)), extra);
        assert!(extra_of(&arguments(&start, "a", &[])).is_empty());
    }

    #[test]
    fn only_options_that_say_how_a_session_works_are_kept() {
        let line = "claude --resume 0b6c -n x --model opus --add-dir /a /b --chrome \
                    --dangerously-skip-permissions --effort=high do it -- --model no";
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let expected = "--model opus --add-dir /a /b --dangerously-skip-permissions --effort=high";
        assert_eq!(kept_arguments(&words).join(" "), expected);
        check_extra(&kept_arguments(&words)).unwrap();
    }

    fn split(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_first_start_names_session_and_agent_and_ends_with_the_prompt() {
        let start = Start::First {
            session_id: "U",
            prompt: Some("- fix it"),
        };
        assert_eq!(
            arguments(&start, "one", &split("--add-dir /srv")),
            [
                "--add-dir",
                "/srv",
                "--session-id",
                "U",
                "-n",
                "one",
                "--",
                "- fix it"
            ]
        );
    }

    #[test]
    fn an_idle_session_is_resumed_without_a_prompt() {
        let start = Start::Resume {
            session_id: "U",
            by_file: None,
            note: None,
        };
        assert_eq!(
            arguments(&start, "one", &[]),
            ["--resume", "U", "-n", "one"]
        );
    }

    #[test]
    fn a_moved_session_is_resumed_by_its_file() {
        let start = Start::Resume {
            session_id: "U",
            by_file: Some(Path::new("/c/U.jsonl")),
            note: Some("go on"),
        };
        assert_eq!(
            arguments(&start, "one", &[]),
            ["--resume", "/c/U.jsonl", "-n", "one", "--", "go on"]
        );
    }

    #[test]
    fn arguments_that_take_the_session_away_are_refused() {
        for bad in [
            "-r",
            "--resume=U",
            "-c",
            "-p",
            "-nother",
            "--fork-session",
            "--",
            "-w",
        ] {
            let error = check_extra(&split(&format!("--model opus {bad}"))).unwrap_err();
            assert_eq!(sys::error::kind_of(&error), ErrorKind::Usage, "{bad}");
        }
        let fine =
            "--model opus --dangerously-skip-permissions --add-dir -d --resumes /srv --settings {}";
        check_extra(&split(fine)).unwrap();
    }

    #[test]
    fn added_directories_are_found() {
        let extra = split("--add-dir /a /b --model opus --add-dir=/c -d");
        assert_eq!(added_dirs(&extra), ["/a", "/b", "/c"].map(Path::new));
    }

    #[test]
    fn the_settings_may_contain_variables() {
        let dir = tempfile::tempdir().unwrap();
        assert!(settings_environment(dir.path()).is_empty());
        let text = r#"{"env":{"ANTHROPIC_BASE_URL":"http://127.0.0.1:9","N":1}}"#;
        std::fs::write(dir.path().join("settings.json"), text).unwrap();
        let environment = settings_environment(dir.path());
        assert_eq!(
            api_endpoint(&environment),
            Some(("127.0.0.1".to_owned(), 9))
        );
    }

    #[test]
    fn another_sessions_variables_are_dropped_and_the_login_is_kept() {
        for name in [
            "CLAUDECODE",
            "CLAUDE_CODE_SESSION_ID",
            "CLAUDE_CODE_SKIP_PROMPT_HISTORY",
            "CLAUDE_CODE_RESUME_PROMPT",
            "CLAUDE_CONFIG_DIR",
            "TMUX",
        ] {
            assert!(strip(name), "{name}");
        }
        for name in [
            "CLAUDE_CODE_OAUTH_TOKEN",
            "ANTHROPIC_API_KEY",
            "PATH",
            "IS_SANDBOX",
        ] {
            assert!(!strip(name), "{name}");
        }
    }

    #[test]
    fn the_endpoint_is_the_default_the_users_own_or_not_to_be_probed() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            api_endpoint(&pairs)
        };
        let at = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(of(&[]), at("api.anthropic.com", 443));
        let url = |url: &str| of(&[("ANTHROPIC_BASE_URL", url)]);
        assert_eq!(url("http://127.0.0.1:8080/x"), at("127.0.0.1", 8080));
        assert_eq!(url("https://u:p@gate.example/v1"), at("gate.example", 443));
        assert_eq!(url("http://[::1]:9"), at("::1", 9));
        assert_eq!(url("gate.example"), None);
        assert_eq!(of(&[("https_proxy", "http://p:1")]), None);
        assert_eq!(of(&[("CLAUDE_CODE_USE_VERTEX", "1")]), None);
    }
}
