//! The steps of a set-up, each with its one-line description.

use std::path::PathBuf;

use super::account::{Owner, RequestedAccount};
use super::layout::Fix;
use super::login_line;
use crate::storage::device::{Device, size};
use crate::storage::filesystem::FilesystemKind;
use crate::storage::links::{Link, State};

/// A step of a set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Install packages of the distribution.
    Install(Vec<&'static str>),
    /// Make a file system on a blank disk.
    Format {
        /// The disk.
        device: Box<Device>,
        /// The id of the new file system.
        uuid: String,
    },
    /// Make the mount point.
    MountPoint(PathBuf),
    /// Write and enable the mount unit: files with their texts, and links with their targets.
    MountUnit {
        /// Files.
        files: Vec<(PathBuf, String)>,
        /// Links that have it start at boot.
        links: Vec<(PathBuf, PathBuf)>,
    },
    /// Mount the file system.
    Mount {
        /// The device.
        device: PathBuf,
        /// Its file system.
        kind: FilesystemKind,
        /// The mount point.
        at: PathBuf,
        /// The name of the unit, if systemd mounts it.
        unit: Option<String>,
    },
    /// Grow the file system to the size of its device.
    Grow {
        /// The device.
        device: PathBuf,
        /// Its file system.
        kind: FilesystemKind,
        /// The mount point.
        at: PathBuf,
        /// Whether it is mounted at that time.
        is_mounted: bool,
        /// Size of the file system, in bytes.
        from: u64,
        /// Size of the device, in bytes.
        to: u64,
    },
    /// Create the account.
    Account(RequestedAccount),
    /// Make the directories of the data directory and set their owners.
    Layout(Vec<Fix>, String),
    /// Make the user's part of the data directory.
    Inhabit,
    /// Record the owner for the next machine.
    Remember(Owner),
    /// Copy this program to the disk.
    Program {
        /// Whether the disk has another version.
        replaces: bool,
    },
    /// Link `spotkeep` into a directory of every user's `PATH`.
    Command(PathBuf),
    /// Keep a claude on the disk.
    Claude {
        /// Its version; `None` if it is known only after the copy.
        version: Option<String>,
        /// The file to copy.
        from: PathBuf,
        /// Whether root named it; otherwise the user's process reads it.
        by_root: bool,
    },
    /// Make a link in the home directory.
    Link(Link, State),
    /// Make the link `/workspaces`.
    Workspaces(Link, State),
    /// Raise the retention of transcripts.
    Retain,
    /// Write and enable the units; their number.
    Units(usize),
    /// Install the line at login.
    LoginLine,
    /// Run the user's script for a new boot disk.
    Script(String),
    /// Start the keeper.
    Start {
        /// Whether a running keeper has to be restarted.
        restart: bool,
    },
}

impl Step {
    /// Describes the step for people.
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
            Self::Program { replaces: false } => "copy this spotkeep to the disk".to_owned(),
            Self::Command(at) => format!("link {} to it", at.display()),
            Self::Claude { version, from, .. } => format!(
                "keep the claude {} of {} on the disk",
                version.as_deref().unwrap_or("(version not known yet)"),
                from.display()
            ),
            Self::Link(link, State::Content { files, bytes })
            | Self::Workspaces(link, State::Content { files, bytes }) => format!(
                "move {} ({files} files, {bytes} bytes) to {}, keep the original beside it, and \
                 link it",
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
                    "show at each login how the last preemption went (/{})",
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

    /// Whether the machine can do without it: a failure is reported, and the other steps go on.
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
