//! The table of figures, in Markdown.

use std::fmt::Write as _;

use sys::error::Error;

/// One row of the table.
#[derive(Debug)]
pub struct Figure {
    /// The number, as `--only` takes it.
    pub number: u8,
    /// The quantity that is measured.
    pub name: String,
    /// The required value.
    pub must: String,
    /// The measured value.
    pub measured: String,
    /// Whether the required value is reached; `None` if it was not measured or none is set.
    pub reached: Option<bool>,
    /// How it was measured, in a line.
    pub how: String,
}

impl Figure {
    /// A figure that could not be measured.
    pub fn failed(number: u8, error: &Error) -> Self {
        Self {
            number,
            name: format!("figure {number}"),
            must: String::new(),
            measured: "not measured".into(),
            reached: None,
            how: format!("{error:#}"),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.reached {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "-",
        }
    }
}

/// Renders an aligned Markdown table, followed by how each figure was measured.
pub fn render(figures: &[Figure]) -> String {
    let head = ["", "figure", "must reach", "measured", "verdict"].map(str::to_owned);
    let rows = figures.iter().map(|figure| {
        let number = figure.number.to_string();
        let verdict = figure.verdict().to_owned();
        [
            number,
            figure.name.clone(),
            figure.must.clone(),
            figure.measured.clone(),
            verdict,
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            write!(text, "| {cell:width$} ").ok();
        }
        text.push_str("|\n");
        if index == 0 {
            widths
                .iter()
                .for_each(|width| text.push_str(&format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text.push('\n');
    for figure in figures.iter().filter(|figure| !figure.how.is_empty()) {
        writeln!(text, "{}: {}", figure.number, figure.how).ok();
    }
    text
}
