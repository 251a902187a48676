//! What an image consists of: index, manifest and configuration, read strictly (R-N2, R-N5).

use super::cache::Blob;
use crate::fault::Fault;
use crate::unpack::MAX_LAYERS;
use banger_plan::actual::ImageConfig;
use banger_wire::agent::Signal;
use banger_wire::id::Digest;
use oci_distribution::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageIndex, OciImageManifest,
};
use serde::Deserialize;
use serde_json::Value;

/// The largest manifest or index, in bytes.
pub(crate) const MAX_MANIFEST: usize = 4 << 20;
/// The largest configuration, in bytes.
pub(crate) const MAX_CONFIG: usize = 8 << 20;
/// How deep an index may lead to the next.
pub(crate) const MAX_INDEXES: usize = 4;
/// The largest layer, in bytes as it is stored.
const MAX_LAYER: u64 = 20 << 30;

/// What a registry is asked for.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// One of the two.
pub(crate) enum Document {
    /// The manifest of the image for this machine, by digest.
    Index(Digest),
    /// An image.
    Image {
        /// Its configuration.
        config: Blob,
        /// Its layers, lowest first.
        layers: Vec<Blob>,
    },
}

fn broken(why: impl std::fmt::Display) -> Fault {
    Fault::user(format!("the image's manifest is broken: {why}"))
}

/// Reads a manifest or index. `kind` is the media type that whoever led here says that it has.
pub(crate) fn read(bytes: &[u8], kind: Option<&str>) -> Result<Document, Fault> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        if bytes.trim_ascii_start().starts_with(b"<") {
            return Fault::host("a web page comes instead of a manifest")
                .hint("is this network's login page in the way?");
        }
        broken(error)
    })?;
    let own = value.get("mediaType").and_then(Value::as_str);
    let plain = |kind: &str| kind.split(';').next().unwrap_or(kind).trim().to_string();
    let kind = kind.map(plain).filter(|kind| !kind.is_empty() && kind != "application/json");
    if let (Some(own), Some(kind)) = (own, &kind)
        && own != kind
    {
        return Err(broken(format!("it says that it is {own}, and was said to be {kind}")));
    }
    if value.get("manifests").is_some() && value.get("layers").is_some() {
        return Err(broken("it is an index and an image at once"));
    }
    if value.get("fsLayers").is_some() || value.get("schemaVersion") == Some(&Value::from(1)) {
        return Err(Fault::user(
            "the image is in Docker's first format, which is not read any more",
        )
        .hint("whoever publishes it can push it again"));
    }
    let is_index = value.get("manifests").is_some();
    let known = match is_index {
        true => [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE],
        false => [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE],
    };
    let named = own.map(String::from).or(kind);
    if let Some(named) = named.filter(|named| !known.contains(&named.as_str())) {
        return Err(broken(format!("{named} is no kind of image")));
    }
    if is_index { of_index(value) } else { of_image(value) }
}

fn of_index(value: Value) -> Result<Document, Fault> {
    let index: OciImageIndex = serde_json::from_value(value).map_err(broken)?;
    let mut platforms = Vec::new();
    let mut best: Option<(u8, &str)> = None;
    for entry in &index.manifests {
        // Attestations and the like are for no platform.
        let Some(platform) = &entry.platform else { continue };
        let (os, arch) = (platform.os.to_string(), platform.architecture.to_string());
        let variant = platform.variant.as_deref().unwrap_or("");
        if os != "unknown" {
            platforms.push(format!("{os}/{arch}"));
        }
        if os != "linux" || arch != "amd64" {
            continue;
        }
        // The plainest runs everywhere.
        let rank = match variant {
            "" => 0,
            "v1" => 1,
            "v2" => 2,
            _ => 3,
        };
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, &entry.digest));
        }
    }
    if best.is_none() && index.manifests.len() == 1 && index.manifests[0].platform.is_none() {
        best = Some((0, &index.manifests[0].digest));
    }
    let Some((_, chosen)) = best else {
        platforms.sort();
        platforms.dedup();
        let there = platforms.join(", ");
        return Err(
            Fault::user("there is no image for linux/amd64").hint(format!("there is: {there}"))
        );
    };
    Ok(Document::Index(digest(chosen)?))
}

