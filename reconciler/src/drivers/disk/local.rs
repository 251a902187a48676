//! Images that are on this host already: OCI layouts, `docker save` archives, archives and folders of files, ext4.
//!
//! No link is followed on the way to any of them, and names within an archive are only ever compared.

use crate::fault::{During, Fault};
use crate::registry::manifest::{self, Config, Document, MAX_CONFIG, MAX_INDEXES, MAX_MANIFEST};
use banger_wire::id::Digest;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

/// Bytes that an archive may unpack to before it is looked into.
const MAX_ARCHIVE: u64 = 40 << 30;

/// A file and the part of it that counts.
pub(super) type Part = (File, Option<(u64, u64)>);

/// What is there.
pub(super) enum Local {
    /// An ext4 filesystem.
    Filesystem(File),
    /// Files: an archive of them, and what it was made from.
    Folder(std::os::fd::OwnedFd, &'static str),
    /// An image with layers.
    Image { layers: Vec<Part>, config: Config, kind: &'static str },
}

/// Looks what there is. `scratch` is where a packed archive is unpacked to, when it is one.
pub(super) fn open(path: &Path, scratch: &Path) -> Result<Local, Fault> {
    let file = open_plain(CWD, path, ResolveFlags::NO_SYMLINKS)?;
    let meta = file.metadata().during(|| format!("looking at {}", path.display()))?;
    if meta.is_dir() {
        if path.join("oci-layout").is_file() {
            return image(&Names::Folder(file), "OCI layout");
        }
        return pack(path).map(|reader| Local::Folder(reader.into(), "folder"));
    }
    if !meta.is_file() {
        return Err(Fault::user(format!("{} is no file and no folder", path.display())));
    }
    let reading = || format!("reading {}", path.display());
    let mut magic = [0; 4];
    let start = file.read_at(&mut magic, 0).during(reading)?;
    let mut super_block = [0; 128];
    let known = file.read_at(&mut super_block, 1024).during(reading)?;
    if known == super_block.len() && super_block[56..58] == [0x53, 0xef] {
        return sound(&super_block, meta.len(), path).map(|()| Local::Filesystem(file));
    }
    let packed = match &magic[..start] {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => unpack(file, &magic, scratch)?,
        _ => file,
    };
    let names = Names::Archive(packed.try_clone().during(reading)?, list(&packed, path)?);
    if names.has("oci-layout") {
        return image(&names, "OCI archive");
    }
    if names.has("manifest.json") {
        return docker(&names);
    }
    let mut packed = packed;
    packed.seek(SeekFrom::Start(0)).during(reading)?;
    Ok(Local::Folder(packed.into(), "tar archive"))
}

fn open_plain(at: impl AsFd, path: &Path, how: ResolveFlags) -> Result<File, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(at, path, flags, Mode::empty(), how | ResolveFlags::NO_MAGICLINKS)
        .map(File::from)
        .map_err(io::Error::from)
        .map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Fault::user(format!("{} is not there", path.display()))
            } else if error.raw_os_error() == Some(nix::libc::ELOOP) {
                Fault::user(format!("there is a link on the way to {}", path.display()))
            } else {
                Fault::io(format!("opening {}", path.display()), error)
            }
        })
}

/// Whether a filesystem can be mounted without writing to it, and is all there.
fn sound(block: &[u8; 128], bytes: u64, path: &Path) -> Result<(), Fault> {
    let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    let name = path.display();
    if word(96) & 4 != 0 {
        return Err(Fault::user(format!("the filesystem in {name} was not unmounted"))
            .hint("mount and unmount it once, or run e2fsck on it"));
    }
    let block_size = 1024u64.checked_shl(word(24)).filter(|size| *size <= 65_536);
    let needed = block_size.and_then(|size| size.checked_mul(u64::from(word(4))));
    if needed.is_none_or(|needed| needed > bytes) {
        return Err(Fault::user(format!("the filesystem in {name} is cut off")));
    }
    Ok(())
}

/// Copies a filesystem, by sharing its blocks where the host's filesystem can.
pub(crate) fn copy(from: &File, to: &Path) -> Result<File, Fault> {
    let copying = || format!("copying to {}", to.display());
    crate::folders::remove(to)?;
    let out = File::options().read(true).write(true).create_new(true).open(to).during(copying)?;
    if rustix::fs::ioctl_ficlone(&out, from).is_ok() {
        return Ok(out);
    }
    let size = from.metadata().during(copying)?.len();
    out.set_len(size).during(copying)?;
    let (mut at, mut chunk) = (0, vec![0; 1 << 20]);
    while at < size {
        // Not every filesystem tells where there is nothing: then all is read.
        match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {}
        }
        let count = from.read_at(&mut chunk, at).during(copying)?;
        if count == 0 {
            return Err(Fault::host("the file became shorter while it was copied"));
        }
        // What is empty stays a hole.
        if chunk[..count].iter().any(|byte| *byte != 0) {
            out.write_all_at(&chunk[..count], at).during(copying)?;
        }
        at += count as u64;
    }
    Ok(out)
}

