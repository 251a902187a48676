//! What was shipped: each side keeps one, the guest on the sandbox's own disk where its processes do not see it.
//!
//! A file's stamp tells without reading it that it is still as it was shipped. What changed within the clock's grain of the
//! moment when the manifest was written may have the same stamp all the same: that is read.

use crate::Hash;
use crate::beneath::{Beneath, kind};
use crate::name::MAX_NAME;
use crate::take::{digest, plain};
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// What the file begins with.
const MAGIC: &[u8; 8] = b"bangerw1";
/// Seconds before a manifest was written in which a stamp does not prove anything.
const GRAIN_SECS: i64 = 1;

/// What a file or link was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Whether it is a link.
    pub link: bool,
    /// Whether it is executable.
    pub executable: bool,
    /// The digest of its content, or of where it leads.
    pub hash: Hash,
    /// Its stamp on the side that keeps this.
    pub stamp: Stamp,
    /// What else that side wants to know of it. At most [`MAX_NAME`] bytes.
    pub note: String,
}

/// What changes whenever a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    inode: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// As it is now.
    pub fn of(stat: &Stat) -> Self {
        let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
        Self {
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }
}

/// Everything that was shipped.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// The folder in the guest.
    pub at: String,
    /// How often it was shipped, in whole or in part.
    pub revision: u64,
    /// When it was written last, in seconds since 1970 by this side's clock.
    pub written: i64,
    /// By name.
    pub entries: BTreeMap<Vec<u8>, Shipped>,
}

/// What is there under a name, against what was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// Nothing.
    Gone,
    /// What was shipped.
    Same,
    /// Something else.
    Different,
}

impl Manifest {
    /// Looks at one name.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn now(&self, root: &Beneath, name: &[u8], shipped: &Shipped) -> io::Result<Now> {
        // A link on the way: what was shipped is not there any more.
        let Ok(Some(stat)) = root.stat(name) else { return Ok(Now::Gone) };
        let (found, mode) = kind(&stat);
        match (found, shipped.link) {
            (FileType::Symlink, true) | (FileType::RegularFile, false) => {}
            _ => return Ok(Now::Different),
        }
        if !shipped.link && (mode & 0o111 != 0) != shipped.executable {
            return Ok(Now::Different);
        }
        let stamp = Stamp::of(&stat);
        if !shipped.link && stamp.size != shipped.stamp.size && shipped.stamp != Stamp::default() {
            return Ok(Now::Different);
        }
        if stamp == shipped.stamp && stamp.changed.0 < self.written - GRAIN_SECS {
            return Ok(Now::Same);
        }
        let hash = hash_of(root, name, shipped.link)?;
        Ok(if hash == shipped.hash { Now::Same } else { Now::Different })
    }
}

/// The digest of a file's content, or of where a link leads.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(root: &Beneath, name: &[u8], link: bool) -> io::Result<Hash> {
    if link {
        return Ok(Sha256::digest(root.read_link(name)?).into());
    }
    Ok(digest(&mut root.read(name)?.0)?.1)
}

/// What a name is now, as if it had been shipped so.
pub fn seen(stat: &Stat, hash: Hash) -> Shipped {
    let (found, mode) = kind(stat);
    let link = found == FileType::Symlink;
    let executable = !link && plain(mode) == 0o755;
    Shipped { link, executable, hash, stamp: Stamp::of(stat), note: String::new() }
}

fn put(to: &mut impl Write, number: i64) -> io::Result<()> {
    to.write_all(&number.to_be_bytes())
}

fn get(from: &mut impl Read) -> io::Result<i64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(i64::from_be_bytes(bytes))
}

fn put_text(to: &mut impl Write, text: &[u8]) -> io::Result<()> {
    put(to, i64::try_from(text.len()).unwrap_or(0))?;
    to.write_all(text)
}

fn get_text(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = usize::try_from(get(from)?).ok().filter(|length| *length <= MAX_NAME);
    let mut text = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    from.read_exact(&mut text)?;
    Ok(text)
}

/// Seconds since 1970.
pub fn now_secs() -> i64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Writes it to a file of a folder, whole or not at all.
///
/// # Errors
/// When that fails.
pub fn save(folder: &Path, name: &str, manifest: &Manifest) -> io::Result<()> {
    let beside = folder.join(format!("{name}.new"));
    let mut to = BufWriter::new(File::create(&beside)?);
    to.write_all(MAGIC)?;
    put_text(&mut to, manifest.at.as_bytes())?;
    put(&mut to, i64::try_from(manifest.revision).unwrap_or(i64::MAX))?;
    put(&mut to, manifest.written)?;
    put(&mut to, i64::try_from(manifest.entries.len()).unwrap_or(i64::MAX))?;
    for (name, shipped) in &manifest.entries {
        put_text(&mut to, name)?;
        to.write_all(&[u8::from(shipped.link), u8::from(shipped.executable)])?;
        to.write_all(&shipped.hash)?;
        let stamp = &shipped.stamp;
        to.write_all(&stamp.inode.to_be_bytes())?;
        for number in
            [stamp.size, stamp.modified.0, stamp.modified.1, stamp.changed.0, stamp.changed.1]
        {
            put(&mut to, number)?;
        }
        put_text(&mut to, shipped.note.as_bytes())?;
    }
    to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Reads it. `None` when it is not there.
///
/// # Errors
/// When it cannot be read.
pub fn load(file: &Path) -> io::Result<Option<Manifest>> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let from = &mut BufReader::new(file);
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let at = String::from_utf8(get_text(from)?).map_err(|_| io::ErrorKind::InvalidData)?;
    let revision = u64::try_from(get(from)?).unwrap_or(0);
    let (written, count) = (get(from)?, get(from)?);
    let mut manifest = Manifest { at, revision, written, entries: BTreeMap::new() };
    for _ in 0..count {
        let name = get_text(from)?;
        let mut flags = [0; 2];
        from.read_exact(&mut flags)?;
        let mut hash = Hash::default();
        from.read_exact(&mut hash)?;
        let mut inode = [0; 8];
        from.read_exact(&mut inode)?;
        let stamp = Stamp {
            inode: u64::from_be_bytes(inode),
            size: get(from)?,
            modified: (get(from)?, get(from)?),
            changed: (get(from)?, get(from)?),
        };
        let [link, executable] = flags.map(|flag| flag == 1);
        let note = String::from_utf8(get_text(from)?).map_err(|_| io::ErrorKind::InvalidData)?;
        manifest.entries.insert(name, Shipped { link, executable, hash, stamp, note });
    }
    Ok(Some(manifest))
}
