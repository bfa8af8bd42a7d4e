//! Pure: a row for each agent, in as many columns as fit.

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::{bytes, count, fit, width};
use crate::top::model::{Mode, Model};
use crate::top::row::Row;
use sys::time::brief;

/// What an agent does is worth this much, before another column is; in a wide window a third of it.
const DOING_LEAST: usize = 26;

/// Between two columns.
const GAP: usize = 2;

/// A column beside those that are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Branch,
    Dirty,
    Saved,
    Backup,
    Tokens,
    Context,
    Cpu,
    Memory,
    Restarts,
}

impl Column {
    /// As they stand, from left to right.
    const IN_ORDER: [Self; 9] = [
        Self::Branch,
        Self::Dirty,
        Self::Saved,
        Self::Backup,
        Self::Tokens,
        Self::Context,
        Self::Cpu,
        Self::Memory,
        Self::Restarts,
    ];

    /// The one that is given up last comes first.
    const BY_WORTH: [Self; 9] = [
        Self::Tokens,
        Self::Dirty,
        Self::Saved,
        Self::Cpu,
        Self::Memory,
        Self::Branch,
        Self::Restarts,
        Self::Backup,
        Self::Context,
    ];

    fn head(self) -> &'static str {
        match self {
            Self::Branch => "BRANCH",
            Self::Dirty => "DIRTY",
            Self::Saved => "SAVED",
            Self::Backup => "BACKUP",
            Self::Tokens => "TOKENS",
            Self::Context => "CONTEXT",
            Self::Cpu => "CPU",
            Self::Memory => "MEM",
            Self::Restarts => "RESTARTS",
        }
    }

    fn cell(self, row: &Row<'_>) -> String {
        let dash = || "-".to_owned();
        let age = |at| row.age(at).map_or_else(dash, brief);
        let tokens = |number: fn(&crate::top::snapshot::Glance) -> u64, more: &str| {
            let glance = row.glance.filter(|glance| number(glance) > 0);
            glance.map_or_else(dash, |glance| {
                let more = if glance.is_whole { "" } else { more };
                format!("{}{more}", count(number(glance)))
            })
        };
        match self {
            Self::Branch => row.agent.branch.clone().unwrap_or_else(dash),
            Self::Dirty => row.agent.dirty.map_or_else(dash, |files| files.to_string()),
            Self::Saved => age(row.agent.last_checkpoint),
            Self::Backup => age(row.agent.last_backup),
            Self::Tokens => tokens(|glance| glance.tokens, "+"),
            Self::Context => tokens(|glance| glance.context, ""),
            Self::Cpu => row
                .load
                .and_then(|load| load.cpu)
                .map_or_else(dash, |cpu| format!("{cpu}%")),
            Self::Memory => row.load.map_or_else(dash, |load| bytes(load.memory)),
            Self::Restarts => row.agent.restarts.to_string(),
        }
    }

    /// Numbers stand at the right of their columns, names at the left.
    fn is_name(self) -> bool {
        self == Self::Branch
    }
}

/// Widths of what is shown.
struct Layout {
    name: usize,
    doing: usize,
    columns: Vec<(Column, usize)>,
}

