//! Handing over from the packaged program in `/usr/bin` to the one on the disk.
//!
//! A fleet runs the program on its disk, which moves with it, and its units are of the same
//! version. So a package on the machine, older or newer, does not replace it: the packaged program
//! mounts the disk and lets the program on the disk do the rest. The user replaces that one with
//! `setup --upgrade`.

use std::path::{Path, PathBuf};

use crate::storage::merge_tree;
use sys::error::{Context as _, Result};
use sys::secure_dir::{Dir, Entry};

/// The path of the packaged program.
const PACKAGED: &str = "/usr/bin/spotkeep";

/// The program that continues instead of this one, for a data directory whose files are at `tree`;
/// `None` if this one continues.
///
/// # Errors
/// The programs cannot be compared.
pub fn successor(tree: &Path) -> Result<Option<PathBuf>> {
    let this = std::env::current_exe().context("cannot find the path of this program")?;
    successor_of(&this, tree)
}

fn successor_of(this: &Path, tree: &Path) -> Result<Option<PathBuf>> {
    let theirs = tree.join("bin/spotkeep");
    if this != Path::new(PACKAGED) || !is_roots_alone(tree)? || !theirs.is_file() {
        return Ok(None);
    }
    Ok((!merge_tree::same_bytes(this, &theirs)?).then_some(theirs))
}

/// Whether only root could have put the program there: root executes nothing else.
fn is_roots_alone(tree: &Path) -> Result<bool> {
    let is_roots = |owner: u32, mode: u32| owner == 0 && mode & 0o022 == 0;
    let data_dir = Dir::open(tree)?;
    let Entry::Directory(bin) = data_dir.entry("bin")? else {
        return Ok(false);
    };
    if !is_roots(bin.uid, bin.mode) {
        return Ok(false);
    }
    use std::os::unix::fs::MetadataExt as _;
    let program = tree.join("bin/spotkeep");
    Ok(std::fs::symlink_metadata(program)
        .is_ok_and(|meta| meta.is_file() && is_roots(meta.uid(), meta.mode())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_a_package_hands_over_and_only_to_a_program_that_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(!is_roots_alone(tree).unwrap(), "there is no bin");
        fs::create_dir(tree.join("bin")).unwrap();
        set(&tree.join("bin"), 0o755);
        assert!(!is_roots_alone(tree).unwrap(), "there is no program");
        let program = tree.join("bin/spotkeep");
        fs::write(&program, "another").unwrap();
        set(&program, 0o755);
        let is_root = sys::user::id() == 0;
        assert_eq!(is_roots_alone(tree).unwrap(), is_root);
        assert_eq!(
            successor_of(Path::new("/tmp/spotkeep"), tree).unwrap(),
            None
        );
        set(&program, 0o775);
        assert!(!is_roots_alone(tree).unwrap());
        fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink("/usr/bin/true", &program).unwrap();
        assert!(!is_roots_alone(tree).unwrap());
    }
}
