//! Table of `spotkeep top`: one row per agent, with as many columns as fit. Pure.

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::{bytes, count, fit, width};
use crate::top::model::{Mode, Model};
use crate::top::row::Row;
use sys::time::brief;

/// The least width of the column DOING before other columns are shown; in a wide window it is a
/// third of the width.
const DOING_LEAST: usize = 26;

/// Spaces between two columns.
const GAP: usize = 2;

/// An optional column.
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
    /// All columns, from left to right.
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

    /// All columns, most important first.
    const BY_PRIORITY: [Self; 9] = [
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

    /// Returns whether the column is aligned to the left, like names; numbers are aligned to the
    /// right.
    fn is_name(self) -> bool {
        self == Self::Branch
    }
}

/// The shown columns and their widths.
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
        // The state with its symbol takes 10 columns, its duration 4.
        let fixed = 10 + GAP + name + GAP + 4 + GAP;
        let mut doing = columns.saturating_sub(fixed);
        let mut chosen = Vec::new();
        let doing_least = DOING_LEAST.max(columns / 3);
        // During a save the table shows only how far each agent is saved.
        let optional = Column::BY_PRIORITY.into_iter().filter(|_| !is_saving);
        for column in optional {
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

pub(super) fn draw(lines: &mut Lines<'_>, model: &Model, rows: &[Row<'_>], theme: Theme) {
    let layout = Layout::fit(rows, lines.columns(), model.fleet.status.notice.is_some());
    head(lines, &layout, theme);
    if rows.is_empty() {
        empty(lines, model, theme);
        return;
    }
    let height = lines.left().max(1);
    let cursor = model.cursor();
    // The chosen row is always visible; the table scrolls only if it has to.
    let first = (cursor + 1).saturating_sub(height);
    for (index, row) in rows.iter().enumerate().skip(first).take(height) {
        let spans = cells(row, &layout, theme);
        if index == cursor && model.mode != Mode::Filter {
            let plain = spans
                .into_iter()
                .map(|span| Span::raw(span.content))
                .collect();
            lines.styled(plain, theme.chosen());
        } else {
            lines.top(spans);
        }
    }
}

fn head(lines: &mut Lines<'_>, layout: &Layout, theme: Theme) {
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
    lines.top(vec![Span::styled(text, theme.faint())]);
}

fn cells(row: &Row<'_>, layout: &Layout, theme: Theme) -> Vec<Span<'static>> {
    let state = row.agent.state;
    let sign = format!("{} {}", state.glyph(), state.as_str());
    let since = row.since().map_or_else(|| "-".to_owned(), brief);
    let doing_style = match row.needs_attention() {
        true => theme.state(state),
        false => ratatui::style::Style::new(),
    };
    let mut spans = vec![
        Span::styled(left(&sign, 10), theme.state(state)),
        Span::raw("  "),
        Span::styled(left(row.agent.name.as_str(), layout.name), theme.strong()),
        Span::raw("  "),
        Span::styled(right(&since, 4), theme.faint()),
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

fn empty(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    let text = match model.filter.is_empty() {
        true => "no agents yet: spotkeep add NAME --prompt 'What to do.'".to_owned(),
        false => format!("no agent matches {:?}; escape shows all", model.filter),
    };
    let text = fit(&text, lines.columns());
    lines.top(vec![Span::styled(text, theme.faint())]);
}
