//! Guests whose memory is kept, and sandboxes that go on from it.
//!
//! A record beside a sandbox's disk names the memory, and what its disks were like. The record is what counts: it is written
//! before the memory is kept, and it is gone, durably, before a guest goes on from it. So a memory is never used twice, and
//! never with disks that changed since.

use super::firecracker::{self, GO_ON};
use super::{PAUSED, Processes};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::helper::{self, Helper};
use banger_plan::actual::{Seen, SuspendedFact};
use banger_plan::admit::LEAST_FREE_MIB;
use banger_plan::boot::Boot;
use banger_plan::recipe;
use banger_wire::helper::{Memory, MemoryOf, Purpose};
use banger_wire::id::{Digest, SandboxId};
use banger_wire::machine::BootKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The record, beside the sandbox's disk.
const RECORD: &str = "suspended.json";

/// What a sandbox goes on from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The memory.
    pub(super) memory: BootKey,
    boot: Boot,
    /// The processor that its guest knows.
    processor: Digest,
    /// Its disks, without the image.
    disks: Vec<Stamp>,
    /// Whether it is the sandbox's own, and not a snapshot's.
    own: bool,
}

/// What a disk is like that nobody wrote to since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    /// Bytes.
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

/// Why a record says nothing.
enum Unread {
    /// It could not be read.
    Not(String),
    /// It is no record of ours.
    Strange(String),
}

/// The memories of guests that the helper has, or why it cannot tell.
pub(super) struct Kept<'a>(pub(super) Result<BTreeSet<&'a BootKey>, &'a str>);

impl<'a> Kept<'a> {
    pub(super) fn of(memories: &'a Result<Vec<Memory>, String>) -> Self {
        let guests = |all: &'a Vec<Memory>| {
            let guests = all.iter().filter(|memory| memory.of.purpose == Purpose::Guest);
            guests.map(|memory| &memory.memory).collect()
        };
        Self(memories.as_ref().map(guests).map_err(String::as_str))
    }
}

fn stamps(disks: &[PathBuf]) -> Result<Vec<Stamp>, Fault> {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).during(|| format!("looking at {}", path.display()))?;
        Ok(Stamp { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    };
    disks.iter().map(stamp).collect()
}

/// A name that no memory ever had.
fn fresh(sandbox: &SandboxId) -> BootKey {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let digest =
        recipe::digest(&("memory", sandbox, now.as_nanos().to_string(), folders::unique()));
    BootKey::try_from(digest.as_str()[..BootKey::LENGTH].to_string()).expect("hex digits")
}

/// Lets a sandbox go on from a memory, with just these disks, the image left out.
pub(crate) fn record(
    folders: &Folders,
    sandbox: &SandboxId,
    memory: BootKey,
    boot: Boot,
    processor: Digest,
    (disks, own): (&[PathBuf], bool),
) -> Result<(), Fault> {
    let record = Record { memory, boot, processor, disks: stamps(disks)?, own };
    let bytes = serde_json::to_vec(&record).expect("plain values encode");
    folders::write_whole(&folders.sandbox(sandbox).join(RECORD), &bytes)
}

/// Removes a record, durably.
fn forget(path: &Path) -> Result<bool, Fault> {
    let removed = folders::remove(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(removed),
        other => other.during(|| format!("forgetting {}", path.display())).map(|()| removed),
    }
}

impl Processes {
    fn record(&self, id: &SandboxId) -> PathBuf {
        self.folders.sandbox(id).join(RECORD)
    }

