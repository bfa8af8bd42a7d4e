//! Checks of owners and modes, secret files, and the links into the data directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::facts::Facts;
use super::{Check, count};
use state::layout::DataDir;

/// Paths that only the owner may read.
const PRIVATE: [&str; 10] = [
    ".claude",
    ".claude/.claude.json",
    "session-state",
    "session-state/agents",
    "session-state/saves",
    "session-state/notes",
    "session-state/root.json",
    "session-state/journal.jsonl",
    "session-state/lock",
    "session-state/spotkeep.toml",
];

/// Paths that others may read but not change.
const OWNED: [&str; 2] = ["spotkeep.toml", "workspaces"];

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let (Ok(data_dir), Some(owner)) = (&facts.data_dir, &facts.owner) else {
        return Vec::new();
    };
    let inspect = |names: &[&str], private: bool| -> Vec<OwnedPath> {
        let paths = names.iter().map(|name| data_dir.dir().join(name));
        paths
            .filter_map(|path| OwnedPath::inspect(path, private))
            .collect()
    };
    let paths = [inspect(&PRIVATE, true), inspect(&OWNED, false)].concat();
    let mut checks = vec![check_owners(&paths, owner.uid, &owner.name, data_dir)];
    checks.extend(check_bin(facts, data_dir));
    checks.push(check_secrets(&secrets(facts, data_dir)));
    if facts.has_units
        && let Some(home) = &owner.home
    {
        checks.push(check_links(&links(facts, data_dir, home)));
    }
    checks
}

/// A file or a directory with its owner and mode.
#[derive(Debug, Clone)]
struct OwnedPath {
    path: PathBuf,
    uid: u32,
    mode: u32,
    private: bool,
}

impl OwnedPath {
    fn inspect(path: PathBuf, private: bool) -> Option<Self> {
        let meta = fs::symlink_metadata(&path).ok()?;
        (!meta.is_symlink()).then(|| Self {
            uid: meta.uid(),
            mode: meta.mode(),
            path,
            private,
        })
    }

    fn is_exposed(&self) -> bool {
        self.mode & if self.private { 0o077 } else { 0o002 } != 0
    }
}

fn check_owners(paths: &[OwnedPath], uid: u32, user: &str, data_dir: &DataDir) -> Check {
    if let Some(other) = paths.iter().find(|path| path.uid != uid) {
        return Check::wrong(
            "owners",
            format!(
                "{} belongs to the user {}, not to {user}, whose agents need it",
                other.path.display(),
                sys::user::name(other.uid)
            ),
            format!(
                "sudo chown -R {user}: {0}/.claude {0}/session-state {0}/workspaces",
                data_dir.dir().display()
            ),
        );
    }
    match paths.iter().find(|path| path.is_exposed()) {
        Some(open) => {
            let path = open.path.display();
            let who = if open.private { "go-rwx" } else { "o-w" };
            let mode = open.mode & 0o7777;
            let detail = format!("other users have access to {path} (mode {mode:o})");
            Check::wrong("owners", detail, format!("chmod {who} {path}"))
        }
        None => Check::good("owners", format!("all belong to {user}, closed to others")),
    }
}

/// Checks `bin`, whose programs root runs by the units: only root may write there.
fn check_bin(facts: &Facts, data_dir: &DataDir) -> Option<Check> {
    let bin = OwnedPath::inspect(data_dir.dir().join("bin"), false)?;
    if !facts.has_units {
        return None;
    }
    let replaceable = OwnedPath::inspect(data_dir.dir().to_path_buf(), false)
        .is_some_and(|dir| dir.uid != 0 || (dir.mode & 0o022 != 0 && dir.mode & 0o1000 == 0));
    let path = bin.path.display();
    Some(match bin.uid != 0 || bin.mode & 0o022 != 0 || replaceable {
        true => Check::wrong(
            "bin",
            format!("root runs the programs in {path}, and an agent could replace them"),
            "sudo spotkeep setup",
        ),
        false => Check::good("bin", "only root can change it"),
    })
}

/// Returns every file that holds a login or a key; `Err` for one that is declared and missing.
fn secrets(facts: &Facts, data_dir: &DataDir) -> Vec<Result<OwnedPath, PathBuf>> {
    let agents = facts.config.agents.values();
    let declared = agents
        .filter_map(|agent| agent.env_file.as_ref())
        .chain(&facts.config.defaults.env_file)
        .map(|file| data_dir.absolute(file));
    let mut found: Vec<_> = declared
        .map(|path| match fs::metadata(&path) {
            Ok(meta) => Ok(OwnedPath {
                uid: meta.uid(),
                mode: meta.mode(),
                private: true,
                path,
            }),
            Err(_) => Err(path),
        })
        .collect();
    let login = data_dir.claude().join(".credentials.json");
    found.extend(OwnedPath::inspect(login, true).map(Ok));
    found
}

