//! Figures 7 to 11: the time and size of checkpoints, against a bare `git status`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checkpoint::{self, CheckpointOutcome, CheckpointTarget as Workspace};
use drill::sandbox::Sandbox;
use state::Trigger;
use state::config::Keep;
use state::layout::DataDir;
use sys::deadline::Deadline;
use sys::error::{Context as _, Error, Result, bail, ensure};
use sys::time::Timestamp;

use super::options::Options;
use super::place::{Environment, progress, run};
use super::stats::Sample;
use super::table::Figure;

/// The figures of `--only checkpoint`.
pub const NUMBERS: std::ops::RangeInclusive<u8> = 7..=11;

/// The limit of any command on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// The number of files in a large workspace, and with `--quick`.
const FILES: (usize, usize) = (50_000, 5_000);

/// The number of workspaces in figure 9, of those with changes, and of those at a time.
const MANY: usize = 16;
const DIRTY: usize = 4;
const AT_ONCE: usize = 2;

/// Measures the selected figures.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if options.wants(7) || options.wants(8) || options.wants(9) {
        let lab = Lab::new(place)?;
        let files = options.times(FILES.0, FILES.1);
        progress(&format!("checkpoints: a workspace of {files} files"));
        let one = lab.workspace("w0", files)?;
        if options.wants(7) {
            figures.push(clean(&lab, &one, files, options)?);
        }
        if options.wants(8) {
            figures.push(changed(&lab, &one, files, options)?);
        }
        if options.wants(9) {
            figures.push(many(&lab, one, files, options)?);
        }
    }
    if options.wants(10) {
        figures.push(growth(&Lab::new(place)?, options)?);
    }
    if options.wants(11) {
        figures.push(churn(&Lab::new(place)?, options)?);
    }
    Ok(figures)
}

/// A data directory with workspaces in a sandbox.
struct Lab {
    sandbox: Arc<Sandbox>,
    data_dir: DataDir,
}

impl Lab {
    fn new(place: &Environment) -> Result<Self> {
        let sandbox = place.sandbox(false)?;
        let (data_dir, _) = DataDir::init(&sandbox.data_dir())?;
        Ok(Self { sandbox, data_dir })
    }

    fn git(&self, dir: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = self.sandbox.command(Path::new("git"));
        command
            .current_dir(dir)
            .args(["-c", "user.name=Bench", "-c", "user.email=bench@localhost"])
            .args(["-c", "gc.auto=0", "-c", "core.fsync=none"])
            .args(arguments);
        run(&mut command, LIMIT)
    }

    fn place(&self, dir: &Path) -> Workspace {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        Workspace {
            workspace: dir.to_path_buf(),
            private: self.data_dir.checkpoints(&name),
            agent_id: name.into_owned(),
            largest_file: 100 << 20,
        }
    }

    /// Makes a repository with `files` committed files and a first checkpoint.
    fn workspace(&self, name: &str, files: usize) -> Result<PathBuf> {
        let dir = self.data_dir.dir().join("workspaces").join(name);
        fs::create_dir_all(&dir)?;
        self.git(&dir, &["init", "-q", "-b", "main"])?;
        for number in 0..files {
            let path = dir.join(file(number));
            if number % 50 == 0
                && let Some(folder) = path.parent()
            {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, format!("file {number}\n"))?;
        }
        self.git(&dir, &["add", "."])?;
        self.git(&dir, &["commit", "-qm", "all"])?;
        self.git(&dir, &["repack", "-adq"])?;
        self.refresh_index(&dir)?;
        Ok(dir)
    }

    /// Brings git's index and spotkeep's up to date.
    fn refresh_index(&self, dir: &Path) -> Result<()> {
        self.git(dir, &["status", "--porcelain"])?;
        self.checkpoint(dir)?;
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(Duration, CheckpointOutcome)> {
        let began = Instant::now();
        let outcome = checkpoint::keep(
            &self.data_dir,
            &self.place(dir),
            Trigger::Time,
            Deadline::after(LIMIT),
        )?;
        Ok((began.elapsed(), outcome))
    }

    /// Times a bare `git status`, whose output is discarded.
    fn status(&self, dir: &Path) -> Result<Duration> {
        let began = Instant::now();
        let mut command = self.sandbox.command(Path::new("git"));
        let status = command
            .current_dir(dir)
            .args(["status", "--porcelain"])
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "git status: {status}");
        Ok(began.elapsed())
    }