/// Something that a kernel may be taken from, as one file that is a plain archive or an image: a folder is packed,
/// and what is packed is unpacked, both to `scratch`.
pub(super) fn plain(path: &Path, scratch: &Path) -> Result<File, Fault> {
    let file = open_plain(CWD, path, ResolveFlags::NO_SYMLINKS)?;
    let reading = || format!("reading {}", path.display());
    let meta = file.metadata().during(reading)?;
    if meta.is_dir() {
        crate::folders::remove(scratch)?;
        let mut out = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(scratch)
            .during(reading)?;
        io::copy(&mut pack(path)?, &mut out).during(reading)?;
        out.seek(SeekFrom::Start(0)).during(reading)?;
        return Ok(out);
    }
    if !meta.is_file() {
        return Err(Fault::user(format!("{} is no file and no folder", path.display())));
    }
    let mut magic = [0; 4];
    let start = file.read_at(&mut magic, 0).during(reading)?;
    match &magic[..start] {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => unpack(file, &magic, scratch),
        _ => Ok(file),
    }
}

/// Unpacks a whole archive, so that parts of it can be read by their places.
fn unpack(file: File, magic: &[u8], scratch: &Path) -> Result<File, Fault> {
    let unpacking = || format!("unpacking to {}", scratch.display());
    let file = BufReader::with_capacity(1 << 20, file);
    let unpacked: Box<dyn Read> = if magic[0] == 0x1f {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(file).during(unpacking)?;
        decoder.window_log_max(27).during(unpacking)?;
        Box::new(decoder)
    };
    crate::folders::remove(scratch)?;
    let mut out =
        File::options().read(true).write(true).create_new(true).open(scratch).during(unpacking)?;
    let copied = io::copy(&mut unpacked.take(MAX_ARCHIVE + 1), &mut out);
    let count = copied.map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull {
            Fault::io(unpacking(), error)
        } else {
            Fault::user(format!("the archive cannot be unpacked: {error}"))
        }
    })?;
    if count > MAX_ARCHIVE {
        return Err(Fault::user(format!("the archive unpacks to more than {MAX_ARCHIVE} bytes")));
    }
    out.seek(SeekFrom::Start(0)).during(unpacking)?;
    Ok(out)
}

/// The regular files of an archive, by name: where they are, and links between them.
#[derive(Default)]
struct Listing {
    files: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
}

fn list(file: &File, path: &Path) -> Result<Listing, Fault> {
    let broken =
        |error: io::Error| Fault::user(format!("{} is no tar archive: {error}", path.display()));
    let mut file = file;
    file.seek(SeekFrom::Start(0)).map_err(broken)?;
    let mut archive = tar::Archive::new(file);
    let mut listing = Listing::default();
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = clean(&entry.path_bytes());
        if entry.header().entry_type().is_file() {
            listing.files.insert(name, (entry.raw_file_position(), entry.size()));
        } else if let Some(target) = entry.link_name_bytes() {
            listing.links.insert(name, clean(&target));
        }
        // An image's archive has few: what has many is files, and needs no list.
        if listing.files.len() > 4096 && !listing.files.contains_key("oci-layout") {
            break;
        }
    }
    Ok(listing)
}

fn clean(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect::<Vec<_>>().join("/")
}

/// Files by name, in a folder or an archive.
enum Names {
    Folder(File),
    Archive(File, Listing),
}

impl Names {
    fn has(&self, name: &str) -> bool {
        match self {
            Names::Folder(folder) => {
                open_plain(folder, Path::new(name), ResolveFlags::BENEATH).is_ok()
            }
            Names::Archive(_, listing) => listing.files.contains_key(name),
        }
    }

