//! Creates repositories for checkpoint tests, and compares workspaces byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use checkpoint::{Checkpoint, CheckpointOutcome, CheckpointTarget, create};
use state::Trigger;
use sys::deadline::Deadline;
use sys::error::Result;

use testing::wait::FOREVER;

/// A temporary directory with a workspace and a home in it.
pub struct Bench {
    pub dir: PathBuf,
    pub workspace: PathBuf,
    _kept: tempfile::TempDir,
}

impl Bench {
    /// Creates a workspace without a repository.
    pub fn bare() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(kept.path()).unwrap();
        fs::create_dir(dir.join("home")).unwrap();
        let workspace = dir.join("w");
        fs::create_dir(&workspace).unwrap();
        Self {
            workspace,
            dir,
            _kept: kept,
        }
    }

    /// Creates a repository without a commit.
    pub fn empty() -> Self {
        let bench = Self::bare();
        bench.git(&["init", "-q", "-b", "main"]);
        bench
    }

    /// Creates a repository with two commits, and files of each kind.
    pub fn new() -> Self {
        let bench = Self::empty();
        bench.fill();
        bench
    }

    pub fn fill(&self) {
        for name in ["a", "b", "c", "d", "dir/x", "dir/y", "run.sh"] {
            self.write(name, &format!("{name} as committed\n"));
        }
        fs::set_permissions(self.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("a", self.path("link")).unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "-qm", "One"]);
        self.write("a", "a of two\n");
        self.git(&["commit", "-qam", "Two"]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workspace.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn place(&self) -> CheckpointTarget {
        self.place_at(&self.workspace, "private")
    }

    pub fn place_at(&self, workspace: &Path, private: &str) -> CheckpointTarget {
        CheckpointTarget {
            workspace: workspace.to_path_buf(),
            agent_id: "7d0c-agent".into(),
            private: self.dir.join(private),
            largest_file: 1 << 20,
        }
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.workspace, arguments)
    }

    pub fn git_in(&self, dir: &Path, arguments: &[&str]) -> String {
        let output = self.git_says(dir, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs git as the agent does: with the configuration and the hooks of the repository.
    pub fn git_says(&self, dir: &Path, arguments: &[&str]) -> Output {
        plain_git(dir, &self.dir.join("home"))
            .args(arguments)
            .output()
            .unwrap()
    }

    pub fn try_take(&self) -> Result<CheckpointOutcome> {
        create(&self.place(), Trigger::Command, Deadline::after(FOREVER))
    }

    pub fn taken(&self) -> Checkpoint {
        match self.try_take().unwrap() {
            CheckpointOutcome::Taken(checkpoint) => checkpoint,
            other => panic!("{other:?}"),
        }
    }
}

/// Checks all items in four threads, and reports every one that fails.
pub fn each<T: Sync>(all: &[T], name: impl Fn(&T) -> &str + Sync, check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if catch_unwind(AssertUnwindSafe(|| check(one))).is_err() {
                        failed.lock().unwrap().push(name(one).to_owned());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Returns git as a user runs it, but with its own home directory.
pub fn plain_git(dir: &Path, home: &Path) -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command
        .args([
            "-c",
            "core.fsync=none",
            "-c",
            "advice.detachedHead=false",
            "-c",
            "protocol.file.allow=always",
        ])
        .current_dir(dir)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join(".config"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_EDITOR", "true")
        .env("LC_ALL", "C");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Agent")
            .env(format!("GIT_{who}_EMAIL"), "agent@localhost");
    }
    command
}

/// What a checkpoint has to restore: the output of git, and every file.
#[derive(Debug, PartialEq, Eq)]
pub struct View {
    status: String,
    entries: String,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

/// Captures the state of a workspace and of the nested ones.
pub fn view(bench: &Bench, workspace: &Path) -> Vec<View> {
    let mut views = Vec::new();
    let mut inner = Vec::new();
    let mut files = BTreeMap::new();
    walk(workspace, &mut |path, found| {
        if path.file_name().is_some_and(|name| name == ".git") {
            if path.parent() != Some(workspace) {
                inner.push(path.parent().unwrap().to_path_buf());
            }
            return false;
        }
        if !found.is_dir() {
            let name = path.strip_prefix(workspace).unwrap().to_path_buf();
            files.insert(name, (found.mode() & 0o170_111, content(path, found)));
        }
        true
    });
    let text = |arguments: &[&str]| {
        // Depending on a file's time git has to read it, which fails if its filter program is
        // missing.
        let settings = [
            "-c",
            "filter.lfs.clean=cat",
            "-c",
            "advice.sparseIndexExpanded=false",
        ];
        let output = bench.git_says(workspace, &[&settings, arguments].concat());
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace('\0', "\n")
    };
    views.push(View {
        status: text(&["status", "--porcelain=v2", "--branch", "-z", "--ignored"]),
        entries: text(&["ls-files", "-s", "-v", "-z"])
            + &text(&["diff-files", "--name-only", "--diff-filter=A"]),
        files,
    });
    for path in inner {
        views.extend(view(bench, &path));
    }
    views
}

/// Asserts that two states are equal, and prints the lines that differ.
pub fn assert_same(found: &[View], expected: &[View], what: &str) {
    let lines = |views: &[View]| -> BTreeSet<String> {
        let of = |view: &View| {
            let files = view.files.iter().map(|(path, (mode, content))| {
                format!(
                    "{} {mode:o} {:?}",
                    path.display(),
                    String::from_utf8_lossy(content)
                )
            });
            let said = view
                .status
                .lines()
                .chain(view.entries.lines())
                .map(str::to_owned);
            files.chain(said).collect::<Vec<_>>()
        };
        views.iter().flat_map(of).collect()
    };
    let (left, right) = (lines(found), lines(expected));
    let more: Vec<_> = left.difference(&right).collect();
    let less: Vec<_> = right.difference(&left).collect();
    assert!(
        found == expected,
        "{what}:\n  found {more:#?}\n  not found {less:#?}"
    );
}

/// Every file that a checkpoint must not touch, with its mode, inode, time and contents.
pub type Fingerprint = BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)>;

/// Captures every file below `dir` but objects, spotkeep's refs and spotkeep's private directory,
/// and the refs.
pub fn fingerprint(bench: &Bench) -> (Fingerprint, String) {
    let mut fingerprints = Fingerprint::new();
    walk(&bench.dir, &mut |path, found| {
        let text = path.to_string_lossy();
        let inside = text.contains("/.git/") || text.ends_with(".git");
        let is_ours = text.contains("/private")
            || text.ends_with("/objects")
            || text.ends_with("/refs/spotkeep")
            || text.ends_with("/reftable");
        if is_ours {
            return false;
        }
        // A directory in `.git` changes when spotkeep adds a ref; the other files in it do not.
        if !(inside && found.is_dir()) {
            let fingerprint = (
                found.mode(),
                found.ino(),
                found.mtime(),
                found.mtime_nsec(),
                content(path, found),
            );
            fingerprints.insert(path.to_path_buf(), fingerprint);
        }
        true
    });
    let refs = bench.git_says(&bench.workspace, &["for-each-ref"]).stdout;
    let refs = String::from_utf8_lossy(&refs).into_owned();
    let refs = refs.lines().filter(|line| !line.contains("refs/spotkeep/"));
    let logs = bench.git_says(&bench.workspace, &["reflog", "list"]).stdout;
    let refs =
        refs.map(|line| format!("{line}\n")).collect::<String>() + &String::from_utf8_lossy(&logs);
    (fingerprints, refs)
}

fn content(path: &Path, found: &fs::Metadata) -> Vec<u8> {
    if found.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else if found.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    }
}

/// Calls `each` for everything below a directory; `each` returns whether to descend.
fn walk(dir: &Path, each: &mut impl FnMut(&Path, &fs::Metadata) -> bool) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    for path in names {
        let found = fs::symlink_metadata(&path).unwrap();
        if each(&path, &found) && found.is_dir() {
            walk(&path, each);
        }
    }
}
