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
    /// Pulled from a registry.
    Oci(OciImage),
    /// Made from a file or folder of this host.
    Path(LocalFile),
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

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OciImage {
    /// The whole reference, for example `docker.io/library/alpine:3.22`.
    pub reference: String,
    /// The digest of its manifest or index, `sha256:` and 64 hex digits. A file may leave it open: it is looked up
    /// once, before anything is desired, and stays.
    pub digest: Option<String>,
}

/// A file or folder of this host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalFile {
    /// Where it is. In a file it is relative to the file's folder and stays below; what is desired has it absolute.
    pub path: String,
    /// Sizes and times of what is there, as one digest: another one is another image. Not in the file.
    #[serde(default)]
    pub stamp: Option<String>,
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
    /// A file of the network: a kernel image, or an archive with one and its modules.
    Url {
        /// Where; `https` only.
        url: String,
        /// The SHA-256 of the file, 64 hex digits.
        sha256: String,
    },
    /// A kernel image, an archive or a folder of this host.
    Path(LocalFile),
}
