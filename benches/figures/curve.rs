//! Figure 17: the cost of fleets of 1 to 200 agents.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sys::error::{Context as _, Result};

use super::chart;
use super::fleet::Fleet;
use super::idle::{QUIET, Usage};
use super::options::Options;
use super::place::{Environment, progress};
use super::stats::Sample;
use super::status;
use super::table::Figure;

/// Numbers of agents; one keeper has to support the last.
const SIZES: [usize; 6] = [1, 25, 50, 100, 150, 200];
const QUICK_SIZES: [usize; 3] = [1, 10, 20];

/// The limit of the cost for each agent in the largest fleet, over that in a fleet of medium size.
const MUST: f64 = 1.25;

/// The path of the chart.
const PICTURE: &str = "target/cost-by-agents.svg";

/// The measurements of one fleet.
struct Point {
    agents: usize,
    /// The keeper's CPU time with an idle fleet, in percent of a core.
    percent: f64,
    /// The keeper's memory, in MB.
    rss: f64,
    /// The time of `spotkeep status`, in ms.
    status: f64,
    /// The time from the notice to safe, in ms.
    safe: f64,
}

/// Measures one fleet after the other, with the fake: 200 agents of the real Claude take 60 GB.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let sizes: &[usize] = match options.quick {
        true => &QUICK_SIZES,
        false => &SIZES,
    };
    let mut points = Vec::new();
    for &agents in sizes {
        progress(&format!("a fleet of {agents} agents"));
        points.push(point(place, options, agents)?);
    }
    let picture = draw(&points);
    if let Some(dir) = Path::new(PICTURE).parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(PICTURE, picture).context("cannot write the chart")?;
    let (last, less) = (points.last(), points.iter().rev().nth(points.len() / 2));
    let (last, less) = last.zip(less).context("no fleets")?;
    // The cost of an idle fleet is below the resolution of the kernel's clock, so the save is
    // compared.
    let per_agent = |point: &Point| Ok::<_, sys::error::Error>(point.safe / float(point.agents)?);
    let ratio = per_agent(last)? / per_agent(less)?;
    let rows = points.iter().map(|point| {
        format!(
            "{}: {:.2} %, {:.1} MB, status {:.1} ms, safe after {:.0} ms",
            point.agents, point.percent, point.rss, point.status, point.safe
        )
    });
    Ok(vec![Figure {
        number: 17,
        name: format!(
            "cost of an agent's save among {} over among {}",
            last.agents, less.agents
        ),
        must: format!("{MUST} times"),
        measured: format!(
            "{ratio:.2} times; at rest {:.2} % of a core, {:.1} MB",
            last.percent, last.rss
        ),
        reached: Some(ratio <= MUST),
        how: format!(
            "all agents are the FAKE in a tool that never ends; chart in {PICTURE}. {}",
            rows.collect::<Vec<_>>().join("; ")
        ),
    }])
}

fn point(place: &Environment, options: &Options, agents: usize) -> Result<Point> {
    let mut fleet = Fleet::create_with(place, agents, "idle", true)?;
    fleet.boot()?;
    fleet.wait_until_idle()?;
    std::thread::sleep(QUIET);
    let over = Duration::from_secs(if options.quick { 5 } else { 30 });
    let usage = Usage::over(fleet.keeper()?, over)?;
    let status = status::sample(&fleet, 20)?;
    let all = fleet.names.clone();
    fleet.set_to_work(&all)?;
    let mut safe = Sample::default();
    for round in 0..options.times(3, 1) {
        if round > 0 {
            fleet.boot()?;
        }
        fleet.wait_until_at_work(&all)?;
        let preempted = fleet.preempt()?;
        let to_safe = preempted.manifest.stages.notice_to_safe_ms;
        safe.push(f64::from(u32::try_from(
            to_safe.context("not safe")? + preempted.to_save_ms,
        )?));
    }
    Ok(Point {
        agents,
        percent: usage.percent,
        rss: usage.rss_mb()?,
        status: status.median(),
        safe: safe.median(),
    })
}

fn draw(points: &[Point]) -> String {
    let series = |unit: &'static str, name: &'static str, value: fn(&Point) -> f64| chart::Series {
        name,
        unit,
        points: points
            .iter()
            .map(|point| (float(point.agents).unwrap_or_default(), value(point)))
            .collect(),
    };
    chart::draw(
        "What a fleet costs as it grows",
        "agents",
        &[
            series("ms", "notice to safe, all in a tool", |point| point.safe),
            series("ms", "spotkeep status", |point| point.status),
            series("% of a core", "keeper at rest", |point| point.percent),
            series("MB", "keeper's memory", |point| point.rss),
        ],
    )
}

fn float(count: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?))
}
