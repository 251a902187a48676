//! Digests of recipes: what a thing is made from identifies it before it is made.

use banger_schema::spec::{ImageSource, KernelSource};
use banger_wire::id::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Raised when the way that images are built changes, so that old ones are not taken for new ones.
const IMAGE_FORMAT: u32 = 1;
/// Raised when the way that kernels are stored changes.
const KERNEL_FORMAT: u32 = 1;

/// The digest of any canonical value: its JSON has sorted keys because it comes from structs and `BTreeMap`s.
pub fn digest(value: &impl Serialize) -> Digest {
    let bytes = serde_json::to_vec(value).expect("plain values encode");
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

/// The digest of an image's recipe.
pub fn image(source: &ImageSource) -> Digest {
    digest(&("image", IMAGE_FORMAT, source))
}

/// The digest of a kernel's recipe.
pub fn kernel(source: &KernelSource) -> Digest {
    digest(&("kernel", KERNEL_FORMAT, source))
}

/// What an image is made from, in words.
pub fn describe_image(source: &ImageSource) -> String {
    match source {
        ImageSource::Debian(debian) if debian.packages.is_empty() => {
            format!("debian {}", debian.suite)
        }
        ImageSource::Debian(debian) => {
            format!("debian {} with {}", debian.suite, debian.packages.join(", "))
        }
        ImageSource::Oci(image) => match image.digest.as_ref().and_then(|d| d.get(7..19)) {
            Some(digest) => format!("{}@{digest}", image.reference),
            None => image.reference.clone(),
        },
        ImageSource::Path(file) => format!("path {}", file.path),
    }
}

/// What a kernel is made from, in words.
pub fn describe_kernel(source: &KernelSource) -> String {
    match source {
        KernelSource::Debian { package, suite } => format!("debian {suite} {package}"),
        KernelSource::Url { url, .. } => url.clone(),
        KernelSource::Path(file) => format!("path {}", file.path),
    }
}
