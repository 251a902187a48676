//! Many changes below a folder as one: prepared in a folder of our own inside of it, then renamed into their places.
//!
//! Either all of them are there afterwards or none is. What is replaced is kept until the last one is in its place; an
//! error puts it back, and what a crash left is put back or ended by whoever comes next ([`recover`]). That there is such a
//! thing is written down elsewhere: a folder that only looks like one of ours is nobody's.

use crate::beneath::{Beneath, Owner, kind};
use crate::name::{self, STAGE};
use crate::stream::{Entry, Limits, Receiver, Sender, StreamError};
use crate::walk;
use rustix::fs::{FileType, FlockOperation, Stat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

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
    /// An earlier change was cut off, and what it left cannot be put back.
    #[error("an earlier change was cut off, and {} was edited since: what was there before is in {folder}", name::shown(.name))]
    Edited {
        /// Which file.
        name: Vec<u8>,
        /// Where what was there before is.
        folder: String,
    },
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

pub(crate) fn at<T>(name: &[u8], result: io::Result<T>) -> Result<T, StageError> {
    result.map_err(|error| StageError::Io(name.to_vec(), error))
}

/// What tells a file from one that was written later: it stays the same when a file is renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

impl Mark {
    /// Of this file, as it is.
    pub fn of(stat: &Stat) -> Self {
        let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self { inode: stat.st_ino, size: stat.st_size, modified: (stat.st_mtime, nanoseconds) }
    }

    fn text(&self) -> String {
        format!("{} {} {} {}", self.inode, self.size, self.modified.0, self.modified.1)
    }
}

/// What has to be in a change's place when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Nothing,
    /// This file or link, as it was looked at.
    This(Mark),
    /// Any file or link, or nothing.
    Any,
}

/// Changes that are being prepared. Dropped before they are made, they leave nothing.
pub struct Stage<'a> {
    root: &'a Beneath,
    folder: Vec<u8>,
    inside: Beneath,
    changes: Vec<Change>,
    owner: Owner,
    record: Option<PathBuf>,
}

/// One change: the file or link in the stage of the same number goes to this name; or the name goes.
struct Change {
    name: Vec<u8>,
    put: Option<Mark>,
    expect: Expect,
}

pub(crate) fn numbered(kind: &str, number: usize) -> Vec<u8> {
    format!("{kind}-{number}").into_bytes()
}

/// A name that nobody can have made before.
fn fresh() -> io::Result<Vec<u8>> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{STAGE}{hex}").into_bytes())
}

impl<'a> Stage<'a> {
    /// Begins. In `record`, a file outside of what others can write, it is written down while changes are being made; what an
    /// earlier one left behind is put back first.
    ///
    /// # Errors
    /// When another one is under way, or the folder cannot be written.
    pub fn new(root: &'a Beneath, owner: Owner, record: Option<&Path>) -> Result<Self, StageError> {
        if let Some(record) = record {
            recover(root, record)?;
        }
        let folder = at(b".", fresh())?;
        at(&folder, root.make_new(&folder))?;
        let inside = at(&folder, root.enter(&folder))?;
        // It is held for as long as it is used: that tells it from one that was left.
        let held = rustix::fs::flock(inside.descriptor(), FlockOperation::NonBlockingLockExclusive);
        held.map_err(|_| StageError::Busy)?;
        let record = record.map(Path::to_path_buf);
        Ok(Self { root, folder, inside, changes: Vec::new(), owner, record })
    }

    /// Prepares a file; `write` gives it its content.
    ///
    /// # Errors
    /// When that fails.
    pub fn file<E: From<StageError>>(
        &mut self,
        name: &[u8],
        mode: u32,
        expect: Expect,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = numbered("new", self.changes.len());
        let mut new = at(name, self.inside.create(&number, mode, self.owner))?;
        write(&mut new.file)?;
        let stat = at(name, new.keep())?;
        self.changes.push(Change { name: name.to_vec(), put: Some(Mark::of(&stat)), expect });
        Ok(())
    }