    /// Writes new content to ten files.
    fn change(&self, dir: &Path, files: usize, round: usize) -> Result<()> {
        for count in 0..10 {
            let number = count * (files / 10);
            fs::write(
                dir.join(file(number)),
                format!("file {number} in round {round}\n"),
            )?;
        }
        Ok(())
    }
}

/// The path of a file: 50 files in a folder, 20 folders in a folder.
fn file(number: usize) -> String {
    format!("d{}/e{}/f{number}.txt", number / 1_000, number / 50 % 20)
}

/// Measures pairs, with each of the two first in turn.
fn pairs(
    rounds: usize,
    mut bare: impl FnMut(usize) -> Result<Duration>,
    mut ours: impl FnMut(usize) -> Result<Duration>,
) -> Result<(Sample, Sample)> {
    let (mut bares, mut all) = (Sample::default(), Sample::default());
    for round in 0..rounds {
        let (bare, ours) = if round % 2 == 0 {
            let bare = bare(round)?;
            (bare, ours(round)?)
        } else {
            let ours = ours(round)?;
            (bare(round)?, ours)
        };
        bares.push(bare.as_secs_f64() * 1e3);
        all.push(ours.as_secs_f64() * 1e3);
    }
    Ok((bares, all))
}

fn ratio(number: u8, name: String, must: f64, bare: &Sample, ours: &Sample) -> Figure {
    let ratio = ours.median() / bare.median();
    Figure {
        number,
        name,
        must: format!("{must} times `git status`"),
        measured: format!("{ratio:.2} times"),
        reached: Some(ratio <= must),
        how: format!(
            "{} pairs; `git status` {}, the checkpoint {}",
            bare.len(),
            bare.text(" ms", 0),
            ours.text(" ms", 0)
        ),
    }
}

fn clean(lab: &Lab, dir: &Path, files: usize, options: &Options) -> Result<Figure> {
    lab.refresh_index(dir)?;
    let rounds = options.times(21, 7);
    let (bare, ours) = pairs(rounds, |_| lab.status(dir), |_| Ok(lab.checkpoint(dir)?.0))?;
    let name = format!("checkpoint of a clean workspace of {files} files");
    Ok(ratio(7, name, 1.3, &bare, &ours))
}

fn changed(lab: &Lab, dir: &Path, files: usize, options: &Options) -> Result<Figure> {
    let rounds = options.times(21, 7);
    let (bare, ours) = pairs(
        rounds,
        |round| {
            lab.change(dir, files, round)?;
            lab.status(dir)
        },
        |round| {
            lab.change(dir, files, rounds + round)?;
            let (took, outcome) = lab.checkpoint(dir)?;
            ensure!(
                matches!(outcome, CheckpointOutcome::Taken(_)),
                "{outcome:?}"
            );
            Ok(took)
        },
    )?;
    let name = format!("checkpoint of 10 changed files of {files}");
    Ok(ratio(8, name, 2.5, &bare, &ours))
}

/// Measures checkpoints of many worktrees of one repository, as `add --repo` makes them.
fn many(lab: &Lab, first: PathBuf, files: usize, options: &Options) -> Result<Figure> {
    lab.git(&first, &["checkout", "-q", "--", "."])?;
    let mut all = vec![first.clone()];
    for number in 1..MANY {
        let dir = first.with_file_name(format!("w{number}"));
        progress(&format!("checkpoints: workspace {} of {MANY}", number + 1));
        let path = dir.to_string_lossy().into_owned();
        lab.git(&first, &["worktree", "add", "-q", "--detach", &path])?;
        all.push(dir);
    }
    for dir in &all {
        lab.refresh_index(dir)?;
    }
    let rounds = options.times(7, 3);
    let dirty = |round: usize| -> Result<()> {
        for dir in &all[..DIRTY] {
            lab.change(dir, files, round)?;
        }
        Ok(())
    };
    let (bare, ours) = pairs(
        rounds,
        |round| {
            dirty(round)?;
            two_at_a_time(&all, |dir| lab.status(dir).map(|_| ()))
        },
        |round| {
            dirty(rounds + round)?;
            two_at_a_time(&all, |dir| lab.checkpoint(dir).map(|_| ()))
        },
    )?;
    let allowed = bare.median() * 1.5 + 100.0 * DIRTY as f64;
    Ok(Figure {
        number: 9,
        name: format!("{MANY} workspaces of {files} files, {DIRTY} of them changed"),
        must: format!("1.5 times {MANY} `git status`, and {} ms", 100 * DIRTY),
        measured: format!(
            "{:.2} times; {:.0} ms of {allowed:.0}",
            ours.median() / bare.median(),
            ours.median()
        ),
        reached: Some(ours.median() <= allowed),
        how: format!(
            "{rounds} pairs, {AT_ONCE} at a time; `git status` {}, checkpoints {}",
            bare.text(" ms", 0),
            ours.text(" ms", 0)
        ),
    })
}

