//! Ways into a jail. Who is in there may have replaced anything, so a name must lead, without a link, to just what it should
//! be, and it must be the jail's own user's (R-G9).

use crate::answer::{At, Bad};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// A descriptor of a thing in a jail's root that says where it is and nothing more.
fn place(root: &Path, name: &str, uid: u32, kind: FileType) -> Result<OwnedFd, Bad> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(root, folder, Mode::empty()).at("opening a jail")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let found = openat2(&root, name, flags, Mode::empty(), resolve).at("looking into a jail")?;
    let stat = fstat(&found).at("looking into a jail")?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_uid != uid {
        return Err(Bad::Refused("what is there is not the machine's"));
    }
    Ok(found)
}

/// A connection to a socket in a jail's root.
pub(crate) fn connect(root: &Path, name: &str, uid: u32) -> Result<OwnedFd, Bad> {
    let place = place(root, name, uid, FileType::Socket)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    );
    let socket = socket.at("making a socket")?;
    // The name can be another's by now; the descriptor cannot. A full backlog is an error here, not a wait.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()));
    connect_to(&socket, &address.at("naming a socket")?).at("connecting into a jail")?;
    Ok(socket)
}

/// A regular file in a jail's root, to be read. It has no other name.
pub(crate) fn regular(root: &Path, name: &str, uid: u32) -> Result<File, Bad> {
    let place = place(root, name, uid, FileType::RegularFile)?;
    if fstat(&place).at("looking into a jail")?.st_nlink != 1 {
        return Err(Bad::Refused("what is there is not the machine's"));
    }
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Not waited for: whoever owns it may hold a lease on it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty());
    Ok(file.at("opening a file of a jail")?.into())
}

/// The end to read of a FIFO in a jail's root.
pub(crate) fn read_end(root: &Path, name: &str, uid: u32) -> Result<OwnedFd, Bad> {
    let place = place(root, name, uid, FileType::Fifo)?;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .at("opening a FIFO")
}
