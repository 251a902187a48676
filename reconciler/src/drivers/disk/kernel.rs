//! A kernel: its image and the modules that a guest needs to reach its root, and whether it can boot a guest at all.

use super::debian::{self, Variant, Wanted};
use super::modules::{self, Modules};
use super::{Files, Made, blocking, local, place};
use crate::drivers::Progress;
use crate::drivers::vmm::WORDS;
use crate::fault::{During, Fault};
use crate::folders;
use crate::kernel_image::{self, Built};
use banger_plan::actual::ImageConfig;
use banger_schema::spec::KernelSource;
use banger_wire::id::Digest;
use banger_wire::machine::KernelWords;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// The largest file that is taken from a package, in bytes.
const MAX_FILE: u64 = 256 << 20;
/// The largest kernel once it is unpacked, in bytes.
const MAX_ELF: usize = 256 << 20;

/// What is stored of a kernel, by file name.
pub(super) struct Parts {
    version: String,
    files: BTreeMap<String, Vec<u8>>,
    /// The drivers that guests need, and where they are.
    drivers: Vec<(String, String)>,
}

pub(super) async fn build(
    files: &Files,
    recipe: &Digest,
    source: &KernelSource,
    progress: Progress,
) -> Result<(), Fault> {
    let scratch = files.folders.scratch();
    let (fetched, plain) =
        (debian::scratch(&scratch, recipe), scratch.join(format!("{recipe}.plain")));
    let outcome = async {
        let path = match source {
            KernelSource::Debian { package, suite } => {
                let packages = [package.clone()];
                let wanted = Wanted {
                    variant: Variant::Kernel,
                    suite,
                    packages: &packages,
                    recipe,
                    install: &files.install,
                };
                debian::archive(&wanted, &fetched, &progress).await?;
                fetched.clone()
            }
            KernelSource::Url { url, sha256 } => {
                files.registry.download(url, sha256, &fetched, &progress).await?;
                fetched.clone()
            }
            KernelSource::Path(file) => PathBuf::from(&file.path),
        };
        let (plain, scratch) = (plain.clone(), scratch.clone());
        blocking(move || store(local::plain(&path, &plain)?, &scratch)).await
    }
    .await;
    folders::remove(&fetched)?;
    folders::remove(&plain)?;
    let Stored { content, beside, details } = outcome?;
    let there = files.folders.kernel(&content);
    if there.exists() {
        folders::remove_tree(&beside)?;
    } else {
        place(&beside, &there)?;
    }
    let config = ImageConfig::default();
    files.record(&files.folders.kernels(), recipe, &Made { content, details, config })
}

/// A kernel in a folder beside its place.
struct Stored {
    content: Digest,
    beside: PathBuf,
    details: Vec<String>,
}

/// Takes the parts out of an archive, or takes the image as it is, and writes them into a folder.
fn store(mut file: File, scratch: &Path) -> Result<Stored, Fault> {
    let mut head = [0; 1024];
    let count = file.read_at(&mut head, 0).during(|| "reading the kernel".into())?;
    let parts = match kernel_image::format(&head[..count]) {
        Some(_) => bare(&mut file)?,
        None => take_apart(&file)?,
    };
    let mut hash = Sha256::new();
    for (name, bytes) in &parts.files {
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    let content = Digest::from_bytes(&hash.finalize().into());
    let beside = scratch.join(format!("kernel-{content}"));
    folders::remove_tree(&beside)?;
    folders::make(&beside.join("modules"))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = beside.join(name);
        let written = fs::write(&path, bytes).and_then(|()| File::open(&path)?.sync_all());
        written.during(|| format!("writing {}", path.display()))
    };
    for (name, bytes) in &parts.files {
        write(name, bytes)?;
    }
    let mut details = vec![format!("version: {}", parts.version)];
    // Made from the rest, so it is no part of the content. Some VMMs take nothing else.
    match kernel_image::to_elf(&parts.files["vmlinuz"], MAX_ELF) {
        Ok(elf) => {
            write("vmlinux", &elf)?;
            details.push("elf: yes".to_string());
        }
        Err(error) => details.push(format!("elf: no: {error}")),
    }
    details.extend(parts.drivers.iter().map(|(name, how)| format!("driver {name}: {how}")));
    Ok(Stored { content, beside, details })
}

