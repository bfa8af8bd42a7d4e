//! Figure 6: the time of `spotkeep status`.

use std::process::Stdio;
use std::time::Instant;

use sys::error::{Result, ensure};

use super::fleet::Fleet;
use super::options::Options;
use super::stats::Sample;
use super::table::Figure;

/// The limit, in milliseconds.
const MUST: f64 = 20.0;

/// Measures from the start of the process to its end.
pub fn measure(fleet: &Fleet, options: &Options) -> Result<Figure> {
    let sample = sample(fleet, options.times(100, 50))?;
    Ok(Figure {
        number: 6,
        name: format!("spotkeep status with {} agents", fleet.names.len()),
        must: format!("{MUST} ms"),
        measured: sample.text(" ms", 1),
        reached: Some(sample.median() <= MUST),
        how: format!(
            "{} runs, from the start of the process to its end",
            sample.len()
        ),
    })
}

/// Times `runs` runs, in milliseconds.
pub fn sample(fleet: &Fleet, runs: usize) -> Result<Sample> {
    /// Runs that are not counted: they bring the program into memory.
    const WARM_UP: usize = 5;
    let mut sample = Sample::default();
    for run in 0..WARM_UP + runs {
        let mut command = fleet.spotkeep()?;
        command
            .arg("status")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status()?;
        let took = began.elapsed();
        ensure!(status.success(), "spotkeep status: {status}");
        if run >= WARM_UP {
            sample.push(took.as_secs_f64() * 1e3);
        }
    }
    Ok(sample)
}
