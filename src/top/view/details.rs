//! Lower part of `spotkeep top`: the chosen agent, the newest events, and the keys. Pure.

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::{bytes, count, fit, flow, width};
use crate::top::model::{AgentAction, Mode, Model};
use crate::top::row::Row;
use state::{AgentState, JournalEntry, JournalEvent};
use sys::time::brief;

/// Lines for the chosen agent, with the rule above them.
pub(super) const DETAIL: usize = 4;

/// The keys, most useful first.
const KEYS: [(&str, &str); 9] = [
    ("⏎", "attach"),
    ("s", "stop"),
    ("r", "restart"),
    ("l", "logs"),
    ("c", "checkpoint"),
    ("d", "diff"),
    ("/", "filter"),
    ("?", "help"),
    ("q", "quit"),
];

pub(super) fn detail(lines: &mut Lines<'_>, model: &Model, rows: &[Row<'_>], theme: Theme) {
    let mut lines = lines.bottom(DETAIL);
    let Some(row) = rows.get(model.cursor()) else {
        return;
    };
    lines.rule(row.agent.name.as_str(), theme);
    let columns = lines.columns();
    // The table may cut this text; here it is shown in full.
    let (text, style) = match (&row.agent.hint, row.needs_attention()) {
        (Some(hint), true) => (
            format!("{} → {hint}", row.doing()),
            theme.state(row.agent.state),
        ),
        _ => (row.doing(), ratatui::style::Style::new()),
    };
    lines.top(vec![Span::styled(fit(&text, columns), style)]);
    for line in flow(&facts(row), columns, 2) {
        lines.top(vec![Span::styled(line, theme.faint())]);
    }
}

fn facts(row: &Row<'_>) -> Vec<String> {
    let agent = row.agent;
    let mut facts = Vec::new();
    if let Some(since) = agent.since {
        facts.push(format!("{} since {}", agent.state, since.clock()));
    }
    let dirty = match agent.dirty {
        Some(1) => ", 1 file dirty".to_owned(),
        Some(files) if files > 0 => format!(", {files} files dirty"),
        Some(_) => ", clean".to_owned(),
        None => String::new(),
    };
    let branch = agent.branch.as_deref();
    facts.push(branch.map_or_else(|| "no git".to_owned(), |branch| format!("{branch}{dirty}")));
    let age = |name: &str, at| match row.age(at) {
        Some(age) => format!("{name} {} ago", brief(age)),
        None => format!("no {name} yet"),
    };
    facts.push(age("checkpoint", agent.last_checkpoint));
    facts.push(age("backup", agent.last_backup));
    if let Some(glance) = row.glance.filter(|glance| glance.tokens > 0) {
        let least = if glance.is_whole { "" } else { "at least " };
        facts.push(format!(
            "{least}{} tokens, {} from cache, {} in context",
            count(glance.tokens),
            count(glance.cached),
            count(glance.context)
        ));
    }
    if let Some(load) = row.load {
        let cpu = load
            .cpu
            .map_or_else(String::new, |cpu| format!("{cpu} % cpu, "));
        facts.push(format!("{cpu}{} memory", bytes(load.memory)));
    }
    facts.push(match agent.restarts {
        0 => "never restarted".to_owned(),
        1 => "restarted once".to_owned(),
        times => format!("restarted {times} times"),
    });
    if let Some(session) = agent.session_id.get(..8) {
        facts.push(format!("session {session}"));
    }
    facts
}

pub(super) fn journal(lines: &mut Lines<'_>, height: usize, model: &Model, theme: Theme) {
    let mut lines = lines.bottom(height);
    lines.rule("events", theme);
    let all = &model.fleet.journal;
    let height = lines.left();
    let longest = all
        .iter()
        .filter_map(|line| line.agent.as_deref())
        .map(width)
        .max();
    let name = longest.unwrap_or(0).clamp(5, 18);
    for line in &all[all.len().saturating_sub(height)..] {
        let (event, rest) = (fit(&line.name, 16), rest(line));
        let agent = fit(line.agent.as_deref().unwrap_or("-"), name);
        let used = 8 + 2 + name + 2 + 16 + 2;
        let rest = fit(&rest, lines.columns().saturating_sub(used));
        lines.top(vec![
            Span::styled(line.at.clock(), theme.faint()),
            Span::raw(format!("  {agent:name$}  ")),
            Span::styled(format!("{event:16}"), event_style(line, theme)),
            Span::styled(format!("  {rest}"), theme.faint()),
        ]);
    }
}

