//! Files that the caller lends to a jail. They stay the caller's; the jail's group may use them, and it sees nothing but the
//! file itself, by a mount that only its processes have.

use crate::answer::{At, Bad};
use rustix::fs::{FileType, Gid, Mode, OFlags, fchmod, fchown, fcntl_getfl, fstat, fstatfs};
use std::os::fd::OwnedFd;

/// Filesystems whose files can make a reader wait for ever, or change under it: FUSE, NFS, SMB, 9p, proc, sysfs, cgroup.
const STRANGE: [i64; 9] = [
    0x6573_5546,
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x9fa0,
    0x6265_6572,
    0x6367_7270,
];

/// Checks a descriptor of the caller's and lets the jail's group use its file.
pub(crate) fn lend(file: &OwnedFd, owner: u32, group: u32, writable: bool) -> Result<(), Bad> {
    let flags = fcntl_getfl(file).at("looking at a descriptor")?;
    if flags.contains(OFlags::PATH) {
        return Err(Bad::Refused("a descriptor is of a place, not of a file"));
    }
    let access = flags & OFlags::RWMODE;
    if access != if writable { OFlags::RDWR } else { OFlags::RDONLY } {
        return Err(Bad::Refused("a descriptor is opened otherwise than its file is used"));
    }
    let stat = fstat(file).at("looking at a file")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Bad::Refused("a descriptor is not of a regular file"));
    }
    if stat.st_uid != owner {
        return Err(Bad::Refused("a file is not the caller's"));
    }
    let kind = fstatfs(file).at("looking at a filesystem")?.f_type;
    if STRANGE.contains(&kind) {
        return Err(Bad::Refused("a file is on a filesystem that disks cannot be on"));
    }
    let mode = stat.st_mode & 0o7777;
    let wanted = if writable { 0o660 } else { mode & 0o700 | 0o444 };
    if writable && stat.st_gid != group {
        fchown(file, None, Some(Gid::from_raw(group))).at("lending a file")?;
    }
    if mode != wanted {
        fchmod(file, Mode::from_raw_mode(wanted)).at("lending a file")?;
    }
    Ok(())
}
