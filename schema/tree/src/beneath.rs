//! Reading and writing below a folder, never outside of it (R-P3).
//!
//! Every way down is one `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`: the kernel refuses a link anywhere on
//! it, however fast somebody swaps folders for links. A new file is written beside its place and renamed into it.

use crate::name;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A folder that everything happens below.
#[derive(Debug)]
pub struct Beneath(OwnedFd);

/// Who owns what is made: user and group. `None` for whoever makes it.
pub type Owner = Option<(u32, u32)>;

/// A file that is being written. It is in its place once it is kept; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    /// What to write to.
    pub file: File,
    folder: OwnedFd,
    beside: String,
    last: Vec<u8>,
    kept: bool,
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

fn last(name: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let parts = name::parts(name).map(drop);
    parts.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    Ok(match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (b".", name),
    })
}

fn beside() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(".banger-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Beneath {
    /// This folder. A link to one is followed: the caller named it.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(folder, flags, Mode::empty())?))
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Its descriptor, for good.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    fn go(&self, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE)
    }

    /// A folder below, as one to go on from.
    ///
    /// # Errors
    /// When it is none, or a link is on the way.
    pub fn enter(&self, name: &[u8]) -> io::Result<Self> {
        last(name)?;
        Ok(Self(self.go(name, OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    /// A folder below, which is made with its parents where it is not there.
    fn make(&self, name: &[u8], bits: u32, owner: Owner) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.go(name, flags) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        let (parent, part) = last(name)?;
        let parent = self.make(parent, bits, owner)?;
        match rustix::fs::mkdirat(&parent, part, mode(bits)) {
            Ok(()) => {
                if let Some((user, group)) = owner {
                    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                    rustix::fs::chownat(
                        &parent,
                        part,
                        Some(user),
                        Some(group),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.go(name, flags)?)
    }

    /// Makes a folder and its parents. One that is there stays as it is.
    ///
    /// # Errors
    /// When something else is there, or a link is on the way.
    pub fn folder(&self, name: &[u8], bits: u32, owner: Owner) -> io::Result<()> {
        last(name)?;
        self.make(name, bits, owner).map(drop)
    }

    /// What is there under a name; a link is not followed. `None` for nothing.
    ///
    /// # Errors
    /// When it cannot be told: a link is on the way, say.
    pub fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        let (parent, part) = last(name)?;
        let parent = match self.go(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::statat(&parent, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file below, to read.
    ///
    /// # Errors
    /// When it is no plain file, or a link is on the way.
    pub fn read(&self, name: &[u8]) -> io::Result<(File, Stat)> {
        last(name)?;
        // Without waiting: a pipe has to be refused, not listened to.
        let opened = self.go(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&opened)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        Ok((File::from(opened), stat))
    }

    /// Where a link below leads.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let (parent, part) = last(name)?;
        let parent = self.go(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(rustix::fs::readlinkat(&parent, part, Vec::new())?.into_bytes())
    }

    /// Begins a file. Folders on the way are made.
    ///
    /// # Errors
    /// When it cannot be made, or a link is on the way.
    pub fn create(&self, name: &[u8], bits: u32, owner: Owner) -> io::Result<NewFile> {
        let (parent, part) = last(name)?;
        let folder = self.make(parent, 0o755, owner)?;
        let beside = beside();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, beside.as_str(), flags, Mode::from_raw_mode(0o600))?;
        let new = NewFile { file: file.into(), folder, beside, last: part.to_vec(), kept: false };
        if let Some((user, group)) = owner {
            rustix::fs::fchown(&new.file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        rustix::fs::fchmod(&new.file, mode(bits))?;
        Ok(new)
    }

    /// Makes a link in place of what file or link is there. Folders on the way are made.
    ///
    /// # Errors
    /// When a folder is there, or a link is on the way.
    pub fn link(&self, name: &[u8], target: &[u8], owner: Owner) -> io::Result<()> {
        let (parent, part) = last(name)?;
        let folder = self.make(parent, 0o755, owner)?;
        let beside = beside();
        rustix::fs::symlinkat(target, &folder, beside.as_str())?;
        if let Some((user, group)) = owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            rustix::fs::chownat(
                &folder,
                beside.as_str(),
                Some(user),
                Some(group),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        rustix::fs::renameat(&folder, beside.as_str(), &folder, part).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&folder, beside.as_str(), AtFlags::empty());
        })?;
        Ok(())
    }

    /// Removes a file or link, and then the folders above it that are empty. What is not there is no error.
    ///
    /// # Errors
    /// When it is a folder, or a link is on the way.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        let (parent, part) = last(name)?;
        let folder = match self.go(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            opened => opened?,
        };
        match rustix::fs::unlinkat(&folder, part, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.prune(parent);
        Ok(())
    }

    /// Removes a folder and those above it, as far as they are empty.
    pub fn prune(&self, mut folder: &[u8]) {
        while let Ok((parent, part)) = last(folder) {
            let removed = self
                .go(parent, OFlags::PATH | OFlags::DIRECTORY)
                .and_then(|parent| rustix::fs::unlinkat(&parent, part, AtFlags::REMOVEDIR));
            if removed.is_err() || parent == b"." {
                return;
            }
            folder = parent;
        }
    }

    /// Moves what is at one name to another, in place of what file is there. Folders on the way are made.
    ///
    /// # Errors
    /// When one of them cannot be reached, or it is not there.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.rename_to(from, self, to)
    }

    /// As [`Beneath::rename`], but never in place of something.
    ///
    /// # Errors
    /// When one of them cannot be reached, it is not there, or something is in its place (`AlreadyExists`).
    pub fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.rename_new_to(from, self, to)
    }

    /// As [`Beneath::rename`], below another folder of the same filesystem.
    ///
    /// # Errors
    /// When one of them cannot be reached, or it is not there.
    pub fn rename_to(&self, from: &[u8], other: &Beneath, to: &[u8]) -> io::Result<()> {
        self.move_to(from, other, to, RenameFlags::empty())
    }

    /// As [`Beneath::rename_new`], below another folder of the same filesystem.
    ///
    /// # Errors
    /// When one of them cannot be reached, it is not there, or something is in its place (`AlreadyExists`).
    pub fn rename_new_to(&self, from: &[u8], other: &Beneath, to: &[u8]) -> io::Result<()> {
        self.move_to(from, other, to, RenameFlags::NOREPLACE)
    }

    fn move_to(
        &self,
        from: &[u8],
        other: &Beneath,
        to: &[u8],
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (from_parent, from_last) = last(from)?;
        let (to_parent, to_last) = last(to)?;
        let from_parent = self.go(from_parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let to_parent = other.make(to_parent, 0o755, None)?;
        Ok(rustix::fs::renameat_with(from_parent, from_last, to_parent, to_last, flags)?)
    }

    /// Makes a folder that only its owner may enter, and that was not there.
    ///
    /// # Errors
    /// When it is there, or cannot be made.
    pub fn make_new(&self, name: &[u8]) -> io::Result<()> {
        let (parent, part) = last(name)?;
        let parent = self.go(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(rustix::fs::mkdirat(parent, part, mode(0o700))?)
    }

    /// Everything that was written here is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

impl NewFile {
    /// Puts it in its place, over what file is there.
    ///
    /// # Errors
    /// When a folder is there.
    pub fn keep(mut self) -> io::Result<Stat> {
        rustix::fs::renameat(
            &self.folder,
            self.beside.as_str(),
            &self.folder,
            self.last.as_slice(),
        )?;
        self.kept = true;
        Ok(rustix::fs::fstat(&self.file)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = rustix::fs::unlinkat(&self.folder, self.beside.as_str(), AtFlags::empty());
        }
    }
}

/// What kind of thing this is, with its permission bits.
pub fn kind(stat: &Stat) -> (FileType, u32) {
    (FileType::from_raw_mode(stat.st_mode), stat.st_mode & 0o7777)
}

/// A path as bytes, without the slashes and dots at its ends that mean nothing.
pub fn bytes(path: &Path) -> Vec<u8> {
    let plain: std::path::PathBuf =
        path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
    plain.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    #[test]
    fn links_on_the_way_are_refused_and_files_come_whole() {
        let outside = tempfile::tempdir().expect("a folder");
        let inside = tempfile::tempdir().expect("a folder");
        symlink(outside.path(), inside.path().join("out")).expect("a link");
        let root = Beneath::open(inside.path()).expect("opens");
        assert!(root.create(b"out/x", 0o644, None).is_err());
        assert!(root.folder(b"out/new", 0o755, None).is_err());
        assert!(root.link(b"out/l", b"/", None).is_err());
        assert!(root.remove(b"out/x").is_err());
        assert!(root.stat(b"out/x").is_err());
        assert!(root.create(b"../x", 0o644, None).is_err());
        assert!(root.read(b"out").is_err(), "a link is no file");
        assert_eq!(std::fs::read_dir(outside.path()).expect("reads").count(), 0);

        let mut new = root.create(b"a/b/c", 0o755, None).expect("begins");
        new.file.write_all(b"text").expect("writes");
        assert!(
            root.stat(b"a/b/c").expect("looks").is_none(),
            "it is not there before it is whole"
        );
        let stat = new.keep().expect("keeps");
        assert_eq!(kind(&stat), (FileType::RegularFile, 0o755));
        let mut text = String::new();
        root.read(b"a/b/c").expect("opens").0.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "text");
        drop(root.create(b"a/b/other", 0o644, None).expect("begins"));
        assert_eq!(
            std::fs::read_dir(inside.path().join("a/b")).expect("reads").count(),
            1,
            "nothing is left"
        );
        root.remove(b"a/b/c").expect("removes");
        assert!(!inside.path().join("a").exists(), "empty folders go with it");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let inside = tempfile::tempdir().expect("a folder");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.path().join("p"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        let root = Beneath::open(inside.path()).expect("opens");
        assert!(root.read(b"p").is_err());
    }
}
