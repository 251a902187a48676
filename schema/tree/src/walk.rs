//! What is below a folder, into a stream.

use crate::beneath::{Beneath, kind};
use crate::stream::Sender;
use rustix::fs::{Dir, FileType, OFlags};
use std::io::{self, Write};

/// The names in a folder, sorted.
///
/// # Errors
/// When it cannot be read.
pub fn names(root: &Beneath, folder: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let opened = match folder {
        b"" => rustix::fs::openat(
            root.descriptor(),
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?,
        below => root.enter(below)?.into_descriptor(),
    };
    let mut names = Vec::new();
    for entry in Dir::new(opened)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A name below a folder's.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// Sends what is at `name`, folders with all below them, under the name `shown`. What is no file, folder or link is
/// said to be left out.
///
/// # Errors
/// When something cannot be read or sent.
pub fn send(
    to: &mut Sender<impl Write>,
    root: &Beneath,
    name: &[u8],
    shown: &[u8],
) -> io::Result<()> {
    let mut todo = vec![(name.to_vec(), shown.to_vec())];
    while let Some((name, shown)) = todo.pop() {
        let Some(stat) = root.stat(&name)? else {
            // It went while we were on our way to it.
            continue;
        };
        match kind(&stat) {
            (FileType::RegularFile, mode) => {
                let (mut file, _) = root.read(&name)?;
                to.file(&shown, mode, &mut file)?;
            }
            (FileType::Symlink, _) => to.link(&shown, &root.read_link(&name)?)?,
            (FileType::Directory, mode) => {
                to.folder(&shown, mode)?;
                let inside = names(root, &name)?;
                todo.extend(
                    inside.iter().rev().map(|part| (join(&name, part), join(&shown, part))),
                );
            }
            _ => to.left_out(&shown, "no file, folder or link")?,
        }
    }
    Ok(())
}
