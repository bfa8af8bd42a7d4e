//! What tmux prints: the list of panes, the end of a process, and screens, on which an agent can show anything.

use claude::input_box::{InputBox, pasteable};
use claude::screen;
use spotkeep::tmux::output;
use state::AgentName;
use sys::exit::Exit;

/// Reads it as each of them.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if output::exit(&text, 7).is_some_and(|exit| exit != Exit::Unseen) {
        assert!(text.starts_with("7 1 "), "{text:?}");
    }
    only_its_own_session_tells_of_an_agent(&text);
    for count in 0..4 {
        let words = output::last_lines(&text, count);
        assert!(!words.contains('\n'), "{words:?}");
        assert!(count > 0 || words.is_empty());
    }
    let words = output::last_words(&text).unwrap_or_default();
    assert!(!words.contains('\n'), "{words:?}");
    what_blocks_is_told_in_a_line(&text);
    what_is_not_shown_is_not_typed(&text);
    what_is_pasted_presses_no_key(&text);
}

fn only_its_own_session_tells_of_an_agent(panes: &str) {
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

fn what_blocks_is_told_in_a_line(text: &str) {
    if let Some(blocker) = screen::blocker(text) {
        let told = blocker.to_string();
        assert!(told.chars().count() < 200, "{told:?}");
        assert!(!told.contains(char::is_control), "{told:?}");
    }
    assert!(!screen::title(text).contains(char::is_control));
    if screen::shows_limit_question(text) {
        assert!(text.to_lowercase().contains("wait for limit to reset"));
    }
}

/// Words that nobody sees, because the box holds only what colours it, are nobody's; and what stands on no line
/// of the screen stands in no box.
fn what_is_not_shown_is_not_typed(text: &str) {
    let Some(input) = InputBox::find(text) else {
        return;
    };
    assert!(text.contains("───"));
    assert!(!input.is_empty() || !input.holds("a word"));
    if !input.is_empty() && !input.is_of_session_list() {
        assert!(text.contains(|c: char| !c.is_whitespace() && !c.is_control()));
    }
}

/// Nothing that is pasted ends the paste, presses a key, or is longer than what was given.
fn what_is_pasted_presses_no_key(text: &str) {
    let pasted = pasteable(text);
    assert!(
        !pasted.contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
        "{pasted:?}"
    );
    assert!(pasted.len() <= text.len() + 1 && !pasted.ends_with('\\'));
    assert_eq!(pasteable(&pasted).trim_end(), pasted.trim_end());
}