    fn read_record(&self, id: &SandboxId) -> Result<Option<Record>, Unread> {
        match fs::read(self.record(id)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unread::Not(error.to_string())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Unread::Strange(error.to_string())),
        }
    }

    /// Why nothing can go on from a memory that is there.
    fn unusable(&self, id: &SandboxId, record: &Record) -> Result<Option<String>, Fault> {
        if record.processor != *self.templates.processor() {
            return Ok(Some("its memory was kept on another processor".to_string()));
        }
        // The first is the image, which nobody writes to. The memory may be another sandbox's, the disks are not.
        let disks = self.disks(&Boot { sandbox: id.clone(), ..record.boot.clone() })?;
        let same = stamps(&disks[1..])? == record.disks;
        Ok((!same).then(|| "its disks changed since its memory was kept".to_string()))
    }

    pub(super) fn suspended_fact(&self, id: &SandboxId, kept: &Kept<'_>) -> Seen<SuspendedFact> {
        let record = match (self.read_record(id), &kept.0) {
            (Ok(None), _) => return Seen::Absent,
            (Err(Unread::Not(why)), _) => return Seen::Unknown(why),
            (Err(Unread::Strange(why)), _) => {
                let (memory, boot) = (fresh(id), None);
                let unusable = Some(format!("the record of its memory cannot be read: {why}"));
                return Seen::Present(SuspendedFact { memory, boot, own: true, unusable });
            }
            (_, Err(why)) => return Seen::Unknown((*why).to_string()),
            (Ok(Some(record)), Ok(_)) => record,
        };
        let there = kept.0.as_ref().is_ok_and(|kept| kept.contains(&record.memory));
        let unusable = if there {
            self.unusable(id, &record).unwrap_or_else(|fault| Some(fault.problem().message))
        } else {
            Some("its memory is gone".to_string())
        };
        let Record { memory, boot, own, .. } = record;
        Seen::Present(SuspendedFact { memory, boot: Some(boot), own, unusable })
    }

    /// Whether a machine stands still because its memory was kept.
    pub(super) fn is_suspended(&self, id: &SandboxId, kept: &Kept<'_>) -> bool {
        let record = self.read_record(id).ok().flatten();
        let there = |record: Record| kept.0.as_ref().is_ok_and(|all| all.contains(&record.memory));
        self.folders.vm(id).join(PAUSED).exists() && record.is_some_and(there)
    }

    /// What a sandbox is to go on from.
    pub(super) fn memory_of(&self, id: &SandboxId) -> Result<BootKey, Fault> {
        let unread = |error| match error {
            Unread::Not(why) | Unread::Strange(why) => Fault::host(why),
        };
        let record = self.read_record(id).map_err(unread)?;
        let record = record.ok_or_else(|| Fault::host("its memory was given up"))?;
        match self.unusable(id, &record)? {
            Some(why) => Err(Fault::host(why)),
            None => Ok(record.memory),
        }
    }

    /// Gives up what a sandbox would go on from. The memory itself goes when nothing needs it.
    pub(super) fn forget_record(&self, id: &SandboxId) -> Result<bool, Fault> {
        forget(&self.record(id))
    }

    /// Writes down a guest that stands still, and keeps it.
    pub(super) async fn keep(&self, id: &SandboxId) -> Result<(), Fault> {
        let helper = self.helper.as_ref().ok_or_else(|| Fault::host("there is no helper"))?;
        let boot = self.recorded(id).ok_or_else(|| Fault::host("there is no run"))?;
        self.write_down(helper, id, &boot).await?;
        let (memory, of) = (fresh(id), self.memory_made_of(&boot));
        let (processor, disks) = (self.templates.processor().clone(), self.disks(&boot)?);
        record(&self.folders, id, memory.clone(), boot, processor, (&disks[1..], true))?;
        helper.keep_memory(id, memory, of).map(drop)
    }

    /// Writes a guest's memory down in its jail, where there is room for that and for what is kept of it.
    pub(super) async fn write_down(
        &self,
        helper: &Helper,
        id: &SandboxId,
        boot: &Boot,
    ) -> Result<(), Fault> {
        let needed = 2 * boot.memory.get() + LEAST_FREE_MIB;
        let jails = helper::jails_folder();
        let stat = nix::sys::statvfs::statvfs(&jails).during(|| "looking at the jails".into())?;
        let free = (stat.blocks_available() * stat.fragment_size()) >> 20;
        if free < needed {
            let place = jails.display();
            let message =
                format!("keeping its memory needs {needed} MiB at {place}, {free} are free");
            return Err(Fault::user(message).hint("free some space; it goes on meanwhile"));
        }
        firecracker::write_down(helper, id, boot.memory).await
    }

    /// Lets a machine go on that was written down. Of one that was not kept, or not to its end, nothing stays in the jail.
    pub(super) async fn go_on(
        &self,
        helper: &Helper,
        id: &SandboxId,
        kept: bool,
    ) -> Result<(), Fault> {
        firecracker::go_on(helper, id, GO_ON).await?;
        folders::remove(&self.folders.vm(id).join(PAUSED))?;
        if let (false, Some(boot)) = (kept, self.recorded(id)) {
            discard_written(helper, id, self.memory_made_of(&boot));
        }
        Ok(())
    }

    pub(super) fn memory_made_of(&self, boot: &Boot) -> MemoryOf {
        MemoryOf {
            purpose: Purpose::Guest,
            kernel: boot.kernel.clone(),
            image: boot.image.clone(),
            programs: self.templates.programs().clone(),
        }
    }

    /// Lets a machine go on that stands still for no reason any more: whoever wrote it down is gone, or failed.
    pub(super) fn go_on_unless(&self, id: &SandboxId, kept: &Kept<'_>) {
        let paused = self.folders.vm(id).join(PAUSED);
        let (true, Some(helper), Ok(_)) = (paused.exists(), self.helper.clone(), &kept.0) else {
            return;
        };
        if self.is_suspended(id, kept) {
            return;
        }
        let Some(hold) = self.still.clone().by(id) else { return };
        // What was kept may have been listed before somebody kept this one.
        let now = helper.memories().map_err(|fault| fault.problem().message);
        let ended = !paused.exists();
        if ended || now.is_err() || self.is_suspended(id, &Kept::of(&now)) {
            return;
        }
        let (id, record, boot) = (id.clone(), self.record(id), self.recorded(id));
        // Whoever let it stand still may have ended in the middle of it: the VMM writes on, and answers when it is done.
        let writing = boot.as_ref().map(|boot| firecracker::writing(boot.memory));
        let patience = GO_ON + writing.unwrap_or_default();
        let made_of = boot.map(|boot| self.memory_made_of(&boot));
        tokio::spawn(async move {
            // First: what goes on is past its memory.
            let outcome = async {
                forget(&record)?;
                if let Err(fault) = firecracker::go_on(&helper, &id, patience).await {
                    // Who cannot be asked may be well, and is tried again.
                    firecracker::Api::open(&helper, &id).await?;
                    // From here on it is like any that is silent: the plan knows for how long.
                    folders::remove(&paused)?;
                    return Err(fault);
                }
                folders::remove(&paused)?;
                if let Some(made_of) = made_of {
                    discard_written(&helper, &id, made_of);
                }
                Ok(())
            };
            if let Err(fault) = outcome.await {
                tracing::warn!("{id} does not go on: {}", fault.problem().message);
            }
            drop(hold);
        });
    }
}

/// What was written down leaves the jail by the one way out that there is.
fn discard_written(helper: &Helper, id: &SandboxId, made_of: MemoryOf) {
    let memory = fresh(id);
    let _ = helper.keep_memory(id, memory.clone(), made_of);
    let _ = helper.drop_memory(memory);
}
