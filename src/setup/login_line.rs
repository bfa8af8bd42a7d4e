//! Login message about the last preemption: a snippet in `/etc/profile.d`.
//!
//! Not in `update-motd.d`, which runs as root while the user waits for the login: the snippet runs
//! in the owner's shell only, for a second at most. In root's shell it would put a process of the
//! agents' user on root's terminal.

use std::fs;
use std::path::Path;

use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::files;

/// The path of the snippet, below `/`.
pub const PATH: &str = "etc/profile.d/spotkeep.sh";

/// The snippet for one data directory, whose owner is the user `uid`. It prints nothing in a shell
/// without a terminal, in a pane of tmux, for other users and if nothing was preempted; and it
/// cannot make a login fail, not even with `set -e` and `set -u`.
///
/// # Errors
/// A path contains a quote or a newline.
pub fn snippet(program: &Path, data_dir: &Path, uid: u32) -> Result<String> {
    let (program, data_dir) = (quoted(program)?, quoted(data_dir)?);
    Ok(format!(
        "# Installed by spotkeep setup: one line on how the last preemption went, for a day.\n\
         case $- in\n\
         *i*) [ -t 1 ] && [ -z \"${{TMUX-}}\" ] && [ \"$(id -u)\" = {uid} ] && [ -x {program} ] \
         && \\\n    \
         timeout 1 {program} --data-dir {data_dir} status --login-line 2>/dev/null || : ;;\n\
         esac\n"
    ))
}

fn quoted(path: &Path) -> Result<String> {
    path.to_str()
        .filter(|text| !text.contains(['\'', '\n']))
        .map(|text| format!("'{text}'"))
        .ok_or_else(|| anyhow!("{} contains a quote or a newline", path.display()))
        .hint("use a path of letters, digits and . _ -")
}

/// Writes the snippet below `prefix`; returns whether it changed anything.
///
/// # Errors
/// It cannot be written.
pub fn install(prefix: &Path, program: &Path, data_dir: &Path, uid: u32) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = snippet(program, data_dir, uid)?;
    let path = prefix.join(PATH);
    if files::read_optional(&path)?.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    files::write_atomic(&path, text.as_bytes())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(true)
}

/// Removes the snippet; returns whether it existed.
///
/// # Errors
/// It cannot be removed.
pub fn remove(prefix: &Path) -> Result<bool> {
    let path = prefix.join(PATH);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use sys::command::run;
    use sys::user;
    use testing::wait::FOREVER;

    #[test]
    fn the_snippet_is_installed_once_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let put = || {
            install(
                dir.path(),
                Path::new("/usr/local/bin/spotkeep"),
                Path::new("/mnt/persist"),
                1001,
            )
        };
        assert!(put().unwrap());
        assert!(!put().unwrap());
        assert!(remove(dir.path()).unwrap());
        assert!(!remove(dir.path()).unwrap());
        assert!(snippet(Path::new("/it's"), Path::new("/r"), 1001).is_err());
    }

    #[test]
    fn the_snippet_never_makes_a_shell_fail() {
        let dir = tempfile::tempdir().unwrap();
        for program in ["/bin/false", "/nonexistent"] {
            let path = dir.path().join("spotkeep.sh");
            fs::write(
                &path,
                snippet(Path::new(program), Path::new("/r"), user::id()).unwrap(),
            )
            .unwrap();
            for options in ["-eu", "-eui"] {
                let mut shell = Command::new("sh");
                shell
                    .args([options, "-c", ". \"$0\"; echo in"])
                    .arg(&path)
                    .env_clear();
                let output = run(&mut shell, FOREVER).unwrap();
                assert_eq!(
                    output.stdout, "in\n",
                    "{program} {options} {}",
                    output.stderr
                );
            }
        }
    }
}