/// A kernel that is one file: everything that guests need has to be built in.
fn bare(file: &mut File) -> Result<Parts, Fault> {
    let mut image = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut image).during(|| "reading the kernel".into())?;
    let elf = kernel_image::to_elf(&image, MAX_ELF)
        .map_err(|error| Fault::user(format!("the kernel cannot be read: {error}")))?;
    let version = kernel_image::version(&image).or_else(|| kernel_image::version(&elf));
    let version = version.unwrap_or_else(|| "unknown".to_string());
    let config = kernel_image::config(&elf, 16 << 20);
    let mut drivers = Vec::new();
    for (name, symbol, told) in modules::SYMBOLS {
        let how = match &config {
            Some(config) => match kernel_image::builtin(config, symbol) {
                Built::Yes => "built in, by its configuration",
                Built::Module => {
                    return Err(lacks(
                        &version,
                        name,
                        "it is a module, and modules are not with it",
                    ));
                }
                Built::No => return Err(lacks(&version, name, "its configuration says so")),
            },
            None if contains(&elf, told.as_bytes()) => "built in, by its name in the image",
            None => return Err(lacks(&version, name, "its name is not in the image")),
        };
        drivers.push((name.to_string(), how.to_string()));
    }
    let files =
        BTreeMap::from([("modules/order".to_string(), Vec::new()), ("vmlinuz".to_string(), image)]);
    Ok(Parts { version, files, drivers })
}

fn lacks(version: &str, driver: &str, why: &str) -> Fault {
    Fault::user(format!("the kernel {version} has no driver {driver}, which guests need: {why}"))
        .hint("a cloud or generic kernel has it; or give a folder with the image and its modules")
}

/// Whether a text stands in an image as a whole, with its end.
fn contains(image: &[u8], text: &[u8]) -> bool {
    let whole = [b"\0", text, b"\0"].concat();
    let mut from = 0;
    while let Some(at) = image[from..].iter().position(|byte| *byte == 0) {
        if image[from + at..].starts_with(&whole) {
            return true;
        }
        from += at + 1;
    }
    false
}

fn take_apart(archive: &File) -> Result<Parts, Fault> {
    let name_of = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
    let mut kernels = read_where(archive, |path| {
        let name = name_of(path);
        let image = ["vmlinuz", "bzImage", "vmlinux"].iter().any(|start| name.starts_with(start));
        image && !name.ends_with(".debug") || is_index(path) || path == WORDS
    })?;
    let words = kernels.remove(WORDS).map(words).transpose()?;
    let images: Vec<String> = kernels.keys().filter(|path| !is_index(path)).cloned().collect();
    let best = images.iter().find(|path| name_of(path).starts_with("vmlinuz"));
    let path = best.or(images.first()).ok_or_else(|| {
        Fault::user("there is no kernel image").hint("it is called vmlinuz, bzImage or vmlinux")
    })?;
    let image = kernels.remove(path).expect("just found");
    let named = name_of(path).strip_prefix("vmlinuz-").map(String::from);
    let version = named.or_else(|| kernel_image::version(&image));
    let version = version.ok_or_else(|| Fault::user(format!("{path} is no kernel image")))?;
    let index = |name: &str| {
        let found =
            kernels.iter().find(|(path, _)| path.ends_with(&format!("modules/{version}/{name}")));
        found.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let lists = Modules { dependencies: index("modules.dep"), builtin: index("modules.builtin") };
    let wanted = modules::order(&lists)
        .map_err(|name| lacks(&version, &name, "it is neither among its modules nor built in"))?;
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
    if let Some(words) = words {
        files.insert(WORDS.to_string(), words);
    }
    Ok(Parts { version, files, drivers: modules::drivers(&lists) })
}

/// Words for the kernel's command line, in a file of that name beside it.
fn words(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let one_line: Vec<&str> = text.split_whitespace().collect();
    let good = KernelWords::try_from(one_line.join(" "));
    good.map_err(|why| Fault::user(format!("{WORDS} of the kernel: {why}")))?;
    Ok(bytes)
}

fn is_index(path: &str) -> bool {
    path.ends_with("/modules.dep") && path.contains("lib/modules/")
        || path.ends_with("/modules.builtin")
}

/// Reads the regular files of an archive whose paths are wanted. Paths are only ever compared.
fn read_where(
    archive: &File,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let reading = || "reading the kernel's archive".to_string();
    let mut file = archive;
    file.seek(SeekFrom::Start(0)).during(reading)?;
    let mut tar = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, file));
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