fn check_secrets(secrets: &[Result<OwnedPath, PathBuf>]) -> Check {
    for secret in secrets {
        match secret {
            Err(path) => {
                let path = path.display();
                let detail = format!("env_file {path} is missing; its agents cannot start");
                return Check::wrong("secrets", detail, format!("(umask 077; touch {path})"));
            }
            Ok(secret) if secret.is_exposed() => {
                let path = secret.path.display();
                let detail = format!("other users can read {path}");
                return Check::wrong("secrets", detail, format!("chmod 600 {path}"));
            }
            Ok(_) => {}
        }
    }
    Check::good(
        "secrets",
        count(secrets.len(), "file") + ", closed to others",
    )
}

/// Returns the links of a machine that was set up, with their targets.
fn links(facts: &Facts, data_dir: &DataDir, home: &Path) -> Vec<Link> {
    let home = facts.machine.path(&home.display().to_string());
    let pieces = facts.config.machine.home.iter();
    let desired = [
        (home.join(".claude"), data_dir.claude()),
        (
            home.join(".claude.json"),
            data_dir.claude().join(".claude.json"),
        ),
        (
            facts.machine.path("workspaces"),
            data_dir.dir().join("workspaces"),
        ),
    ];
    pieces
        .map(|piece| (home.join(piece), data_dir.dir().join("home").join(piece)))
        .chain(desired)
        .map(|(at, to)| Link {
            leads: fs::read_link(&at).ok(),
            exists: fs::symlink_metadata(&at).is_ok(),
            at,
            to,
        })
        .collect()
}

#[derive(Debug)]
struct Link {
    at: PathBuf,
    to: PathBuf,
    leads: Option<PathBuf>,
    exists: bool,
}

fn check_links(links: &[Link]) -> Check {
    let wrong = links
        .iter()
        .find(|link| link.leads.as_deref() != Some(link.to.as_path()));
    let Some(link) = wrong else {
        return Check::good(
            "links",
            format!("{} point into the data directory", links.len()),
        );
    };
    let (at, to) = (link.at.display(), link.to.display());
    let detail = match (&link.leads, link.exists) {
        (Some(other), _) => format!("{at} points to {}, not to {to}", other.display()),
        (None, true) => format!("{at} is on the boot disk, not a link to {to}"),
        (None, false) => format!("{at} is missing; it should be a link to {to}"),
    };
    Check::wrong("links", detail, "sudo spotkeep setup")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(uid: u32, mode: u32, private: bool) -> OwnedPath {
        let path = "/r/x".into();
        OwnedPath {
            path,
            uid,
            mode,
            private,
        }
    }

    #[test]
    fn a_wrong_owner_or_mode_is_named_with_the_command_that_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let evaluate = |path: OwnedPath| check_owners(&[path], 7, "ann", &data_dir);
        assert!(evaluate(owned(7, 0o700, true)).ok);
        assert!(evaluate(owned(7, 0o755, false)).ok);
        let of_root = evaluate(owned(0, 0o700, true));
        assert!(!of_root.ok && of_root.fix.unwrap().contains("chown -R ann:"));
        assert_eq!(
            evaluate(owned(7, 0o750, true)).fix.unwrap(),
            "chmod go-rwx /r/x"
        );
        assert_eq!(
            evaluate(owned(7, 0o777, false)).fix.unwrap(),
            "chmod o-w /r/x"
        );
    }

    #[test]
    fn a_secret_that_others_can_read_or_that_is_missing_is_wrong() {
        assert!(check_secrets(&[Ok(owned(7, 0o600, true))]).ok);
        let open = check_secrets(&[Ok(owned(7, 0o644, true))]);
        assert_eq!(open.fix.unwrap(), "chmod 600 /r/x");
        assert!(!check_secrets(&[Err("/r/x".into())]).ok);
    }

    #[test]
    fn a_link_that_points_elsewhere_or_is_missing_is_wrong() {
        let link = |leads: Option<&str>, exists| Link {
            at: "/home/ann/.claude".into(),
            to: "/r/.claude".into(),
            leads: leads.map(PathBuf::from),
            exists,
        };
        assert!(check_links(&[link(Some("/r/.claude"), true)]).ok);
        let detail = |link: Link| check_links(&[link]).detail;
        assert!(detail(link(Some("/old"), true)).contains("points to /old"));
        assert!(detail(link(None, true)).contains("on the boot disk"));
        assert!(detail(link(None, false)).contains("is missing"));
    }
}
