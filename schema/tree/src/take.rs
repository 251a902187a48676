//! Takes a stream of files below a folder: all of it, or nothing.

use crate::Hash;
use crate::beneath::{Beneath, Owner, kind};
use crate::name;
use crate::stage::{Expect, Mark, Stage, StageError, at};
use crate::stream::{Entry, Receiver, StreamError};
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// What may be taken from a stream.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Links may come whose targets stay below the folder.
    pub links: bool,
    /// What is there and different may be replaced.
    pub force: bool,
    /// Only whether a file is executable counts of its permissions, and names that are `.git` somewhere are refused: it
    /// comes from a guest.
    pub hostile: bool,
}

/// What came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Files and links that were written.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files and links that were there already, just so.
    pub same: u64,
    /// What the other side left out: sockets and the like.
    pub left_out: u64,
}

/// A name whose first part is another.
fn renamed(name: &[u8], called: Option<&[u8]>) -> Vec<u8> {
    match (called, name.iter().position(|byte| *byte == b'/')) {
        (None, _) => name.to_vec(),
        (Some(called), None) => called.to_vec(),
        (Some(called), Some(slash)) => [called, &name[slash..]].concat(),
    }
}

/// Takes a whole stream below a folder, or nothing of it. The first part of every name is `called` so, if that is given. In
/// `record` it is written down while it is done.
///
/// # Errors
/// When something may not come, is there already, or cannot be written.
pub fn take(
    receiver: &mut Receiver<impl Read>,
    root: &Beneath,
    rules: Rules,
    owner: Owner,
    called: Option<&[u8]>,
    record: Option<&Path>,
) -> Result<Taken, StageError> {
    let mut stage = Stage::new(root, owner, record)?;
    let (mut taken, mut refused, mut conflicts) = (Taken::default(), Vec::new(), Vec::new());
    let (mut folders, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(entry) = receiver.next_entry()? {
        let name = renamed(entry.name(), called);
        if rules.hostile
            && let Err(why) = name::check(&name)
        {
            refused.push((name, why.to_string()));
            drain(receiver, &entry)?;
            continue;
        }
        if !matches!(entry, Entry::LeftOut { .. }) && !seen.insert(name.clone()) {
            refused.push((name, "it came twice".into()));
            drain(receiver, &entry)?;
            continue;
        }
        let there = at(&name, root.stat(&name))?;
        let is_folder = there.as_ref().is_some_and(|stat| kind(stat).0 == FileType::Directory);
        match entry {
            Entry::Folder { mode, .. } if there.is_none() => folders.push((name, mode)),
            Entry::Folder { .. } if is_folder => {}
            Entry::Folder { .. } => conflicts.push((name, "no folder".into())),
            Entry::File { mode, .. } => {
                let mode = if rules.hostile { plain(mode) } else { mode & 0o777 };
                let mut content = None;
                let expect = expected(there.as_ref());
                stage.file(&name, mode, expect, |file| {
                    let mut hashing = Hashing { to: file, hash: Sha256::new() };
                    let size = receiver.content(&mut hashing)?.size;
                    content = Some((size, hashing.hash.finalize().into()));
                    Ok::<_, StageError>(())
                })?;
                let (size, hash) = content.expect("it was written");
                taken.bytes += size;
                let same = is_same(root, &name, &hash, mode);
                let way = Way { there: there.is_some(), is_folder, same, force: rules.force };
                place(&mut stage, &mut taken, &mut conflicts, way);
            }
            Entry::Link { target, .. } => {
                if rules.hostile && !(rules.links && stays_within(&name, &target, called.is_some()))
                {
                    refused.push((name, format!("a link to {}", name::shown(&target))));
                    continue;
                }
                stage.link(&name, &target, expected(there.as_ref()))?;
                let same = root.read_link(&name).is_ok_and(|now| now == target);
                let way = Way { there: there.is_some(), is_folder, same, force: rules.force };
                place(&mut stage, &mut taken, &mut conflicts, way);
            }
            Entry::Removed { .. } => refused.push((name, "a removal".into())),
            Entry::LeftOut { .. } => taken.left_out += 1,
        }
    }
    if !refused.is_empty() {
        return Err(StageError::Refused(refused));
    }
    if !conflicts.is_empty() {
        return Err(StageError::Conflict(conflicts));
    }
    for (name, mode) in folders {
        let mode = if rules.hostile { 0o755 } else { mode & 0o777 | 0o700 };
        at(&name, root.folder(&name, mode, owner))?;
    }
    taken.files = stage.len() as u64;
    stage.commit()?;
    Ok(taken)
}

/// What stands in the way of a change.
struct Way {
    there: bool,
    is_folder: bool,
    same: bool,
    force: bool,
}

/// Decides about the change that was prepared last.
fn place(
    stage: &mut Stage<'_>,
    taken: &mut Taken,
    conflicts: &mut Vec<(Vec<u8>, String)>,
    way: Way,
) {
    if !way.same && !way.is_folder && (!way.there || way.force) {
        return;
    }
    let Some(name) = stage.drop_last() else { return };
    if way.same {
        taken.same += 1;
    } else {
        conflicts.push((name, if way.is_folder { "a folder" } else { "another file" }.into()));
    }
}

/// What was looked at has to be there still when it is replaced.
fn expected(there: Option<&Stat>) -> Expect {
    there.map_or(Expect::Nothing, |stat| Expect::This(Mark::of(stat)))
}

fn drain(receiver: &mut Receiver<impl Read>, entry: &Entry) -> Result<(), StreamError> {
    match entry {
        Entry::File { .. } => receiver.content(&mut io::sink()).map(drop),
        Entry::Folder { .. }
        | Entry::Link { .. }
        | Entry::Removed { .. }
        | Entry::LeftOut { .. } => Ok(()),
    }
}

/// What a file from elsewhere may be: executable or not.
pub fn plain(mode: u32) -> u32 {
    if mode & 0o111 == 0 { 0o644 } else { 0o755 }
}

/// Whether a link of this name leads to something below the root, whatever is there, and not into `.git`. It goes up only
/// at its beginning: after a part that may itself be a link, nobody knows what up means.
pub fn stays_beneath(name: &[u8], target: &[u8]) -> bool {
    let mut depth = name.split(|byte| *byte == b'/').count() - 1;
    if target.is_empty() || target[0] == b'/' || target.contains(&0) {
        return false;
    }
    let mut down = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 || down => return false,
            b".." => depth -= 1,
            part if name::check(part).is_err() => return false,
            _ => down = true,
        }
    }
    true
}

/// As [`stays_beneath`]; below the one thing that is copied, if there is just one.
fn stays_within(name: &[u8], target: &[u8], one: bool) -> bool {
    match name.iter().position(|byte| *byte == b'/') {
        Some(slash) if one => stays_beneath(&name[slash + 1..], target),
        None if one => false,
        _ => stays_beneath(name, target),
    }
}

/// Whether a file is there with this content and these permissions.
fn is_same(root: &Beneath, name: &[u8], hash: &Hash, mode: u32) -> bool {
    let Ok((mut file, stat)) = root.read(name) else { return false };
    digest(&mut file).is_ok_and(|(_, now)| now == *hash) && plain(kind(&stat).1) == plain(mode)
}

/// The size and digest of what is read.
///
/// # Errors
/// When it cannot be read.
pub fn digest(from: &mut impl Read) -> io::Result<(u64, Hash)> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok((size, hash.finalize().into())),
            Ok(count) => {
                hash.update(&piece[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes on, and takes the digest of what goes through: the other side's word for it counts for nothing.
struct Hashing<'a> {
    to: &'a mut File,
    hash: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
