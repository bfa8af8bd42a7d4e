//! Sizes of memory and files, as written in the configuration.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::error::{Error, Result, anyhow};

/// A number of bytes, written in powers of 1024 as systemd writes them or in full: `"6G"`,
/// `"100MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let short = text.strip_suffix("iB").unwrap_or(text);
        let shift = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((short.strip_suffix(*unit)?, *shift)));
        let (number, shift) = shift.unwrap_or((text, 0));
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|bytes| *bytes > 0);
        bytes
            .map(Self)
            .ok_or_else(|| anyhow!("{text:?} is not a size like \"6G\" or \"100MiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 > 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().find(|(_, shift)| fits(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in quotes, like \"6G\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_and_written_alike() {
        for (text, bytes) in [
            ("6G", 6 << 30),
            ("512M", 512 << 20),
            ("1K", 1024),
            ("1500", 1500),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
        assert_eq!("100MiB".parse::<Size>().unwrap(), Size(100 << 20));
        assert_eq!("2048K".parse::<Size>().unwrap().to_string(), "2M");
    }

    #[test]
    fn a_text_that_is_not_a_size_is_refused() {
        for text in [
            "",
            "G",
            "0",
            "0G",
            "-1",
            "6g",
            "6 G",
            "6GB",
            "80%",
            "7iB",
            "99999999999T",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
