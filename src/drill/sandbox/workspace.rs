//! A workspace in every state of undone work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::Sandbox;
use crate::error::Result;
use crate::os::files::create_private_dir;

impl Sandbox {
    /// A repository with every kind of undone work.
    ///
    /// # Errors
    /// Git failed.
    pub fn make_workspace(&self, name: &str) -> Result<()> {
        let dir = self.workspace(name);
        create_private_dir(&dir.join("src"))?;
        let write = |file: &str, text: &str| {
            fs::write(dir.join(file), text)?;
            self.give(&dir.join(file))
        };
        let git = |args: &[&str]| self.git(name, args);
        for made in [&dir, &dir.join("src")] {
            self.give(made)?;
        }
        git(&["init", "-q", "-b", "main"])?;
        git(&["config", "user.name", "Drill"])?;
        git(&["config", "user.email", "drill@localhost"])?;
        for file in ["tracked.txt", "deleted.txt", "changed.txt", "src/run.sh"] {
            write(file, "as committed\n")?;
        }
        fs::set_permissions(dir.join("src/run.sh"), fs::Permissions::from_mode(0o755))?;
        git(&["add", "."])?;
        git(&["commit", "-qm", "A commit"])?;
        git(&["rm", "-q", "deleted.txt"])?;
        write("changed.txt", "staged\n")?;
        git(&["add", "changed.txt"])?;
        write("changed.txt", "staged, then changed again\n")?;
        write("untracked.txt", "untracked\n")?;
        Ok(())
    }
}
