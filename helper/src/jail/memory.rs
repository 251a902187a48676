//! Kept memories: `<base>/<uid>-<install>-memories/<key>`, root's alone. Firecracker believes what is in such a file, so what
//! root did not write, or what changed since, is never given to it (R-G14).

use super::way::regular;
use super::{Record, base, make};
use crate::answer::{At, Bad};
use crate::table::Caller;
use banger_wire::helper::{MAX_MEMORIES, Memory, MemoryOf};
use banger_wire::machine::{BootKey, MEMORY, Machine, STATE, WRITTEN_MEMORY, WRITTEN_STATE};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, open, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const RECORD: &str = "record";
/// The largest state of a machine's devices, in bytes.
const MAX_STATE: u64 = 16 << 20;
/// What is left free beside a memory, in bytes.
const SPARE: u64 = 1 << 30;
/// What is looked at for being empty, in bytes.
const PAGE: usize = 4096;

/// What root wrote, and how to tell that it still is that.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    of: MemoryOf,
    make: Make,
    state: Stamp,
    memory: Stamp,
}

/// The machine, as far as a memory depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Make {
    cpus: u8,
    memory_mib: u32,
    disks: u8,
    read_only: u16,
    has_card: bool,
}

impl Make {
    pub(crate) fn of(machine: &Machine) -> Self {
        Self {
            cpus: machine.cpus,
            memory_mib: machine.memory_mib,
            disks: machine.disks,
            read_only: machine.read_only,
            has_card: machine.card != banger_wire::machine::Card::None,
        }
    }
}

/// A file's place, size and last change. Only root can change what it holds, and nobody can without changing that time. It is not
/// read again to be sure: that would take longer than a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// How the name of a folder of memories ends.
pub(crate) const FOLDER: &str = "-memories";

fn folder(caller: &Caller) -> Result<PathBuf, Bad> {
    Ok(base()?.join(format!("{}-{}{FOLDER}", caller.uid, caller.install()?)))
}

/// One helper at a time: another may still be at what its daemon is gone for.
fn lock(caller: &Caller, operation: FlockOperation) -> Result<File, Bad> {
    let path = folder(caller)?.with_extension("lock");
    let lock = File::options().create(true).append(true).open(path);
    let lock = lock.at("opening the lock of memories")?;
    match flock(&lock, operation) {
        Err(Errno::WOULDBLOCK) => Err(Bad::Refused("a memory is being kept right now")),
        other => other.at("locking the memories").map(|()| lock),
    }
}

/// Keeps what was written down in a jail, and takes it out of there, whatever becomes of it.
pub(crate) fn keep(
    caller: &Caller,
    root: &Path,
    record: &Record,
    key: &BootKey,
    of: &MemoryOf,
) -> Result<bool, Bad> {
    let _lock = lock(caller, FlockOperation::LockExclusive)?;
    let kept = keep_written(caller, root, record, key, of);
    let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.at("opening a jail")?;
    for name in [WRITTEN_STATE, WRITTEN_MEMORY] {
        let _ = unlinkat(&root, name, AtFlags::empty());
    }
    kept
}

/// It is copied: who is in the jail may still have the files open.
fn keep_written(
    caller: &Caller,
    root: &Path,
    record: &Record,
    key: &BootKey,
    of: &MemoryOf,
) -> Result<bool, Bad> {
    let make_of = record.make.clone().ok_or(Bad::Refused("that machine has no memory to keep"))?;
    let all = folder(caller)?;
    let place = all.join(key.as_str());
    let new = read(&place)?.is_none();
    if new {
        sweep(&all)?;
        if list(caller)?.len() >= MAX_MEMORIES {
            return Err(Bad::Refused("there are too many memories"));
        }
        let state = regular(root, WRITTEN_STATE, record.uid)?;
        let memory = regular(root, WRITTEN_MEMORY, record.uid)?;
        let size = u64::from(make_of.memory_mib) << 20;
        let metas = (
            state.metadata().at("looking at a state")?,
            memory.metadata().at("looking at a memory")?,
        );
        if metas.0.len() > MAX_STATE || metas.1.len() != size {
            return Err(Bad::Refused("what was written down is not a machine of that size"));
        }
        let space = rustix::fs::statvfs(root).at("looking at the space that is left")?;
        if space.f_bavail.saturating_mul(space.f_frsize) < size.saturating_add(SPARE) {
            return Err(Bad::Refused("there is too little space for a memory"));
        }
        let beside = all.join(format!("{}.new", key.as_str()));
        make(&beside)?;
        let state = copy(&state, &beside.join(STATE), metas.0.len())?;
        let memory = copy(&memory, &beside.join(MEMORY), size)?;
        let kept = Kept { of: of.clone(), make: make_of, state, memory };
        let bytes = serde_json::to_vec(&kept).at("writing down a memory")?;
        let write = || {
            fs::write(beside.join(RECORD), bytes)?;
            File::open(beside.join(RECORD))?.sync_all()?;
            fs::rename(&beside, &place)?;
            File::open(&all)?.sync_all()
        };
        write().at("writing down a memory")?;
    }
    Ok(new)
}

