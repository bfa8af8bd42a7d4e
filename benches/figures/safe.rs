//! Figures 15 and 16: a save of a running fleet, against a bare sync and against a shell script.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use state::Manifest;
use sys::error::{Context as _, Result, ensure};

use super::backup::noise;
use super::fleet::Fleet;
use super::options::Options;
use super::place::{Environment, progress, run};
use super::stats::Sample;
use super::table::Figure;

/// The figures of `--only save`.
pub const NUMBERS: [u8; 2] = [15, 16];

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What each agent writes before a save: tracked files with new content, and a large build file
/// that git ignores.
const FILES: usize = 20;
const FILE_BYTES: usize = 16 << 10;
const BUILD_BYTES: usize = 4 << 20;

/// Measures the three in turn over equal amounts of unsynced data; each is first in turn.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    // The fake's transcripts are as large as the real Claude's; the exit of Claude is in figure 2.
    let mut fleet = Fleet::create_with(place, options.agents, "idle", true)?;
    fleet.boot()?;
    fleet.wait_until_idle()?;
    let mut bench = Bench {
        fleet: &fleet,
        written: 0,
    };
    bench.prepare()?;
    let (mut bare, mut safe) = (Sample::default(), Sample::default());
    let (mut whole, mut guide) = (Sample::default(), Sample::default());
    let rounds = options.times(15, 3);
    for round in 0..rounds {
        for turn in 0..3 {
            bench.work()?;
            match (round + turn) % 3 {
                0 => bare.push(bench.bare()?),
                1 => {
                    let (until_safe, until_done) = bench.save()?;
                    safe.push(until_safe);
                    whole.push(until_done);
                }
                _ => guide.push(bench.guide()?),
            }
        }
        progress(&format!("save {} of {rounds}", round + 1));
    }
    let megabytes = (options.agents * (FILES * FILE_BYTES + BUILD_BYTES)) >> 20;
    let over_bare = safe.median() / bare.median();
    let over_guide = whole.median() / guide.median();
    Ok(vec![
        Figure {
            number: 15,
            name: format!(
                "save to safe, {} agents, against a bare sync of the same {megabytes} MB",
                options.agents
            ),
            must: "none is set".into(),
            measured: format!("{over_bare:.2} times"),
            reached: None,
            how: format!(
                "{rounds} interleaved rounds on a separate ext4; safe {}, `sync -f` {}",
                safe.text(" ms", 0),
                bare.text(" ms", 0)
            ),
        },
        Figure {
            number: 16,
            name: "the whole save, checkpoints too, against the guide's script".into(),
            must: "none is set".into(),
            measured: format!("{over_guide:.2} times"),
            reached: None,
            how: format!(
                "the same rounds; the whole save {}, the script {}. The script stashes, so it \
                 removes the \
                 changes, and it ignores untracked files",
                whole.text(" ms", 0),
                guide.text(" ms", 0)
            ),
        },
    ])
}

struct Bench<'a> {
    fleet: &'a Fleet,
    written: u64,
}

impl Bench<'_> {
    /// Commits tracked files in every workspace, and makes git ignore the build file.
    fn prepare(&mut self) -> Result<()> {
        self.write()?;
        for workspace in self.workspaces() {
            fs::write(workspace.join(".gitignore"), "build\n")?;
            for words in [&["add", "."][..], &["commit", "-qm", "work"]] {
                let mut git = self.fleet.sandbox.command("git".as_ref());
                run(git.current_dir(&workspace).args(words), LIMIT)?;
            }
        }
        Ok(())
    }

    /// Writes new content everywhere, after a sync of the old content.
    fn work(&mut self) -> Result<()> {
        self.bare()?;
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        for workspace in self.workspaces() {
            for file in 0..FILES {
                self.written += 1;
                fs::write(
                    workspace.join(format!("work-{file}.txt")),
                    noise(self.written, FILE_BYTES),
                )?;
            }
            self.written += 1;
            fs::write(workspace.join("build"), noise(self.written, BUILD_BYTES))?;
        }
        Ok(())
    }

    fn workspaces(&self) -> Vec<PathBuf> {
        let names = self.fleet.names.iter();
        names
            .map(|name| self.fleet.sandbox.workspace(name))
            .collect()
    }

    /// Times `sync -f`, in milliseconds.
    fn bare(&self) -> Result<f64> {
        timed(
            Command::new("sync")
                .arg("-f")
                .arg(self.fleet.sandbox.data_dir()),
        )
    }

    /// Times a save, in milliseconds: until safe, and until the checkpoints are made. Both include
    /// the request to the keeper.
    fn save(&self) -> Result<(f64, f64)> {
        let mut command = self.fleet.spotkeep()?;
        command.args(["save", "--json"]);
        let began = Instant::now();
        let said = run(&mut command, LIMIT)?;
        let whole = began.elapsed().as_secs_f64() * 1e3;
        let manifest: Manifest = serde_json::from_str(&said).context("no manifest")?;
        ensure!(manifest.clean, "a save was not clean: {said}");
        let stages = manifest.stages;
        let (safe, done) = (stages.notice_to_safe_ms, stages.workspaces_ms);
        let after_safe = done.context("not done")? - safe.context("not safe")?;
        let after_safe = f64::from(u32::try_from(after_safe)?);
        Ok((whole - after_safe, whole))
    }

    /// Times the script, in milliseconds.
    fn guide(&self) -> Result<f64> {
        let mut command = self
            .fleet
            .sandbox
            .command(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures/guide.sh").as_ref());
        command
            .arg(self.fleet.sandbox.data_dir())
            .arg(self.fleet.metadata_address())
            .arg(self.fleet.tmux_socket()?);
        timed(&mut command)
    }
}

fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    run(command, LIMIT)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
