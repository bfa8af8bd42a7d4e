//! `spotkeep top` in a real terminal.

use sys::process::Signal;

use crate::pane::Pane;
use crate::support::{Lab, SPOTKEEP};
use crate::terminal::arguments;

fn top(lab: &Lab, columns: u32, lines: u32) -> Pane<'_> {
    let script = format!(
        "{SPOTKEEP} --data-dir {} top; echo left with $?; stty -a | grep -o ' icanon'",
        lab.data_dir().display()
    );
    Pane::run(lab, columns, lines, &script)
}

#[test]
fn top_shows_a_fleet_acts_on_it_and_restores_the_terminal() {
    let lab = Lab::new();
    lab.declare("api", "idle", "");
    lab.declare("web", "tool", "");
    let _keeper = lab.keeper();
    lab.wait_done("api");
    lab.wait_open("web");
    let pane = top(&lab, 80, 24);
    let screen = pane.wait(&["2 agents", "○ idle", "● running", "Bash", "events"]);
    assert!(
        screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );

    // A key that changes something asks first; only y confirms.
    let process = lab.process("api");
    pane.press(&["s"]);
    pane.wait(&["stop api?"]);
    pane.press(&["x"]);
    pane.wait(&["⏎ attach"]);
    pane.press(&["s"]);
    pane.wait(&["stop api?"]);
    assert!(process.is_alive());
    pane.press(&["y"]);
    pane.wait(&["spotkeep stop api: – stopped"]);
    lab.wait_state("api", "stopped");

    // The log of the other agent.
    pane.press(&["Down", "l"]);
    pane.wait(&[
        "spotkeep logs web --follow",
        "user    DRILL",
        "tool    Bash",
    ]);
    pane.press(&["q"]);
    pane.wait(&["⏎ attach"]);

    pane.press(&["/", "w", "e", "b", "Enter"]);
    // The last line shows the filter; a path in the journal may have the same letters.
    let screen = pane.wait(&["/web  ⏎ attach", "● running"]);
    assert!(!screen.contains("– stopped   api"), "{screen}");

    // Attach to its terminal, and detach.
    pane.press(&["Enter"]);
    pane.wait(&["● Bash(", "spotkeep"]);
    pane.press(&["C-b", "d"]);
    pane.wait(&["2 agents", "/web  ⏎ attach"]);
    assert!(pane.is_taken());

    pane.press(&["c"]);
    pane.wait(&["spotkeep checkpoint now web: web"]);
    pane.press(&["?"]);
    pane.wait(&["press any key to go back"]);
    pane.press(&["x", "q"]);
    pane.wait(&["left with 0", " icanon"]);
    assert!(!pane.is_taken());
}

#[test]
fn top_restores_the_terminal_when_it_is_ended() {
    let lab = Lab::new();
    let pane = top(&lab, 100, 30);
    pane.wait(&["no agents yet", "no keeper runs: spotkeep up"]);
    let is_top = |process: &sys::process::ProcessId| {
        let arguments = arguments(*process);
        arguments.first().is_some_and(|program| program == SPOTKEEP)
            && arguments.last().is_some_and(|verb| verb == "top")
    };
    let found = lab.processes().into_iter().find(is_top);
    found.unwrap().open().unwrap().signal(Signal::Term);
    pane.wait(&["left with 0", " icanon"]);
    assert!(!pane.is_taken());
}

#[test]
fn top_counts_down_while_a_preemption_is_saved() {
    let lab = Lab::in_a_cloud();
    lab.declare("done", "idle", "");
    lab.declare("stubborn", "", "env = { FAKE_CLAUDE_IGNORE_TERM = \"1\" }");
    let _keeper = lab.keeper();
    lab.wait_done("done");
    lab.wait_state("stubborn", "idle");
    let pane = top(&lab, 100, 24);
    pane.wait(&["2 agents", "gcp, preemptible", "no notice"]);
    lab.wait_asked();
    lab.metadata().preempt();
    pane.wait(&["PREEMPTION", "s left", "1 still running", "◍ saving"]);
    let screen = pane.wait(&["all safe after", "✓ transcripts", "✓ disk", "✓ work"]);
    assert!(
        screen.contains("killed: it did not exit in time, transcript saved"),
        "{screen}"
    );
    assert!(
        screen.contains("exited in time, transcript saved, workspace saved"),
        "{screen}"
    );
}

#[test]
fn top_without_a_terminal_names_the_alternative() {
    let lab = Lab::new();
    lab.run(&["top"])
        .refused(2, "top needs a terminal", "spotkeep ls --watch");
}

#[test]
fn ls_watch_prints_each_change_as_a_line_of_json() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let path = lab.dir.join("watched");
    let mut command = lab.spotkeep(&["ls", "--watch", "--json"]);
    let mut child = command
        .stdout(std::fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let states = || -> Vec<String> {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(line["agents"][0]["state"].as_str()?.to_owned())
        });
        lines.collect()
    };
    lab.until("the first state is printed", || {
        (states().last()? == "idle").then_some(())
    });
    lab.run(&["stop", "a"]).ok();
    lab.until("the change is printed", || {
        (states().last()? == "stopped").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
