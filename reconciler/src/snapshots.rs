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
    let disks = all.flatten().map(|entry| disk_in(&entry.path()));
    Ok(disks.filter_map(|disk| disk.present().map(|(_, fact)| fact.content.clone())).collect())
}

/// Copies a disk to where a snapshot is made.
pub(crate) fn copy(disk: &Path, beside: &Path) -> Result<(), Fault> {
    folders::make(beside)?;
    let from = File::open(disk).during(|| format!("opening {}", disk.display()))?;
    let to = beside.join(disk.file_name().unwrap_or_default());
    let copy = local::copy(&from, &to)?;
    copy.sync_all().during(|| format!("writing {}", to.display()))
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
        if let Some((boot, processor)) = record.memory {
            let memory = memory_of(snapshot);
            suspend::record(
                folders,
                sandbox,
                memory,
                boot,
                processor,
                std::slice::from_ref(&beside),
            )?;
        }
        place(&beside, path)
    };
    let outcome = work();
    if outcome.is_err() {
        folders::remove(&beside)?;
    }
    outcome
}
