//! The steps of a set-up. Each is worth a line, and looks by itself whether it is still needed.

use std::path::PathBuf;

use super::account::{Owner, RequestedAccount};
use super::layout::Fix;
use super::login_line;
use crate::storage::device::{Device, size};
use crate::storage::filesystem::FilesystemKind;
use crate::storage::links::{Link, State};

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Packages of the distribution.
    Install(Vec<&'static str>),
    /// A file system on a blank disk.
    Format {
        /// The disk.
        device: Box<Device>,
        /// The id of the new file system.
        uuid: String,
    },
    /// The directory that is mounted on.
    MountPoint(PathBuf),
    /// The mount unit, enabled: files with their texts, and links with their targets.
    MountUnit {
        /// Files.
        files: Vec<(PathBuf, String)>,
        /// Links that have it start at boot.
        links: Vec<(PathBuf, PathBuf)>,
    },
    /// The mount itself.
    Mount {
        /// The device.
        device: PathBuf,
        /// What is on it.
        kind: FilesystemKind,
        /// Where.
        at: PathBuf,
        /// By systemd: the name of the unit.
        unit: Option<String>,
    },
    /// The file system, made as large as its device.
    Grow {
        /// The device.
        device: PathBuf,
        /// What is on it.
        kind: FilesystemKind,
        /// Where it is, or will be, mounted.
        at: PathBuf,
        /// Whether it is mounted by then.
        is_mounted: bool,
        /// How large it is.
        from: u64,
        /// How large the device is.
        to: u64,
    },
    /// The account.
    Account(RequestedAccount),
    /// Directories of the data directory, with their owners.
    Layout(Vec<Fix>, String),
    /// The user's part of the data directory.
    Inhabit,
    /// Whose it is, written down for the next machine.
    Remember(Owner),
    /// This program, on the disk.
    Program {
        /// Whether there is another version.
        replaces: bool,
    },
    /// `spotkeep` on everybody's `PATH`.
    Command(PathBuf),
    /// A claude that travels with the disk.
    Claude {
        /// Its version; none where it is not known before it was copied.
        version: Option<String>,
        /// Where it is now.
        from: PathBuf,
        /// Whether root named it; otherwise the user's process reads it.
        by_root: bool,
    },
    /// A link in the home.
    Link(Link, State),
    /// `/workspaces`.
    Workspaces(Link, State),
    /// A longer boot for transcripts.
    Retain,
    /// The units.
    Units(usize),
    /// The line at the next login.
    LoginLine,
    /// The user's script for a new boot disk.
    Script(String),
    /// The fleet.
    Start {
        /// Whether a keeper runs that has to be replaced.
        restart: bool,
    },
}

impl Step {
    /// What it does, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Install(packages) => format!("install {}", packages.join(", ")),
            Self::Format { device, .. } => format!(
                "format {} ({}, {}, blank) as ext4",
                device.name.display(),
                device.path.display(),
                size(device.bytes)
            ),
            Self::MountPoint(at) => format!("make the directory {}", at.display()),
            Self::MountUnit { files, .. } => {
                let name = files.first().map(|(path, _)| path.display().to_string());
                format!("write and enable {}", name.unwrap_or_default())
            }
            Self::Mount {
                device, at, kind, ..
            } => {
                format!(
                    "mount {} ({}) at {}",
                    device.display(),
                    kind.name(),
                    at.display()
                )
            }
            Self::Grow { at, from, to, .. } => {
                format!(
                    "grow the file system at {} from {} to {}",
                    at.display(),
                    size(*from),
                    size(*to)
                )
            }
            Self::Account(requested) => match requested.uid {
                Some(uid) => format!("make the account {} with the user id {uid}", requested.name),
                None => format!("make the account {}", requested.name),
            },
            Self::Layout(fixes, user) => {
                let list: Vec<String> = fixes.iter().map(|fix| fix.describe(user)).collect();
                format!("on the disk: {}", list.join("; "))
            }
            Self::Inhabit => "make the user's directories, root.json and spotkeep.toml".to_owned(),
            Self::Remember(owner) => format!(
                "remember on the disk that the agents are those of {} ({})",
                owner.user, owner.uid
            ),
            Self::Program { replaces: true } => {
                "replace the spotkeep on the disk by this one; the old one stays as spotkeep.prev"
                    .to_owned()
            }
            Self::Program { replaces: false } => "put this spotkeep onto the disk".to_owned(),
            Self::Command(at) => format!("link {} to it", at.display()),
            Self::Claude { version, from, .. } => format!(
                "keep the claude {} of {} on the disk",
                version.as_deref().unwrap_or("(its version is asked then)"),
                from.display()
            ),
            Self::Link(link, State::Content { files, bytes })
            | Self::Workspaces(link, State::Content { files, bytes }) => format!(
                "move {} ({files} files, {bytes} bytes) to {}, keep the original aside, and link it",
                link.at.display(),
                link.to.display()
            ),
            Self::Link(link, _) | Self::Workspaces(link, _) => {
                format!("link {} to {}", link.at.display(), link.to.display())
            }
            Self::Retain => format!(
                "have Claude keep transcripts for {} days (cleanupPeriodDays)",
                claude::retention::LONG_DAYS
            ),
            Self::Units(files) => format!("write and enable the units of spotkeep ({files} files)"),
            Self::LoginLine => {
                format!(
                    "tell at each login how the last preemption went (/{})",
                    login_line::PATH
                )
            }
            Self::Script(script) => {
                format!("run {script} as the user, once on this boot disk")
            }
            Self::Start { restart: true } => "restart the keeper; agents go on".to_owned(),
            Self::Start { restart: false } => "start the keeper".to_owned(),
        }
    }

    /// Whether the machine can do without it: its failure is told, and the rest goes on.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        matches!(
            self,
            Self::Install(_)
                | Self::Grow { .. }
                | Self::Claude { .. }
                | Self::Retain
                | Self::Script(_)
                | Self::Link(..)
                | Self::Workspaces(..)
        )
    }
}
