//! Images and kernels: what they are made from.

use banger_wire::id::Name;
use serde::{Deserialize, Serialize};

/// A root filesystem that sandboxes share, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// What it is made from.
    pub source: ImageSource,
    /// The kernel that its sandboxes boot, unless they name another.
    pub kernel: Option<Name>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageSource {
    /// Built from Debian's packages; the archive's signatures are the trust.
    Debian(DebianImage),
}

/// A minimal Debian with packages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianImage {
    /// The suite, for example `bookworm`.
    pub suite: String,
    /// Packages besides the minimal system, sorted, each once.
    pub packages: Vec<String>,
}

/// A kernel for sandboxes to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSpec {
    /// Where it comes from.
    pub source: KernelSource,
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KernelSource {
    /// A kernel package of a Debian suite.
    Debian {
        /// The package, for example `linux-image-cloud-amd64`.
        package: String,
        /// The suite, for example `bookworm`.
        suite: String,
    },
}