    fn open(&self, name: &str) -> Result<Part, Fault> {
        let missing = || Fault::user(format!("the image has no {name}"));
        match self {
            Names::Folder(folder) => {
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let file = open_plain(folder, Path::new(name), how)?;
                if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                    return Err(missing());
                }
                Ok((file, None))
            }
            Names::Archive(file, listing) => {
                let target = listing.links.get(name).map(|target| beside(name, target, listing));
                let name = target.as_deref().unwrap_or(name);
                let part = listing.files.get(name).copied().ok_or_else(missing)?;
                // Every layer is read on its own, and by place.
                let own = file.try_clone().during(|| "opening the archive".into())?;
                Ok((own, Some(part)))
            }
        }
    }

    fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, Fault> {
        let (file, part) = self.open(name)?;
        let reading = || format!("reading {name}");
        let (at, length) = match part {
            Some(part) => part,
            None => (0, file.metadata().during(reading)?.len()),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= most);
        let Some(length) = length else {
            return Err(Fault::user(format!("{name} of the image is larger than {most} bytes")));
        };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).during(reading)?;
        Ok(bytes)
    }

    /// A blob whose bytes are what its name says.
    fn blob(&self, digest: &Digest, most: usize) -> Result<Vec<u8>, Fault> {
        let bytes = self.read(&format!("blobs/sha256/{digest}"), most)?;
        if Digest::from_bytes(&Sha256::digest(&bytes).into()) != *digest {
            return Err(Fault::user(format!("blob {} of the image is damaged", digest.short())));
        }
        Ok(bytes)
    }
}

/// Docker writes a layer that is there already as a link to it, from the folder that the name is in.
fn beside(name: &str, target: &str, listing: &Listing) -> String {
    if listing.files.contains_key(target) {
        return target.to_string();
    }
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    clean(format!("{folder}/{target}").as_bytes())
}

/// An OCI layout, as a folder or an archive.
fn image(names: &Names, kind: &'static str) -> Result<Local, Fault> {
    let mut bytes = names.read("index.json", MAX_MANIFEST)?;
    for _ in 0..=MAX_INDEXES {
        match manifest::read(&bytes, None)? {
            Document::Index(next) => bytes = names.blob(&next, MAX_MANIFEST)?,
            Document::Image { config, layers } => {
                let config = names.blob(&config.digest, MAX_CONFIG)?;
                let config = manifest::config(&config, layers.len())?;
                let open = |layer: &crate::registry::cache::Blob| {
                    names.open(&format!("blobs/sha256/{}", layer.digest))
                };
                let layers = layers.iter().map(open).collect::<Result<_, _>>()?;
                return Ok(Local::Image { layers, config, kind });
            }
        }
    }
    Err(Fault::user("the image's index leads on and on"))
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

fn docker(names: &Names) -> Result<Local, Fault> {
    let bytes = names.read("manifest.json", MAX_MANIFEST)?;
    let saved: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|error| Fault::user(format!("manifest.json is not docker save's: {error}")))?;
    let [saved] = saved.as_slice() else {
        let count = saved.len();
        return Err(Fault::user(format!("the archive has {count} images, and one is needed"))
            .hint("save them one by one"));
    };
    if saved.layers.is_empty() {
        return Err(Fault::user("the image has no layers"));
    }
    let config = names.read(&clean(saved.config.as_bytes()), MAX_CONFIG)?;
    let config = manifest::config(&config, saved.layers.len())?;
    let open = |layer: &String| names.open(&clean(layer.as_bytes()));
    let layers = saved.layers.iter().map(open).collect::<Result<_, _>>()?;
    Ok(Local::Image { layers, config, kind: "docker save archive" })
}

/// A folder as an archive, made while it is read.
fn pack(folder: &Path) -> Result<PipeReader, Fault> {
    let (reader, writer) = io::pipe().during(|| "making a pipe".into())?;
    let folder = folder.to_path_buf();
    std::thread::spawn(move || {
        if let Err(error) = pack_into(&folder, writer) {
            // Its reader finds the archive cut off.
            tracing::warn!("reading {}: {error}", folder.display());
        }
    });
    Ok(reader)
}

fn pack_into(folder: &Path, writer: PipeWriter) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, writer));
    let mut links: HashMap<(u64, u64), std::path::PathBuf> = HashMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let below = path.strip_prefix(folder).expect("below").to_path_buf();
        let name = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        let kind = meta.file_type();
        if kind.is_socket() {
            continue;
        }
        if kind.is_dir() {
            header.set_size(0);
            builder.append_data(&mut header, name, io::empty())?;
            let mut entries: Vec<_> =
                fs::read_dir(&path)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
            entries.sort();
            todo.extend(entries.into_iter().rev());
        } else if kind.is_symlink() {
            header.set_size(0);
            builder.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, name, first)?;
        } else if kind.is_file() {
            if meta.nlink() > 1 {
                links.insert((meta.dev(), meta.ino()), below.clone());
            }
            header.set_size(meta.len());
            let file = rustix::fs::openat(
                CWD,
                &path,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            builder.append_data(&mut header, name, File::from(file).take(meta.len()))?;
        } else {
            header.set_size(0);
            builder.append_data(&mut header, name, io::empty())?;
        }
    }
    builder.into_inner()?.flush()
}
