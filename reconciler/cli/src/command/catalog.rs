//! `catalog sign|verify`: for those who publish images and kernels by name.

use crate::arguments::Catalog;
use crate::failure::{FAILED, Failure};
use crate::signature;
use anyhow::{Result, anyhow};
use banger_schema::spec::{ImageSource, KernelSource};
use banger_schema::{Language, Spec};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The largest catalog, in bytes.
const MAX: usize = 64 << 10;

pub(super) fn run(command: Catalog) -> Result<ExitCode> {
    match command {
        Catalog::Sign { file, key } => {
            let text = read(&file)?;
            let spec = check(&file, &text)?;
            let signature = signature::sign(&read(&key)?, text.as_bytes())?;
            let to = beside(&file);
            std::fs::write(&to, signature)?;
            println!("{}: {}", to.display(), count(&spec));
        }
        Catalog::Verify { file, key } => {
            let text = read(&file)?;
            let signature = std::fs::read(beside(&file))
                .map_err(|error| anyhow!("reading {}: {error}", beside(&file).display()))?;
            signature::verify(&read(&key)?, text.as_bytes(), &signature)?;
            println!("{}: signed, {}", file.display(), count(&check(&file, &text)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| anyhow!("reading {}: {error}", path.display()))
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(".sig");
    PathBuf::from(name)
}

fn count(spec: &Spec) -> String {
    format!("{} images, {} kernels", spec.images.len(), spec.kernels.len())
}

/// A catalog has images and kernels only, and each is the same wherever it is pulled.
fn check(file: &Path, text: &str) -> Result<Spec> {
    let name = file.display().to_string();
    let wrong = |why: String| Failure::new(FAILED, format!("{name}: {why}"));
    if text.len() > MAX {
        return Err(wrong(format!("a catalog has at most {MAX} bytes")).into());
    }
    let spec = banger_schema::parse(&name, text, Language::of_file(&name))?;
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
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_is_the_same_everywhere() {
        let digest = "a".repeat(64);
        let good = format!(
            "kernel \"k\" {{ url \"https://example.org/k\" sha256=\"{digest}\"; }}\n\
             image \"a\" {{ oci \"ghcr.io/a/b:1\" digest=\"sha256:{digest}\"; kernel \"k\"; }}\nimage \"d\" {{ debian; }}\n"
        );
        let checked = |text: &str| check(Path::new("catalog.kdl"), text);
        assert_eq!(
            checked(&good).map(|spec| count(&spec)).ok().as_deref(),
            Some("2 images, 1 kernels")
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
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert!(checked(&format!("//{}\n{good}", "x".repeat(MAX))).is_err(), "too large");
    }
}
