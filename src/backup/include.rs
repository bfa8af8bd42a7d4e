//! Include and exclude rules of backups.

use std::path::{Component, Path, PathBuf};

use super::Settings;

/// The parts of a data directory that are backed up if they exist. `bin/` can be installed again.
const PARTS: [&str; 5] = [
    ".claude",
    "session-state",
    "spotkeep.toml",
    "home",
    "workspaces",
];

/// Names of directories in workspaces that a build makes again.
const MADE_AGAIN: [&str; 16] = [
    "target",
    "node_modules",
    "bower_components",
    "__pycache__",
    ".venv",
    "venv",
    ".cache",
    ".gradle",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".terraform",
    ".next",
    ".turbo",
];

/// State that a backup changes, that can be made again, or that means nothing on another machine.
const OWN: [&str; 3] = [
    "session-state/backup.json",
    "session-state/checkpoints",
    "session-state/lock",
];

/// spotkeep's copy of Claude's login.
const LOGIN: &str = "session-state/credentials.json";

/// Names of files that hold secrets by convention, in any directory. restic compares each file with
/// each pattern, and a name alone costs a tenth of a path with `**` (measured).
const ENVIRONMENTS: [&str; 3] = [".env", ".envrc", ".env.*local"];

/// Paths of secrets in a home.
const KEYS: [&str; 12] = [
    ".ssh/id_*",
    ".ssh/*.pem",
    ".ssh/*.key",
    ".gnupg",
    ".netrc",
    ".git-credentials",
    ".config/gh/hosts.yml",
    ".config/gcloud",
    ".aws/credentials",
    ".azure",
    ".docker/config.json",
    ".npmrc",
];

/// Returns the existing paths of a backup, relative to the data directory.
#[must_use]
pub fn parts(settings: &Settings) -> Vec<PathBuf> {
    let script = settings.config.machine.on_new_machine.iter();
    let inside = |path: &&PathBuf| {
        path.is_relative()
            && path
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
    };
    PARTS
        .iter()
        .map(PathBuf::from)
        .chain(script.filter(inside).cloned())
        .filter(|path| settings.data_dir.absolute(path).symlink_metadata().is_ok())
        .collect()
}

/// Returns the patterns for restic's `--exclude`. The last one that matches a path counts, and one
/// that begins with `!` includes it.
///
/// Paths that are made again were found by the walk before and are listed one by one: restic
/// compares each file with each pattern, and a pattern for any depth costs as much as reading the
/// file (measured). Secrets are excluded by patterns nevertheless, since one may be created after
/// the walk.
#[must_use]
pub fn patterns(settings: &Settings, made_again: &[PathBuf]) -> Vec<String> {
    let data_dir = escape(settings.data_dir.dir());
    let in_data_dir = |pattern: &str| format!("{data_dir}/{pattern}");
    let mut all: Vec<String> = made_again
        .iter()
        .map(|path| escape(&settings.data_dir.absolute(path)))
        .collect();
    all.extend(
        settings
            .table
            .exclude
            .iter()
            .map(|text| user(&data_dir, text)),
    );
    if !settings.table.secrets {
        all.extend(claude::SECRETS.map(|name| in_data_dir(&format!(".claude/{name}"))));
        all.push(in_data_dir(LOGIN));
        all.extend(ENVIRONMENTS.map(str::to_owned));
        if has_entries(&settings.data_dir.absolute(Path::new("home"))) {
            all.extend(KEYS.map(|name| in_data_dir(&format!("home/{name}"))));
            all.push(format!("!{}", in_data_dir("home/.ssh/*.pub")));
        }
        all.extend(env_files(settings).map(|path| escape(&settings.data_dir.absolute(&path))));
    }
    let kept = settings.table.keep_ignored.iter();
    all.extend(kept.map(|text| format!("!{}", user(&data_dir, text))));
    all
}

/// Declared environment files: they are secrets in any directory.
pub fn env_files(settings: &Settings) -> impl Iterator<Item = PathBuf> + '_ {
    let agents = settings.config.agents.values();
    settings
        .config
        .defaults
        .env_file
        .iter()
        .chain(agents.filter_map(|agent| agent.env_file.as_ref()))
        .chain(&settings.config.backup.env_file)
        .cloned()
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Converts a user's pattern: with a leading slash it begins at the data directory, else it matches
/// anywhere.
fn user(data_dir: &str, pattern: &str) -> String {
    match pattern.strip_prefix('/') {
        Some(rest) => format!("{data_dir}/{rest}"),
        None => pattern.trim_end_matches('/').to_owned(),
    }
}

/// Escapes a path, so that the pattern matches only this path.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Whether a path, relative to the data directory, is excluded because it is made again, or means
/// nothing elsewhere. A branch may be named "target", so paths in a git repository are never
/// excluded.
#[must_use]
pub fn is_made_again(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    if path.starts_with("workspaces") {
        let in_repository = || {
            let mut above = path.parent().into_iter().flat_map(Path::components);
            above.any(|part| part.as_os_str().as_encoded_bytes().ends_with(b".git"))
        };
        return MADE_AGAIN.contains(&name) && !in_repository();
    }
    let of_claude = path.strip_prefix(".claude").ok();
    of_claude.is_some_and(|path| claude::TRANSIENT.iter().any(|name| path == Path::new(name)))
        || OWN.iter().any(|own| path == Path::new(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::layout::DataDir;

    fn settings(text: &str) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        std::fs::write(data_dir.config(), text).unwrap();
        let settings = Settings::load(&data_dir).unwrap();
        (dir, settings)
    }

    #[test]
    fn a_branch_named_target_is_not_a_build_directory() {
        let made = |path: &str| is_made_again(Path::new(path));
        assert!(made("workspaces/a/target"));
        assert!(made("workspaces/a/web/node_modules"));
        assert!(!made("workspaces/a/.git/refs/heads/target"));
        assert!(!made("workspaces/b.git/refs/heads/target"));
        assert!(!made(".claude/projects/target"));
        assert!(made("session-state/backup.json"));
    }

    #[test]
    fn secrets_are_excluded_by_default() {
        let (_dir, without) = settings("[defaults]\nenv_file = \"x/secrets.env\"\n");
        std::fs::write(without.data_dir.dir().join("home/.netrc"), "").unwrap();
        let patterns_without = patterns(&without, &["workspaces/a/target".into()]);
        let named = |all: &[String], end: &str| all.iter().any(|text| text.ends_with(end));
        for end in [
            ".claude/.credentials.json",
            ".env",
            "id_*",
            "x/secrets.env",
            "workspaces/a/target",
        ] {
            assert!(named(&patterns_without, end), "{end}");
        }
        let (_dir, with) = settings("[backup]\nsecrets = true\n");
        assert!(!named(&patterns(&with, &[]), ".credentials.json"));
        let (_dir, listed) = settings("[backup]\nkeep_ignored = [\".env\"]\n");
        assert_eq!(patterns(&listed, &[]).last().unwrap(), "!.env");
    }

    #[test]
    fn a_star_in_a_path_is_escaped() {
        assert_eq!(escape(Path::new("/a*b/[c]")), "/a\\*b/\\[c\\]");
    }
}