fn event_style(line: &JournalEntry, theme: Theme) -> ratatui::style::Style {
    use JournalEvent::*;
    match line.event {
        Failed { .. }
        | Trouble { .. }
        | Notice { .. }
        | Damaged { .. }
        | CheckpointFailed { .. }
        | PushFailed { .. } => theme.alarm(),
        Waiting { .. } | Stalled { .. } | Backoff { .. } | Paused { .. } | Exited { .. } => {
            theme.attention()
        }
        Started { .. } | Resumed { .. } | Safe { .. } | Saved { .. } | Survived { .. } => {
            theme.good()
        }
        _ => ratatui::style::Style::new(),
    }
}

fn rest(line: &JournalEntry) -> String {
    let data = line.data();
    let parts = data.iter().map(|(key, value)| match value.as_str() {
        Some(text) if key == "why" || key == "what" => text.to_owned(),
        Some(text) => format!("{key}={}", without_tail(text)),
        None => format!("{key}={value}"),
    });
    parts.collect::<Vec<_>>().join("  ")
}

/// Shortens a UUID to its first eight digits.
fn without_tail(text: &str) -> &str {
    let is_uuid = text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    text.get(..8).filter(|_| is_uuid).unwrap_or(text)
}

pub(super) fn footer(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    let columns = lines.columns();
    let mut lines = lines.bottom(1);
    let spans = match (&model.mode, &model.answer) {
        (Mode::Filter, _) => vec![
            Span::styled("filter: ", theme.strong()),
            Span::raw(fit(&model.filter, columns.saturating_sub(40))),
            Span::raw("▏"),
            Span::styled("  enter applies, escape shows all", theme.faint()),
        ],
        (Mode::Confirm(action, name), _) => vec![
            Span::styled(question(*action, name.as_str()), theme.attention()),
            Span::raw("  "),
            Span::styled(answers(*action), theme.strong()),
        ],
        (_, Some(answer)) => {
            let style = match answer.worked {
                None => theme.faint(),
                Some(true) => theme.good(),
                Some(false) => theme.alarm(),
            };
            vec![Span::styled(fit(&answer.text, columns), style)]
        }
        _ => keys(model, columns, theme),
    };
    lines.top(spans);
}

fn question(action: AgentAction, name: &str) -> String {
    match action {
        AgentAction::Stop => format!("stop {name}? its current turn is interrupted"),
        AgentAction::Start => format!("start {name}?"),
        AgentAction::Restart => {
            format!("restart {name}? its current turn is interrupted, then continued")
        }
    }
}

fn answers(action: AgentAction) -> &'static str {
    match action {
        AgentAction::Stop | AgentAction::Start => "y yes  n no",
        AgentAction::Restart => "y yes  i when idle  n no",
    }
}

fn keys(model: &Model, columns: usize, theme: Theme) -> Vec<Span<'static>> {
    let chosen = model.chosen();
    let is_stopped = model.rows().iter().any(|row| {
        Some(&row.agent.name) == chosen.as_ref()
            && matches!(row.agent.state, AgentState::Stopped | AgentState::Failed)
    });
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut used = 0;
    if !model.filter.is_empty() {
        let shown = format!("/{}", fit(&model.filter, 20));
        used += width(&shown) + 2;
        spans.push(Span::styled(shown, theme.attention()));
        spans.push(Span::raw("  "));
    }
    for (key, word) in KEYS {
        let word = if word == "stop" && is_stopped {
            "start"
        } else {
            word
        };
        let more = width(key) + 1 + width(word);
        if used + more > columns {
            break;
        }
        used += more + 2;
        spans.push(Span::styled(key, theme.strong()));
        spans.push(Span::styled(format!(" {word}  "), theme.faint()));
    }
    spans
}
