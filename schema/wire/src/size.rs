//! Sizes with units. Memory and disks are counted in MiB everywhere inside banger.

use crate::id::IdError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An amount of bytes in whole MiB, at least 1 and at most 64 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Mib(u64);

const MAX: u64 = 64 << 20;

impl Mib {
    /// Checks and wraps a number of MiB.
    ///
    /// # Errors
    /// When it is 0 or above 64 TiB.
    pub fn new(mib: u64) -> Result<Self, IdError> {
        if (1..=MAX).contains(&mib) {
            Ok(Self(mib))
        } else {
            Err(IdError {
                what: "size",
                rule: format!("{mib} MiB is not between 1 MiB and 64 TiB"),
            })
        }
    }

    /// Reads `512MiB`, `10GiB`, `1TiB`, `500MB` (rounded down to MiB). A number without a unit is refused.
    ///
    /// # Errors
    /// When the number or its unit cannot be read, or the size is out of bounds.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let bad = |rule: String| IdError { what: "size", rule };
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits
            .parse()
            .map_err(|_| bad(format!("\"{text}\" does not start with a whole number")))?;
        if unit.starts_with('.') {
            return Err(bad(format!(
                "\"{text}\" is a fraction; write a whole number of the next smaller unit"
            )));
        }
        let bytes_per: u64 = match unit.trim() {
            "KiB" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "" => {
                return Err(bad(format!(
                    "\"{text}\" has no unit, write \"{text}MiB\" or \"{text}GiB\""
                )));
            }
            other => return Err(bad(format!("\"{other}\" is not a unit, use MiB, GiB or TiB"))),
        };
        let bytes =
            number.checked_mul(bytes_per).ok_or_else(|| bad(format!("\"{text}\" is too large")))?;
        Self::new(bytes >> 20)
    }

    /// The number of MiB.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % (1 << 20) == 0 => write!(f, "{}TiB", n >> 20),
            n if n % (1 << 10) == 0 => write!(f, "{}GiB", n >> 10),
            n => write!(f, "{n}MiB"),
        }
    }
}

impl TryFrom<u64> for Mib {
    type Error = IdError;
    fn try_from(mib: u64) -> Result<Self, IdError> {
        Self::new(mib)
    }
}

impl From<Mib> for u64 {
    fn from(size: Mib) -> u64 {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_units_and_print_them() {
        for (text, mib, shown) in [
            ("512MiB", 512, "512MiB"),
            ("1GiB", 1024, "1GiB"),
            ("1536MiB", 1536, "1536MiB"),
            ("2TiB", 2 << 20, "2TiB"),
            ("500MB", 476, "476MiB"),
            ("2048KiB", 2, "2MiB"),
        ] {
            let size = Mib::parse(text).expect(text);
            assert_eq!((size.get(), size.to_string().as_str()), (mib, shown));
        }
        for bad in [
            "",
            "512",
            "MiB",
            "-1GiB",
            "1.5GiB",
            "0MiB",
            "99999999TiB",
            "18446744073709551615TiB",
            "1XiB",
        ] {
            assert!(Mib::parse(bad).is_err(), "{bad}");
        }
    }
}
