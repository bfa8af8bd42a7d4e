//! Paths of the system's own files: at `/`, or in tests below a directory that replaces it.

use std::path::{Path, PathBuf};

/// The system whose files are read and changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    prefix: PathBuf,
}

impl Prefix {
    /// Returns the machine itself, or with a `prefix` a directory in its place.
    #[must_use]
    pub fn new(prefix: Option<&Path>) -> Self {
        Self {
            prefix: prefix.unwrap_or(Path::new("/")).to_path_buf(),
        }
    }

    /// Whether this is the machine itself.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.prefix == Path::new("/")
    }

    /// Returns the prefix; `/` for the machine itself.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Returns an absolute path of the system, below the prefix.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.prefix.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether systemd runs this machine, so that units can be started.
    #[must_use]
    pub fn has_systemd(&self) -> bool {
        self.is_real() && Path::new("/run/systemd/system").is_dir()
    }

    /// Whether udev maintains the names under `/dev/disk`.
    #[must_use]
    pub fn has_udev(&self) -> bool {
        self.is_real() && Path::new("/run/udev/control").exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_added_to_every_path_and_nothing_is_started_there() {
        let place = Prefix::new(Some(Path::new("/tmp/x")));
        assert_eq!(place.join("/etc/passwd"), Path::new("/tmp/x/etc/passwd"));
        assert!(!place.is_real() && !place.has_systemd() && !place.has_udev());
        assert_eq!(Prefix::new(None).join("/etc"), Path::new("/etc"));
    }
}
