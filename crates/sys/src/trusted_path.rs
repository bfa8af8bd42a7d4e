//! Checks whether only root can change what a path leads to.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Returns the first of `dir` and the directories above it that another user than root could
/// change: its content, or which directory the path leads to. `None`: only root can. `dir` has its
/// links resolved.
///
/// In a sticky directory like `/tmp`, only root can rename or remove root's files.
#[must_use]
pub fn first_open_to_others(dir: &Path) -> Option<&Path> {
    let mut is_itself = true;
    dir.ancestors().find(|at| {
        let is_safe = at
            .metadata()
            .is_ok_and(|meta| is_roots_alone(&meta) || (!is_itself && is_sticky(&meta)));
        is_itself = false;
        !is_safe
    })
}

fn is_roots_alone(meta: &Metadata) -> bool {
    let of_group = meta.mode() & 0o020 != 0 && meta.gid() != 0;
    meta.uid() == 0 && meta.mode() & 0o002 == 0 && !of_group
}

fn is_sticky(meta: &Metadata) -> bool {
    meta.uid() == 0 && meta.mode() & 0o1000 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    #[test]
    fn a_path_is_trusted_only_if_root_alone_can_change_each_part() {
        let top = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(top.path()).unwrap();
        let dir = top.join("a/b");
        fs::create_dir_all(&dir).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        if user::id() != 0 {
            assert_eq!(first_open_to_others(&dir), Some(dir.as_path()));
            return;
        }
        let middle = dir.parent().unwrap();
        for path in [&top, middle, &dir] {
            set(path, 0o755);
        }
        assert_eq!(first_open_to_others(&dir), None);
        // As `setup` leaves a data directory.
        chown(&dir, None, Some(48_211)).unwrap();
        set(&dir, 0o1775);
        assert_eq!(first_open_to_others(&dir), Some(dir.as_path()));
        set(&dir, 0o755);
        set(middle, 0o1777);
        assert_eq!(first_open_to_others(&dir), None, "sticky");
        set(middle, 0o777);
        assert_eq!(first_open_to_others(&dir), Some(middle));
        set(middle, 0o755);
        chown(middle, Some(48_211), None).unwrap();
        assert_eq!(first_open_to_others(&dir), Some(middle));
    }
}
