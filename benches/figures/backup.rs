//! Figures 12 to 14: a backup against bare restic, one without changes, and a build during one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drill::sandbox::Sandbox;
use sys::error::{Context as _, Result, ensure};

use super::options::Options;
use super::place::{Environment, progress, run};
use super::stats::Sample;
use super::table::Figure;

/// The figures of `--only backup`.
pub const NUMBERS: [u8; 3] = [12, 13, 14];

/// The limit of one command.
const LIMIT: Duration = Duration::from_secs(600);
/// The limit of a backup's time over that of restic alone.
const MUST_RATIO: f64 = 1.1;
/// The limit of the time of a build beside a backup over that of the build alone.
const MUST_BUILD: f64 = 1.1;
/// Files in the tree, and transcripts beside them.
const FILES: usize = 8000;
const TRANSCRIPTS: usize = 20;

/// Measures the selected figures, on one tree.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let bench = Bench::create(place)?;
    let mut figures = Vec::new();
    if options.wants(12) {
        figures.push(bench.against_restic(options)?);
    }
    if options.wants(13) {
        figures.push(bench.unchanged(options)?);
    }
    if options.wants(14) {
        figures.push(bench.beside_a_build(options)?);
    }
    Ok(figures)
}

struct Bench {
    sandbox: Arc<Sandbox>,
    spotkeep: PathBuf,
    data_dir: PathBuf,
}