fn two_at_a_time(all: &[PathBuf], work: impl Fn(&Path) -> Result<()> + Sync) -> Result<Duration> {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(dir) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                        work(dir)?;
                    }
                    Ok::<(), Error>(())
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread of the bench panicked"),
            }
        }
        Ok(began.elapsed())
    })
}

/// Measures the size of many checkpoints after packing and pruning.
fn growth(lab: &Lab, options: &Options) -> Result<Figure> {
    let count = options.times(1_000, 100);
    let dir = lab.workspace("g", 100)?;
    let objects = dir.join(".git");
    let before = size(&objects)?;
    for round in 0..count {
        lab.change(&dir, 100, round)?;
        let (_, outcome) = lab.checkpoint(&dir)?;
        ensure!(
            matches!(outcome, CheckpointOutcome::Taken(_)),
            "{outcome:?}"
        );
        if round % 250 == 249 {
            progress(&format!("checkpoints: {} of {count}", round + 1));
        }
    }
    let loose = size(&objects)? - before;
    let place = lab.place(&dir);
    let deadline = Deadline::after(LIMIT);
    let now = Timestamp::now();
    // Checkpoints older than an hour were pruned while the others were made, as by the keeper.
    checkpoint::prune_at(&place, &Keep::default(), now, true, deadline)?;
    let packed = size(&objects)? - before;
    let left = checkpoint::list(&place)?.len();
    lab.git(&dir, &["fsck", "--no-dangling"])?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Figure {
        number: 10,
        name: format!("{count} checkpoints of 10 small files"),
        must: "10 MB".into(),
        measured: format!("{:.1} MB", mebibytes(packed)),
        reached: Some(mebibytes(packed) < 10.0),
        how: format!(
            "disk blocks of .git, over what it was before; {left} checkpoints are younger than an \
             hour and stay; before \
             pruning and packing {:.1} MB",
            mebibytes(loose)
        ),
    })
}

/// The disk usage of a directory, in bytes.
fn size(dir: &Path) -> Result<u64> {
    let said = run(Command::new("du").arg("-sk").arg(dir), LIMIT)?;
    let kib: u64 = said
        .split_whitespace()
        .next()
        .context("du printed nothing")?
        .parse()?;
    Ok(kib * 1024)
}

/// Measures checkpoints while three hundred files are rewritten all the time, as by a build.
fn churn(lab: &Lab, options: &Options) -> Result<Figure> {
    let count = options.times(100, 10);
    let dir = lab.workspace("c", 100)?;
    let stop = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let path = dir.join(format!("build-{}.o", round % 300));
                // Files are deleted, recreated, and change their size.
                if round.is_multiple_of(7) {
                    fs::remove_file(&path).ok();
                } else {
                    let length = usize::try_from(round * 7_919 % 60_000).unwrap_or(0);
                    fs::write(&path, vec![b'x'; length]).ok();
                }
                round += 1;
            }
        });
        let taken = (0..count).map(|_| lab.checkpoint(&dir).map(|(_, outcome)| outcome));
        let taken: Vec<_> = taken.collect();
        stop.store(true, Ordering::SeqCst);
        taken
    });
    let mut sound = 0;
    for outcome in &taken {
        let Ok(CheckpointOutcome::Taken(one)) = outcome else {
            progress(&format!("checkpoints: {outcome:?}"));
            continue;
        };
        let whole = lab.git(&dir, &["rev-list", "--objects", &one.commit]);
        sound += usize::from(whole.is_ok());
    }
    let fsck = lab.git(&dir, &["fsck", "--full", "--no-dangling"]);
    Ok(Figure {
        number: 11,
        name: "checkpoints while 300 files are rewritten all the time".into(),
        must: format!("{count} of {count} sound by git fsck"),
        measured: format!(
            "{sound} of {count}{}",
            if fsck.is_ok() { "" } else { ", fsck FAILED" }
        ),
        reached: Some(sound == count && fsck.is_ok()),
        how: "git fsck --full over all of them, and the objects of each listed".into(),
    })
}
