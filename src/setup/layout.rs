//! Owners and modes of the directories in a data directory.
//!
//! Root makes three directories and changes the owner of none that has content; the user makes
//! everything else.

use crate::storage::links::quarantine_path;
use sys::error::{Hint as _, Result, anyhow};
use sys::secure_dir::{Dir, Entry, Ownership};

/// Directories that the user makes and owns.
const OF_THE_USER: [&str; 4] = [".claude", "home", "workspaces", "session-state"];

/// A change to one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// It is created.
    Make(&'static str, Ownership),
    /// It gets its owner and mode; its content stays as it is.
    Give(&'static str, Ownership),
    /// It is renamed (quarantined) and created again.
    Replace(&'static str, Ownership),
}

impl Fix {
    /// Describes the change for people, for a data directory of `user`.
    #[must_use]
    pub fn describe(&self, user: &str) -> String {
        let name = |name: &str| {
            if name.is_empty() {
                ".".to_owned()
            } else {
                name.to_owned()
            }
        };
        match self {
            Self::Make(dir, to) => format!("make {}, mode {:o}", name(dir), to.mode),
            Self::Give(dir, to) => format!(
                "give {} to {}, mode {:o}",
                name(dir),
                match (to.uid, to.gid) {
                    (0, 0) => "root".to_owned(),
                    (0, _) => format!("root and the group of {user}"),
                    _ => user.to_owned(),
                },
                to.mode
            ),
            Self::Replace(dir, _) => format!(
                "rename {dir}, since users other than root could write there, and make a new one"
            ),
        }
    }
}

/// The directories as they are; the data directory itself has the empty name.
pub type LayoutFacts = Vec<(&'static str, Entry)>;

/// Reads owners and modes of the directories of a data directory.
///
/// # Errors
/// They cannot be read.
pub fn gather_facts(data_dir: &Dir) -> Result<LayoutFacts> {
    let mut found = vec![("", Entry::Directory(data_dir.ownership()?))];
    for name in ["bin", "backups"].into_iter().chain(OF_THE_USER) {
        found.push((name, data_dir.entry(name)?));
    }
    Ok(found)
}

/// Returns the necessary changes, in order. `is_empty` returns whether a directory is empty.
///
/// # Errors
/// Something is not a directory, or belongs to a third user.
pub fn fixes(
    found: &LayoutFacts,
    uid: u32,
    gid: u32,
    is_empty: impl Fn(&str) -> bool,
) -> Result<Vec<Fix>> {
    let mut fixes = Vec::new();
    for &(name, entry) in found {
        let to = match name {
            "" => Ownership {
                uid: 0,
                gid,
                mode: 0o1775,
            },
            "bin" => Ownership {
                uid: 0,
                gid: 0,
                mode: 0o755,
            },
            "backups" => Ownership {
                uid: 0,
                gid: 0,
                mode: 0o700,
            },
            "workspaces" => Ownership {
                uid,
                gid,
                mode: 0o755,
            },
            _ => Ownership {
                uid,
                gid,
                mode: 0o700,
            },
        };
        let is_roots = to.uid == 0;
        match entry {
            Entry::Absent if is_roots => fixes.push(Fix::Make(name, to)),
            // The user creates it.
            Entry::Absent => {}
            Entry::Directory(now) if is_roots && now == to => {}
            // Root runs the programs in it, so nothing that another user put there stays.
            Entry::Directory(now) if name == "bin" && (now.uid != 0 || now.mode & 0o022 != 0) => {
                fixes.push(Fix::Replace(name, to));
            }
            Entry::Directory(_) if is_roots => fixes.push(Fix::Give(name, to)),
            Entry::Directory(now) if now.uid == uid => {}
            Entry::Directory(now) if now.uid == 0 && is_empty(name) => {
                fixes.push(Fix::Give(name, to));
            }
            Entry::Directory(now) => {
                return Err(anyhow!(
                    "{name} on the disk belongs to user id {}, not to {uid}",
                    now.uid
                ))
                .hint(format!(
                    "if all of it is that user's: sudo chown -Rh {uid}:{gid} <data-dir>/{name}"
                ));
            }
            Entry::Link | Entry::Other(_) => {
                return Err(anyhow!("{name} on the disk is a link or not a directory")).hint(
                    format!("move it away: sudo mv <data-dir>/{name} <data-dir>/{name}.old"),
                );
            }
        }
    }
    Ok(fixes)
}

/// Applies the changes. Reads each directory again through the handle by which it is changed.
///
/// # Errors
/// As [`fixes`], or the disk refused.
pub fn apply(data_dir: &Dir, uid: u32, gid: u32) -> Result<()> {
    // The data directory itself first: from then on only root can rename what root owns in it.
    for _ in 0..2 {
        let empty = |name: &str| {
            data_dir
                .child(name)
                .and_then(|dir| dir.names())
                .is_ok_and(|names| names.is_empty())
        };
        for fix in fixes(&gather_facts(data_dir)?, uid, gid, empty)? {
            match fix {
                Fix::Make(name, to) => data_dir.make(name)?.chown(to)?,
                Fix::Give("", to) => data_dir.chown(to)?,
                Fix::Give(name, to) => data_dir.child(name)?.chown(to)?,
                Fix::Replace(name, to) => {
                    let old = quarantine_path(&data_dir.path().join(name));
                    let old = old
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    data_dir.rename(name, &old)?;
                    data_dir.make(name)?.chown(to)?;
                }
            }
        }
    }
    data_dir.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(uid: u32, mode: u32) -> Entry {
        Entry::Directory(Ownership {
            uid,
            gid: uid,
            mode,
        })
    }

    #[test]
    fn a_new_disk_gets_three_directories_of_root_and_the_user_makes_the_rest() {
        let mut found: LayoutFacts = vec![("", dir(0, 0o755))];
        found.extend(["bin", "backups", ".claude", "home"].map(|name| (name, Entry::Absent)));
        let fixes = fixes(&found, 1001, 1002, |_| true).unwrap();
        let data_dir = Ownership {
            uid: 0,
            gid: 1002,
            mode: 0o1775,
        };
        assert_eq!(fixes[0], Fix::Give("", data_dir));
        assert_eq!(
            fixes[0].describe("ann"),
            "give . to root and the group of ann, mode 1775"
        );
        assert_eq!(fixes[1].describe("ann"), "make bin, mode 755");
        assert_eq!(fixes.len(), 3);
    }

    #[test]
    fn a_bin_that_others_could_write_to_is_not_trusted() {
        for entry in [dir(1001, 0o755), dir(0, 0o775)] {
            let found = vec![("bin", entry)];
            let fixes = fixes(&found, 1001, 1001, |_| true).unwrap();
            assert!(matches!(fixes[..], [Fix::Replace("bin", _)]), "{fixes:?}");
        }
    }

    #[test]
    fn content_of_a_third_user_keeps_its_owner() {
        let found = vec![("workspaces", dir(0, 0o755))];
        assert_eq!(fixes(&found, 1001, 1001, |_| true).unwrap().len(), 1);
        assert!(fixes(&found, 1001, 1001, |_| false).is_err());
        assert!(fixes(&vec![("home", dir(1002, 0o700))], 1001, 1001, |_| true).is_err());
        assert!(
            fixes(&vec![("home", dir(1001, 0o750))], 1001, 1001, |_| false)
                .unwrap()
                .is_empty()
        );
        assert!(fixes(&vec![("home", Entry::Link)], 1001, 1001, |_| true).is_err());
        assert!(fixes(&vec![("bin", Entry::Link)], 1001, 1001, |_| true).is_err());
    }
}
