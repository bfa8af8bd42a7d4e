//! Templates of the systemd units, and their rendering for one machine.
//!
//! The templates are in `units/` of the source and explain their lines.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use state::layout::DataDir;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::user;

/// The tmux server with the agents.
pub const TMUX: &str = "spotkeep-tmux.service";
/// The keeper.
pub const KEEPER: &str = "spotkeep.service";
/// The save at shutdown.
pub const SAVE: &str = "spotkeep-save.service";

/// A backup, as root.
pub const BACKUP: &str = "spotkeep-backup.service";
/// The schedule of the backups.
pub const BACKUP_TIMER: &str = "spotkeep-backup.timer";
/// The recovery of lost files before the keeper starts.
pub const RECOVER: &str = "spotkeep-recover.service";

/// Units of former versions, which [`super::install::install`] removes: the old name of
/// [`RECOVER`].
pub const FORMER: [&str; 1] = ["spotkeep-mend.service"];

/// Units that are started, in this order; these start the others.
pub const ALL: [&str; 4] = [TMUX, KEEPER, SAVE, BACKUP_TIMER];

/// The directory of the units, below `/`.
pub const UNIT_DIR: &str = "etc/systemd/system";
/// The configuration by which needrestart does not restart the tmux server.
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

/// The values in the units that differ between machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPaths {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Whether the data directory is a mount point, without which no unit starts.
    pub is_mount: bool,
    /// The user who owns the agents.
    pub user: String,
    /// The home of that user.
    pub home: PathBuf,
    /// The program that the units run: `<data-dir>/bin/spotkeep`.
    pub program: PathBuf,
}

impl UnitPaths {
    /// Reads the values for a data directory on this machine.
    ///
    /// The user is the owner of the data directory's state, and not the name that is written there,
    /// which the user could change.
    ///
    /// # Errors
    /// The state cannot be read, or its owner has no account on this machine.
    pub fn from_data_dir(data_dir: &DataDir) -> Result<Self> {
        let state = data_dir.records();
        let uid = std::fs::symlink_metadata(&state)
            .with_context(|| format!("cannot read {}", state.display()))?
            .uid();
        let user = user::name(uid);
        let home = user::home(uid)
            .with_context(|| {
                format!(
                    "the owner of {} (uid {uid}) has no account on this machine",
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

/// A file that setup installs on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// Its path, relative to `/`.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// Renders the files for one machine: its units, and the configuration of needrestart.
///
/// # Errors
/// A path or a name has characters with a special meaning in a unit.
pub fn render(paths: &UnitPaths) -> Result<Vec<Shipped>> {
    let data_dir = plain(&paths.data_dir)?;
    let home = plain(&paths.home)?;
    let program = plain(&paths.program)?;
    let user = plain(Path::new(&paths.user))?;
    let mount = mount_unit(&paths.data_dir);
    let condition = format!("ConditionPathIsMountPoint={data_dir}");
    let wanted_by = format!("WantedBy={mount}");
    let path = format!(
        "{home}/.local/bin:{data_dir}/bin:\
         /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    let of_mount = |line: &str| paths.is_mount.then(|| line.to_owned());
    let fill = |line: &str| match line {
        "@CONDITION_MOUNTED@" => of_mount(&condition),
        // A disk that is mounted late starts the agents.
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

/// The version in the text of a unit; `None` if it is not spotkeep's.
#[must_use]
pub fn version_of(text: &str) -> Option<&str> {
    let (_, ours) = text.split_once("[X-Spotkeep]")?;
    ours.lines()
        .find_map(|line| line.strip_prefix("Version="))
        .map(str::trim)
}

/// Whether the text of a keeper's unit is for this data directory.
#[must_use]
pub fn is_keeper_of(text: &str, data_dir: &Path) -> bool {
    // A version before the option was renamed may have written the unit.
    let alias = "--root";
    ["--data-dir", alias].iter().any(|option| {
        let ours = format!(" {option} {} run --unit", data_dir.display());
        text.lines()
            .any(|line| line.starts_with("ExecStart=") && line.ends_with(&ours))
    })
}

/// Returns the name of the mount unit of a path, like `systemd-escape --path --suffix=mount`.
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

/// Returns a path that has no special meaning in a unit: no blanks, quotes, `%`, `$` or
/// backslashes.
fn plain(path: &Path) -> Result<&str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:,".contains(&byte);
    path.to_str()
        .filter(|text| !text.is_empty() && text.bytes().all(good))
        .ok_or_else(|| anyhow!("{} cannot be used in a systemd unit", path.display()))
        .hint("use a path of letters, digits and . _ - +")
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
    fn the_units_match_the_snapshot() {
        let all: String = render(&paths())
            .unwrap()
            .iter()
            .map(|file| format!("==> /{}\n{}\n", file.path.display(), file.text))
            .collect();
        let all = all.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!("units", all);
    }

    #[test]
    fn a_data_directory_without_its_own_mount_waits_for_none_and_every_field_is_filled() {
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
    fn each_unit_names_its_version() {
        for file in render(&paths()).unwrap() {
            let version = version_of(&file.text);
            let expected = file.path.starts_with(UNIT_DIR);
            assert_eq!(version, expected.then_some(env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn a_path_with_a_special_meaning_in_a_unit_is_refused() {
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
    fn a_mount_unit_has_the_name_of_systemd_escape() {
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
