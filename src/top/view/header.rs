//! Header of `spotkeep top`: machine, fleet, preemption, and problems. Pure.

use std::time::Duration;

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::{bytes, count, fit, flow, width};
use crate::keeper::status::NoticeSeen;
use crate::top::model::Model;
use state::{AgentState, Fleet, Manifest};
use sys::time::{Timestamp, brief, short};

/// How many problems are shown; `spotkeep status` shows all.
const SHOWN_PROBLEMS: usize = 2;

/// Width of the countdown bar, in columns.
const BAR: usize = 24;

pub(super) fn draw(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    title(lines, model, theme);
    let machine = flow(&machine(model), lines.columns(), 1);
    lines.top(vec![Span::raw(
        machine.into_iter().next().unwrap_or_default(),
    )]);
    fleet(lines, model, theme);
    if let Some(notice) = &model.fleet.status.notice {
        preemption(lines, model, notice, theme);
    }
    alarms(lines, model, theme);
    lines.top(Vec::new());
}

fn title(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    let clock = format!("{} UTC", model.now.clock());
    let name = "spotkeep  ";
    let space = lines.columns().saturating_sub(name.len() + clock.len() + 2);
    let data_dir = fit(&model.fleet.status.data_dir.display().to_string(), space);
    let gap = " ".repeat(space.saturating_sub(width(&data_dir)) + 2);
    lines.top(vec![
        Span::styled(name, theme.strong()),
        Span::raw(data_dir),
        Span::raw(gap),
        Span::styled(clock, theme.faint()),
    ]);
}

fn machine(model: &Model) -> Vec<String> {
    let fleet = &model.fleet;
    let mut kind: Vec<&str> = fleet.machine.cloud.as_deref().into_iter().collect();
    kind.extend(match fleet.machine.preemptible {
        Some(true) => Some("preemptible"),
        Some(false) => Some("not preemptible"),
        None => None,
    });
    let machine = match &kind[..] {
        [] => fleet.machine.name.clone(),
        kind => format!("{} ({})", fleet.machine.name, kind.join(", ")),
    };
    let notice = match &fleet.status.notice {
        Some(_) => String::new(),
        None => "no notice".to_owned(),
    };
    let keeper = match &fleet.status.keeper_version {
        Some(version) => format!("keeper {version}"),
        None => format!("keeper {}", fleet.status.keeper),
    };
    let disk = fleet.disk.map_or_else(String::new, |disk| {
        let used = disk.total.saturating_sub(disk.free);
        let percent = used.saturating_mul(100) / disk.total.max(1);
        format!("disk {percent} % of {}", bytes(disk.total))
    });
    let age = |at: Timestamp| brief(model.now.since(at));
    let backup = fleet.status.backup.as_ref().map(|backup| match backup.at {
        Some(at) => format!("backup {} ago", age(at)),
        None => "no backup yet".to_owned(),
    });
    vec![machine, notice, keeper, disk, backup.unwrap_or_default()]
}

/// Draws how many agents are in each state, most important state first.
fn fleet(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    const ORDER: [AgentState; 10] = [
        AgentState::Failed,
        AgentState::Waiting,
        AgentState::Stalled,
        AgentState::Running,
        AgentState::Starting,
        AgentState::Saving,
        AgentState::Backoff,
        AgentState::Idle,
        AgentState::Stopped,
        AgentState::Unknown,
    ];
    let agents = &model.fleet.status.agents;
    let all = match agents.len() {
        1 => "1 agent".to_owned(),
        number => format!("{number} agents"),
    };
    let mut spans = vec![Span::raw(all)];
    let mut used = width(&spans[0].content);
    for state in ORDER {
        let number = agents.iter().filter(|agent| agent.state == state).count();
        if number > 0 {
            let text = format!("{} {number} {}", state.glyph(), state.as_str());
            if used + 2 + width(&text) > lines.columns() {
                break;
            }
            used += 2 + width(&text);
            spans.push(Span::raw("  "));
            spans.push(Span::styled(text, theme.state(state)));
        }
    }
    let tokens: u64 = model
        .fleet
        .glances
        .values()
        .map(|glance| glance.tokens)
        .sum();
    let loads = model.fleet.loads.values();
    let memory: u64 = loads.clone().map(|load| load.memory).sum();
    let cpu: u32 = loads.filter_map(|load| load.cpu).sum();
    let mut facts = Vec::new();
    if tokens > 0 {
        facts.push(format!("{} tokens", count(tokens)));
    }
    if memory > 0 {
        facts.push(format!("{cpu} % cpu"));
        facts.push(format!("{} memory", bytes(memory)));
    }
    let space = lines.columns().saturating_sub(used + 2);
    if let Some(sum) = flow(&facts, space, 1)
        .into_iter()
        .next()
        .filter(|_| space > 10)
    {
        let gap = space.saturating_sub(width(&sum)) + 2;
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(sum, theme.faint()));
    }
    lines.top(spans);
}

