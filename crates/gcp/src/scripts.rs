//! Shell scripts: the start-up script of the VM, and the script that `--dry-run` prints.

use super::gcloud_command::{Call, quote};

/// The file in which the start-up script writes its result, for [`super::ssh`].
pub const SAID: &str = "/run/spotkeep-startup";

/// The start-up script. It runs at each boot, as root, and has only the disk's name: all else is on
/// the disk. It runs a program from the disk only if no user but root can have written it.
const STARTUP: &str = r#"#!/bin/sh
# spotkeep: at each boot, the spotkeep on the data disk makes this VM ready.
set -eu
disk=/dev/disk/by-id/google-DISK
say() { echo "spotkeep: $*"; echo "$*" >/run/spotkeep-startup; }
give_up() { say "failed: $*"; exit 1; }
say working
waited=0
until [ -b "$disk" ]; do
    [ "$waited" -lt 120 ] || give_up "the disk DISK did not appear within 120 s"
    waited=$((waited + 1))
    sleep 1
done
if [ -z "$(blkid -p -o value -s TYPE "$disk" || true)" ]; then
    say 'new: the disk holds no filesystem yet'
    exit 0
fi
# A copy, so that the disk is free again before anything is done with it.
own=/usr/local/lib/spotkeep-startup
mkdir -p "$own/disk"
at=$(findmnt -n -o TARGET --source "$(readlink -f "$disk")" | head -n 1)
if [ -z "$at" ]; then
    at=$own/disk
    mount -o ro,nosuid,nodev "$disk" "$at" || give_up "the disk cannot be mounted"
fi
of_root() { [ ! -L "$1" ] && [ -n "$(find "$1" -maxdepth 0 -user root ! -perm /022)" ]; }
found=no
if [ -f "$at/bin/spotkeep" ]; then
    found=unsafe
    if of_root "$at/bin" && of_root "$at/bin/spotkeep"; then
        found=yes
        install -m 0755 "$at/bin/spotkeep" "$own/spotkeep"
    fi
fi
[ "$at" != "$own/disk" ] || umount "$at"
case $found in
no) say 'new: there is no spotkeep on the disk yet' && exit 0 ;;
unsafe) give_up "bin/spotkeep on the disk can be written by others than root" ;;
esac
ended=0
"$own/spotkeep" setup --disk DISK --yes 2>"$own/said" || ended=$?
cat "$own/said" >&2
first() { sed -n "s/^$1: //p" "$own/said" | head -n 1; }
case $ended in
0) say ready ;;
3) say "ready, but $(first problem)" ;;
*) give_up "spotkeep setup ended with $ended: $(first error)" ;;
esac
"#;

/// Returns the start-up script for a VM with the data disk `disk`.
#[must_use]
pub fn startup(disk: &str) -> String {
    STARTUP.replace("DISK", disk)
}

/// A part of the script that `--dry-run` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A comment.
    Note(String),
    /// A call.
    Call(Call),
    /// A call that is repeated every 10 seconds until it succeeds, with a maximum number of
    /// attempts.
    Until(Call, u32),
    /// Calls that are made only if the first one succeeds.
    If(Call, Vec<Call>),
}

/// Returns a script that the user can read and run.
#[must_use]
pub fn by_hand(title: &str, parts: &[Part]) -> String {
    let mut text =
        format!("#!/bin/sh\n# {title}\nset -eu\nexport CLOUDSDK_CORE_DISABLE_PROMPTS=1\n");
    for part in parts {
        text.push('\n');
        match part {
            Part::Note(note) => text.push_str(&format!("# {note}\n")),
            Part::Call(call) => text.push_str(&shown(call)),
            Part::Until(call, times) => text.push_str(&format!(
                "# {}\ntries=0\nuntil {call}; do\n    tries=$((tries + 1))\n    \
                 [ \"$tries\" -lt {times} ] || exit 1\n    sleep 10\ndone\n",
                call.why
            )),
            Part::If(condition, calls) => {
                let calls: Vec<String> = calls.iter().map(shown).collect();
                text.push_str(&format!(
                    "# {}\nif {condition}; then\n\n{}\nfi\n",
                    condition.why,
                    calls.join("\n")
                ));
            }
        }
    }
    text
}

fn shown(call: &Call) -> String {
    format!("# {}\n{}\n", call.why, in_lines(call))
}

/// Formats a long call with one flag in each line.
fn in_lines(call: &Call) -> String {
    let line = call.to_string();
    if line.len() <= 100 {
        return line;
    }
    let (flags, words): (Vec<_>, Vec<_>) =
        call.words.iter().partition(|word| word.starts_with("--"));
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    let flags: Vec<String> = flags.iter().map(|word| quote(word)).collect();
    format!(
        "gcloud {} \\\n    {}",
        words.join(" "),
        flags.join(" \\\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_script_has_the_name_of_its_disk() {
        let script = startup("claude-persist");
        assert!(script.contains("/dev/disk/by-id/google-claude-persist\n"));
        assert!(script.contains("setup --disk claude-persist --yes"));
        assert!(!script.contains("DISK"));
    }

    #[test]
    fn a_long_call_has_one_flag_in_each_line() {
        let call = Call::change("make it", "compute x create")
            .arg("name")
            .flag("labels", "l".repeat(80))
            .flag("metadata", "it's");
        assert_eq!(
            in_lines(&call),
            format!(
                "gcloud compute x create name \\\n    --labels={} \\\n    --metadata='it'\\''s'",
                "l".repeat(80)
            )
        );
    }
}
