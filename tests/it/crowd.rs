//! Two hundred agents on one keeper. In the place of Claude a shell plays, which is small: what is looked at is the keeper.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::lab::Lab;

const AGENTS: usize = 200;

/// As much of Claude as a keeper sees: a transcript, a session file, and an end upon SIGTERM.
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
    all_are_up(&lab);
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
    lab.new_life();
    let _keeper = lab.keeper();
    all_are_up(&lab);
    assert_eq!(self::sessions(&lab), sessions);
    assert_eq!(lab.transcripts().len(), AGENTS);
}

fn all_are_up(lab: &Lab) {
    let mut up = 0;
    // As long as more and more are up, nothing hangs.
    while up < AGENTS {
        up = lab.until(&format!("more than {up} are up"), || {
            let now = idle(&lab.status());
            (now > up).then_some(now)
        });
    }
}

fn idle(status: &Value) -> usize {
    let agents = status["agents"].as_array().unwrap();
    agents
        .iter()
        .filter(|agent| agent["state"] == "idle")
        .count()
}

fn sessions(lab: &Lab) -> BTreeSet<String> {
    let status = lab.status();
    let agents = status["agents"].as_array().unwrap();
    let session = |agent: &Value| agent["session_id"].as_str().unwrap().to_owned();
    agents.iter().map(session).collect()
}
