//! Test of one keeper with two hundred agents.
//!
//! A small shell script takes the place of Claude, since the keeper is what is tested.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::support::Lab;

const AGENTS: usize = 200;

/// The part of Claude that a keeper sees: a transcript, a session file, and an end on SIGTERM.
const CLAUDE: &str = r#"#!/bin/sh
for word; do
    case $before in --session-id | --resume) session=$word ;; esac
    before=$word
done
set -- $(cat /proc/$$/stat)
since=${22}
cwd=$(pwd -P)
projects=$CLAUDE_CONFIG_DIR/projects/$(printf %s "$cwd" | tr -c a-zA-Z0-9 -)
mkdir -p "$projects" "$CLAUDE_CONFIG_DIR/sessions"
printf '{"type":"user","uuid":"%s","message":{"role":"user","content":"hello"}}\n' $$ >>"$projects/$session.jsonl"
printf '{"type":"assistant","uuid":"%s-a","message":{"id":"m","role":"assistant","stop_reason":"end_turn","content":[]}}\n' \
    $$ >>"$projects/$session.jsonl"
printf '{"pid":%s,"sessionId":"%s","cwd":"%s","procStart":"%s","version":"0","kind":"interactive","status":"idle"}' \
    $$ "$session" "$cwd" "$since" >"$CLAUDE_CONFIG_DIR/sessions/$$.json"
exec tail -f /dev/null
"#;

#[test]
fn two_hundred_agents_are_started_saved_and_resumed_by_one_keeper() {
    let lab = Lab::new();
    let claude = lab.dir.join("bin/claude");
    fs::write(&claude, CLAUDE).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    let mut text = lab.config_text();
    for number in 0..AGENTS {
        fs::create_dir_all(lab.workspace(&format!("a{number}"))).unwrap();
        text += &format!("[agents.a{number}]\nworkspace = \"workspaces/a{number}\"\n");
    }
    lab.write_config(&text);
    let keeper = lab.keeper();
    let read = all_are_up(&lab, 0);
    let sessions = sessions(&lab);
    assert_eq!(sessions.len(), AGENTS);

    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(
        (
            save["clean"].as_bool(),
            save["agents"].as_array().unwrap().len()
        ),
        (Some(true), AGENTS)
    );
    eprintln!("{AGENTS} agents: {}", save["stages"]);
    keeper.let_go();
    lab.next_boot();
    let _keeper = lab.keeper();
    all_are_up(&lab, read);
    assert_eq!(self::sessions(&lab), sessions);
    assert_eq!(lab.transcripts().len(), AGENTS);
}

/// Waits until every agent has come up once more. Reads the journal from byte `from`, and returns
/// the byte up to which it was read: querying the status of two hundred agents at each change would
/// take more of the machine than the agents do.
fn all_are_up(lab: &Lab, from: usize) -> usize {
    let journal = lab.file("session-state/journal.jsonl");
    let (mut read, mut up) = (from, 0);
    while up < AGENTS {
        // Each step waits for at least one more agent, so the time limit is per agent.
        (read, up) = lab.until(&format!("more than {up} agents are up"), || {
            let text = fs::read_to_string(&journal).unwrap();
            let now = text[from..].lines().filter(|line| {
                let is = |event| line.contains(&format!("\"event\":\"{event}\""));
                is("started") || is("resumed")
            });
            let now = now.count();
            (now > up).then_some((text.len(), now))
        });
    }
    read
}

fn sessions(lab: &Lab) -> BTreeSet<String> {
    let status = lab.status();
    let agents = status["agents"].as_array().unwrap();
    let session = |agent: &Value| agent["session_id"].as_str().unwrap().to_owned();
    agents.iter().map(session).collect()
}
