//! Parser of tmux's output. Pure.

use state::AgentName;
use sys::exit::Exit;

/// The format for the list of panes that [`pane_is_dead`] reads.
pub const PANES: &str = "#{session_name} #{pane_dead}";

/// The format of the answer that [`exit`] reads.
pub const EXIT: &str = "#{pane_pid} #{pane_dead} #{pane_dead_status} #{pane_dead_signal}";

/// Returns whether the process of an agent's pane has ended, from a list of all panes; `None`:
/// there is no session of this name. A session that the user made may have any name, also
/// `agent-1 0`.
#[must_use]
pub fn pane_is_dead(panes: &str, name: &AgentName) -> Option<bool> {
    panes
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .find(|(session, _)| *session == name.as_str())
        .map(|(_, dead)| dead == "1")
}

/// Returns how the process `pid` of a pane ended; `None` while tmux does not know: it sees the
/// terminal close before it gets the exit status.
#[must_use]
pub fn exit(answer: &str, pid: i32) -> Option<Exit> {
    let mut fields = answer.splitn(4, ' ');
    let mut number = || fields.next()?.trim().parse().ok();
    if number() != Some(pid) {
        return Some(Exit::Unseen); // Another process runs in the pane now.
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

/// Returns the last lines that an ended process left in its pane, joined to one.
#[must_use]
pub fn last_output(history: &str) -> Option<String> {
    let own: Vec<&str> = history
        .lines()
        .filter(|line| !line.starts_with("Pane is dead"))
        .collect();
    Some(last_lines(&own.join("\n"), 3)).filter(|output| !output.is_empty())
}

/// Returns the last `count` lines of a screen that are not empty, joined to one.
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
    fn an_exit_is_returned_only_once_tmux_knows_it() {
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
    fn a_session_is_matched_by_its_whole_name() {
        let name = AgentName::new("agent-1").unwrap();
        let panes = "agent-1 1 0\nagent-10 0\nagent-1 1\n";
        assert_eq!(pane_is_dead(panes, &name), Some(true));
        assert_eq!(pane_is_dead("agent-10 0\n", &name), None);
    }
}
