//! What is asked for on the command line.

use std::path::PathBuf;

use sys::error::{Context as _, Result, bail, ensure};

use super::FIGURES;

/// The switches; `cargo bench` adds `--bench`.
const USAGE: &str = "usage: make bench ARGS=\"[--only N|checkpoint|backup|top|save]... [--quick] [--drills N] [--pairs N] \
[--agents N] [--claude PATH]... [--fake]\"";

/// What to measure, and how often.
#[derive(Debug)]
pub struct Options {
    only: Vec<u8>,
    /// Fewer repetitions of everything.
    pub quick: bool,
    /// Drills with a notice; half as many are killed.
    pub drills: usize,
    /// Pairs of boots.
    pub pairs: usize,
    /// Agents in the large fleet.
    pub agents: usize,
    /// Which claude; drills take turns where there are several.
    pub claude: Vec<PathBuf>,
    /// Play with the fake, whatever is installed.
    pub fake: bool,
}

impl Options {
    /// Reads the arguments.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut only = Vec::new();
        let mut claude = Vec::new();
        let (mut quick, mut fake) = (false, false);
        let (mut drills, mut pairs, mut agents) = (None, None, None);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} what?\n{USAGE}"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--fake" => fake = true,
                "--only" => match value()?.as_str() {
                    "checkpoint" => only.extend(super::checkpoint::NUMBERS),
                    "backup" => only.extend(super::backup::NUMBERS),
                    "top" => only.extend(super::top::NUMBERS),
                    "save" => only.extend(super::safe::NUMBERS),
                    number => only.push(number.parse().context(USAGE)?),
                },
                "--drills" => drills = Some(value()?.parse().context(USAGE)?),
                "--pairs" => pairs = Some(value()?.parse().context(USAGE)?),
                "--agents" => agents = Some(value()?.parse().context(USAGE)?),
                "--claude" => claude.push(value()?.into()),
                _ => bail!("{argument}?\n{USAGE}"),
            }
        }
        let options = Self {
            only,
            quick,
            drills: drills.unwrap_or(if quick { 2 } else { 10 }),
            pairs: pairs.unwrap_or(if quick { 2 } else { 5 }),
            agents: agents.unwrap_or(16),
            claude,
            fake,
        };
        ensure!(
            options.only.iter().all(|number| FIGURES.contains(number)),
            "{USAGE}"
        );
        ensure!(
            options.drills > 0 && options.pairs > 0 && options.agents > 1,
            "{USAGE}"
        );
        Ok(options)
    }

    /// Whether a figure is asked for.
    pub fn wants(&self, figure: u8) -> bool {
        self.only.is_empty() || self.only.contains(&figure)
    }

    /// One of two counts.
    pub fn times(&self, usual: usize, quick: usize) -> usize {
        if self.quick { quick } else { usual }
    }
}
