//! The report of a drill: a JSON object for programs, and at most 25 lines of text for people.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The result of one drill. The field names are a stable interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format.
    pub version: u32,
    /// The version of Claude Code, or `fake`.
    pub claude: String,
    /// `notice`, `kill` or `power-cut`.
    pub kind: String,
    /// Where the drill ran, as text.
    pub isolation: String,
    /// The number of agents.
    pub agents_total: usize,
    /// The number of agents that run in the same session again, each in exactly one process.
    pub sessions_resumed: usize,
    /// The number of agents that were in a turn at the cut.
    pub turns_cut: usize,
    /// The number of cut turns that went on after the note.
    pub turns_continued: usize,
    /// Message blocks that the API sent completely, and prompts and outputs that it received.
    pub records_before: usize,
    /// The number of these that the resumed conversations lack.
    pub records_lost: usize,
    /// Whether every workspace is unchanged; after a power cut, all changes older than 5 s.
    pub workspaces_identical: bool,
    /// From the announcement to everything durable, in milliseconds; null without a notice.
    pub notice_to_safe_ms: Option<u64>,
    /// From the announcement to the beginning of the save, in milliseconds.
    pub notice_to_save_ms: Option<u64>,
    /// From the new keeper's start to the last agent's first request, in milliseconds.
    pub boot_to_resumed_ms: Option<u64>,
    /// `pass` or `fail`.
    pub verdict: String,
    /// The losses and failures, one sentence each.
    pub losses: Vec<String>,
    /// The results of each agent.
    pub agents: Vec<Row>,
    /// The path of the sandbox if it was kept; else null.
    #[serde(default)]
    pub kept: Option<String>,
}

/// The result of one agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The agent's name.
    pub name: String,
    /// What the agent was doing at the cut.
    pub open: String,
    /// What was saved when the agent ended.
    pub saved: String,
    /// How the agent was resumed.
    pub back: String,
    /// The number of records before the cut.
    pub records_before: usize,
    /// The number of records that are missing after the resume.
    pub records_lost: usize,
    /// Whether the agent runs in the same session again.
    pub resumed: bool,
    /// Whether a turn of the agent was cut.
    pub cut: bool,
    /// Whether that turn went on.
    pub continued: bool,
    /// From the new keeper's start to the agent's first request, in milliseconds.
    pub resumed_ms: Option<u64>,
}

/// The maximum number of agents in the table.
const ROWS: usize = 8;
/// The maximum number of losses that are printed.
const LOSSES: usize = 5;
/// The width of a line.
const WIDTH: usize = 100;

impl Report {
    /// Whether the drill passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict == "pass"
    }

    /// Returns the report as text: at most 25 lines of 100 columns.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![self.headline(), String::new()];
        lines.extend(self.table());
        if self.agents.len() > ROWS {
            lines.push(format!("... and {} more", self.agents.len() - ROWS));
        }
        lines.push(String::new());
        lines.push(format!(
            "notice to safe     {}",
            millis(self.notice_to_safe_ms)
        ));
        lines.push(format!(
            "boot to resumed    {}",
            millis(self.boot_to_resumed_ms)
        ));
        lines.push(format!(
            "records lost       {} of {}",
            self.records_lost, self.records_before
        ));
        lines.push(self.verdict_line());
        for loss in self.losses.iter().take(LOSSES) {
            lines.push(format!("  - {loss}"));
        }
        if self.losses.len() > LOSSES {
            lines.push(format!("  - ... and {} more", self.losses.len() - LOSSES));
        }
        if let Some(kept) = &self.kept {
            lines.push(format!("kept: {kept}"));
        }
        let mut text = String::new();
        for line in lines {
            // Writing to a string cannot fail.
            writeln!(text, "{}", shorten(line.trim_end())).ok();
        }
        text
    }

    /// The table of agents, with columns as wide as their longest cell.
    fn table(&self) -> Vec<String> {
        let mut rows = vec![["agent", "was at", "saved", "back"]];
        let shown = self.agents.iter().take(ROWS);
        rows.extend(shown.map(|row| [&*row.name, &*row.open, &*row.saved, &*row.back]));
        let widths: [usize; 4] = std::array::from_fn(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let line = |row: [&str; 4]| {
            let [name, open, saved, back] = row;
            let [a, b, c, _] = widths;
            format!("{name:<a$}  {open:<b$}  {saved:<c$}  {back}")
        };
        rows.into_iter().map(line).collect()
    }

    fn headline(&self) -> String {
        let who = if self.claude == "fake" {
            "the fake Claude Code".to_owned()
        } else {
            format!("Claude Code {}", self.claude)
        };
        format!("Drill ({}) with {who}; {}", self.kind, self.isolation)
    }

    fn verdict_line(&self) -> String {
        let workspaces = if self.workspaces_identical {
            "workspaces identical"
        } else {
            "workspaces differ or unknown"
        };
        format!(
            "verdict            {}: {} of {} sessions back, {} of {} cut turns went on, \
             {workspaces}",
            self.verdict.to_uppercase(),
            self.sessions_resumed,
            self.agents_total,
            self.turns_continued,
            self.turns_cut
        )
    }
}

fn millis(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |ms| format!("{ms} ms"))
}

fn shorten(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(WIDTH - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(agents: usize, losses: usize) -> Report {
        Report {
            claude: "2.1.330".into(),
            kind: "notice".into(),
            isolation: "in a network namespace".into(),
            verdict: "pass".into(),
            agents_total: agents,
            agents: (0..agents)
                .map(|number| Row {
                    name: format!("agent-{number}"),
                    open: "a tool call".into(),
                    saved: "12 records, safe".into(),
                    back: "same session, went on".into(),
                    ..Row::default()
                })
                .collect(),
            losses: (0..losses)
                .map(|n| format!("{n} {}", "long ".repeat(40)))
                .collect(),
            ..Report::default()
        }
    }

    #[test]
    fn the_text_of_any_report_fits_a_screen() {
        let text = report(200, 50).text();
        assert!(text.lines().count() <= 25, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }

    #[test]
    fn the_first_line_names_the_fake() {
        let mut report = report(1, 0);
        report.claude = "fake".into();
        assert!(report.text().lines().next().unwrap().contains("fake"));
    }

    #[test]
    fn a_report_survives_a_json_round_trip() {
        let report = report(2, 1);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert!(text.contains("\"notice_to_safe_ms\":null"));
    }
}
