//! Makes the git workspaces of a sandbox, with every kind of uncommitted change.

use std::path::Path;

use super::{LIMIT, Sandbox};
use sys::command;
use sys::error::{Result, ensure};

/// The script that makes a workspace. One shell of the sandbox's user runs it, because a program of
/// the drill could redirect root's writes by symlinks.
const MAKE: &str = r#"
g() { git -c user.name=Drill -c user.email=drill@localhost -c commit.gpgsign=false "$@"; }
mkdir -p -m 700 "$0"
cd "$0"
mkdir -m 700 src
g init -q -b main
g config user.name Drill
g config user.email drill@localhost
for file in tracked.txt deleted.txt changed.txt src/run.sh; do
    echo as committed >"$file"
done
chmod 755 src/run.sh
g add .
g commit -qm 'A commit'
g rm -q deleted.txt
echo staged >changed.txt
g add changed.txt
echo staged, then changed again >changed.txt
echo untracked >untracked.txt
"#;

impl Sandbox {
    /// Makes a repository with every kind of uncommitted change.
    ///
    /// # Errors
    /// Git failed.
    pub fn make_workspace(&self, name: &str) -> Result<()> {
        let mut shell = self.command(Path::new("sh"));
        shell
            .args(["-ec", MAKE])
            .arg(self.workspace(name))
            .env("HOME", "/nonexistent");
        let output = command::run(&mut shell, LIMIT)?;
        ensure!(
            output.status.success(),
            "cannot make a workspace: {}",
            output.stderr
        );
        Ok(())
    }

    /// Writes a file as the sandbox's user, and makes its directory.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        let mut shell = self.command(Path::new("sh"));
        shell
            .args(["-ec", "mkdir -p -m 700 \"${0%/*}\"; cat >\"$0\""])
            .arg(path);
        let output = command::run_with_input(&mut shell, text.as_bytes(), LIMIT)?;
        ensure!(
            output.status.success(),
            "cannot write {}: {}",
            path.display(),
            output.stderr
        );
        Ok(())
    }
}
