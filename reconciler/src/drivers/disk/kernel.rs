//! A kernel from a Debian package: its image and the modules that a guest needs to reach its root.

use super::debian::{self, Variant, Wanted};
use super::modules::{self, Modules};
use super::{Files, Made, blocking, place};
use crate::drivers::Progress;
use crate::fault::{During, Fault};
use crate::folders;
use banger_schema::spec::KernelSource;
use banger_wire::id::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path};

/// The largest file that is taken from a package, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What is stored of a kernel, by file name.
pub(super) struct Parts {
    version: String,
    files: BTreeMap<String, Vec<u8>>,
}

pub(super) async fn build(
    files: &Files,
    recipe: &Digest,
    source: &KernelSource,
    progress: Progress,
) -> Result<(), Fault> {
    let KernelSource::Debian { package, suite } = source;
    let archive = debian::scratch(&files.folders.scratch(), recipe);
    let packages = [package.clone()];
    let wanted = Wanted {
        variant: Variant::Kernel,
        suite,
        packages: &packages,
        recipe,
        install: &files.install,
    };
    let fetched = debian::archive(&wanted, &archive, &progress).await;
    let (scratch, path) = (files.folders.scratch(), archive.clone());
    let outcome = match fetched {
        Ok(_) => blocking(move || store(&path, &scratch)).await,
        Err(fault) => Err(fault),
    };
    folders::remove(&archive)?;
    let (content, beside, version) = outcome?;
    let there = files.folders.kernel(&content);
    if there.exists() {
        folders::remove_tree(&beside)?;
    } else {
        place(&beside, &there)?;
    }
    let details = vec![format!("version: {version}")];
    files.record(&files.folders.kernels(), recipe, &Made { content, details })
}

/// Takes the parts out of the archive and writes them into a folder beside their place.
fn store(archive: &Path, scratch: &Path) -> Result<(Digest, std::path::PathBuf, String), Fault> {
    let parts = take_apart(archive)?;
    let mut hash = Sha256::new();
    for (name, bytes) in &parts.files {
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    let content = Digest::from_bytes(&hash.finalize().into());
    let beside = scratch.join(format!("kernel-{content}"));
    folders::remove_tree(&beside)?;
    folders::make(&beside.join("modules"))?;
    for (name, bytes) in &parts.files {
        let path = beside.join(name);
        let write = fs::write(&path, bytes).and_then(|()| File::open(&path)?.sync_all());
        write.during(|| format!("writing {}", path.display()))?;
    }
    Ok((content, beside, parts.version))
}

fn take_apart(archive: &Path) -> Result<Parts, Fault> {
    let mut kernels = read_where(archive, |path| {
        let name = path.strip_prefix("boot/").unwrap_or("");
        name.starts_with("vmlinuz-") || is_index(path)
    })?;
    let version = kernels
        .keys()
        .find_map(|path| path.strip_prefix("boot/vmlinuz-").map(String::from))
        .ok_or_else(|| {
            Fault::user("the package has no kernel image").hint("name a linux-image package")
        })?;
    let image = kernels.remove(&format!("boot/vmlinuz-{version}")).expect("just found");
    let index = |name: &str| {
        let found =
            kernels.iter().find(|(path, _)| path.ends_with(&format!("modules/{version}/{name}")));
        found.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let wanted = modules::order(&Modules {
        dependencies: index("modules.dep"),
        builtin: index("modules.builtin"),
    })
    .map_err(|name| {
        Fault::user(format!("the kernel {version} has no driver {name}, which guests need"))
            .hint("a cloud or generic kernel has it")
    })?;
    let tree = format!("modules/{version}/");
    let mut found = read_where(archive, |path| {
        path.split_once(&tree).is_some_and(|(_, below)| wanted.iter().any(|module| module == below))
    })?;
    let mut files = BTreeMap::from([("vmlinuz".to_string(), image)]);
    let mut order = String::new();
    for module in &wanted {
        let path = found.keys().find(|path| path.ends_with(&format!("{tree}{module}"))).cloned();
        let bytes = path.and_then(|path| found.remove(&path));
        let bytes = bytes.ok_or_else(|| {
            Fault::host(format!("the package lists {module} but does not have it"))
        })?;
        let name = module.rsplit('/').next().unwrap_or(module);
        order.push_str(&format!("{name}\n"));
        files.insert(format!("modules/{name}"), bytes);
    }
    files.insert("modules/order".to_string(), order.into_bytes());
    Ok(Parts { version, files })
}

fn is_index(path: &str) -> bool {
    path.ends_with("/modules.dep") && path.contains("lib/modules/")
        || path.ends_with("/modules.builtin")
}

/// Reads the regular files of an archive whose paths are wanted. Paths are only ever compared.
fn read_where(
    archive: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let reading = || format!("reading {}", archive.display());
    let mut tar = tar::Archive::new(std::io::BufReader::new(File::open(archive).during(reading)?));
    let mut found = BTreeMap::new();
    for entry in tar.entries().during(reading)? {
        let mut entry = entry.during(reading)?;
        let path = entry.path().during(reading)?.into_owned();
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let path: Vec<_> =
            parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let path = path.join("/");
        if entry.header().entry_type().is_file() && wanted(&path) {
            if entry.size() > MAX_FILE {
                return Err(Fault::user(format!("{path} in the package is too large")));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).during(reading)?;
            found.insert(path, bytes);
        }
    }
    Ok(found)
}
