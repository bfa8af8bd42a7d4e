//! `spotkeep send` and `spotkeep logs`.

use std::fs;

use crate::support::{Lab, SPOTKEEP, prompt_of, said};

fn received(lab: &Lab, name: &str, text: &str) -> bool {
    fs::read_to_string(lab.transcript(name)).is_ok_and(|transcript| transcript.contains(text))
}

#[test]
fn a_text_goes_to_several_agents_and_waits_for_the_end_of_a_turn() {
    let lab = Lab::new();
    for name in ["a", "b"] {
        lab.declare(name, "idle", "");
    }
    lab.declare("busy", "tool", "");
    lab.declare("off", "", "");
    let _keeper = lab.keeper();
    ["a", "b"].iter().for_each(|name| lab.wait_done(name));
    lab.wait_open("busy");
    lab.wait_state("off", "idle");
    lab.run(&["stop", "off"]).ok();

    let both = lab.run(&["send", "a,b", "to both of you"]).ok();
    assert_eq!(both.out, "sent to a\nsent to b\n");
    lab.until("both have it", || {
        ["a", "b"]
            .iter()
            .all(|name| received(&lab, name, "to both of you"))
            .then_some(())
    });
    ["a", "b"].iter().for_each(|name| {
        lab.wait_state(name, "idle");
    });

    let late = ["send", "a,busy", "later", "--when-idle", "--within", "1s"];
    let said = lab
        .run(&late)
        .refused(3, "nothing was sent to busy: still busy", "spotkeep ls");
    assert_eq!(said.out, "sent to a\n");
    assert!(!received(&lab, "busy", "later"));
    lab.run(&["send", "off", "x", "--when-idle"]).refused(
        3,
        "off does not run",
        "spotkeep start off",
    );
    let some = lab.run(&["send", "off,b", "only b"]);
    assert_eq!(
        (some.code, some.out.as_str()),
        (3, "sent to b\n"),
        "{some:?}"
    );
    lab.run(&["send", "--all", "a", "b"])
        .refused(2, "--all takes one text", "--all 'TEXT'");
    lab.run(&["send", "a", ""])
        .refused_somewhere(2, "the text is empty", "");
}

#[test]
fn a_text_is_read_from_standard_input() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    // Longer than the limit of one argument of a program.
    let text = format!("{} the end of it", "word ".repeat(30_000));
    let file = lab.dir.join("text");
    fs::write(&file, &text).unwrap();
    let data_dir = lab.data_dir();
    let script = format!(
        "{SPOTKEEP} --data-dir {} send a --dry-run < {}",
        data_dir.display(),
        file.display()
    );
    let dry = said(lab.program("sh").args(["-c", &script])).ok().out;
    assert_eq!(dry, format!("would send {} characters to a\n", text.len()));
}

#[test]
fn logs_of_several_agents_are_sorted_by_time() {
    let lab = Lab::new();
    lab.declare("api", "idle", "");
    lab.declare("website", "idle", "");
    let _keeper = lab.keeper();
    ["api", "website"]
        .iter()
        .for_each(|name| lab.wait_done(name));
    let text = lab.run(&["logs", "-n", "500"]).ok().out;
    let of = |name: &str| text.lines().filter(|line| line.contains(name)).count();
    assert!(of("  api      ") > 3 && of("  website  ") > 3, "{text}");
    let clocks: Vec<&str> = text.lines().map(|line| &line[..8]).collect();
    assert!(clocks.is_sorted(), "{text}");

    let json = lab.run(&["logs", "api", "--json"]).ok().out;
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (first["agent"].as_str(), first["who"].as_str()),
        (Some("api"), Some("user"))
    );
    lab.run(&["logs", "--raw"])
        .refused(2, "one agent", "--raw NAME");
}

#[test]
fn following_an_agents_log_shows_its_next_session_too() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let path = lab.dir.join("followed");
    let mut command = lab.spotkeep(&["logs", "a", "--follow"]);
    let mut child = command
        .stdout(fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let shows = |text: &str| {
        fs::read_to_string(&path)
            .unwrap()
            .contains(text)
            .then_some(())
    };
    lab.until("it begins with the transcript so far", || {
        shows("tool    Bash")
    });
    let before = lab.session_of("a");
    lab.run(&["send", "a", "/clear"]).ok();
    lab.until("another session has begun", || {
        (lab.session_of("a") != before).then_some(())
    });
    lab.run(&["send", "a", &prompt_of("a", "second", 2)]).ok();
    lab.until("the message in the next session is shown", || {
        shows("plan=second turn=2")
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