/// Copies a file without its empty pages.
fn copy(from: &File, to: &Path, size: u64) -> Result<Stamp, Bad> {
    let mut bytes = vec![0; 256 * PAGE];
    let mut copied = || -> std::io::Result<File> {
        let file = File::options().read(true).write(true).create_new(true).open(to)?;
        file.set_len(size)?;
        let mut at = 0;
        let mut from = from;
        loop {
            let count = fill(&mut from, &mut bytes)?;
            for page in bytes[..count].chunks(PAGE) {
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, at)?;
                }
                at += page.len() as u64;
            }
            if count < bytes.len() {
                break;
            }
        }
        if at != size {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // Whoever starts from it reads it, as a user that owns nothing.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        file.sync_all()?;
        Ok(file)
    };
    let file = copied().at("keeping a memory")?;
    stamp(&file)
}

fn fill(from: &mut &File, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match from.read(&mut bytes[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn stamp(file: &File) -> Result<Stamp, Bad> {
    let meta = file.metadata().at("looking at a memory")?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    Ok(Stamp { inode: meta.ino(), size: meta.len(), changed })
}

/// The state and the memory that was kept, to be read, when they are what root wrote for just such a machine.
pub(crate) fn open_kept(
    caller: &Caller,
    key: &BootKey,
    machine: &Machine,
) -> Result<[File; 2], Bad> {
    let place = folder(caller)?.join(key.as_str());
    let kept: Kept = read(&place)?.ok_or(Bad::Refused("there is no such memory"))?;
    if kept.make != Make::of(machine) {
        return Err(Bad::Refused("the memory is of another machine"));
    }
    let check = |name: &str, wanted: &Stamp| {
        let file = File::open(place.join(name)).at("opening a memory")?;
        let meta = file.metadata().at("looking at a memory")?;
        let own = meta.uid() == 0 && meta.mode() & 0o7777 == 0o444;
        if !own || stamp(&file)? != *wanted {
            return Err(Bad::Refused("the memory is not what was kept"));
        }
        Ok(file)
    };
    let files = [check(STATE, &kept.state)?, check(MEMORY, &kept.memory)?];
    // Its time says when it was used.
    let used = File::open(place.join(RECORD)).and_then(|file| file.set_modified(SystemTime::now()));
    used.at("remembering a memory's use")?;
    Ok(files)
}

/// Removes what is half made or half dropped.
fn sweep(all: &Path) -> Result<(), Bad> {
    for entry in fs::read_dir(all).into_iter().flatten() {
        let path = entry.at("looking at the memories")?.path();
        if path.extension().is_some() || read(&path)?.is_none() {
            fs::remove_dir_all(path).at("removing half a memory")?;
        }
    }
    Ok(())
}

fn read(place: &Path) -> Result<Option<Kept>, Bad> {
    match fs::read(place.join(RECORD)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Bad::Failed("reading a memory", error)),
    }
}

/// The caller's memories.
pub(crate) fn list(caller: &Caller) -> Result<Vec<Memory>, Bad> {
    let entries = match fs::read_dir(folder(caller)?) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Bad::Failed("looking at the memories", error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(memory) = BootKey::try_from(name) else { continue };
        let Some(kept) = read(&entry.path())? else { continue };
        let used = fs::metadata(entry.path().join(RECORD)).and_then(|meta| meta.modified());
        let idle = used.ok().and_then(|used| SystemTime::now().duration_since(used).ok());
        let idle_secs = idle.unwrap_or_default().as_secs();
        found.push(Memory { memory, of: kept.of, idle_secs });
    }
    found.sort_by(|one, other| one.memory.cmp(&other.memory));
    Ok(found)
}

/// Drops a memory. Machines that went on from it keep what they have open.
pub(crate) fn drop_kept(caller: &Caller, key: &BootKey) -> Result<bool, Bad> {
    let all = folder(caller)?;
    let place = all.join(key.as_str());
    if !place.exists() {
        return Ok(false);
    }
    // Keeping takes long, and nobody waits for that to drop something.
    let _lock = lock(caller, FlockOperation::NonBlockingLockExclusive)?;
    // The record goes first: what has none is no memory.
    let _ = fs::remove_file(place.join(RECORD));
    fs::remove_dir_all(place).at("dropping a memory")?;
    // The folder goes with its last memory.
    let _ = fs::remove_dir(all);
    Ok(true)
}
