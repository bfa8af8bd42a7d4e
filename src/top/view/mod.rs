//! View of `spotkeep top`: draws the model as cells. Pure.
//!
//! On a small screen the table has priority; first the journal and then the details of the chosen
//! agent are left out.

mod details;
mod header;
mod overlay;
mod style;
mod table;
mod text;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::model::{Mode, Model};
pub use style::Theme;

/// The smallest screen that is drawn: columns, lines.
const LEAST: (u16, u16) = (40, 8);

/// The lines of a screen that are still free, used from the top and from the bottom.
struct Lines<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

/// Draws the whole screen.
pub fn draw(buffer: &mut Buffer, model: &Model, theme: Theme) {
    let area = buffer.area;
    let mut lines = Lines { buffer, area };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        lines.top(vec![Span::raw("the window is too small")]);
        return;
    }
    match &model.mode {
        Mode::Help => overlay::help(&mut lines, theme),
        Mode::Reading(pager) => overlay::pager(&mut lines, pager, theme),
        Mode::Table | Mode::Filter | Mode::Confirm(..) => main(&mut lines, model, theme),
    }
}

/// Returns the number of lines that the pager shows on a screen of this height.
#[must_use]
pub fn pager_height(height: u16) -> usize {
    usize::from(height.saturating_sub(overlay::FRAME))
}

fn main(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    details::footer(lines, model, theme);
    header::draw(lines, model, theme);
    let rows = model.rows();
    let left = lines.left();
    // The table gets all the lines that it needs, except a minimum for the rest.
    let desired = rows.len().max(1) + 1;
    let detail = if left >= 12 { details::DETAIL } else { 0 };
    let journal_least = if left >= 16 { 4 } else { 0 };
    let table = desired.min(left - detail - journal_least);
    let journal = left - detail - table;
    if journal >= 2 {
        details::journal(lines, journal, model, theme);
    }
    if detail > 0 {
        details::detail(lines, model, &rows, theme);
    }
    table::draw(lines, model, &rows, theme);
}

impl Lines<'_> {
    /// Returns the number of free lines.
    fn left(&self) -> usize {
        usize::from(self.area.height)
    }

    /// Returns the number of columns.
    fn columns(&self) -> usize {
        usize::from(self.area.width)
    }

    /// Draws the next line at the top.
    fn top(&mut self, spans: Vec<Span<'_>>) {
        if self.area.height > 0 {
            let line = Line::from(spans);
            let (x, y) = (self.area.x, self.area.y);
            self.buffer.set_line(x, y, &line, self.area.width);
            self.area.y += 1;
            self.area.height -= 1;
        }
    }

    /// Draws the next line at the top in one style.
    fn styled(&mut self, spans: Vec<Span<'_>>, style: Style) {
        let row = Rect {
            height: 1,
            ..self.area
        };
        if self.area.height > 0 {
            self.top(spans);
            self.buffer.set_style(row, style);
        }
    }

    /// Takes `height` lines at the bottom.
    fn bottom(&mut self, height: usize) -> Lines<'_> {
        let height = u16::try_from(height)
            .unwrap_or(u16::MAX)
            .min(self.area.height);
        self.area.height -= height;
        let area = Rect {
            y: self.area.y + self.area.height,
            height,
            ..self.area
        };
        Lines {
            buffer: self.buffer,
            area,
        }
    }

    /// Draws a horizontal rule with a title.
    fn rule(&mut self, title: &str, theme: Theme) {
        let columns = self.columns();
        let title = text::fit(title, columns.saturating_sub(6));
        let rest = columns.saturating_sub(text::width(&title) + 4);
        self.top(vec![
            Span::styled("── ", theme.faint()),
            Span::styled(title, theme.strong()),
            Span::styled(format!(" {}", "─".repeat(rest)), theme.faint()),
        ]);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
