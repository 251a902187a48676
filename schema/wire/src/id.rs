//! Newtypes for ids. Constructors validate; there are no setters.
//!
//! Called by every other package. Not a place for randomness: ids that need it take it as an argument.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    /// What was being parsed, for example "name".
    pub what: &'static str,
    /// The rule that was broken.
    pub rule: String,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}", self.what, self.rule)
    }
}

impl std::error::Error for IdError {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// A name that a person chose: a DNS label of 1 to 31 characters, `[a-z][a-z0-9-]*`, not ending
    /// in `-`, and none of the names that resolvers and proxies treat specially.
    Name
}
text_id! {
    /// A sandbox's identity: 26 characters of Crockford base32 (128 bits), never reused.
    SandboxId
}
text_id! {
    /// A volume's identity, of the same form as [`SandboxId`].
    VolumeId
}
text_id! {
    /// A snapshot's identity, of the same form as [`SandboxId`].
    SnapshotId
}
text_id! {
    /// A SHA-256 in 64 lower-case hex digits: of a recipe, or of content.
    Digest
}
text_id! {
    /// One installation of banger on one host: 26 characters of Crockford base32.
    InstallId
}

/// Names that would change how a host resolves or routes, and are refused everywhere.
const RESERVED: [&str; 6] = ["localhost", "wpad", "isatap", "gateway", "host", "vm"];

impl Name {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// When it is not a DNS label of at most 31 characters that starts with a letter, or is reserved.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let rule = if text.is_empty() {
            "it is empty"
        } else if text.len() > 31 {
            "it is longer than 31 characters"
        } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            "it must start with a letter a-z"
        } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            "only a-z, 0-9 and - are allowed"
        } else if text.ends_with('-') {
            "it must not end in -"
        } else if RESERVED.contains(&text.as_str()) {
            "it is reserved"
        } else {
            return Ok(Self(text));
        };
        Err(IdError { what: "name", rule: rule.to_string() })
    }

    /// The closest valid name to any text, used to turn a folder's name into a project's.
    pub fn from_lossy(text: &str, fallback: &str) -> Self {
        let mut out = String::new();
        for c in text.chars().flat_map(char::to_lowercase) {
            let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
            if out.is_empty() && !c.is_ascii_lowercase() {
                continue;
            }
            if out.len() < 31 {
                out.push(c);
            }
        }
        let out = out.trim_end_matches('-').to_string();
        Self::new(out).unwrap_or_else(|_| Self(fallback.to_string()))
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 128 bits as 26 characters of Crockford base32.
fn crockford(bits: u128) -> String {
    (0..26).rev().map(|i| CROCKFORD[((bits >> (i * 5)) & 31) as usize] as char).collect()
}

/// Back to the bits of a valid id.
fn from_crockford(text: &str) -> u128 {
    let digit = |b: u8| CROCKFORD.iter().position(|known| *known == b).expect("checked letters");
    text.bytes().fold(0, |bits, letter| (bits << 5) | digit(letter) as u128)
}

fn check_crockford(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.len() == 26 && text.bytes().all(|b| CROCKFORD.contains(&b)) {
        Ok(())
    } else {
        Err(IdError { what, rule: "it must be 26 characters of Crockford base32".to_string() })
    }
}

macro_rules! crockford_id {
    ($name:ident, $what:literal) => {
        impl $name {
            /// Checks and wraps an id.
            ///
            /// # Errors
            /// When it is not 26 characters of Crockford base32.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check_crockford($what, &text)?;
                Ok(Self(text))
            }

            /// The id with these 128 bits.
            pub fn from_bits(bits: u128) -> Self {
                Self(crockford(bits))
            }

            /// Its 128 bits.
            pub fn bits(&self) -> u128 {
                from_crockford(&self.0)
            }
        }
    };
}
crockford_id!(SandboxId, "sandbox id");
crockford_id!(VolumeId, "volume id");
crockford_id!(SnapshotId, "snapshot id");
crockford_id!(InstallId, "install id");

impl Digest {
    /// Checks and wraps a digest.
    ///
    /// # Errors
    /// When it is not 64 lower-case hex digits.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err(IdError { what: "digest", rule: "it must be 64 lower-case hex digits".to_string() })
        }
    }

    /// The digest with these 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Its 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        let nibble = |digit: u8| if digit < b'a' { digit - b'0' } else { digit - b'a' + 10 };
        let digits = self.0.as_bytes();
        std::array::from_fn(|i| nibble(digits[2 * i]) << 4 | nibble(digits[2 * i + 1]))
    }

    /// The first 12 digits, for people to read.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// A vsock context id: at least 3, because 0 to 2 are the hypervisor, loopback and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Cid(u32);

impl Cid {
    /// The first that a guest may have.
    pub const FIRST: u32 = 3;

    /// Checks and wraps a context id.
    ///
    /// # Errors
    /// When it is below 3 or the wildcard `u32::MAX`.
    pub fn new(number: u32) -> Result<Self, IdError> {
        if (Self::FIRST..u32::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(IdError { what: "vsock cid", rule: format!("{number} is not a guest's") })
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Cid {
    type Error = IdError;
    fn try_from(number: u32) -> Result<Self, IdError> {
        Self::new(number)
    }
}

impl From<Cid> for u32 {
    fn from(cid: Cid) -> u32 {
        cid.0
    }
}

/// Counts how often a sandbox's desired state changed. Starts at 1.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

#[cfg(test)]
mod tests;
