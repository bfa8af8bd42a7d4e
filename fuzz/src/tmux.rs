//! Fuzzes tmux's output: the list of panes, the exit of a process, and screens with any text.

use claude::input_box::{InputBox, pasteable};
use claude::screen;
use spotkeep::tmux::output;
use state::AgentName;
use sys::exit::Exit;

/// Parses the input as each of them.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if output::exit(&text, 7).is_some_and(|exit| exit != Exit::Unseen) {
        assert!(text.starts_with("7 1 "), "{text:?}");
    }
    only_an_agents_own_session_shows_its_end(&text);
    for count in 0..4 {
        let shown = output::last_lines(&text, count);
        assert!(!shown.contains('\n'), "{shown:?}");
        assert!(count > 0 || shown.is_empty());
    }
    let shown = output::last_output(&text).unwrap_or_default();
    assert!(!shown.contains('\n'), "{shown:?}");
    a_blocker_is_described_in_one_line(&text);
    only_visible_text_is_input(&text);
    pasted_text_presses_no_key(&text);
}

fn only_an_agents_own_session_shows_its_end(panes: &str) {
    let name = AgentName::new("agent-1").unwrap();
    let own = |line: &&str| {
        line.strip_prefix("agent-1 ")
            .is_some_and(|dead| !dead.contains(' '))
    };
    let expected = panes.lines().find(own).map(|line| line == "agent-1 1");
    assert_eq!(output::pane_is_dead(panes, &name), expected);
    if expected.is_none() {
        let more = format!("{panes}\nagent-1 1\nagent-10 0\n");
        assert_eq!(output::pane_is_dead(&more, &name), Some(true));
    }
}

fn a_blocker_is_described_in_one_line(text: &str) {
    if let Some(blocker) = screen::blocker(text) {
        let shown = blocker.to_string();
        assert!(shown.chars().count() < 200, "{shown:?}");
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
    assert!(!screen::title(text).contains(char::is_control));
    if screen::shows_limit_question(text) {
        assert!(text.to_lowercase().contains("wait for limit to reset"));
    }
}

/// A box with color sequences only is empty, and a text that is not on the screen is not in a box.
fn only_visible_text_is_input(text: &str) {
    let Some(input) = InputBox::find(text) else {
        return;
    };
    assert!(text.contains("───"));
    assert!(!input.is_empty() || !input.holds("a word"));
    if !input.is_empty() && !input.is_of_session_list() {
        assert!(text.contains(|c: char| !c.is_whitespace() && !c.is_control()));
    }
}

/// Text to paste has no control characters, and is not longer than the input.
fn pasted_text_presses_no_key(text: &str) {
    let pasted = pasteable(text);
    assert!(
        !pasted.contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
        "{pasted:?}"
    );
    assert!(pasted.len() <= text.len() + 1 && !pasted.ends_with('\\'));
    assert_eq!(pasteable(&pasted).trim_end(), pasted.trim_end());
}
