//! Pure: what takes the whole screen: the help, and something long.

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::fit;
use crate::top::pager::Pager;

/// The lines around something long.
pub(super) const FRAME: u16 = 2;

const HELP: &[(&str, &str)] = &[
    (
        "↑ ↓ j k",
        "choose an agent; page up and down, home and end too",
    ),
    ("enter", "go to its terminal; ctrl-b d comes back here"),
    ("", "(inside a tmux of yours: ctrl-b ctrl-b d)"),
    ("s", "stop it, or start it where it is stopped; asks first"),
    ("r", "restart it; asks first, and can wait until it is idle"),
    ("l", "what it says and does, live"),
    ("c", "make a checkpoint of its uncommitted work"),
    ("d", "what has changed since its newest checkpoint"),
    (
        "/",
        "show only agents whose name, state, branch or doing holds a text",
    ),
    ("q", "leave; the agents go on"),
    ("", ""),
    (
        "FOR",
        "for how long it is in its state, as the keeper has seen it",
    ),
    (
        "DOING",
        "the tool that runs, its last words, or why it stands still",
    ),
    ("DIRTY", "files with uncommitted changes"),
    (
        "SAVED",
        "age of the newest checkpoint;  BACKUP  of the newest backup",
    ),
    (
        "TOKENS",
        "new to the model or said by it, over the session; + where more may be",
    ),
    ("CONTEXT", "tokens that the model has before its eyes"),
    (
        "CPU MEM",
        "of the agent and all that it started; 100% is one core",
    ),
];

pub(super) fn help(lines: &mut Lines<'_>, look: Theme) {
    let columns = lines.columns();
    lines.rule("spotkeep top", look);
    let room = lines.left().saturating_sub(1);
    for (key, words) in HELP.iter().take(room) {
        lines.top(vec![
            Span::styled(format!("{key:9}"), look.strong()),
            Span::raw(fit(words, columns.saturating_sub(9))),
        ]);
    }
    lines
        .bottom(1)
        .top(vec![Span::styled("any key goes back", look.faint())]);
}

pub(super) fn pager(lines: &mut Lines<'_>, pager: &Pager, look: Theme) {
    let columns = lines.columns();
    lines.rule(&pager.title, look);
    let height = lines.left().saturating_sub(1);
    let seen = pager.visible(height);
    let end = seen.end;
    for (tone, line) in &pager.lines[seen] {
        lines.top(vec![Span::styled(fit(line, columns), look.tone(*tone))]);
    }
    let where_at = match (pager.lines.len(), pager.is_there) {
        (0, false) => "…".to_owned(),
        (0, true) => "nothing was said yet".to_owned(),
        (all, _) if end == all => "the end".to_owned(),
        (all, _) => format!("{} more", all - end),
    };
    lines.bottom(1).top(vec![
        Span::styled("↑ ↓", look.strong()),
        Span::styled(" scroll  ", look.faint()),
        Span::styled("g G", look.strong()),
        Span::styled(" beginning, end  ", look.faint()),
        Span::styled("q", look.strong()),
        Span::styled(" back  ", look.faint()),
        Span::raw(where_at),
    ]);
}