impl Bench {
    fn create(place: &Environment) -> Result<Self> {
        let sandbox = place.sandbox(false)?;
        let bench = Self {
            data_dir: sandbox.data_dir(),
            spotkeep: place.spotkeep.clone(),
            sandbox,
        };
        run(bench.command().arg("init"), LIMIT)?;
        let work = bench.data_dir.join("workspaces/a/src");
        for index in 0..FILES {
            let dir = work.join(format!("{:03}", index % 200));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("{index}.rs")), noise(index as u64, 2048))?;
        }
        let projects = bench.data_dir.join(".claude/projects/-a");
        fs::create_dir_all(&projects)?;
        for index in 0..TRANSCRIPTS {
            fs::write(
                projects.join(format!("{index}.jsonl")),
                noise(1 << 20 | index as u64, 1 << 20),
            )?;
        }
        progress("the first backup of the tree");
        run(bench.command().args(["backup", "now"]), LIMIT)?;
        Ok(bench)
    }

    fn command(&self) -> Command {
        let mut command = self.sandbox.command(&self.spotkeep);
        command.arg("--data-dir").arg(&self.data_dir);
        command
    }

    /// A restic command as a user would run it, with a separate repository.
    fn restic(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(Path::new("restic"));
        command
            .current_dir(&self.data_dir)
            .env("RESTIC_REPOSITORY", self.sandbox.dir().join("bare"))
            .env("RESTIC_PASSWORD_FILE", self.data_dir.join("backups.key"))
            .arg("--no-cache")
            .args(words);
        command
    }

    /// Changes what a quarter of an hour of work would: some files, and longer transcripts.
    fn work(&self, seed: usize) -> Result<()> {
        for index in 0..40 {
            let file = (seed * 40 + index) % FILES;
            let path = self
                .data_dir
                .join(format!("workspaces/a/src/{:03}/{file}.rs", file % 200));
            fs::write(path, noise((seed * 1000 + index) as u64, 2048))?;
        }
        for index in 0..TRANSCRIPTS {
            use std::io::Write as _;
            let path = self
                .data_dir
                .join(format!(".claude/projects/-a/{index}.jsonl"));
            let mut file = fs::OpenOptions::new().append(true).open(path)?;
            file.write_all(&noise((seed * 77 + index) as u64, 20 << 10))?;
        }
        Ok(())
    }

    fn against_restic(&self, options: &Options) -> Result<Figure> {
        run(&mut self.restic(&["init"]), LIMIT)?;
        let bare = |bench: &Self| {
            bench.restic(&[
                "backup",
                "--quiet",
                ".claude",
                "session-state",
                "spotkeep.toml",
                "home",
                "workspaces",
            ])
        };
        run(&mut bare(self), LIMIT)?;
        let (mut ours, mut theirs, mut ratios) =
            (Sample::default(), Sample::default(), Sample::default());
        let rounds = options.times(12, 4);
        for round in 0..rounds {
            self.work(round)?;
            let both = |first: &mut Command, second: &mut Command| -> Result<(f64, f64)> {
                Ok((timed(first)?, timed(second)?))
            };
            let mut now = self.command();
            now.args(["backup", "now"]);
            let (mine, alone) = if round % 2 == 0 {
                both(&mut now, &mut bare(self))?
            } else {
                let (alone, mine) = both(&mut bare(self), &mut now)?;
                (mine, alone)
            };
            ours.push(mine);
            theirs.push(alone);
            ratios.push(mine / alone);
            progress(&format!("backup {} of {rounds}", round + 1));
        }
        let ratio = ours.median() / theirs.median();
        Ok(Figure {
            number: 12,
            name: "backup now, against bare restic backup of the same tree".into(),
            must: format!("{MUST_RATIO} times"),
            measured: format!("{ratio:.2} times"),
            reached: Some(ratio <= MUST_RATIO),
            how: format!(
                "{} interleaved pairs, {FILES} files and {TRANSCRIPTS} transcripts with 40 files \
                 and all transcripts changed; \
                 ours {}, restic's {}, by pairs {}",
                ratios.len(),
                ours.text(" ms", 0),
                theirs.text(" ms", 0),
                ratios.text("", 2),
            ),
        })
    }

    fn unchanged(&self, options: &Options) -> Result<Figure> {
        run(self.command().args(["backup", "now"]), LIMIT)?;
        let before = self.written()?;
        let mut sample = Sample::default();
        let empty = self.sandbox.dir().join("empty");
        fs::create_dir_all(&empty)?;
        for _ in 0..options.times(30, 8) {
            let mut now = self.command();
            // With a PATH without restic, starting it would be an error.
            now.args(["backup", "now"]).env("PATH", &empty);
            sample.push(timed(&mut now)?);
        }
        let files = before.len();
        let same = self.written()? == before;
        Ok(Figure {
            number: 13,
            name: "nothing changed since the last backup".into(),
            must: "no restic started, no byte written".into(),
            measured: if same {
                "none, none"
            } else {
                "bytes were written"
            }
            .into(),
            reached: Some(same),
            how: format!(
                "{} runs without a restic on PATH, {} each; {files} files of backups/ and \
                 session-state/ compared by length and times",
                sample.len(),
                sample.text(" ms", 1)
            ),
        })
    }

    /// Every file that a backup may write, with its length and time; without the lock, which has
    /// the pid of its last holder.
    fn written(&self) -> Result<Vec<(PathBuf, u64, std::time::SystemTime)>> {
        let mut all = Vec::new();
        let mut dirs = vec![
            self.data_dir.join("backups"),
            self.data_dir.join("session-state"),
        ];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let meta = fs::symlink_metadata(&path)?;
                if meta.is_dir() {
                    dirs.push(path);
                } else if !path.ends_with("spotkeep.lock") {
                    all.push((path, meta.len(), meta.modified()?));
                }
            }
        }
        all.sort();
        Ok(all)
    }

    fn beside_a_build(&self, options: &Options) -> Result<Figure> {
        let source = self.data_dir.join("workspaces/a/build.c");
        let functions: String = (0..2500)
            .map(|n| {
                format!("int f{n}(int a,int b){{for(int i=0;i<b;i++)a=a*{n}+(a>>3)^b;return a;}}\n")
            })
            .collect();
        fs::write(&source, functions)?;
        let (mut alone, mut beside) = (Sample::default(), Sample::default());
        let rounds = options.times(6, 2);
        for round in 0..rounds {
            alone.push(self.build(&source)?);
            // Large enough that the backup takes longer than the build.
            fs::write(
                self.data_dir.join("workspaces/a/big"),
                noise(round as u64 + 3, 400 << 20),
            )?;
            let mut now = self.command();
            now.args(["backup", "now", "--scheduled"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut backup = now.spawn()?;
            let took = self.build(&source)?;
            let still = backup.try_wait()?.is_none();
            let status = backup.wait()?;
            ensure!(status.success(), "the backup ended with {status}");
            ensure!(still, "the backup was over before the build");
            beside.push(took);
            progress(&format!("build {} of {rounds}", round + 1));
        }
        let ratio = beside.median() / alone.median();
        Ok(Figure {
            number: 14,
            name: "a build in a workspace during a backup, against the build alone".into(),
            must: format!("{MUST_BUILD} times"),
            measured: format!("{ratio:.2} times"),
            reached: Some(ratio <= MUST_BUILD),
            how: format!(
                "{} interleaved pairs, one compiler on each core; alone {}, during a scheduled \
                 backup of 400 MB of new data {}",
                beside.len(),
                alone.text(" ms", 0),
                beside.text(" ms", 0),
            ),
        })
    }

    /// Runs one compiler on each core, each in its own session like an agent's tools.
    fn build(&self, source: &Path) -> Result<f64> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let began = Instant::now();
        let compilers: Vec<Child> = (0..cores)
            .map(|index| {
                let mut command = self.sandbox.command(Path::new("setsid"));
                command
                    .args(["--wait", "cc", "-O2", "-w", "-c", "-o"])
                    .arg(self.sandbox.dir().join(format!("build-{index}.o")))
                    .arg(source);
                command.spawn().context("cannot run setsid cc")
            })
            .collect::<Result<_>>()?;
        for mut compiler in compilers {
            ensure!(compiler.wait()?.success(), "the build failed");
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    run(command, LIMIT)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Pseudo-random bytes, which compression and deduplication do not reduce.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(bytes);
    all
}
