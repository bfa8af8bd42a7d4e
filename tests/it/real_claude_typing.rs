//! Tests of what `send` types into the real Claude Code.
//!
//! Each text is sent with one Enter, and no Enter answers a question that appeared meanwhile.

use crate::command_output::CommandOutput;
use crate::real_claude::{Version, lab, requests, times_said, wait_requests, with_each_version};
use crate::support::{Lab, SPOTKEEP, prompt_of, said};

/// A lab whose agents ask before they run a tool.
fn asking_lab(version: &Version) -> Lab {
    let lab = lab(version);
    let text = lab.config_text();
    let asks = text.replace(
        "[\"--dangerously-skip-permissions\"]",
        "[\"--permission-mode\", \"default\"]",
    );
    assert_ne!(asks, text);
    lab.write_config(&asks);
    lab
}

/// Runs `printf TEXT | spotkeep send NAME -`.
fn send(lab: &Lab, name: &str, text: &str) -> CommandOutput {
    let script = r#"printf '%s\n' "$1" | "$2" --data-dir "$3" send "$4" -"#;
    let data_dir = lab.data_dir();
    let words = [
        "-c",
        script,
        "sh",
        text,
        SPOTKEEP,
        data_dir.to_str().unwrap(),
    ];
    said(lab.program("sh").args(words).arg(name))
}

/// Presses a key in an agent's terminal, as an attached user does.
fn press(lab: &Lab, name: &str, key: &str) {
    let mut tmux = lab.program("tmux");
    tmux.arg("-S").arg(lab.tmux().socket());
    said(tmux.args(["send-keys", "-t", name, key])).ok();
}

fn screen(lab: &Lab, name: &str) -> String {
    let name = state::AgentName::new(name).unwrap();
    lab.tmux().screen(&name).unwrap()
}

/// Fails if the question that the first prompt leads to has been answered. Claude's state is
/// "waiting" before the question is on the screen.
fn assert_still_asked(lab: &Lab, name: &str) {
    let shown = lab.until("the question is shown", || {
        let shown = screen(lab, name);
        shown.contains("Do you want to proceed?").then_some(shown)
    });
    assert!(!lab.workspace(name).join("staged-by-agent.txt").exists());
    assert_eq!(lab.agent(name)["state"], "waiting", "{shown}");
}

#[test]
fn a_text_sent_to_real_claude_does_not_answer_the_question_it_leads_to() {
    with_each_version(|version| {
        let lab = asking_lab(version);
        // Words that are in the question, and below the input box of some version.
        let words = [("a", "to"), ("b", "y"), ("c", "on")];
        for (name, _) in words {
            lab.declare(name, "", "");
        }
        let _keeper = lab.keeper();
        for (name, word) in words {
            lab.wait_state(name, "idle");
            let text = format!("{}\n{word}", prompt_of(name, "tool", 1));
            let sent = send(&lab, name, &text);
            lab.wait_state(name, "waiting");
            assert_still_asked(&lab, name);
            sent.ok();
            lab.until("the text is in the transcript", || {
                (times_said(&lab.transcript(name), &text) == 1).then_some(())
            });
        }
        // While the question is shown, a text would answer it.
        send(&lab, "a", "x\ny").refused(3, "waits for a human", "attach a");
        assert_still_asked(&lab, "a");
    });
}

#[test]
fn real_claude_gets_each_text_whole_with_one_enter() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        let texts = [
            "the first: y".to_owned(),
            "the second\n\nto".to_owned(),
            format!("the third\n{}on", "line\n".repeat(30)),
            format!("the fourth {}hi", "word ".repeat(200)),
            "the fifth is a file: @tracked.txt".to_owned(),
            "the sixth ends so: \\".to_owned(),
            "the seventh: ünï\t日本語 👍".to_owned(),
        ];
        let asked = requests(&lab, "a");
        for (text, turns) in texts.iter().zip(1..) {
            lab.wait_state("a", "idle");
            send(&lab, "a", text).ok();
            wait_requests(&lab, "a", asked + turns);
            lab.until("the text is in the transcript", || {
                // Claude shows a tab, and sends it, as four spaces.
                let text = text.replace('\t', "    ");
                (times_said(&lab.transcript("a"), &text) == 1).then_some(())
            });
        }
        assert_eq!(screen(&lab, "a").matches("Unknown").count(), 0);
    });
}

#[test]
fn nothing_is_typed_into_real_claude_without_an_input_box() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        lab.wait_state("a", "idle");
        // Claude's own state is "idle" here.
        press(&lab, "a", "C-o");
        lab.until("the whole transcript is shown", || {
            screen(&lab, "a")
                .contains("detailed transcript")
                .then_some(())
        });
        send(&lab, "a", "x\ny").refused(3, "shows something else than its input box", "attach a");
        press(&lab, "a", "C-o");
        lab.until("the input box is back", || {
            (!screen(&lab, "a").contains("detailed transcript")).then_some(())
        });
        // A user scrolls with tmux's copy mode; the text must not go to tmux.
        let mut tmux = lab.program("tmux");
        tmux.arg("-S").arg(lab.tmux().socket());
        said(tmux.args(["copy-mode", "-t", "a"])).ok();
        let asked = requests(&lab, "a");
        send(&lab, "a", "the only words").ok();
        wait_requests(&lab, "a", asked + 1);
        lab.until("the text is in the transcript", || {
            (times_said(&lab.transcript("a"), "the only words") == 1).then_some(())
        });
        assert_eq!(times_said(&lab.transcript("a"), "x\ny"), 0);
    });
}