fn of_image(value: Value) -> Result<Document, Fault> {
    let manifest: OciImageManifest = serde_json::from_value(value).map_err(broken)?;
    if manifest.layers.is_empty() {
        return Err(broken("it has no layers"));
    }
    if manifest.layers.len() > MAX_LAYERS {
        let count = manifest.layers.len();
        return Err(broken(format!("it has {count} layers, more than {MAX_LAYERS}")));
    }
    let config = blob(&manifest.config)?;
    if config.size > MAX_CONFIG as u64 {
        return Err(broken("its configuration is too large"));
    }
    for layer in &manifest.layers {
        let kind = &layer.media_type;
        let good = kind.contains("tar") || kind.ends_with("rootfs.diff.tar");
        if !good {
            return Err(Fault::user(format!("the image has a layer of the kind {kind}"))
                .hint("it is no image of files; was it meant for something else?"));
        }
    }
    let layers = manifest.layers.iter().map(blob).collect::<Result<_, _>>()?;
    Ok(Document::Image { config, layers })
}

/// Addresses in a descriptor are not followed (R-N3).
fn blob(descriptor: &OciDescriptor) -> Result<Blob, Fault> {
    let size = u64::try_from(descriptor.size).map_err(|_| broken("a size is negative"))?;
    if size > MAX_LAYER {
        return Err(broken(format!("a layer has {size} bytes")));
    }
    Ok(Blob { digest: digest(&descriptor.digest)?, size })
}

/// A digest as manifests write it.
pub(crate) fn digest(text: &str) -> Result<Digest, Fault> {
    let hex = text.strip_prefix("sha256:").and_then(|hex| Digest::new(hex).ok());
    hex.ok_or_else(|| broken(format!("\"{text}\" is not a SHA-256 digest")))
}

/// What an image's configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The digests of the archives, one for each layer.
    pub(crate) diff_ids: Vec<Digest>,
    /// How programs are run.
    pub(crate) run: ImageConfig,
}

/// The parts of the configuration that are used. Unknown ones are none of our business, and `null` is the same as
/// nothing: that is how Go writes an empty list.
#[derive(Deserialize)]
struct File {
    architecture: Option<String>,
    os: Option<String>,
    rootfs: Option<Rootfs>,
    config: Option<Run>,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

/// Reads a configuration that goes with so many layers.
pub(crate) fn config(bytes: &[u8], layers: usize) -> Result<Config, Fault> {
    let file: File = serde_json::from_slice(bytes)
        .map_err(|error| Fault::user(format!("the image's configuration is broken: {error}")))?;
    let (os, arch) = (file.os.unwrap_or_default(), file.architecture.unwrap_or_default());
    if !matches!(os.as_str(), "" | "linux") || !matches!(arch.as_str(), "" | "amd64") {
        return Err(Fault::user(format!("the image is for {os}/{arch}, not for linux/amd64")));
    }
    let ids = file.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    if ids.len() != layers {
        return Err(broken(format!("it has {layers} layers and {} diff_ids", ids.len())));
    }
    let diff_ids = ids.iter().map(|id| digest(id)).collect::<Result<_, _>>()?;
    let run = file.config.unwrap_or_default();
    let text =
        |value: Option<String>| value.filter(|text| !text.is_empty() && !text.contains('\0'));
    let words = |list: Option<Vec<String>>| -> Vec<String> {
        list.unwrap_or_default().into_iter().filter(|word| !word.contains('\0')).collect()
    };
    let env = words(run.env).into_iter();
    let env = env.filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_string(), value.to_string()))
    });
    let run = ImageConfig {
        env: env.collect(),
        user: text(run.user),
        workdir: text(run.working_dir).filter(|folder| folder != "/"),
        entrypoint: words(run.entrypoint),
        command: words(run.cmd),
        stop_signal: run.stop_signal.as_deref().and_then(Signal::parse),
    };
    Ok(Config { diff_ids, run })
}
