//! The units as shipped: templates, and what is filled into them for one machine. Pure.
//!
//! The files themselves say why each line is there; they are in `units/` of the source.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use state::layout::DataDir;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::user;

/// The tmux server, and in it the agents.
pub const TMUX: &str = "spotkeep-tmux.service";
/// The keeper.
pub const KEEPER: &str = "spotkeep.service";
/// The shutdown's save.
pub const SAVE: &str = "spotkeep-save.service";

/// Backups, as root.
pub const BACKUP: &str = "spotkeep-backup.service";
/// When they are made.
pub const BACKUP_TIMER: &str = "spotkeep-backup.timer";
/// What is lost, brought back before the keeper starts.
pub const RECOVER: &str = "spotkeep-recover.service";

/// Units of former versions, which [`super::install::install`] removes: [`RECOVER`] had another name.
pub const FORMER: [&str; 1] = ["spotkeep-mend.service"];

/// Those that are started, in that order; others start the rest.
pub const ALL: [&str; 4] = [TMUX, KEEPER, SAVE, BACKUP_TIMER];

/// Where units are, below the root of the file system.
pub const UNIT_DIR: &str = "etc/systemd/system";
/// Where needrestart is told to leave the agents alone.
const NEEDRESTART: &str = "etc/needrestart/conf.d/spotkeep.conf";

const TEMPLATES: [(&str, &str); 6] = [
    (TMUX, include_str!("../../units/spotkeep-tmux.service")),
    (KEEPER, include_str!("../../units/spotkeep.service")),
    (SAVE, include_str!("../../units/spotkeep-save.service")),
    (BACKUP, include_str!("../../units/spotkeep-backup.service")),
    (
        BACKUP_TIMER,
        include_str!("../../units/spotkeep-backup.timer"),
    ),
    (
        RECOVER,
        include_str!("../../units/spotkeep-recover.service"),
    ),
];

/// What differs from machine to machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPaths {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Whether a filesystem is mounted exactly there, without which nothing starts.
    pub is_mount: bool,
    /// Whose agents these are.
    pub user: String,
    /// The home of that user.
    pub home: PathBuf,
    /// The program that the units run: `<data-dir>/bin/spotkeep`.
    pub program: PathBuf,
}

impl UnitPaths {
    /// As they are for a data directory on this machine.
    ///
    /// Who the user is, is told by the owner of the data directory's state, and not by what is written there:
    /// the user could write another name.
    ///
    /// # Errors
    /// The state cannot be looked at, or its owner is no user of this machine.
    pub fn from_data_dir(data_dir: &DataDir) -> Result<Self> {
        let state = data_dir.records();
        let uid = std::fs::symlink_metadata(&state)
            .with_context(|| format!("cannot look at {}", state.display()))?
            .uid();
        let user = user::name(uid);
        let home = user::home(uid)
            .with_context(|| {
                format!(
                    "the owner of {} (uid {uid}) is no user here",
                    state.display()
                )
            })
            .hint(format!("sudo useradd --create-home --uid {uid} NAME"))?;
        Ok(Self {
            data_dir: data_dir.dir().to_path_buf(),
            is_mount: data_dir.is_own_filesystem(),
            user,
            home,
            program: data_dir.program(),
        })
    }
}

/// A file that we put on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// Relative to the root of the file system.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

