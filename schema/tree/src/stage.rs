//! Many changes below a folder as one: prepared in a folder of our own inside of it, then renamed into their places.
//!
//! Either all of them are there afterwards or none is. What is replaced is kept until the last one is in its place; an
//! error puts it back, and what a crash left is put back by whoever comes next ([`recover`]).

use crate::Hash;
use crate::beneath::{Beneath, Owner, kind};
use crate::name::{self, STAGE};
use crate::stream::{Entry, Limits, Receiver, Sender, StreamError};
use crate::walk;
use rustix::fs::{FileType, FlockOperation};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// What came is not what may come.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// These may not be there, each with why.
    #[error("{} may not be written", list(.0))]
    Refused(Vec<(Vec<u8>, String)>),
    /// Something else is there under these names.
    #[error("{} already there, and different", list(.0))]
    Conflict(Vec<(Vec<u8>, String)>),
    /// Somebody else is changing the same folder.
    #[error("another change of this folder is under way")]
    Busy,
    /// A name could not be reached or written.
    #[error("{}", name::shown(.0))]
    Io(Vec<u8>, #[source] io::Error),
}

fn list(names: &[(Vec<u8>, String)]) -> String {
    let some: Vec<String> =
        names.iter().take(10).map(|(name, why)| format!("{} ({why})", name::shown(name))).collect();
    let more = names.len().saturating_sub(some.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", some.join(", "))
}

fn at<T>(name: &[u8], result: io::Result<T>) -> Result<T, StageError> {
    result.map_err(|error| StageError::Io(name.to_vec(), error))
}

/// Changes that are being prepared. Dropped before they are made, they leave nothing.
pub struct Stage<'a> {
    root: &'a Beneath,
    folder: Vec<u8>,
    inside: Beneath,
    changes: Vec<Change>,
    owner: Owner,
}

/// One change: the file or link in the stage of the same number goes to this name; or the name goes.
struct Change {
    name: Vec<u8>,
    put: bool,
}

fn numbered(kind: &str, number: usize) -> Vec<u8> {
    format!("{kind}-{number}").into_bytes()
}

impl<'a> Stage<'a> {
    /// Begins. What an earlier one left behind is put back first.
    ///
    /// # Errors
    /// When another one is under way, or the folder cannot be written.
    pub fn new(root: &'a Beneath, owner: Owner) -> Result<Self, StageError> {
        recover(root)?;
        let folder = format!("{STAGE}{}", std::process::id()).into_bytes();
        at(&folder, root.folder(&folder, 0o700, None))?;
        let inside = at(&folder, root.enter(&folder))?;
        // It is held for as long as it is used: that tells it from one that was left.
        let held = rustix::fs::flock(inside.descriptor(), FlockOperation::NonBlockingLockExclusive);
        held.map_err(|_| StageError::Busy)?;
        Ok(Self { root, folder, inside, changes: Vec::new(), owner })
    }

    /// Prepares a file; `write` gives it its content.
    ///
    /// # Errors
    /// When that fails.
    pub fn file<E: From<StageError>>(
        &mut self,
        name: &[u8],
        mode: u32,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = numbered("new", self.changes.len());
        let mut new = at(name, self.inside.create(&number, mode, self.owner))?;
        write(&mut new.file)?;
        at(name, new.keep())?;
        self.changes.push(Change { name: name.to_vec(), put: true });
        Ok(())
    }

    /// Prepares a link.
    ///
    /// # Errors
    /// When that fails.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), StageError> {
        at(name, self.inside.link(&numbered("new", self.changes.len()), target, self.owner))?;
        self.changes.push(Change { name: name.to_vec(), put: true });
        Ok(())
    }

    /// Prepares a removal.
    pub fn remove(&mut self, name: &[u8]) {
        self.changes.push(Change { name: name.to_vec(), put: false });
    }

    /// Makes all changes.
    ///
    /// # Errors
    /// When one cannot be made: then all are undone.
    pub fn commit(self) -> Result<(), StageError> {
        let mut journal = Sender::new(Vec::new());
        for change in &self.changes {
            let written = match change.put {
                true => journal.link(&change.name, b"put"),
                false => journal.removed(&change.name),
            };
            at(&change.name, written)?;
        }
        let journal = at(b"journal", journal.end())?;
        let written = self.inside.create(b"journal", 0o600, None).and_then(|mut file| {
            file.file.write_all(&journal)?;
            file.file.sync_all()?;
            file.keep()?;
            self.inside.sync()
        });
        at(&self.folder, written)?;
        for number in 0..self.changes.len() {
            if let Err(error) = self.make(number) {
                undo(self.root, &self.inside, &self.changes);
                return Err(error);
            }
        }
        // From here on they are made: the old ones are only rubbish.
        let done = self.root.sync().and_then(|()| self.inside.remove(b"journal"));
        if let Err(error) = done {
            undo(self.root, &self.inside, &self.changes);
            return at(&self.folder, Err(error));
        }
        for change in self.changes.iter().filter(|change| !change.put) {
            if let Some(at) = change.name.iter().rposition(|byte| *byte == b'/') {
                self.root.prune(&change.name[..at]);
            }
        }
        Ok(())
    }

    fn make(&self, number: usize) -> Result<(), StageError> {
        let change = &self.changes[number];
        let name = &change.name;
        let staged = |kind: &str| walk::join(&self.folder, &numbered(kind, number));
        match at(name, self.root.stat(name))? {
            Some(stat) if kind(&stat).0 == FileType::Directory => {
                return Err(StageError::Conflict(vec![(name.clone(), "a folder".into())]));
            }
            Some(_) => at(name, self.root.rename(name, &staged("old")))?,
            None => {}
        }
        if change.put {
            at(name, self.root.rename(&staged("new"), name))?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        clear(self.root, &self.folder, &self.inside);
    }
}