    /// Prepares a link.
    ///
    /// # Errors
    /// When that fails.
    pub fn link(&mut self, name: &[u8], target: &[u8], expect: Expect) -> Result<(), StageError> {
        let number = numbered("new", self.changes.len());
        at(name, self.inside.link(&number, target, self.owner))?;
        let stat = at(name, self.inside.stat(&number))?.map(|stat| Mark::of(&stat));
        self.changes.push(Change { name: name.to_vec(), put: stat, expect });
        Ok(())
    }

    /// Prepares a removal.
    pub fn remove(&mut self, name: &[u8], expect: Expect) {
        self.changes.push(Change { name: name.to_vec(), put: None, expect });
    }

    /// How many changes are prepared.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes back what was prepared last; its name.
    pub(crate) fn drop_last(&mut self) -> Option<Vec<u8>> {
        let change = self.changes.pop()?;
        let _ = self.inside.remove(&numbered("new", self.changes.len()));
        Some(change.name)
    }

    /// Makes all changes.
    ///
    /// # Errors
    /// When one cannot be made: then all are undone.
    pub fn commit(self) -> Result<(), StageError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let mut journal = Sender::new(Vec::new());
        for change in &self.changes {
            let written = match &change.put {
                Some(mark) => journal.link(&change.name, mark.text().as_bytes()),
                None => journal.removed(&change.name),
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
        if let Some(record) = &self.record {
            at(&self.folder, write_down(record, &self.folder))?;
        }
        for number in 0..self.changes.len() {
            if let Err(error) = self.make(number) {
                undo(self.root, &self.inside, &self.changes);
                return Err(error);
            }
        }
        let _ = self.root.sync();
        // From here on they are made: the old ones are only rubbish.
        at(&self.folder, self.inside.remove(b"journal"))?;
        for change in self.changes.iter().filter(|change| change.put.is_none()) {
            self.root.prune(parent(&change.name));
        }
        Ok(())
    }

    fn make(&self, number: usize) -> Result<(), StageError> {
        let Change { name, put, expect } = &self.changes[number];
        let conflict = |why: &str| StageError::Conflict(vec![(name.clone(), why.to_string())]);
        let staged = |kind: &str| walk::join(&self.folder, &numbered(kind, number));
        let there = at(name, self.root.stat(name))?;
        match (&there, expect) {
            (Some(stat), _) if kind(stat).0 == FileType::Directory => {
                return Err(conflict("a folder"));
            }
            (Some(_), Expect::Nothing) => return Err(conflict("it appeared meanwhile")),
            (None, Expect::This(_)) => return Err(conflict("it went meanwhile")),
            (Some(_), _) => {
                at(name, self.root.rename(name, &staged("old")))?;
                // Only now nobody can change it any more without our seeing it.
                let moved = at(name, self.inside.stat(&numbered("old", number)))?;
                let same = |mark: &Mark| moved.is_some_and(|stat| Mark::of(&stat) == *mark);
                if let Expect::This(mark) = expect
                    && !same(mark)
                {
                    return Err(conflict("it changed meanwhile"));
                }
            }
            (None, Expect::Nothing | Expect::Any) => {}
        }
        if put.is_some() {
            let placed = self.root.rename_new(&staged("new"), name);
            placed.map_err(|error| match error.kind() == io::ErrorKind::AlreadyExists {
                true => conflict("it appeared meanwhile"),
                false => StageError::Io(name.clone(), error),
            })?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        clear(self.root, &self.folder, &self.inside, self.record.as_deref());
    }
}

fn parent(name: &[u8]) -> &[u8] {
    &name[..name.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

fn write_down(record: &Path, folder: &[u8]) -> io::Result<()> {
    let mut file = File::create(record)?;
    file.write_all(folder)?;
    file.sync_all()
}

/// Puts back what was there, last change first. What was edited since, and what cannot be put back, stays; its name.
fn undo(root: &Beneath, inside: &Beneath, changes: &[Change]) -> Option<Vec<u8>> {
    let there = |name: &[u8]| inside.stat(name).is_ok_and(|stat| stat.is_some());
    let mut stuck = None;
    for (number, change) in changes.iter().enumerate().rev() {
        let (old, new) = (numbered("old", number), numbered("new", number));
        if let Some(mark) = change.put.filter(|_| !there(&new)) {
            // It was moved into its place. Only what is still ours is taken away again.
            let ours =
                root.stat(&change.name).ok().flatten().is_some_and(|stat| Mark::of(&stat) == mark);
            if !ours || root.rename_to(&change.name, inside, &new).is_err() {
                stuck = Some(change.name.clone());
                continue;
            }
        }
        if !there(&old) {
            if change.put.is_some() && !parent(&change.name).is_empty() {
                root.prune(parent(&change.name));
            }
        } else if inside.rename_new_to(&old, root, &change.name).is_err() {
            stuck = Some(change.name.clone());
        }
    }
    if stuck.is_none() {
        let _ = inside.remove(b"journal");
    }
    stuck
}

/// Removes a stage, unless it still has what could not be put back.
fn clear(root: &Beneath, folder: &[u8], inside: &Beneath, record: Option<&Path>) {
    if !matches!(inside.stat(b"journal"), Ok(None)) {
        return;
    }
    for name in walk::names(inside, b"").unwrap_or_default() {
        let _ = inside.remove(&name);
    }
    root.prune(folder);
    if let Some(record) = record {
        let _ = std::fs::remove_file(record);
    }
}

/// Ends what a change left that did not come to its end, or puts it back: only one that was written down.
///
/// # Errors
/// When one is under way, cannot be read, or something was edited since; that is said once.
pub fn recover(root: &Beneath, record: &Path) -> Result<(), StageError> {
    let folder = match std::fs::read(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => at(b"record", read)?,
    };
    let ours = folder.starts_with(STAGE.as_bytes()) && !folder.contains(&b'/');
    let inside = match root.enter(&folder) {
        Ok(inside) if ours => inside,
        // It is of another folder, or was cleared.
        Ok(_) | Err(_) => return at(b"record", std::fs::remove_file(record)),
    };
    let held = rustix::fs::flock(inside.descriptor(), FlockOperation::NonBlockingLockExclusive);
    held.map_err(|_| StageError::Busy)?;
    let mut stuck = None;
    if let Ok((file, _)) = inside.read(b"journal") {
        let changes = journal(file)?;
        let there = |name: &[u8]| inside.stat(name).is_ok_and(|stat| stat.is_some());
        let made = |(number, change): (usize, &Change)| match change.put {
            Some(_) => !there(&numbered("new", number)),
            None => matches!(root.stat(&change.name), Ok(None)),
        };
        if changes.iter().enumerate().all(made) {
            // All were made, and maybe edited since: nothing is to be put back.
            at(&folder, inside.remove(b"journal"))?;
        } else {
            stuck = undo(root, &inside, &changes);
        }
    }
    clear(root, &folder, &inside, Some(record));
    match stuck {
        None => Ok(()),
        Some(name) => {
            // Said once: whoever reads it decides.
            at(b"record", std::fs::remove_file(record))?;
            Err(StageError::Edited { name, folder: name::shown(&folder) })
        }
    }
}

fn journal(file: File) -> Result<Vec<Change>, StageError> {
    let mut changes = Vec::new();
    let mut receiver = Receiver::new(io::BufReader::new(file), Limits::NONE);
    while let Some(entry) = receiver.next_entry()? {
        let name = entry.name().to_vec();
        name::check(&name).map_err(|why| StreamError::Name { name: name.clone(), why })?;
        let put = match entry {
            Entry::Link { target, .. } => {
                Some(mark(&target).ok_or(StreamError::Malformed("no mark"))?)
            }
            Entry::Folder { .. }
            | Entry::File { .. }
            | Entry::Removed { .. }
            | Entry::LeftOut { .. } => None,
        };
        changes.push(Change { name, put, expect: Expect::Any });
    }
    Ok(changes)
}

fn mark(text: &[u8]) -> Option<Mark> {
    let mut numbers = std::str::from_utf8(text).ok()?.split(' ');
    Some(Mark {
        inode: numbers.next()?.parse().ok()?,
        size: numbers.next()?.parse().ok()?,
        modified: (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests;
