//! Figure 4: what the keeper costs at a boot, against a bare start of the same commands.

use sys::error::Result;

use super::bare;
use super::fleet::Fleet;
use super::options::Options;
use super::place::{Place, say};
use super::stats::Sample;
use super::table::Figure;

/// The ratio of the two.
const MUST: f64 = 1.15;

/// Every agent was cut in a tool, and is at it again after each resume: so each asks the model
/// once at each boot, and every boot is like every other.
pub fn measure(place: &Place, options: &Options) -> Result<Vec<Figure>> {
    let mut fleet = Fleet::create(place, options.agents, "hold")?;
    fleet.boot()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    let (mut kept, mut bare, mut ratio) = (Sample::default(), Sample::default(), Sample::default());
    for pair in 0..options.pairs {
        // The first of a pair alternates: what drifts on the machine meets both.
        let (with, without) = if pair % 2 == 0 {
            let with = boot(&mut fleet)?;
            (with, bare_start(&mut fleet)?)
        } else {
            let without = bare_start(&mut fleet)?;
            (boot(&mut fleet)?, without)
        };
        say(&format!(
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
            "{} interleaved pairs of resumes of the same sessions, {} starts in flight; keeper {}, bare {}",
            options.pairs,
            bare::parallel(),
            kept.text(" s", 1),
            bare.text(" s", 1),
        ),
    }])
}

/// Seconds from the keeper's start.
fn boot(fleet: &mut Fleet) -> Result<f64> {
    let started = fleet.boot()?;
    let last = fleet.wait_for_first_requests()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    Ok((last - started).as_secs_f64())
}

/// Seconds from the first command. The commands are those of the keeper's last boot.
fn bare_start(fleet: &mut Fleet) -> Result<f64> {
    fleet.next_boot()?;
    let started = bare::start(fleet)?;
    let last = fleet.wait_for_first_requests()?;
    fleet.wait_until_at_work(&fleet.names.clone())?;
    Ok((last - started).as_secs_f64())
}
