//! The command line of `make bench`.

use std::path::PathBuf;

use sys::error::{Context as _, Result, bail, ensure};

use super::FIGURES;

/// The usage message; `cargo bench` also adds `--bench`.
const USAGE: &str = "usage: make bench ARGS=\"[--only N|checkpoint|backup|top|save]... [--quick] \
                     [--drills N] [--pairs N] \
[--agents N] [--claude PATH]... [--fake]\"";

/// What to measure, and how often.
#[derive(Debug)]
pub struct Options {
    only: Vec<u8>,
    /// Fewer repetitions of everything.
    pub quick: bool,
    /// Drills with a notice; half as many are killed.
    pub drills: usize,
    /// Pairs of boots (figure 4).
    pub pairs: usize,
    /// Agents in the large fleet.
    pub agents: usize,
    /// The Claude programs to use; drills alternate between them.
    pub claude: Vec<PathBuf>,
    /// Use the fake Claude, even if a real one is installed.
    pub fake: bool,
}

impl Options {
    /// Parses the arguments.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut only = Vec::new();
        let mut claude = Vec::new();
        let (mut quick, mut fake) = (false, false);
        let (mut drills, mut pairs, mut agents) = (None, None, None);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} needs a value\n{USAGE}"))
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
                _ => bail!("unknown option {argument}\n{USAGE}"),
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

    /// Returns `usual`, or `quick` with `--quick`.
    pub fn times(&self, usual: usize, quick: usize) -> usize {
        if self.quick { quick } else { usual }
    }
}