/// Puts back what was there, last change first. What cannot be put back stays in the stage.
fn undo(root: &Beneath, inside: &Beneath, changes: &[Change]) {
    let there = |name: &[u8]| inside.stat(name).is_ok_and(|stat| stat.is_some());
    for (number, change) in changes.iter().enumerate().rev() {
        let (old, new) = (numbered("old", number), numbered("new", number));
        if change.put && !there(&new) {
            // It was moved into its place: back it goes, unless what follows overwrites it.
            let _ = root.rename_to(&change.name, inside, &new);
        }
        if there(&old) {
            let _ = inside.rename_to(&old, root, &change.name);
        } else if change.put
            && let Some(at) = change.name.iter().rposition(|byte| *byte == b'/')
        {
            root.prune(&change.name[..at]);
        }
    }
    let stuck = (0..changes.len()).any(|number| there(&numbered("old", number)));
    if !stuck {
        let _ = inside.remove(b"journal");
    }
}

/// Removes a stage, unless it still has what could not be put back.
fn clear(root: &Beneath, folder: &[u8], inside: &Beneath) {
    if !matches!(inside.stat(b"journal"), Ok(None)) {
        return;
    }
    for name in walk::names(inside, b"").unwrap_or_default() {
        let _ = inside.remove(&name);
    }
    root.prune(folder);
}

/// Puts back what a change left that did not come to its end.
///
/// # Errors
/// When one is under way, or what is there cannot be read.
pub fn recover(root: &Beneath) -> Result<(), StageError> {
    for folder in at(b".", walk::names(root, b""))? {
        if !folder.starts_with(STAGE.as_bytes()) {
            continue;
        }
        let inside = at(&folder, root.enter(&folder))?;
        let held = rustix::fs::flock(inside.descriptor(), FlockOperation::NonBlockingLockExclusive);
        held.map_err(|_| StageError::Busy)?;
        if let Ok((file, _)) = inside.read(b"journal") {
            let mut changes = Vec::new();
            let mut receiver = Receiver::new(io::BufReader::new(file), Limits::NONE);
            while let Some(entry) = receiver.next_entry()? {
                let put = matches!(entry, Entry::Link { .. });
                let name = entry.name().to_vec();
                name::check(&name).map_err(|why| StreamError::Name { name: name.clone(), why })?;
                changes.push(Change { name, put });
            }
            undo(root, &inside, &changes);
        }
        clear(root, &folder, &inside);
    }
    Ok(())
}

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

/// Takes a whole stream below a folder, or nothing of it. The first part of every name is `called` so, if that is given.
///
/// # Errors
/// When something may not come, is there already, or cannot be written.
pub fn take(
    receiver: &mut Receiver<impl Read>,
    root: &Beneath,
    rules: Rules,
    owner: Owner,
    called: Option<&[u8]>,
) -> Result<Taken, StageError> {
    let mut stage = Stage::new(root, owner)?;
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
                stage.file(&name, mode, |file| {
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
                if rules.hostile && !(rules.links && stays_beneath(&name, &target)) {
                    refused.push((name, format!("a link to {}", name::shown(&target))));
                    continue;
                }
                stage.link(&name, &target)?;
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
    taken.files = stage.changes.len() as u64;
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
    let Some(change) = stage.changes.pop() else { return };
    let _ = stage.inside.remove(&numbered("new", stage.changes.len()));
    if way.same {
        taken.same += 1;
    } else {
        conflicts
            .push((change.name, if way.is_folder { "a folder" } else { "another file" }.into()));
    }
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

/// Whether a link of this name leads to something below the root, whatever is there, and not into `.git`.
pub fn stays_beneath(name: &[u8], target: &[u8]) -> bool {
    let mut depth = name.split(|byte| *byte == b'/').count() - 1;
    if target.is_empty() || target[0] == b'/' || target.contains(&0) {
        return false;
    }
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            part if name::check(part).is_err() => return false,
            _ => depth += 1,
        }
    }
    true
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
