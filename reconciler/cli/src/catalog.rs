//! The catalog from the network: signed, kept in the state folder, and verified whenever it is used (R-N7).
//!
//! Its address and key are part of the program, so that no configuration can lead it elsewhere. Names that a file or
//! command takes from it are declared to the daemon, which knows the embedded one only.

use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::signature;
use anyhow::{Result, anyhow};
use banger_schema::spec::{ImageSource, KernelSource};
use banger_schema::{Language, Spec};
use banger_wire::api::RemoteCatalog;
use banger_wire::id::Name;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The largest catalog, in bytes.
const MAX: usize = 64 << 10;
const FILE: &str = "catalog.kdl";

/// The key that catalogs are signed with, as PEM, when this build has one.
fn key() -> Option<String> {
    // A build for tests may be told another.
    let told = cfg!(debug_assertions).then(|| std::env::var("BANGER_CATALOG_KEY").ok()).flatten();
    told.or_else(|| option_env!("BANGER_RELEASE_KEY").map(String::from))
}

/// A catalog that was checked: what it says, and which one it is.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Images and kernels.
    pub(crate) spec: Spec,
    /// Counts up with every one that is published.
    pub(crate) sequence: u64,
    /// The last day on which it is to be believed to be the newest, `YYYY-MM-DD`.
    pub(crate) expires: String,
}

/// Reads a catalog: images and kernels only, and each is the same wherever it is pulled. Its first line is
/// `// sequence NUMBER expires YYYY-MM-DD`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(name: &str, text: &str) -> Result<Catalog> {
    let wrong = |why: String| Failure::new(FAILED, format!("{name}: {why}"));
    if text.len() > MAX {
        return Err(wrong(format!("a catalog has at most {MAX} bytes")).into());
    }
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split(' ').collect();
    let ["//", "sequence", sequence, "expires", expires] = words.as_slice() else {
        return Err(
            wrong("its first line is not: // sequence NUMBER expires YYYY-MM-DD".into()).into()
        );
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let day = expires.len() == 10 && expires.split('-').map(str::len).eq([4, 2, 2]);
    let (Ok(sequence), true) = (sequence.parse(), day && expires.split('-').all(digits)) else {
        return Err(wrong("its sequence is no number, or its end no day".into()).into());
    };
    let expires = (*expires).to_string();
    let spec = banger_schema::parse(name, text, Language::Kdl)?;
    let others = [spec.sandboxes.len(), spec.volumes.len(), spec.networks.len()];
    if others.iter().any(|count| *count > 0) || spec.project.is_some() {
        return Err(wrong("a catalog has images and kernels only".into()).into());
    }
    for (image, found) in &spec.images {
        match &found.source {
            ImageSource::Oci(oci) if oci.digest.is_none() => {
                return Err(wrong(format!("image {image} has no digest"))
                    .hint("banger lock shows it; write: oci \"…\" digest=\"sha256:…\"")
                    .into());
            }
            ImageSource::Path(_) => {
                return Err(wrong(format!("image {image} is a file of this host")).into());
            }
            ImageSource::Oci(_) | ImageSource::Debian(_) => {}
        }
    }
    for (kernel, found) in &spec.kernels {
        if let KernelSource::Path(_) = &found.source {
            return Err(wrong(format!("kernel {kernel} is a file of this host")).into());
        }
    }
    Ok(Catalog { spec, sequence, expires })
}

fn place() -> Result<PathBuf> {
    let is_root = nix::unistd::geteuid().is_root();
    let roots = banger_wire::derive::roots(|name| std::env::var_os(name), is_root);
    Ok(roots.ok_or_else(|| anyhow!("HOME is not set"))?.0.join(FILE))
}

fn beside(file: &Path) -> PathBuf {
    file.with_extension("kdl.sig")
}

/// The catalog that was fetched last; empty when none was. It needs no network.
///
/// # Errors
/// When what is there is not what was signed: it is never taken for nothing.
pub(crate) fn fetched() -> Result<Spec> {
    let (Some(key), place) = (key(), place()?) else { return Ok(Spec::default()) };
    let text = match std::fs::read_to_string(&place) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Spec::default()),
        Err(error) => return Err(anyhow!("reading {}: {error}", place.display())),
    };
    let catalog = verified(&key, &place.display().to_string(), &text, &beside(&place))?;
    if today() > catalog.expires {
        let day = &catalog.expires;
        eprintln!("the catalog was good until {day}: whether it is the newest is not known");
        eprintln!("hint: banger catalog update");
    }
    Ok(catalog.spec)
}

fn verified(key: &str, name: &str, text: &str, signature: &Path) -> Result<Catalog> {
    let signature = std::fs::read(signature).unwrap_or_default();
    let good = signature::verify(key, text.as_bytes(), &signature);
    good.map_err(|error| {
        Failure::new(FAILED, format!("{name}: {error}"))
            .hint("banger catalog update fetches it anew")
    })?;
    check(name, text)
}

