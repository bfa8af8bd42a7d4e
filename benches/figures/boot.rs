//! Figure 4: the time of a boot with the keeper, against a start of the same commands without it.

use sys::error::Result;

use super::bare;
use super::fleet::Fleet;
use super::options::Options;
use super::place::{Environment, progress};
use super::stats::Sample;
use super::table::Figure;

/// The limit of the ratio.
const MUST: f64 = 1.15;

/// Measures pairs of boots. Every agent is cut in a tool, and runs a tool again after each resume,
/// so that each sends one request in each boot and all boots are alike.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let mut fleet = Fleet::create(place, options.agents, "hold")?;
    fleet.boot()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    let (mut kept, mut bare, mut ratio) = (Sample::default(), Sample::default(), Sample::default());
    for pair in 0..options.pairs {
        // The first of a pair alternates, so that a drift of the machine affects both.
        let (with, without) = if pair % 2 == 0 {
            let with = boot(&mut fleet)?;
            (with, bare_start(&mut fleet)?)
        } else {
            let without = bare_start(&mut fleet)?;
            (boot(&mut fleet)?, without)
        };
        progress(&format!(
            "pair {} of {}: keeper {with:.1} s, bare {without:.1} s",
            pair + 1,
            options.pairs
        ));
        kept.push(with);
        bare.push(without);
        ratio.push(with / without);
    }
    let of_medians = kept.median() / bare.median();
    Ok(vec![Figure {
        number: 4,
        name: format!(
            "{} agents: keeper start to the last first request, against a bare start",
            options.agents
        ),
        must: format!("{MUST} times"),
        measured: format!("{of_medians:.2} times; by pairs {}", ratio.text("", 2)),
        reached: Some(of_medians <= MUST),
        how: format!(
            "{} interleaved pairs of resumes of the same sessions, {} starts in flight; keeper {}, \
             bare {}",
            options.pairs,
            bare::parallel(),
            kept.text(" s", 1),
            bare.text(" s", 1),
        ),
    }])
}

/// Boots with the keeper; returns the seconds from its start to the last first request.
fn boot(fleet: &mut Fleet) -> Result<f64> {
    let started = fleet.boot()?;
    let last = fleet.wait_for_first_requests()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    Ok((last - started).as_secs_f64())
}

/// Starts the commands of the keeper's last boot without it; returns the seconds to the last first
/// request.
fn bare_start(fleet: &mut Fleet) -> Result<f64> {
    fleet.next_boot()?;
    let started = bare::start(fleet)?;
    let last = fleet.wait_for_first_requests()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    Ok((last - started).as_secs_f64())
}
