//! Symbolic links from the home directory into the data directory, like `~/.claude`.
//!
//! Existing content is merged onto the disk, compared, and kept under another name (quarantined).
//! Runs as the user whose home it is.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::merge_tree::{self, Merged};
use claude::session_file;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail};
use sys::files;
use sys::process::{self, ProcessId};
use sys::secure_dir::rename_new;
use sys::time::Timestamp;

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its path, where programs look.
    pub at: PathBuf,
    /// Its target.
    pub to: PathBuf,
}

/// The state of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is as it should be.
    Right,
    /// Neither link nor content is there.
    Absent,
    /// A link to another target.
    Elsewhere(PathBuf),
    /// A file, or a directory with files.
    Content {
        /// Number of files and links.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// The links of a home: Claude's two, and those declared under `[machine] home`.
///
/// # Errors
/// A declared path is outside the home.
pub fn home_links(home: &Path, data_dir: &Path, pieces: &[PathBuf]) -> Result<Vec<Link>> {
    let claude = data_dir.join(".claude");
    let mut links = vec![
        Link {
            at: home.join(".claude"),
            to: claude.clone(),
        },
        Link {
            at: home.join(".claude.json"),
            to: claude.join(".claude.json"),
        },
    ];
    for piece in pieces {
        let is_plain = !piece.as_os_str().is_empty()
            && piece
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || piece.starts_with(".claude") || piece.starts_with(".claude.json") {
            return Err(anyhow!(
                "[machine] home: \"{}\" is not a path inside the home that can be kept",
                piece.display()
            ))
            .hint("use paths relative to the home, like \".gitconfig\" or \".config/gh\"");
        }
        links.push(Link {
            at: home.join(piece),
            to: data_dir.join("home").join(piece),
        });
    }
    Ok(links)
}

impl Link {
    /// Reads the state of the link.
    ///
    /// # Errors
    /// The path cannot be read.
    pub fn state(&self) -> Result<State> {
        let meta = match fs::symlink_metadata(&self.at) {
            Ok(meta) => meta,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(State::Absent);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.at.display()));
            }
        };
        if meta.is_symlink() {
            let target = fs::read_link(&self.at)?;
            return Ok(if target == self.to {
                State::Right
            } else {
                State::Elsewhere(target)
            });
        }
        // A path below one that is linked already is in the data directory.
        if fs::canonicalize(&self.at).is_ok_and(|real| real == self.to) {
            return Ok(State::Right);
        }
        let (files, bytes) = merge_tree::measure(&self.at)?;
        Ok(State::Content { files, bytes })
    }

    /// Makes the link. Existing content is merged into the target, compared, and kept beside the
    /// link under another name. Returns what was done, in sentences.
    ///
    /// # Errors
    /// A link to another target exists, a process uses the content, or it cannot be copied
    /// completely.
    pub fn make(&self) -> Result<Vec<String>> {
        let mut said = Vec::new();
        match self.state()? {
            State::Right => return Ok(said),
            State::Elsewhere(target) => {
                return Err(anyhow!(
                    "{} is already a link to {}",
                    self.at.display(),
                    target.display()
                ))
                .hint(format!(
                    "move its target into {}, then: rm {}",
                    self.to.display(),
                    self.at.display()
                ));
            }
            State::Content { bytes, .. } => {
                self.refuse_in_use()?;
                said.push(self.move_in(bytes)?);
            }
            State::Absent => {}
        }
        if let Some(parent) = self.at.parent() {
            files::create_private_dir(parent)?;
        }
        symlink(&self.to, &self.at)
            .with_context(|| format!("cannot make the link {}", self.at.display()))?;
        files::sync_dir(self.at.parent().unwrap_or(Path::new("/")))?;
        said.push(format!(
            "{} is a link to {}",
            self.at.display(),
            self.to.display()
        ));
        Ok(said)
    }

    /// Copies the content into the target, and renames (quarantines) the original.
    fn move_in(&self, bytes: u64) -> Result<String> {
        let said = self.copy_in(bytes)?;
        let original = quarantine_path(&self.at);
        rename_new(&self.at, &original)
            .with_context(|| format!("cannot rename {}", self.at.display()))?;
        files::sync_dir(self.at.parent().unwrap_or(Path::new("/")))?;
        Ok(format!(
            "{said}; the original is kept as {}",
            original.display()
        ))
    }

    /// Copies the content into the target, and compares.
    ///
    /// # Errors
    /// There is too little space, something cannot be read, or it was changed meanwhile.
    pub fn copy_in(&self, bytes: u64) -> Result<String> {
        let parent = self.to.parent().unwrap_or(Path::new("/"));
        files::create_private_dir(parent)?;
        merge_tree::ensure_space(bytes, parent)?;
        let merged = merge_tree::merge(&self.at, &self.to)?;
        let (count, _) = merge_tree::verify(&self.at, &self.to, &merged)?;
        files::sync_filesystem(parent)?;
        Ok(self.describe(&merged, count))
    }

    fn describe(&self, merged: &Merged, count: u64) -> String {
        let mut said = format!(
            "{}: {count} files are on the disk now ({} copied, {} bytes; {} existed)",
            self.at.display(),
            merged.copied,
            merged.bytes,
            merged.same
        );
        if !merged.kept.is_empty() {
            said.push_str(&format!(
                "; the disk has other files under these names, and they stay: {}",
                list(&merged.kept)
            ));
        }
        if !merged.left.is_empty() {
            said.push_str(&format!(
                "; not copied, since they are not regular files: {}",
                list(&merged.left)
            ));
        }
        said
    }

    /// Refuses while a Claude, or any process of this user, has a file in it open.
    ///
    /// # Errors
    /// A process has one open.
    pub fn refuse_in_use(&self) -> Result<()> {
        let mut users: Vec<(ProcessId, String)> = process::users_of(&self.at);
        for file in session_file::live(&self.at) {
            users.push((file.process, "a live Claude session".to_owned()));
        }
        // Claude opens `.claude.json` for a moment only; its session files in `.claude` tell.
        if self
            .at
            .file_name()
            .is_some_and(|name| name == ".claude.json")
        {
            let beside = self.at.with_file_name(".claude");
            users.extend(
                session_file::live(&beside)
                    .into_iter()
                    .map(|file| (file.process, "a live Claude session".to_owned())),
            );
        }
        users.dedup_by_key(|(process, _)| process.pid);
        let Some((first, _)) = users.first() else {
            return Ok(());
        };
        let list: Vec<String> = users
            .iter()
            .take(5)
            .map(|(process, what)| format!("{} ({what})", process.pid))
            .collect();
        Err(anyhow!(
            "{} is in use by {}",
            self.at.display(),
            list.join(", ")
        ))
        .hint(format!("kill {}    # ends it", first.pid))
    }

    /// Removes the link, and restores the original content. Returns what was done.
    ///
    /// # Errors
    /// The disk refused.
    pub fn undo(&self) -> Result<Option<String>> {
        if self.state()? != State::Right || !fs::symlink_metadata(&self.at)?.is_symlink() {
            return Ok(None);
        }
        fs::remove_file(&self.at)
            .with_context(|| format!("cannot remove {}", self.at.display()))?;
        let back = newest_quarantined(&self.at)?;
        if let Some(original) = &back {
            rename_new(original, &self.at)
                .with_context(|| format!("cannot rename {}", original.display()))?;
        }
        files::sync_dir(self.at.parent().unwrap_or(Path::new("/")))?;
        let was = if back.is_some() {
            "; the original content is restored"
        } else {
            ""
        };
        Ok(Some(format!(
            "{} is not a link any more{was}; later files are in {}",
            self.at.display(),
            self.to.display()
        )))
    }
}

