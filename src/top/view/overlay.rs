//! Full-screen views: the help, and the pager. Pure.

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::fit;
use crate::top::pager::Pager;

/// Lines of the pager's frame: title and key hints.
pub(super) const FRAME: u16 = 2;

const HELP: &[(&str, &str)] = &[
    (
        "↑ ↓ j k",
        "choose an agent (also page up, page down, home, end)",
    ),
    ("enter", "open its terminal; ctrl-b d returns here"),
    ("", "(inside your own tmux: ctrl-b ctrl-b d)"),
    ("s", "stop it, or start it if it is stopped; asks first"),
    ("r", "restart it, now or when it is idle; asks first"),
    ("l", "show what it says and does, updated live"),
    ("c", "make a checkpoint of its uncommitted work"),
    ("d", "show what has changed since its newest checkpoint"),
    (
        "/",
        "show only agents whose name, state, branch or activity matches",
    ),
    ("q", "quit; the agents keep running"),
    ("", ""),
    ("FOR", "how long it has been in its state"),
    (
        "DOING",
        "the running tool, the last message, or why it does not work",
    ),
    ("DIRTY", "files with uncommitted changes"),
    (
        "SAVED",
        "age of the newest checkpoint;  BACKUP  of the newest backup",
    ),
    (
        "TOKENS",
        "new input and output tokens of the session; + if not all are counted",
    ),
    ("CONTEXT", "tokens in the model's context"),
    ("CPU MEM", "of all processes of the agent; 100% is one core"),
];

pub(super) fn help(lines: &mut Lines<'_>, theme: Theme) {
    let columns = lines.columns();
    lines.rule("spotkeep top", theme);
    let height = lines.left().saturating_sub(1);
    for (key, text) in HELP.iter().take(height) {
        lines.top(vec![
            Span::styled(format!("{key:9}"), theme.strong()),
            Span::raw(fit(text, columns.saturating_sub(9))),
        ]);
    }
    lines.bottom(1).top(vec![Span::styled(
        "press any key to go back",
        theme.faint(),
    )]);
}

pub(super) fn pager(lines: &mut Lines<'_>, pager: &Pager, theme: Theme) {
    let columns = lines.columns();
    lines.rule(&pager.title, theme);
    let height = lines.left().saturating_sub(1);
    let seen = pager.visible(height);
    let end = seen.end;
    for (tone, line) in &pager.lines[seen] {
        lines.top(vec![Span::styled(fit(line, columns), theme.tone(*tone))]);
    }
    let position = match (pager.lines.len(), pager.is_loaded) {
        (0, false) => "…".to_owned(),
        (0, true) => "no messages yet".to_owned(),
        (all, _) if end == all => "the end".to_owned(),
        (all, _) => format!("{} more", all - end),
    };
    lines.bottom(1).top(vec![
        Span::styled("↑ ↓", theme.strong()),
        Span::styled(" scroll  ", theme.faint()),
        Span::styled("g G", theme.strong()),
        Span::styled(" beginning, end  ", theme.faint()),
        Span::styled("q", theme.strong()),
        Span::styled(" back  ", theme.faint()),
        Span::raw(position),
    ]);
}
