//! `make bench`: measures the performance figures that spotkeep promises.
//!
//! Each figure is a module that uses the fakes and the sandbox of the drill. As root, everything
//! runs in a network namespace with only loopback, so that the real Claude Code can be used.

#![expect(clippy::print_stdout, reason = "it prints a table")]

mod backup;
mod bare;
mod boot;
mod chart;
mod checkpoint;
mod curve;
mod fleet;
mod flip;
mod idle;
mod options;
mod place;
mod records;
mod safe;
mod save;
mod stats;
mod status;
mod table;
mod top;

use std::process::ExitCode;

use options::Options;
use place::Environment;
use sys::error::Result;
use table::Figure;

/// The numbers of the figures, as `--only` takes them. Figures that share a fleet are measured
/// together.
const FIGURES: std::ops::RangeInclusive<u8> = 1..=23;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            place::progress(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    match place::isolate().and_then(|elsewhere| match elsewhere {
        Some(code) => Ok(code),
        None => measure(&options).map(|()| ExitCode::SUCCESS),
    }) {
        Ok(code) => code,
        Err(error) => {
            place::progress(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures the figures and prints the table. A missed figure does not fail the run, because it
/// says little on a busy machine.
fn measure(options: &Options) -> Result<()> {
    let place = Environment::find(options)?;
    println!("{}\n", place.headline());
    let mut figures: Vec<Figure> = Vec::new();
    let mut add = |number: u8, result: Result<Vec<Figure>>| match result {
        Ok(found) => figures.extend(found),
        Err(error) => figures.push(Figure::failed(number, &error)),
    };
    if options.wants(1) {
        add(1, flip::measure(&place, options));
    }
    if [2, 5, 6].iter().any(|number| options.wants(*number)) {
        add(2, fleet_figures(&place, options));
    }
    if options.wants(3) {
        add(3, records::measure(&place, options));
    }
    if options.wants(4) {
        add(4, boot::measure(&place, options));
    }
    if checkpoint::NUMBERS
        .into_iter()
        .any(|number| options.wants(number))
    {
        add(7, checkpoint::measure(&place, options));
    }
    if let Some(first) = backup::NUMBERS
        .into_iter()
        .find(|number| options.wants(*number))
    {
        add(first, backup::measure(&place, options));
    }
    if let Some(first) = top::NUMBERS
        .into_iter()
        .find(|number| options.wants(*number))
    {
        add(first, top::measure(&place, options));
    }
    if safe::NUMBERS
        .into_iter()
        .any(|number| options.wants(number))
    {
        add(15, safe::measure(&place, options));
    }
    if options.wants(17) {
        add(17, curve::measure(&place, options));
    }
    figures.sort_by_key(|figure| figure.number);
    print!("{}", table::render(&figures));
    Ok(())
}

/// Measures three figures with one fleet: first idle, then preempted with half of the agents in a
/// tool.
fn fleet_figures(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let mut fleet = fleet::Fleet::create(place, options.agents, "idle")?;
    fleet.boot()?;
    fleet.wait_until_idle()?;
    let mut figures = Vec::new();
    if options.wants(6) {
        figures.push(status::measure(&fleet, options)?);
    }
    if options.wants(5) {
        figures.push(idle::measure(&fleet, options)?);
    }
    if options.wants(2) {
        figures.push(save::measure(&mut fleet, options)?);
    }
    Ok(figures)
}