/// Fetches the newest one, and keeps it when it is signed and not older than what is here.
///
/// # Errors
/// When it cannot be fetched or is not what it has to be; then what was here stays.
pub(crate) async fn update(client: &Client) -> Result<Catalog> {
    let key = key().ok_or_else(|| {
        Failure::new(FAILED, "this build of banger has no catalog to fetch")
            .hint("the embedded one needs no network: banger image pull debian-bookworm")
    })?;
    let RemoteCatalog { address, text, signature } = client.get("/v1/catalog").await?;
    signature::verify(&key, text.as_bytes(), signature.as_bytes())
        .map_err(|error| Failure::new(FAILED, format!("{address}: {error}")))?;
    let new = check(&address, &text)?;
    let place = place()?;
    if let Ok(old) = std::fs::read_to_string(&place)
        && let Ok(old) = verified(&key, FILE, &old, &beside(&place))
        && old.sequence > new.sequence
    {
        let (old, new) = (old.sequence, new.sequence);
        let message = format!("{address} is catalog {new}, and catalog {old} is here already");
        return Err(Failure::new(FAILED, message).into());
    }
    // Between the two, and after a crash between them, the old signature does not fit: it is fetched again.
    for (path, bytes) in [(beside(&place), signature), (place, text)] {
        let new = path.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(&new, &path)?;
    }
    Ok(new)
}

/// Declares what a spec takes from the fetched catalog.
pub(crate) fn declare(spec: &mut Spec, fetched: &Spec) {
    let images: BTreeSet<Name> = spec.sandboxes.values().map(|s| s.image.clone()).collect();
    for name in images {
        if let Some(found) = fetched.images.get(&name) {
            spec.images.entry(name).or_insert_with(|| found.clone());
        }
    }
    let own = spec.sandboxes.values().filter_map(|sandbox| sandbox.kernel.clone());
    let of_images = spec.images.values().filter_map(|image| image.kernel.clone());
    let kernels: BTreeSet<Name> = own.chain(of_images).collect();
    for name in kernels {
        if let Some(found) = fetched.kernels.get(&name) {
            spec.kernels.entry(name).or_insert_with(|| found.clone());
        }
    }
}

/// The embedded catalog with the fetched one over it.
pub(crate) fn all(fetched: &Spec) -> Spec {
    let mut all = banger_schema::catalog::embedded().clone();
    all.images.extend(fetched.images.clone());
    all.kernels.extend(fetched.kernels.clone());
    all
}

/// The day by the host's clock, `YYYY-MM-DD`, in UTC.
fn today() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    day(now.as_secs() / 86_400)
}

/// The civil date of a day since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn day(days: u64) -> String {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{:02}", doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "// sequence 7 expires 2030-01-31\n";

    #[test]
    fn a_catalog_is_the_same_everywhere() {
        let digest = "a".repeat(64);
        let good = format!(
            "{HEAD}kernel \"k\" {{ url \"https://example.org/k\" sha256=\"{digest}\"; }}\n\
             image \"a\" {{ oci \"ghcr.io/a/b:1\" digest=\"sha256:{digest}\"; kernel \"k\"; }}\nimage \"d\" {{ debian; }}\n"
        );
        let catalog = check("x", &good).expect("good");
        let (images, kernels) = (catalog.spec.images.len(), catalog.spec.kernels.len());
        assert_eq!(
            (images, kernels, catalog.sequence, catalog.expires.as_str()),
            (2, 1, 7, "2030-01-31")
        );
        for bad in [
            "image \"a\" { oci \"ghcr.io/a/b:1\"; }",
            "image \"a\" { path \"a.tar\"; }",
            "kernel \"k\" { path \"vmlinuz\"; }",
            "volume \"v\" size=\"1GiB\"",
            "network \"n\"",
            "project \"p\"",
            "sandbox \"s\" { image \"debian-bookworm\"; }",
            "image \"a\" {",
        ] {
            assert!(check("x", &format!("{HEAD}{bad}")).is_err(), "{bad}");
        }
        for head in [
            "",
            "// sequence x expires 2030-01-31\n",
            "// sequence 1 expires soon\n",
            "// sequence 1\n",
        ] {
            assert!(check("x", &format!("{head}image \"d\" {{ debian; }}")).is_err(), "{head}");
        }
        assert!(check("x", &format!("{HEAD}//{}\n", "x".repeat(MAX))).is_err(), "too large");
    }

    #[test]
    fn days() {
        let known =
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_782, "2026-11-25")];
        for (number, text) in known {
            assert_eq!(day(number), text);
        }
    }
}
