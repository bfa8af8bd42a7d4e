//! Pure: the machine and the fleet, and whatever a person must know first.

use std::time::Duration;

use ratatui::text::Span;

use super::Lines;
use super::style::Theme;
use super::text::{bytes, count, fit, flow, width};
use crate::keeper::status::NoticeSeen;
use crate::top::model::Model;
use state::{AgentState, Fleet, Manifest};
use sys::time::{Timestamp, brief, short};

/// So many of the things that are wrong are shown; `spotkeep status` tells all.
const TROUBLES: usize = 2;

/// The longest bar of a countdown, in columns.
const BAR: usize = 30;

pub(super) fn draw(lines: &mut Lines<'_>, model: &Model, look: Theme) {
    title(lines, model, look);
    let machine = flow(&machine(model), lines.columns(), 1);
    lines.top(vec![Span::raw(
        machine.into_iter().next().unwrap_or_default(),
    )]);
    fleet(lines, model, look);
    if let Some(notice) = &model.fleet.status.notice {
        preemption(lines, model, notice, look);
    }
    alarms(lines, model, look);
    lines.top(Vec::new());
}

fn title(lines: &mut Lines<'_>, model: &Model, look: Theme) {
    let clock = format!("{} UTC", model.now.clock());
    let name = "spotkeep  ";
    let room = lines.columns().saturating_sub(name.len() + clock.len() + 2);
    let data_dir = fit(&model.fleet.status.data_dir.display().to_string(), room);
    let gap = " ".repeat(room.saturating_sub(width(&data_dir)) + 2);
    lines.top(vec![
        Span::styled(name, look.strong()),
        Span::raw(data_dir),
        Span::raw(gap),
        Span::styled(clock, look.faint()),
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

/// How many are in which state, in the order of what matters.
fn fleet(lines: &mut Lines<'_>, model: &Model, look: Theme) {
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
            spans.push(Span::styled(text, look.state(state)));
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
    let room = lines.columns().saturating_sub(used + 2);
    if let Some(sum) = flow(&facts, room, 1)
        .into_iter()
        .next()
        .filter(|_| room > 10)
    {
        let gap = room.saturating_sub(width(&sum)) + 2;
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(sum, look.faint()));
    }
    lines.top(spans);
}

/// The countdown, and how far the save has come.
fn preemption(lines: &mut Lines<'_>, model: &Model, notice: &NoticeSeen, look: Theme) {
    let save = model.fleet.save.as_ref();
    let safe = save.and_then(|save| save.stages.notice_to_safe_ms);
    let at = notice.at.clock();
    let head = format!("PREEMPTION  notice at {at} from {}", notice.source);
    let left = notice.deadline.map(|deadline| deadline.since(model.now));
    let words = match (safe, left) {
        (Some(ms), _) => {
            let clean = save.is_some_and(|save| save.clean);
            let late = if clean { "" } else { ", not in time" };
            format!("all safe after {}{late}", short(Duration::from_millis(ms)))
        }
        (None, Some(left)) if left.is_zero() => "the time is over".to_owned(),
        (None, Some(left)) => format!("{} s left", left.as_secs_f32().ceil()),
        (None, None) => "no deadline".to_owned(),
    };
    lines.top(vec![
        Span::styled(format!("{head}: "), look.alarm()),
        Span::styled(
            words,
            if safe.is_some() {
                look.good()
            } else {
                look.alarm()
            },
        ),
    ]);
    let mut spans = Vec::new();
    if let (None, Some(deadline)) = (safe, notice.deadline) {
        let all = deadline.since(notice.at).as_secs_f32().max(0.1);
        let left = deadline.since(model.now).as_secs_f32();
        spans.push(Span::styled(bar(left / all), look.alarm()));
        spans.push(Span::raw("  "));
    }
    for (index, (name, is_done)) in stages(model, save).into_iter().enumerate() {
        if index > 0 {
            spans.push(Span::raw("  "));
        }
        let (sign, style) = match is_done {
            true => ("✓", look.good()),
            false => ("·", look.faint()),
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
    let of = |take: fn(&state::Stages) -> Option<u64>| stages.is_some_and(|all| reached(take(all)));
    [
        (ending, ended || up == 0),
        ("words".to_owned(), of(|all| all.transcripts_safe_ms)),
        ("disk".to_owned(), of(|all| all.notice_to_safe_ms)),
        ("work".to_owned(), of(|all| all.workspaces_ms)),
    ]
}

fn alarms(lines: &mut Lines<'_>, model: &Model, look: Theme) {
    let status = &model.fleet.status;
    let columns = lines.columns();
    let mut calls: Vec<String> = Vec::new();
    if let Some(stale) = &model.fleet.stale {
        calls.push(format!("what is shown is old: {stale}"));
    }
    if !status.keeper.runs() && status.notice.is_none() {
        calls.push("no keeper runs: spotkeep up".to_owned());
    } else if status.fleet == Fleet::Down {
        calls.push("the fleet is down: spotkeep up".to_owned());
    }
    if status.paused.as_deref() == Some("login") {
        calls.push("all wait for a login: enter, then /login; they go on by themselves".to_owned());
    }
    calls.extend(status.trouble.iter().take(TROUBLES).cloned());
    if let Some(more) = status
        .trouble
        .len()
        .checked_sub(TROUBLES)
        .filter(|more| *more > 0)
    {
        calls.push(format!("and {more} more: spotkeep status"));
    }
    for call in calls {
        lines.top(vec![
            Span::styled("! ", look.alarm()),
            Span::styled(fit(&call, columns.saturating_sub(2)), look.call()),
        ]);
    }
}