impl Layout {
    fn fit(rows: &[Row<'_>], columns: usize, is_saving: bool) -> Self {
        let longest = |cell: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(cell).max().unwrap_or(0);
        let name_most = if columns < 100 { 18 } else { 28 };
        let name = longest(&|row| row.agent.name.as_str().len()).clamp(5, name_most);
        // The state with its sign takes ten, for how long it is that four.
        let fixed = 10 + GAP + name + GAP + 4 + GAP;
        let mut doing = columns.saturating_sub(fixed);
        let mut chosen = Vec::new();
        let doing_least = DOING_LEAST.max(columns / 3);
        // While a save is under way, how far each has come is all that counts.
        let worth = Column::BY_WORTH.into_iter().filter(|_| !is_saving);
        for column in worth {
            let least = width(column.head());
            let wide = longest(&|row| width(&column.cell(row))).clamp(least, 20);
            if doing < doing_least + GAP + wide {
                break;
            }
            doing -= GAP + wide;
            chosen.push((column, wide));
        }
        let place = |column: &Column| Column::IN_ORDER.iter().position(|one| one == column);
        chosen.sort_by_key(|(column, _)| place(column));
        Self {
            name,
            doing,
            columns: chosen,
        }
    }
}

pub(super) fn draw(lines: &mut Lines<'_>, model: &Model, rows: &[Row<'_>], look: Theme) {
    let layout = Layout::fit(rows, lines.columns(), model.fleet.status.notice.is_some());
    head(lines, &layout, look);
    if rows.is_empty() {
        nobody(lines, model, look);
        return;
    }
    let height = lines.left().max(1);
    let cursor = model.cursor();
    // The chosen one is always seen, and nothing moves before it has to.
    let first = (cursor + 1).saturating_sub(height);
    for (index, row) in rows.iter().enumerate().skip(first).take(height) {
        let spans = cells(row, &layout, look);
        if index == cursor && model.mode != Mode::Filter {
            let plain = spans
                .into_iter()
                .map(|span| Span::raw(span.content))
                .collect();
            lines.styled(plain, look.chosen());
        } else {
            lines.top(spans);
        }
    }
}

fn head(lines: &mut Lines<'_>, layout: &Layout, look: Theme) {
    let mut text = format!(
        "{:10}  {:name$}  {:>4}  {:doing$}",
        "STATE",
        "AGENT",
        "FOR",
        "DOING",
        name = layout.name,
        doing = layout.doing,
    );
    for (column, wide) in &layout.columns {
        let head = column.head();
        text.push_str("  ");
        text.push_str(&match column.is_name() {
            true => format!("{head:wide$}"),
            false => format!("{head:>wide$}"),
        });
    }
    lines.top(vec![Span::styled(text, look.faint())]);
}

fn cells(row: &Row<'_>, layout: &Layout, look: Theme) -> Vec<Span<'static>> {
    let state = row.agent.state;
    let sign = format!("{} {}", state.glyph(), state.as_str());
    let since = row.since().map_or_else(|| "-".to_owned(), brief);
    let doing_style = match row.calls() {
        true => look.state(state),
        false => ratatui::style::Style::new(),
    };
    let mut spans = vec![
        Span::styled(left(&sign, 10), look.state(state)),
        Span::raw("  "),
        Span::styled(left(row.agent.name.as_str(), layout.name), look.strong()),
        Span::raw("  "),
        Span::styled(right(&since, 4), look.faint()),
        Span::raw("  "),
        Span::styled(left(&row.doing(), layout.doing), doing_style),
    ];
    for (column, wide) in &layout.columns {
        let cell = column.cell(row);
        let text = match column.is_name() {
            true => left(&cell, *wide),
            false => right(&cell, *wide),
        };
        spans.push(Span::raw("  "));
        spans.push(Span::raw(text));
    }
    spans
}

fn left(text: &str, wide: usize) -> String {
    let text = fit(text, wide);
    let gap = wide.saturating_sub(width(&text));
    format!("{text}{}", " ".repeat(gap))
}

fn right(text: &str, wide: usize) -> String {
    let text = fit(text, wide);
    let gap = wide.saturating_sub(width(&text));
    format!("{}{text}", " ".repeat(gap))
}

fn nobody(lines: &mut Lines<'_>, model: &Model, look: Theme) {
    let words = match model.filter.is_empty() {
        true => "no agents yet: spotkeep add NAME --prompt 'What to do.'".to_owned(),
        false => format!("no agent matches {:?}; escape shows all", model.filter),
    };
    let words = fit(&words, lines.columns());
    lines.top(vec![Span::styled(words, look.faint())]);
}
