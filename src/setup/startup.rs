//! Start-up script for a new VM: restores everything from the disk.

use std::path::Path;

/// Returns one line of shell. It waits for the disk for at most two minutes, mounts it, and runs
/// the spotkeep on it, if only root can write to that program. `disk` is the argument of
/// `setup --disk`, `device` the stable name under which it was found.
#[must_use]
pub fn script(disk: &str, device: &Path, mount: &Path) -> String {
    let device = quoted(&device.to_string_lossy());
    let at = quoted(&mount.to_string_lossy());
    format!(
        "#!/bin/sh\n\
         d={device} m={at} n=0; \
         until [ -b \"$d\" ]; do n=$((n+1)); [ $n -le 120 ] || {{ echo \"spotkeep: no disk $d\" \
         >&2; exit 1; }}; sleep 1; done; \
         mkdir -p \"$m\"; mountpoint -q \"$m\" || mount -o noatime,nodev,nosuid \"$d\" \"$m\" || \
         exit 1; \
         [ \"$(stat -c %u:%a \"$m/bin\" \"$m/bin/spotkeep\" 2>&1 | tr '\\n' ' ')\" = '0:755 0:755 \
         ' ] || {{ echo \"spotkeep: $d holds no data directory\" >&2; exit 1; }}; \
         exec \"$m/bin/spotkeep\" --data-dir \"$m\" setup --disk {disk} --yes",
        disk = quoted(disk),
    )
}

fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_the_script_and_refuses_a_disk_that_does_not_come() {
        let device = Path::new("/dev/disk/by-id/google-claude-persist");
        let script = script("claude-persist", device, Path::new("/mnt/persist"));
        assert!(script.contains("d=/dev/disk/by-id/google-claude-persist "));
        assert_eq!(script.lines().count(), 2, "one line");
        let checked = std::process::Command::new("sh")
            .args(["-n", "-c", &script])
            .status();
        assert!(checked.unwrap().success());
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted("/dev/disk/by-id/x-1"), "/dev/disk/by-id/x-1");
    }
}
