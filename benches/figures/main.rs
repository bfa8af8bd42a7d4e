//! `make bench`: the figures that spotkeep promises, measured.
//!
//! Each figure is a module, with the fakes and the sandbox of the drill around it. As root it
//! all runs where there is no network but loopback, so that a real Claude can play.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

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
use place::Place;
use sys::error::Result;
use table::Figure;

/// The figures by number, as `--only` takes them. Those that share a fleet are measured together.
const FIGURES: std::ops::RangeInclusive<u8> = 1..=23;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            place::say(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    match place::isolate().and_then(|elsewhere| match elsewhere {
        Some(code) => Ok(code),
        None => measure(&options).map(|()| ExitCode::SUCCESS),
    }) {
        Ok(code) => code,
        Err(error) => {
            place::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A figure that is missed is no failure: on a machine that others use too it says little.
fn measure(options: &Options) -> Result<()> {
    let place = Place::find(options)?;
    println!("{}\n", place.headline());
    let mut figures: Vec<Figure> = Vec::new();
    let mut take = |number: u8, result: Result<Vec<Figure>>| match result {
        Ok(found) => figures.extend(found),
        Err(error) => figures.push(Figure::failed(number, &error)),
    };
    if options.wants(1) {
        take(1, flip::measure(&place, options));
    }
    if [2, 5, 6].iter().any(|number| options.wants(*number)) {
        take(2, fleet_figures(&place, options));
    }
    if options.wants(3) {
        take(3, records::measure(&place, options));
    }
    if options.wants(4) {
        take(4, boot::measure(&place, options));
    }
    if checkpoint::NUMBERS
        .into_iter()
        .any(|number| options.wants(number))
    {
        take(7, checkpoint::measure(&place, options));
    }
    if let Some(first) = backup::NUMBERS
        .into_iter()
        .find(|number| options.wants(*number))
    {
        take(first, backup::measure(&place, options));
    }
    if let Some(first) = top::NUMBERS
        .into_iter()
        .find(|number| options.wants(*number))
    {
        take(first, top::measure(&place, options));
    }
    if safe::NUMBERS
        .into_iter()
        .any(|number| options.wants(number))
    {
        take(15, safe::measure(&place, options));
    }
    if options.wants(17) {
        take(17, curve::measure(&place, options));
    }
    figures.sort_by_key(|figure| figure.number);
    print!("{}", table::render(&figures));
    Ok(())
}

/// One fleet for three figures: at rest it is asked and watched, then half of it is set to work
/// and all of it is preempted.
fn fleet_figures(place: &Place, options: &Options) -> Result<Vec<Figure>> {
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
