//! Pure: the model as cells. Where the room is small the table gives way to nothing; what is about the
//! chosen agent, and then the journal, gives way to it.

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

/// Below this nothing can be made out.
const LEAST: (u16, u16) = (40, 8);

/// The lines of a screen, handed out from both ends.
struct Lines<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

/// Draws all of it.
pub fn draw(buffer: &mut Buffer, model: &Model, look: Theme) {
    let area = buffer.area;
    let mut lines = Lines { buffer, area };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        lines.top(vec![Span::raw("too small a window")]);
        return;
    }
    match &model.mode {
        Mode::Help => overlay::help(&mut lines, look),
        Mode::Reading(pager) => overlay::pager(&mut lines, pager, look),
        Mode::Table | Mode::Filter | Mode::Asked(..) => main(&mut lines, model, look),
    }
}

/// How many lines of something long are seen on a screen so high.
#[must_use]
pub fn pager_height(height: u16) -> usize {
    usize::from(height.saturating_sub(overlay::FRAME))
}

fn main(lines: &mut Lines<'_>, model: &Model, look: Theme) {
    details::footer(lines, model, look);
    header::draw(lines, model, look);
    let rows = model.rows();
    let left = lines.left();
    // The table has all that it needs, as long as something of the rest is seen too.
    let desired = rows.len().max(1) + 1;
    let detail = if left >= 12 { details::DETAIL } else { 0 };
    let journal_least = if left >= 16 { 4 } else { 0 };
    let table = desired.min(left - detail - journal_least);
    let journal = left - detail - table;
    if journal >= 2 {
        details::journal(lines, journal, model, look);
    }
    if detail > 0 {
        details::detail(lines, model, &rows, look);
    }
    table::draw(lines, model, &rows, look);
}

impl Lines<'_> {
    /// How many are left.
    fn left(&self) -> usize {
        usize::from(self.area.height)
    }

    /// How many columns there are.
    fn columns(&self) -> usize {
        usize::from(self.area.width)
    }

    /// The next one from above.
    fn top(&mut self, spans: Vec<Span<'_>>) {
        if self.area.height > 0 {
            let line = Line::from(spans);
            let (x, y) = (self.area.x, self.area.y);
            self.buffer.set_line(x, y, &line, self.area.width);
            self.area.y += 1;
            self.area.height -= 1;
        }
    }

    /// The next one from above, all of it in one style.
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

    /// So many from below, to be filled from above.
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

    /// A rule across, with a title.
    fn rule(&mut self, title: &str, look: Theme) {
        let columns = self.columns();
        let title = text::fit(title, columns.saturating_sub(6));
        let rest = columns.saturating_sub(text::width(&title) + 4);
        self.top(vec![
            Span::styled("── ", look.faint()),
            Span::styled(title, look.strong()),
            Span::styled(format!(" {}", "─".repeat(rest)), look.faint()),
        ]);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
