//! Writes the files of a workspace as a tree object, through spotkeep's own index.
//!
//! `git status` on that index lists what differs from it. The index is then updated in two passes
//! (first removed paths, then existing ones: a directory may have become a link), and written as a
//! tree. git dies where a listed file vanishes or shrinks while git reads it. Then the update is
//! tried again, and at last spotkeep reads the files itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use super::index::{INDEX_INFO, MEMORY, Scan, Special, WORKTREE, line, remove};
use super::unstable_file;
use crate::git::status::{self, Change};
use crate::git::{Git, Repository, ShadowGitDir, index, objects};
use sys::error::{Context as _, Result, ensure};
use sys::files::open_no_follow;

/// Number of attempts with git, which dies on files that change, before spotkeep reads the files
/// itself.
const ATTEMPTS: usize = 3;

/// Result of capturing the files.
#[derive(Debug, Default)]
pub(crate) struct WorktreeScan {
    /// Object name of the tree; `None`: the same as last time.
    pub tree: Option<String>,
    /// Messages on what could not be saved.
    pub left_out: Vec<String>,
    /// Paths of directories that are other repositories, unknown to the index.
    pub nested: Vec<Vec<u8>>,
    /// Whether rules on conversions have changed, so that files that git takes for unchanged may
    /// have to be read again.
    pub rules_changed: bool,
}

/// The update of spotkeep's index to the files on the disk.
pub(crate) struct Worktree<'a> {
    pub repository: &'a Repository,
    pub shadow: &'a ShadowGitDir,
    /// git on spotkeep's index.
    pub git: Git,
    pub largest_file: u64,
}

impl<'a> Worktree<'a> {
    pub fn new(
        repository: &'a Repository,
        shadow: &'a ShadowGitDir,
        git: &Git,
        largest_file: u64,
    ) -> Self {
        Self {
            repository,
            shadow,
            git: git.on_index(&shadow.file(WORKTREE)),
            largest_file,
        }
    }

    /// Turns a fresh copy of the agent's index into an index of the files on the disk: flags and
    /// conflict stages are removed.
    pub fn settle(&self, scan: &Scan) -> Result<()> {
        self.set_extras(&BTreeSet::new())?;
        let none = objects::none(self.repository.settings.oid_length);
        let lines: Vec<u8> = scan
            .specials
            .iter()
            .flat_map(|entry| self.plain(entry, &none))
            .collect();
        if !lines.is_empty() {
            self.git.run(&INDEX_INFO, lines)?;
        }
        Ok(())
    }

    /// Returns a line for an ordinary entry. Without stat data git reads the file at the next
    /// `git status`.
    fn plain(&self, entry: &Special, none: &str) -> Vec<u8> {
        let is_there = self.find(&entry.path).is_ok();
        // A skipped file that does not exist is not a deletion. An entry that is an intent to add
        // is stored like any other file.
        if entry.intent_to_add || (entry.skip_worktree && !is_there) {
            line(0, none, 0, &entry.path)
        } else {
            line(entry.mode, &entry.oid, 0, &entry.path)
        }
    }

    /// Captures the files. `fresh` is the index that was just copied, if one was.
    pub fn capture(&self, fresh: Option<&Scan>) -> Result<WorktreeScan> {
        let mut last = None;
        for attempt in 0..=ATTEMPTS {
            match self.attempt(fresh, attempt == ATTEMPTS) {
                Ok(seen) => return Ok(seen),
                Err(error) => last = Some(error),
            }
            remove(&self.shadow.file("worktree.index.lock"))?;
            if self.git.until() <= std::time::Instant::now() {
                break;
            }
        }
        Err(last.context("not tried")?).context("cannot read the workspace")
    }

