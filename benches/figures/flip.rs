//! Figure 1: from the flip of the metadata server's value to the beginning of the save.

use std::time::Duration;

use sys::error::Result;

use super::fleet::Fleet;
use super::options::Options;
use super::place::Place;
use super::stats::Sample;
use super::table::Figure;

/// Milliseconds.
const MUST: f64 = 50.0;
/// The keeper has nothing else to do by then.
const QUIET: Duration = Duration::from_millis(300);

/// The fake plays: no Claude has a part in what is measured.
pub fn measure(place: &Place, options: &Options) -> Result<Vec<Figure>> {
    let mut fleet = Fleet::create_with(place, 3, "idle", true)?;
    let mut sample = Sample::default();
    for _ in 0..options.times(30, 5) {
        fleet.boot()?;
        fleet.wait_until_idle()?;
        std::thread::sleep(QUIET);
        let to_save_ms = fleet.preempt()?.to_save_ms;
        sample.push(f64::from(u32::try_from(to_save_ms)?));
    }
    Ok(vec![Figure {
        number: 1,
        name: "metadata flip to the beginning of the save".into(),
        must: format!("{MUST} ms at the median"),
        measured: sample.text(" ms", 0),
        reached: Some(sample.median() <= MUST),
        how: format!(
            "{} lives of three idle fake agents; from the fake's flip to the manifest's `at`, \
             with the journal's `notice` made durable in between",
            sample.len()
        ),
    }])
}
