//! Check whether a block device is blank.
//!
//! A device without a known signature is not enough: an encrypted disk without a header has none. A
//! disk that a cloud has just created reads as zeros.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::device::Device;
use super::filesystem::{Filesystem, Superblock};
use sys::error::{Context as _, Result, bail};
use sys::{block, command};

/// Up to this size every byte is read.
const READ_WHOLE: u64 = 1 << 30;
/// Bytes that are read at the beginning and at the end of a larger device.
const ENDS: u64 = 16 << 20;
/// Number of samples in between, evenly spaced.
const SAMPLES: u64 = 4096;
/// Bytes of a sample.
const SAMPLE: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// The system's tools read only a few sectors; a slower disk is broken.
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// A signature that `wipefs` has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Byte offset.
    pub offset: u64,
    /// Its type, like `swap`, `LVM2_member`, `gpt`.
    pub kind: String,
}

/// The content of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No signature, and only zeros in what was read.
    Blank,
    /// A file system that can hold a data directory.
    Filesystem(Filesystem),
    /// Other known signatures.
    Known(Vec<Signature>),
    /// No known signature; the position of the first byte that is not zero.
    Unknown(u64),
}

/// Returns the content of a device that is not in use.
///
/// # Errors
/// The kernel uses it, or it cannot be read.
pub fn scan(device: &Device) -> Result<Content> {
    let path = device.path.as_path();
    let Some(mut file) =
        block::open_unused(path).with_context(|| format!("cannot open {}", path.display()))?
    else {
        bail!("{} is in use by the kernel", path.display());
    };
    let found = signatures(path)?;
    if let [only] = &found[..]
        && let Some(superblock) = Superblock::read(&mut file)?
        && superblock.filesystem.kind.name() == only.kind
    {
        return Ok(Content::Filesystem(superblock.filesystem));
    }
    if !found.is_empty() {
        return Ok(Content::Known(found));
    }
    let first = first_byte(&file, device.bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(first.map_or(Content::Blank, Content::Unknown))
}

/// Returns the signatures on a device; changes nothing.
///
/// # Errors
/// `wipefs` is missing or cannot read it.
pub fn signatures(path: &Path) -> Result<Vec<Signature>> {
    let mut command = Command::new("wipefs");
    command
        .args(["--no-act", "--parsable", "--output", "OFFSET,TYPE"])
        .arg(path)
        .env("LC_ALL", "C");
    let output = command::run(&mut command, TOOL_LIMIT)?;
    if !output.status.success() {
        bail!("wipefs cannot read {}: {}", path.display(), output.stderr);
    }
    parse(&output.stdout)
}

fn parse(text: &str) -> Result<Vec<Signature>> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (offset, kind) = line.split_once(',').context("unknown output of wipefs")?;
            let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16)
                .context("no offset in the output of wipefs")?;
            Ok(Signature {
                offset,
                kind: kind.trim_matches(',').to_owned(),
            })
        })
        .collect()
}

/// Describes signatures for people, each kind once with its first offset.
#[must_use]
pub fn in_words(found: &[Signature]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    let mut described = Vec::new();
    for signature in found {
        if !kinds.contains(&signature.kind.as_str()) {
            kinds.push(&signature.kind);
            described.push(format!(
                "{} at byte {}",
                name(&signature.kind),
                signature.offset
            ));
        }
    }
    described.join(", ")
}

fn name(kind: &str) -> String {
    match kind {
        "dos" | "gpt" | "PMBR" => format!("a partition table ({kind})"),
        "swap" => "swap space".to_owned(),
        "LVM2_member" => "a volume of LVM".to_owned(),
        "crypto_LUKS" => "an encrypted volume (LUKS)".to_owned(),
        "linux_raid_member" => "a member of an array (md)".to_owned(),
        other => other.to_owned(),
    }
}

/// Returns the position of the first byte that is not zero, in what is read.
fn first_byte(file: &File, bytes: u64) -> std::io::Result<Option<u64>> {
    if bytes <= READ_WHOLE {
        return first_in(file, 0, bytes, CHUNK);
    }
    let tail = bytes - ENDS;
    if let Some(at) = first_in(file, 0, ENDS, CHUNK)? {
        return Ok(Some(at));
    }
    if let Some(at) = first_in(file, tail, bytes, CHUNK)? {
        return Ok(Some(at));
    }
    let step = (tail - ENDS) / SAMPLES;
    for sample in 0..SAMPLES {
        // At a page boundary, so that a sample takes one read.
        let at = (ENDS + sample * step) / SAMPLE as u64 * SAMPLE as u64;
        if let Some(at) = first_in(file, at, at + SAMPLE as u64, SAMPLE)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn first_in(file: &File, from: u64, to: u64, chunk: usize) -> std::io::Result<Option<u64>> {
    let (mut buffer, zeros) = (vec![0; chunk], vec![0; chunk]);
    let mut at = from;
    while at < to {
        let desired = usize::try_from(to - at).unwrap_or(chunk).min(chunk);
        let Some(piece) = buffer.get_mut(..desired) else {
            break;
        };
        file.read_exact_at(piece, at)?;
        // Compared as a whole, which is many times faster than byte by byte.
        if zeros.get(..desired) != Some(&*piece) {
            let found = piece.iter().position(|byte| *byte != 0).unwrap_or_default();
            return Ok(Some(at + found as u64));
        }
        at += desired as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_output_of_wipefs_is_read_and_described() {
        let text = "# offset,type\n0x218,LVM2_member\n0x1fe,dos\n0x1fe,dos\n";
        let found = parse(text).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(
            in_words(&found),
            "a volume of LVM at byte 536, a partition table (dos) at byte 510"
        );
        assert!(parse("nonsense\n").is_err());
        assert_eq!(parse("").unwrap(), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn one_byte_anywhere_on_a_small_device_is_found(at in 0_u64..3 * (1 << 20)) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(3 << 20).unwrap();
            prop_assert_eq!(first_byte(&file, 3 << 20).unwrap(), None);
            file.write_all_at(&[1], at).unwrap();
            prop_assert_eq!(first_byte(&file, 3 << 20).unwrap(), Some(at));
        }
    }

    #[test]
    fn of_a_large_device_the_ends_are_read_and_the_middle_is_sampled() {
        let bytes = 40 << 30;
        for (at, length) in [(ENDS - 1, 1), (bytes - 1, 1), (bytes / 2, 16 << 20)] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes).unwrap();
            assert_eq!(first_byte(&file, bytes).unwrap(), None);
            file.write_all_at(&vec![7; length], at).unwrap();
            assert!(first_byte(&file, bytes).unwrap().is_some(), "{at}");
        }
    }
}