    fn attempt(&self, fresh: Option<&Scan>, by_ourselves: bool) -> Result<WorktreeScan> {
        let mut seen = WorktreeScan::default();
        let mut extras = self.extras()?;
        let mut gone = BTreeSet::new();
        let mut there = BTreeSet::new();
        for (change, path) in self.status(&mut seen.left_out)? {
            match change {
                Change::Untracked if path.ends_with(b"/") => {
                    seen.nested.push(path[..path.len() - 1].to_vec());
                }
                Change::Gone => _ = gone.insert(path),
                Change::Changed | Change::Untracked => {
                    if change == Change::Untracked {
                        extras.insert(path.clone());
                    }
                    there.insert(path);
                }
            }
        }
        if let Some(scan) = fresh {
            let names = scan.specials.iter().filter(|entry| entry.intent_to_add);
            there.extend(names.map(|entry| entry.path.clone()));
            there.extend(self.converted(scan, &there, &gone)?);
        } else {
            seen.rules_changed = there
                .iter()
                .chain(&gone)
                .any(|path| path.ends_with(b".gitattributes"));
        }
        gone.extend(self.ignored_now(&extras, &gone)?);
        let candidates = std::mem::take(&mut there);
        // Files that are ignored by now may have changed as well.
        for path in candidates.difference(&gone).cloned().collect::<Vec<_>>() {
            match self.sort(&path) {
                Sort::Keep => _ = there.insert(path),
                Sort::Gone => _ = gone.insert(path),
                Sort::LeaveOut(why) => {
                    seen.left_out
                        .push(format!("{}: {why}", String::from_utf8_lossy(&path)));
                    gone.insert(path);
                }
            }
        }
        extras.retain(|path| !gone.contains(path));
        let memory = self.shadow.file(MEMORY);
        if fresh.is_none() && gone.is_empty() && there.is_empty() && memory.exists() {
            return Ok(seen);
        }
        // From here on spotkeep's index is ahead of the memory. If the process ends before the
        // memory is written again (a crash, a full disk, a deadline), the older tree must not be
        // taken for the newer one.
        remove(&memory)?;
        self.remove(&gone)?;
        let there: Vec<Vec<u8>> = there.into_iter().collect();
        if by_ourselves {
            let oid_length = self.repository.settings.oid_length;
            let messages = unstable_file::add(&self.git, self.shadow, &there, oid_length)?;
            seen.left_out.extend(messages);
        } else if !there.is_empty() {
            let list = there
                .iter()
                .flat_map(|path| [path, &b"\0"[..]].concat())
                .collect();
            self.git.run(
                &[
                    "update-index",
                    "-z",
                    "--add",
                    "--remove",
                    "--replace",
                    "--stdin",
                ],
                list,
            )?;
        }
        self.set_extras(&extras)?;
        seen.tree = Some(self.git.line(&["write-tree", "--missing-ok"], Vec::new())?);
        Ok(seen)
    }

    /// Returns what differs from spotkeep's index; directories that cannot be read are added to
    /// `left_out`.
    fn status(&self, left_out: &mut Vec<String>) -> Result<Vec<(Change, Vec<u8>)>> {
        let arguments = [
            "status",
            "--porcelain=v2",
            "-z",
            "-uall",
            "--no-renames",
            "--ignore-submodules=all",
        ];
        let said = self.git.ask(&arguments, Vec::new())?;
        ensure!(said.status.success(), "git status failed: {}", said.stderr);
        left_out.extend(status::closed(&said.stderr));
        Ok(status::read(&said.stdout))
    }

    /// Removes paths from spotkeep's index, whatever is on the disk.
    fn remove(&self, paths: &BTreeSet<Vec<u8>>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let none = objects::none(self.repository.settings.oid_length);
        let lines = paths.iter().flat_map(|path| line(0, &none, 0, path));
        self.git.run(&INDEX_INFO, lines.collect()).map(drop)
    }

    fn find(&self, path: &[u8]) -> io::Result<fs::Metadata> {
        fs::symlink_metadata(self.shadow.work_tree.join(OsStr::from_bytes(path)))
    }