/// Draws the countdown, and how far the save has come.
fn preemption(lines: &mut Lines<'_>, model: &Model, notice: &NoticeSeen, theme: Theme) {
    let save = model.fleet.save.as_ref();
    let safe = save.and_then(|save| save.stages.notice_to_safe_ms);
    let at = notice.at.clock();
    let head = format!("PREEMPTION  notice at {at} from {}", notice.source);
    let left = notice.deadline.map(|deadline| deadline.since(model.now));
    let text = match (safe, left) {
        (Some(ms), _) => {
            let clean = save.is_some_and(|save| save.clean);
            let late = if clean { "" } else { ", not in time" };
            format!("all safe after {}{late}", short(Duration::from_millis(ms)))
        }
        (None, Some(left)) if left.is_zero() => "time is up".to_owned(),
        (None, Some(left)) => format!("{} s left", left.as_secs_f32().ceil()),
        (None, None) => "no deadline".to_owned(),
    };
    lines.top(vec![
        Span::styled(format!("{head}: "), theme.alarm()),
        Span::styled(
            text,
            if safe.is_some() {
                theme.good()
            } else {
                theme.alarm()
            },
        ),
    ]);
    let mut spans = Vec::new();
    if let (None, Some(deadline)) = (safe, notice.deadline) {
        let all = deadline.since(notice.at).as_secs_f32().max(0.1);
        let left = deadline.since(model.now).as_secs_f32();
        spans.push(Span::styled(bar(left / all), theme.alarm()));
        spans.push(Span::raw("  "));
    }
    for (index, (name, is_done)) in stages(model, save).into_iter().enumerate() {
        if index > 0 {
            spans.push(Span::raw("  "));
        }
        let (sign, style) = match is_done {
            true => ("✓", theme.good()),
            false => ("·", theme.faint()),
        };
        spans.push(Span::styled(format!("{sign} {name}"), style));
    }
    lines.top(spans);
}

fn bar(share: f32) -> String {
    let full = (1..=BAR)
        .filter(|step| (*step as f32) <= share * BAR as f32)
        .count();
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

fn stages(model: &Model, save: Option<&Manifest>) -> [(String, bool); 4] {
    let agents = &model.fleet.status.agents;
    let up = agents.iter().filter(|agent| agent.pid.is_some()).count();
    let stages = save.map(|save| &save.stages);
    let reached = |stage: Option<u64>| stage.is_some();
    let ended = stages.is_some_and(|stages| reached(stages.agents_ended_ms));
    let ending = match (ended, up) {
        (true, _) | (_, 0) => "agents ended".to_owned(),
        (false, up) => format!("{up} still running"),
    };
    let of =
        |stage: fn(&state::Stages) -> Option<u64>| stages.is_some_and(|all| reached(stage(all)));
    [
        (ending, ended || up == 0),
        ("transcripts".to_owned(), of(|all| all.transcripts_safe_ms)),
        ("disk".to_owned(), of(|all| all.notice_to_safe_ms)),
        ("work".to_owned(), of(|all| all.workspaces_ms)),
    ]
}

fn alarms(lines: &mut Lines<'_>, model: &Model, theme: Theme) {
    let status = &model.fleet.status;
    let columns = lines.columns();
    let mut problems: Vec<String> = Vec::new();
    if let Some(stale) = &model.fleet.stale {
        problems.push(format!("the display is out of date: {stale}"));
    }
    if !status.keeper.runs() && status.notice.is_none() {
        problems.push("no keeper runs: spotkeep up".to_owned());
    } else if status.fleet == Fleet::Down {
        problems.push("the fleet is down: spotkeep up".to_owned());
    }
    if status.paused.as_deref() == Some("login") {
        problems.push("all agents wait for a login: press enter, then type /login".to_owned());
    }
    problems.extend(status.trouble.iter().take(SHOWN_PROBLEMS).cloned());
    if let Some(more) = status
        .trouble
        .len()
        .checked_sub(SHOWN_PROBLEMS)
        .filter(|more| *more > 0)
    {
        problems.push(format!("and {more} more: spotkeep status"));
    }
    for problem in problems {
        lines.top(vec![
            Span::styled("! ", theme.alarm()),
            Span::styled(fit(&problem, columns.saturating_sub(2)), theme.attention()),
        ]);
    }
}
