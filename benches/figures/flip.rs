//! Figure 1: the time from the change of the metadata value to the beginning of the save.

use std::time::Duration;

use sys::error::Result;

use super::fleet::Fleet;
use super::options::Options;
use super::place::Environment;
use super::stats::Sample;
use super::table::Figure;

/// The limit, in milliseconds.
const MUST: f64 = 50.0;
/// How long to wait until the keeper is idle.
const QUIET: Duration = Duration::from_millis(300);

/// Measures with the fake, because Claude does not affect this figure.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
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
            "{} boots of three idle fake agents; from the fake's flip to the manifest's `at`, \
             with the journal's `notice` made durable in between",
            sample.len()
        ),
    }])
}
