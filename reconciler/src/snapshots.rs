//! Snapshots on disk: `snapshots/<id>/` with a record and a copy of a sandbox's disk. A memory that belongs to one is the
//! helper's.

use crate::drivers::disk::{disk_in, local, place, size_on_disk};
use crate::drivers::vmm::suspend;
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use banger_plan::actual::{Seen, SnapshotFact};
use banger_plan::boot::Boot;
use banger_plan::snapshot::memory_of;
use banger_wire::id::{Digest, SandboxId, SnapshotId};
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

const RECORD: &str = "record.json";
/// What the host keeps of the workspace on the disk.
const WORKSPACE: &str = "workspace";

/// What is known of a snapshot besides its disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Seconds since 1970.
    taken_secs: u64,
    /// What ran, and the processor that its guest knows, when its memory was kept.
    memory: Option<(Boot, Digest)>,
}

fn read(folder: &Path) -> Result<Option<Record>, Fault> {
    match fs::read(folder.join(RECORD)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("reading a snapshot", error)),
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => Err(Fault::host(format!("a snapshot's record: {error}"))),
        },
    }
}

/// What is there of a snapshot. Its memory counts when it is there, and fits this processor.
pub(crate) fn fact(
    folders: &Folders,
    id: &SnapshotId,
    has_memory: impl FnOnce() -> bool,
    processor: &Digest,
) -> Seen<SnapshotFact> {
    let folder = folders.snapshot(id);
    let record = match read(&folder) {
        Ok(Some(record)) => record,
        Ok(None) => return Seen::Absent,
        Err(fault) => return Seen::Unknown(fault.problem().message),
    };
    let (path, disk) = match disk_in(&folder) {
        Seen::Present(disk) => disk,
        Seen::Absent => return Seen::Unknown("it has no disk".to_string()),
        Seen::Unknown(why) => return Seen::Unknown(why),
    };
    let memory = record.memory.filter(|(_, made)| made == processor && has_memory());
    Seen::Present(SnapshotFact {
        disk,
        bytes: size_on_disk(&path).unwrap_or(0),
        taken_secs: record.taken_secs,
        boot: memory.map(|(boot, _)| boot),
    })
}

/// The contents of the images that snapshots lie above.
pub(crate) fn contents(folders: &Folders) -> Result<BTreeSet<Digest>, Fault> {
    let all = fs::read_dir(folders.snapshots()).during(|| "reading the snapshots".into())?;
    let mut contents = BTreeSet::new();
    for entry in all.flatten() {
        match disk_in(&entry.path()) {
            Seen::Present((_, fact)) => drop(contents.insert(fact.content)),
            Seen::Absent => {}
            // It may lie above any.
            Seen::Unknown(why) => return Err(Fault::host(format!("a snapshot's disk: {why}"))),
        }
    }
    Ok(contents)
}

/// Copies a disk, and what is known of the workspace on it, to where a snapshot is made.
pub(crate) fn copy(disk: &Path, workspace: &Path, beside: &Path) -> Result<(), Fault> {
    folders::make(beside)?;
    copy_folder(workspace, &beside.join(WORKSPACE))?;
    let from = File::open(disk).during(|| format!("opening {}", disk.display()))?;
    let to = beside.join(disk.file_name().unwrap_or_default());
    let copy = local::copy(&from, &to)?;
    copy.sync_all().during(|| format!("writing {}", to.display()))
}

/// Copies a folder of ours with everything in it. One that is not there leaves nothing.
fn copy_folder(from: &Path, to: &Path) -> Result<(), Fault> {
    if !from.exists() {
        return Ok(());
    }
    let copying = || format!("copying {}", from.display());
    folders::make(to)?;
    for entry in fs::read_dir(from).during(copying)? {
        let entry = entry.during(copying)?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().during(copying)?.is_dir() {
            copy_folder(&path, &to)?;
        } else {
            fs::copy(&path, &to).during(copying)?;
        }
    }
    Ok(())
}

/// What was copied is on the disk before anything counts on it.
fn sync(folder: &Path) -> Result<(), Fault> {
    let synced = File::open(folder).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
    synced.during(|| format!("syncing {}", folder.display()))
}

/// Removes a snapshot. It is out of its place before it goes.
pub(crate) fn remove(folders: &Folders, id: &SnapshotId) -> Result<bool, Fault> {
    let place_of = folders.snapshot(id);
    if !place_of.exists() {
        return Ok(false);
    }
    let beside = folders.scratch().join(format!("snapshot-{}", folders::unique()));
    place(&place_of, &beside)?;
    File::open(folders.snapshots())
        .and_then(|folder| folder.sync_all())
        .during(|| "removing a snapshot".into())?;
    folders::remove_tree(&beside)
}

/// Writes the record of what was copied, and puts it in its place.
pub(crate) fn finish(
    folders: &Folders,
    id: &SnapshotId,
    beside: &Path,
    memory: Option<(Boot, Digest)>,
) -> Result<(), Fault> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let record = Record { taken_secs: now.as_secs(), memory };
    let bytes = serde_json::to_vec(&record).expect("plain values encode");
    folders::write_whole(&beside.join(RECORD), &bytes)?;
    sync(beside)?;
    place(beside, &folders.snapshot(id))
}

/// Makes a sandbox's disk of a snapshot's; and lets it go on from the snapshot's memory, if it has one.
pub(crate) fn begin(
    folders: &Folders,
    snapshot: &SnapshotId,
    sandbox: &SandboxId,
    path: &Path,
    size: Mib,
) -> Result<(), Fault> {
    let folder = folders.snapshot(snapshot);
    let record = read(&folder)?.ok_or_else(|| Fault::host("the snapshot is gone"))?;
    let Seen::Present((disk, fact)) = disk_in(&folder) else {
        return Err(Fault::host("the snapshot has no disk"));
    };
    let beside = folders.scratch().join(format!("disk-{}", folders::unique()));
    let work = || {
        let from = File::open(&disk).during(|| format!("opening {}", disk.display()))?;
        let copy = local::copy(&from, &beside)?;
        let writing = || format!("writing {}", beside.display());
        if fact.size < size {
            // The guest grows its filesystem into it at the next mount.
            copy.set_len(size.bytes()).during(writing)?;
        }
        copy.sync_all().during(writing)?;
        drop(copy);
        let workspace = folders.workspace(sandbox);
        folders::remove(&workspace)?;
        copy_folder(&folder.join(WORKSPACE), &workspace)?;
        sync(&folders.sandbox(sandbox))?;
        if let Some((boot, processor)) = record.memory {
            let (memory, disks) = (memory_of(snapshot), std::slice::from_ref(&beside));
            suspend::record(folders, sandbox, memory, boot, processor, (disks, false))?;
        }
        place(&beside, path)
    };
    let outcome = work();
    if outcome.is_err() {
        folders::remove(&beside)?;
    }
    outcome
}
