//! Removes a jail's folder. Its processes could write in it, so nothing in it is believed: folders are entered by
//! descriptor, links are never followed, no mount is crossed, and one turn removes only so much.

use crate::answer::{At, Bad};
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The most entries that one turn removes.
const MOST: usize = 10_000;
/// The deepest folder that is entered. What is deeper is moved up, into the jail's own folder, which nobody else could write in.
const DEEPEST: usize = 64;

/// Removes a folder and everything in it.
pub(crate) fn clear(folder: &Path) -> Result<(), Bad> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let top = match top {
        Err(Errno::NOENT) => return Ok(()),
        other => other.at("opening a jail")?,
    };
    let mut left = MOST;
    // What was moved up is found by the next look.
    while empty(&top, &top, 0, &mut left)? {}
    std::fs::remove_dir(folder).at("removing a jail")?;
    // The owner's folder goes with its last jail; while there are others it stays.
    let _ = folder.parent().map(std::fs::remove_dir);
    Ok(())
}

/// Removes what is in a folder. Returns whether there was anything.
fn empty(top: &OwnedFd, folder: &OwnedFd, depth: usize, left: &mut usize) -> Result<bool, Bad> {
    let names: Vec<CString> = Dir::read_from(folder)
        .at("reading a jail")?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !matches!(name.as_bytes(), b"." | b".."))
        .take(*left)
        .collect();
    for name in &names {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).at("looking into a jail")?;
        if stat.st_mode & 0o170_000 != 0o040_000 {
            unlinkat(folder, name, AtFlags::empty()).at("emptying a jail")?;
            continue;
        }
        if depth == DEEPEST {
            lift(top, folder, name)?;
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let inner = openat2(folder, name, flags, Mode::empty(), beneath).at("opening a jail")?;
        empty(top, &inner, depth + 1, left)?;
        unlinkat(folder, name, AtFlags::REMOVEDIR).at("emptying a jail")?;
    }
    if *left == 0 {
        return Err(Bad::Refused("so much is in its jail that it takes several turns"));
    }
    Ok(!names.is_empty())
}

/// Moves a folder into the jail's own, under a name that is free there.
fn lift(top: &OwnedFd, folder: &OwnedFd, name: &CStr) -> Result<(), Bad> {
    for number in 0..MOST {
        let free = format!("deep{number}");
        match renameat_with(folder, name, top, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other.at("emptying a jail"),
        }
    }
    Err(Bad::Refused("the folders in its jail are too deep"))
}
