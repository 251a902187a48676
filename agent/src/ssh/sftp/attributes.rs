//! Attributes of files, as a client sets and sees them.

use super::wire::{ATTR_ACMODTIME, ATTR_PERMISSIONS, ATTR_SIZE, ATTR_UIDGID, Failure};
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, chownat, futimens, utimensat};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// What a client asks to set.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    fn timestamps(&self) -> Option<Timestamps> {
        let spec = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let (accessed, modified) = self.times?;
        Some(Timestamps { last_access: spec(accessed), last_modification: spec(modified) })
    }

    pub(super) fn set(&self, path: &Path) -> Result<(), Failure> {
        if let Some(size) = self.size {
            OpenOptions::new().write(true).open(path)?.set_len(size)?;
        }
        if let Some(mode) = self.mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        self.set_times_and_owner(path, AtFlags::empty())
    }

    /// lsetstat: of a symlink itself, whose mode cannot be set on Linux.
    pub(super) fn set_link(&self, path: &Path) -> Result<(), Failure> {
        if self.size.is_some() {
            return Err(Failure::BadMessage);
        }
        if let Some(mode) = self.mode {
            if fs::symlink_metadata(path)?.is_symlink() {
                return Err(io::Error::from(io::ErrorKind::Unsupported).into());
            }
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        self.set_times_and_owner(path, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn set_times_and_owner(&self, path: &Path, flags: AtFlags) -> Result<(), Failure> {
        if let Some(times) = self.timestamps() {
            utimensat(CWD, path, &times, flags)?;
        }
        if let Some((uid, gid)) = self.owner {
            chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        }
        Ok(())
    }

    pub(super) fn set_open(&self, file: &File) -> Result<(), Failure> {
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        if let Some(mode) = self.mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some(times) = self.timestamps() {
            futimens(file, &times)?;
        }
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

pub(super) fn put_metadata(out: &mut Vec<u8>, meta: &Metadata) {
    let flags = ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_ACMODTIME;
    // Version 3 has 32 bits for times; clamped as in OpenSSH.
    let time = |t: i64| t.clamp(0, u32::MAX.into()) as u32;
    out.extend(flags.to_be_bytes());
    out.extend(meta.size().to_be_bytes());
    for field in [meta.uid(), meta.gid(), meta.mode(), time(meta.atime()), time(meta.mtime())] {
        out.extend(field.to_be_bytes());
    }
}