    /// Checks a file before git reads it.
    fn sort(&self, path: &[u8]) -> Sort {
        let Ok(found) = self.find(path) else {
            return Sort::Gone;
        };
        if found.is_symlink() {
            return Sort::Keep;
        }
        if !found.is_file() {
            return Sort::Gone;
        }
        if found.len() > self.largest_file {
            return Sort::LeaveOut(format!(
                "{} bytes, above the limit of {}",
                found.len(),
                self.largest_file
            ));
        }
        match open_no_follow(&self.shadow.work_tree.join(OsStr::from_bytes(path))) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Sort::LeaveOut("no permission to read it".to_owned())
            }
            _ => Sort::Keep,
        }
    }

    /// Returns those of the files known only to spotkeep's index (untracked ones) that are ignored
    /// by now, which are dropped.
    fn ignored_now(
        &self,
        extras: &BTreeSet<Vec<u8>>,
        gone: &BTreeSet<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let list: Vec<u8> = extras
            .difference(gone)
            .flat_map(|path| [path, &b"\0"[..]].concat())
            .collect();
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let said = self
            .git
            .ask(&["check-ignore", "-z", "--stdin", "--no-index"], list)?;
        // 1: none is ignored. Any other failure: the files stay, which is the safe choice.
        let paths = said
            .stdout
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty());
        Ok(paths.map(<[u8]>::to_vec).collect())
    }

    /// Returns the files known only to spotkeep's index, since they were untracked.
    pub fn extras(&self) -> Result<BTreeSet<Vec<u8>>> {
        let bytes = sys::files::read_optional(&self.shadow.file("extra"))?.unwrap_or_default();
        let paths = bytes
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty());
        Ok(paths.map(<[u8]>::to_vec).collect())
    }

    fn set_extras(&self, extras: &BTreeSet<Vec<u8>>) -> Result<()> {
        let bytes: Vec<u8> = extras
            .iter()
            .flat_map(|path| [path, &b"\0"[..]].concat())
            .collect();
        fs::write(self.shadow.file("extra"), bytes).context("cannot write spotkeep's list of files")
    }

    /// Finds files that git takes for unchanged although the bytes on the disk differ from their
    /// object, since git converts them (line ends, `$Id$`, encodings): the sizes differ. Their
    /// entries lose their stat data, so that they are read again without conversion. A file that a
    /// filter converts stays as the filter made it, for the filter to undo.
    fn converted(
        &self,
        scan: &Scan,
        there: &BTreeSet<Vec<u8>>,
        gone: &BTreeSet<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        if !self.may_convert(scan, there) {
            return Ok(Vec::new());
        }
        let mut files = Vec::new();
        let mut names = Vec::new();
        index::read(&scan.bytes, self.repository.settings.oid_length, |entry| {
            let is_plain = entry.mode & 0o170_000 == 0o100_000 && entry.stage == 0;
            if is_plain && !there.contains(entry.path) && !gone.contains(entry.path) {
                let hex = entry.hex();
                names.extend_from_slice(hex.as_bytes());
                names.push(b'\n');
                files.push((entry.path.to_vec(), entry.mode, hex, entry.disk_size));
            }
        });
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let sizes = self
            .git
            .run(&["cat-file", "--batch-check=%(objectsize)"], names)?;
        let sizes = String::from_utf8_lossy(&sizes).into_owned();
        let differ = |(file, size): &(&(Vec<u8>, u32, String, u32), &str)| {
            // The index stores sizes modulo 2³².
            size.parse::<u64>()
                .is_ok_and(|size| size & 0xffff_ffff != u64::from(file.3))
        };
        let files: Vec<_> = files
            .iter()
            .zip(sizes.lines())
            .filter(differ)
            .map(|(file, _)| file)
            .collect();
        let filtered = self.filtered(files.iter().map(|file| &file.0[..]))?;
        let files: Vec<_> = files
            .into_iter()
            .filter(|file| !filtered.contains(&file.0))
            .collect();
        if !files.is_empty() {
            let lines = files
                .iter()
                .flat_map(|file| line(file.1, &file.2, 0, &file.0));
            self.git.run(&INDEX_INFO, lines.collect())?;
        }
        Ok(files.into_iter().map(|file| file.0.clone()).collect())
    }

    /// Whether any setting or attribute asks for conversions.
    fn may_convert(&self, scan: &Scan, there: &BTreeSet<Vec<u8>>) -> bool {
        let settings = &self.repository.settings;
        let words = ["text", "eol", "crlf", "ident", "encoding"];
        let asks = |path: &std::path::Path| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() < 1 << 20)
                && fs::read(path).is_ok_and(|text| {
                    let text = String::from_utf8_lossy(&text);
                    words.iter().any(|word| text.contains(word))
                })
        };
        let inside = scan.attributes.iter().chain(
            there
                .iter()
                .filter(|path| path.ends_with(b".gitattributes")),
        );
        settings.converts_line_ends
            || asks(&self.repository.common_dir.join("info/attributes"))
            || settings.attributes_file.as_deref().is_some_and(asks)
            || inside
                .into_iter()
                .any(|path| asks(&self.shadow.work_tree.join(OsStr::from_bytes(path))))
    }

    /// Returns those of `paths` that a filter converts. Attributes are read as the repository has
    /// them; no filter is run.
    fn filtered<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Result<BTreeSet<Vec<u8>>> {
        let list: Vec<u8> = paths.flat_map(|path| [path, &b"\0"[..]].concat()).collect();
        if list.is_empty() {
            return Ok(BTreeSet::new());
        }
        let git = Git::refs(self.repository, self.git.until())
            .with("GIT_WORK_TREE", self.shadow.work_tree.clone())
            .within(&self.shadow.work_tree);
        let global = self.repository.settings.attributes_file.as_deref();
        let global = global.map_or_else(String::new, |path| {
            format!("core.attributesFile={}", path.display())
        });
        let mut arguments = vec!["check-attr", "-z", "--stdin", "filter"];
        if !global.is_empty() {
            arguments.splice(0..0, ["-c", &global]);
        }
        let answer = git.run(&arguments, list)?;
        let words: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
        let is_set = |value: &[u8]| value != b"unspecified" && value != b"unset";
        let set = words.chunks_exact(3).filter(|triple| is_set(triple[2]));
        Ok(set.map(|triple| triple[0].to_vec()).collect())
    }
}

enum Sort {
    Keep,
    Gone,
    LeaveOut(String),
}
