//! Program lookup: finds the `claude` program and its version.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::command_line;
use sys::command;
use sys::error::{Context as _, Hint as _, Result, bail, ensure};

/// `--version` takes a second where the program has to be read from a cold disk.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// Places to search, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Search<'a> {
    /// Path that the user named. If it is not a program, nothing else is tried.
    pub explicit: Option<&'a Path>,
    /// `SPOTKEEP_CLAUDE`, treated the same.
    pub variable: Option<&'a OsStr>,
    /// The data directory, which may hold `bin/claude/<version>/claude`.
    pub data_dir: Option<&'a Path>,
    /// `PATH`.
    pub path: Option<&'a OsStr>,
    /// The user's home, for `.local/bin/claude`.
    pub home: Option<&'a Path>,
}

/// Finds the program.
///
/// # Errors
/// The path that was named is not a program, or no program was found.
pub fn find(search: &Search) -> Result<PathBuf> {
    let variable = search.variable.filter(|value| !value.is_empty());
    if let Some(path) = search.explicit.or(variable.map(Path::new)) {
        ensure!(is_program(path), "{} is not a program", path.display());
        return Ok(path.to_owned());
    }
    let kept = search.data_dir.and_then(newest_kept);
    let on_path = search
        .path
        .into_iter()
        .flat_map(std::env::split_paths)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("claude"));
    let at_home = search.home.map(|home| home.join(".local/bin/claude"));
    kept.into_iter()
        .chain(on_path)
        .chain(at_home)
        .find(|path| is_program(path))
        .context("claude was not found")
        .hint("install Claude Code, or set SPOTKEEP_CLAUDE to the path of its program")
}

/// Whether it is a native build, a single file, and not a script.
#[must_use]
pub fn is_native(program: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let read = std::fs::File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

/// Returns the version that `claude --version` prints, like `2.1.330`.
///
/// # Errors
/// It does not run, takes longer than 30 s, or prints something else.
pub fn version(claude: &Path) -> Result<String> {
    version_within(claude, VERSION_LIMIT)
}

/// Like [`version`], with a shorter limit.
///
/// # Errors
/// Like [`version`], after `limit`.
pub fn version_within(claude: &Path, limit: Duration) -> Result<String> {
    let mut command = Command::new(claude);
    command.arg("--version").env("DISABLE_AUTOUPDATER", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(command_line::strip) {
            command.env_remove(name);
        }
    }
    let output = command::run(&mut command, limit)?;
    let word = output.stdout.split_whitespace().next().unwrap_or_default();
    if !output.status.success() || numbers(word).is_empty() {
        bail!(
            "{} --version printed: {}{}",
            claude.display(),
            output.stdout.trim(),
            output.stderr
        );
    }
    Ok(word.to_owned())
}

/// Returns the newest of `<data-dir>/bin/claude/<version>/claude`, by version and not by time.
fn newest_kept(data_dir: &Path) -> Option<PathBuf> {
    fs::read_dir(data_dir.join("bin/claude"))
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = numbers(path.file_name()?.to_str()?);
            let program = path.join("claude");
            (!version.is_empty() && is_program(&program)).then_some((version, program))
        })
        .max()
        .map(|(_, program)| program)
}

/// Returns the numbers of `2.1.330`; none where the text is not a version.
fn numbers(version: &str) -> Vec<u64> {
    let supervisor = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = supervisor
        .split('.')
        .map(|part| part.parse().ok())
        .collect();
    numbers.unwrap_or_default()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, says: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Renamed into place: a file that another thread's fork still holds open for writing
        // cannot be executed.
        let draft = path.with_extension("draft");
        fs::write(&draft, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&draft, path).unwrap();
    }

    #[test]
    fn the_newest_version_in_the_data_directory_takes_precedence_over_path() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("root");
        let bin = dir.path().join("bin");
        program(&bin.join("claude"), "");
        let search = Search {
            data_dir: Some(&data_dir),
            path: Some(bin.as_os_str()),
            ..Search::default()
        };
        assert_eq!(find(&search).unwrap(), bin.join("claude"));
        program(&data_dir.join("bin/claude/2.1.99/claude"), "");
        program(&data_dir.join("bin/claude/2.1.330/claude"), "");
        fs::create_dir_all(data_dir.join("bin/claude/2.2.0")).unwrap();
        assert_eq!(
            find(&search).unwrap(),
            data_dir.join("bin/claude/2.1.330/claude")
        );
    }

    #[test]
    fn a_named_program_is_used_or_refused_and_nothing_else_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("claude"), "");
        let gone = dir.path().join("gone");
        let search = Search {
            variable: Some(gone.as_os_str()),
            path: Some(dir.path().as_os_str()),
            ..Search::default()
        };
        assert!(find(&search).unwrap_err().to_string().contains("gone"));
        assert!(find(&Search::default()).is_err());
    }

    #[test]
    fn the_version_is_the_first_word_and_must_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claude");
        program(&path, "2.1.330 (Claude Code)");
        assert_eq!(version(&path).unwrap(), "2.1.330");
        program(&path, "command not found");
        assert!(version(&path).is_err());
    }
}