/// The files for one machine: its units, and a word to needrestart.
///
/// # Errors
/// A path or a name that cannot stand in a unit as it is.
pub fn render(paths: &UnitPaths) -> Result<Vec<Shipped>> {
    let data_dir = plain(&paths.data_dir)?;
    let home = plain(&paths.home)?;
    let program = plain(&paths.program)?;
    let user = plain(Path::new(&paths.user))?;
    let mount = mount_unit(&paths.data_dir);
    let condition = format!("ConditionPathIsMountPoint={data_dir}");
    let wanted_by = format!("WantedBy={mount}");
    let path = format!(
        "{home}/.local/bin:{data_dir}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    let of_mount = |line: &str| paths.is_mount.then(|| line.to_owned());
    let fill = |line: &str| match line {
        "@CONDITION_MOUNTED@" => of_mount(&condition),
        // A disk that comes late brings the agents with it.
        "@WANTED_BY_MOUNT@" => of_mount(&wanted_by),
        line => Some(
            line.replace("@DATA_DIR@", data_dir)
                .replace("@HOME@", home)
                .replace("@PROGRAM@", program)
                .replace("@USER@", user)
                .replace("@PATH@", &path)
                .replace("@VERSION@", env!("CARGO_PKG_VERSION")),
        ),
    };
    let units = TEMPLATES.map(|(name, template)| Shipped {
        path: Path::new(UNIT_DIR).join(name),
        text: template
            .lines()
            .filter_map(fill)
            .map(|line| line + "\n")
            .collect(),
    });
    let needrestart = Shipped {
        path: NEEDRESTART.into(),
        text: include_str!("../../units/needrestart.conf").into(),
    };
    Ok(units.into_iter().chain([needrestart]).collect())
}

/// The version stamp in the text of a unit; `None` where it is not ours.
#[must_use]
pub fn version_of(text: &str) -> Option<&str> {
    let (_, ours) = text.split_once("[X-Spotkeep]")?;
    ours.lines()
        .find_map(|line| line.strip_prefix("Version="))
        .map(str::trim)
}

/// Whether the text of a keeper's unit is about this data directory.
#[must_use]
pub fn is_keeper_of(text: &str, data_dir: &Path) -> bool {
    // A version before the option was renamed may have written the unit.
    ["--data-dir", "--root"].iter().any(|option| {
        let ours = format!(" {option} {} run --unit", data_dir.display());
        text.lines()
            .any(|line| line.starts_with("ExecStart=") && line.ends_with(&ours))
    })
}

/// The name of the mount unit of a path, as `systemd-escape --path --suffix=mount` makes it.
#[must_use]
pub fn mount_unit(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let parts: Vec<&[u8]> = path
        .as_os_str()
        .as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    let mut name = String::new();
    for (at, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'.' | b'_' | b':' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                name.push(char::from(byte));
            }
            // Writing into a string cannot fail.
            other => write!(name, "\\x{other:02x}").unwrap_or_default(),
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    name + ".mount"
}

/// What means in a unit nothing but itself: no blanks, quotes, `%`, `$` or backslashes.
fn plain(path: &Path) -> Result<&str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:,".contains(&byte);
    path.to_str()
        .filter(|text| !text.is_empty() && text.bytes().all(good))
        .ok_or_else(|| anyhow!("{} cannot stand in a systemd unit", path.display()))
        .hint("choose a path of letters, digits and . _ - +")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> UnitPaths {
        UnitPaths {
            data_dir: "/mnt/persist".into(),
            is_mount: true,
            user: "ann".into(),
            home: "/home/ann".into(),
            program: "/mnt/persist/bin/spotkeep".into(),
        }
    }

    #[test]
    fn the_units_are_as_they_were_reviewed() {
        let all: String = render(&paths())
            .unwrap()
            .iter()
            .map(|file| format!("==> /{}\n{}\n", file.path.display(), file.text))
            .collect();
        let all = all.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!("units", all);
    }

    #[test]
    fn a_root_that_is_no_mount_waits_for_none_and_nothing_is_left_unfilled() {
        let directory = UnitPaths {
            is_mount: false,
            ..paths()
        };
        for paths in [directory, paths()] {
            for file in render(&paths).unwrap() {
                let mentions = file.text.contains("IsMountPoint=")
                    && file.text.contains("WantedBy=mnt-persist.mount");
                let comes_with_the_disk = [TMUX, KEEPER, SAVE]
                    .iter()
                    .any(|unit| file.path.ends_with(unit));
                assert_eq!(mentions, paths.is_mount && comes_with_the_disk);
                let left = file
                    .text
                    .lines()
                    .find(|line| !line.starts_with('#') && line.matches('@').count() > 1);
                assert_eq!(left, None, "{}", file.path.display());
            }
        }
    }

    #[test]
    fn each_unit_says_its_version() {
        for file in render(&paths()).unwrap() {
            let version = version_of(&file.text);
            let expected = file.path.starts_with(UNIT_DIR);
            assert_eq!(version, expected.then_some(env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn a_path_that_means_something_else_in_a_unit_is_refused() {
        for data_dir in [
            "/mnt/my disk",
            "/mnt/%h",
            "/mnt/$A",
            "/mnt/a\"b",
            "/mnt/a\\x",
        ] {
            let paths = UnitPaths {
                data_dir: data_dir.into(),
                ..paths()
            };
            assert!(render(&paths).is_err(), "{data_dir}");
        }
    }

    #[test]
    fn a_mount_unit_has_the_name_that_systemd_gives_it() {
        for (path, name) in [
            ("/mnt/persist", "mnt-persist.mount"),
            ("/mnt//persist/", "mnt-persist.mount"),
            ("/mnt/claude-persist", "mnt-claude\\x2dpersist.mount"),
            ("/.x y", "\\x2ex\\x20y.mount"),
            ("/", "-.mount"),
        ] {
            assert_eq!(mount_unit(Path::new(path)), name);
        }
    }
}