fn list(paths: &[PathBuf]) -> String {
    let mut names: Vec<String> = paths
        .iter()
        .take(8)
        .map(|p| p.display().to_string())
        .collect();
    if paths.len() > 8 {
        names.push(format!("and {} more", paths.len() - 8));
    }
    names.join(", ")
}

const QUARANTINE: &str = ".before-spotkeep-";

/// Where the original content of a link's path is kept: beside it, with the time in its name.
#[must_use]
pub fn quarantine_path(at: &Path) -> PathBuf {
    let mut name = at.file_name().unwrap_or_default().to_owned();
    name.push(format!("{QUARANTINE}{}", Timestamp::now().as_millis()));
    at.with_file_name(name)
}

fn newest_quarantined(at: &Path) -> Result<Option<PathBuf>> {
    let parent = at.parent().unwrap_or(Path::new("/"));
    let Some(name) = at.file_name().and_then(|name| name.to_str()) else {
        bail!("{} has no name", at.display());
    };
    let begin = format!("{name}{QUARANTINE}");
    let newest = fs::read_dir(parent)?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let when: u64 = path
                .file_name()?
                .to_str()?
                .strip_prefix(&begin)?
                .parse()
                .ok()?;
            Some((when, path))
        })
        .max();
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Link) {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(base.join("home")).unwrap();
        fs::create_dir_all(base.join("root/.claude")).unwrap();
        let link = Link {
            at: base.join("home/.claude"),
            to: base.join("root/.claude"),
        };
        (dir, link)
    }

    #[test]
    fn content_is_moved_in_quarantined_and_restored_by_undo() {
        let (_dir, link) = place();
        fs::create_dir(&link.at).unwrap();
        fs::write(link.at.join("history"), "words").unwrap();
        assert_eq!(link.state().unwrap(), State::Content { files: 1, bytes: 5 });
        let said = link.make().unwrap();
        assert!(
            said[0].contains("1 copied") && said[0].contains("before-spotkeep"),
            "{said:?}"
        );
        assert_eq!(link.state().unwrap(), State::Right);
        assert_eq!(
            fs::read_to_string(link.to.join("history")).unwrap(),
            "words"
        );
        assert!(
            link.make().unwrap().is_empty(),
            "the second time changes nothing"
        );

        fs::write(link.to.join("history"), "words and more").unwrap();
        link.undo().unwrap().unwrap();
        assert_eq!(
            fs::read_to_string(link.at.join("history")).unwrap(),
            "words"
        );
        assert_eq!(
            fs::read_to_string(link.to.join("history")).unwrap(),
            "words and more"
        );
        assert_eq!(link.undo().unwrap(), None);
    }

    #[test]
    fn a_link_to_another_target_is_refused() {
        let (_dir, link) = place();
        symlink("/srv/dotfiles/claude", &link.at).unwrap();
        let error = link.make().unwrap_err();
        assert!(
            error.to_string().contains("/srv/dotfiles/claude"),
            "{error}"
        );
        assert_eq!(link.undo().unwrap(), None);
        assert!(fs::read_link(&link.at).is_ok());
    }

    #[test]
    fn what_a_process_has_open_is_not_moved() {
        let (_dir, link) = place();
        fs::create_dir(&link.at).unwrap();
        fs::write(link.at.join("x"), "").unwrap();
        let mut child = std::process::Command::new("tail")
            .arg("-f")
            .arg(link.at.join("x"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        testing::wait::until("the file is open", || {
            (!process::users_of(&link.at).is_empty()).then_some(())
        });
        let error = link.make().unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            error.to_string().contains(&child.id().to_string()),
            "{error}"
        );
        assert!(matches!(link.state().unwrap(), State::Content { .. }));
        link.make().unwrap();
    }

    #[test]
    fn a_move_that_was_cut_after_the_rename_is_completed() {
        let (_dir, link) = place();
        fs::write(link.to.join("history"), "words").unwrap();
        fs::create_dir(quarantine_path(&link.at)).unwrap();
        assert_eq!(link.state().unwrap(), State::Absent);
        link.make().unwrap();
        assert_eq!(link.state().unwrap(), State::Right);
    }

    #[test]
    fn a_path_outside_the_home_is_refused() {
        for bad in ["", "/etc", "../x", ".claude", ".claude/x", "a/../b"] {
            assert!(
                home_links(Path::new("/h"), Path::new("/r"), &[bad.into()]).is_err(),
                "{bad}"
            );
        }
        let links = home_links(Path::new("/h"), Path::new("/r"), &[".config/gh".into()]).unwrap();
        assert_eq!(links[2].to, Path::new("/r/home/.config/gh"));
    }
}
