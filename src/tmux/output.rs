//! Pure: what tmux prints, read.

use state::AgentName;
use sys::exit::Exit;

/// The format of the list that [`pane_is_dead`] reads.
pub const PANES: &str = "#{session_name} #{pane_dead}";

/// The format of the answer that [`exit`] reads.
pub const EXIT: &str = "#{pane_pid} #{pane_dead} #{pane_dead_status} #{pane_dead_signal}";

/// Whether the process of an agent's pane has ended, out of a list of all panes; `None`: there is no session
/// of this name. A session that somebody else made may be called anything, so also `agent-1 0`.
#[must_use]
pub fn pane_is_dead(panes: &str, name: &AgentName) -> Option<bool> {
    panes
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .find(|(session, _)| *session == name.as_str())
        .map(|(_, dead)| dead == "1")
}

/// How the process `pid` of a pane ended; `None` while tmux does not know: it sees the terminal close before
/// it hears of the end.
#[must_use]
pub fn exit(answer: &str, pid: i32) -> Option<Exit> {
    let mut fields = answer.splitn(4, ' ');
    let mut number = || fields.next()?.trim().parse().ok();
    if number() != Some(pid) {
        return Some(Exit::Unseen); // Another one runs in it now.
    }
    if number() != Some(1) {
        return None;
    }
    match (number(), number()) {
        (_, Some(signal)) => Some(Exit::Signal(signal)),
        (Some(status), None) => Some(Exit::Code(status)),
        (None, None) => None,
    }
}

/// The last lines that a process which has ended left in its pane, on one line.
#[must_use]
pub fn last_words(history: &str) -> Option<String> {
    let own: Vec<&str> = history
        .lines()
        .filter(|line| !line.starts_with("Pane is dead"))
        .collect();
    Some(last_lines(&own.join("\n"), 3)).filter(|words| !words.is_empty())
}

/// The last few lines of a screen that hold anything, on one line.
#[must_use]
pub fn last_lines(screen: &str, count: usize) -> String {
    let lines: Vec<&str> = screen
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_only_once_it_is_known() {
        assert_eq!(exit("7 0  ", 7), None);
        assert_eq!(exit("7 1  ", 7), None);
        assert_eq!(exit("7 1 143 ", 7), Some(Exit::Code(143)));
        assert_eq!(exit("7 1  9", 7), Some(Exit::Signal(9)));
        assert_eq!(exit("8 0  ", 7), Some(Exit::Unseen));
        assert_eq!(exit("", 7), Some(Exit::Unseen));
    }

    #[test]
    fn the_last_lines_of_a_screen_leave_out_the_empty_ones() {
        assert_eq!(last_lines("a\n\n  b \n c\n\n\n", 2), "b / c");
    }

    #[test]
    fn a_session_is_known_by_its_whole_name() {
        let name = AgentName::new("agent-1").unwrap();
        let panes = "agent-1 1 0\nagent-10 0\nagent-1 1\n";
        assert_eq!(pane_is_dead(panes, &name), Some(true));
        assert_eq!(pane_is_dead("agent-10 0\n", &name), None);
    }
}
