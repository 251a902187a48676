//! Snapshots of sandboxes: the disk is copied while nobody writes to it, and the memory is kept of the same moment.

use super::Processes;
use crate::drivers::Outcome;
use crate::drivers::disk::{blocking, disk_in, size_on_disk};
use crate::fault::{During, Fault};
use crate::folders;
use crate::helper::Helper;
use crate::snapshots;
use crate::vsock;
use crate::way::Way;
use banger_plan::actual::Seen;
use banger_plan::admit::LEAST_FREE_MIB;
use banger_plan::snapshot::memory_of;
use banger_wire::agent::Request;
use banger_wire::derive::Role;
use banger_wire::frame::Kind;
use banger_wire::id::{SandboxId, SnapshotId};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a guest may take to hold its disk still, or to let it go.
const HOLD: Duration = Duration::from_secs(30);

impl Processes {
    pub(super) async fn take(
        &self,
        id: &SnapshotId,
        sandbox: &SandboxId,
        memory: bool,
    ) -> Result<Outcome, Fault> {
        if self.folders.snapshot(id).exists() {
            return Ok(Outcome::Unchanged);
        }
        let Seen::Present((disk, _)) = disk_in(&self.folders.sandbox(sandbox)) else {
            return Err(Fault::host("its disk is not there"));
        };
        self.room_for(&disk)?;
        let beside = self.folders.scratch().join(format!("snapshot-{}", folders::unique()));
        let taken = self.take_beside(id, sandbox, memory, (&disk, &beside)).await;
        if taken.is_err() {
            folders::remove_tree(&beside)?;
        }
        taken.map(|()| Outcome::Changed)
    }

    /// Nothing that needs space is begun without it.
    fn room_for(&self, disk: &Path) -> Result<(), Fault> {
        let needed = size_on_disk(disk).during(|| "looking at a disk".into())?;
        let stat = nix::sys::statvfs::statvfs(self.folders.state())
            .during(|| "looking at the space that is left".into())?;
        let free = stat.blocks_available() * stat.fragment_size();
        if free < needed + (LEAST_FREE_MIB << 20) {
            let message = format!("a copy of its disk needs {} MiB", needed >> 20);
            return Err(Fault::user(message).hint("free some space; nothing was changed"));
        }
        Ok(())
    }

    async fn take_beside(
        &self,
        id: &SnapshotId,
        sandbox: &SandboxId,
        memory: bool,
        (disk, beside): (&PathBuf, &PathBuf),
    ) -> Result<(), Fault> {
        let (from, to) = (disk.clone(), beside.clone());
        let workspace = self.folders.workspace(sandbox);
        let copy = move || snapshots::copy(&from, &workspace, &to);
        // What still serves a machine that ended writes nothing.
        let jailed = self.jailed(sandbox)?;
        let jailed = jailed.filter(|jail| jail.living.iter().any(|process| !process.vsock));
        let marked = self.marked(sandbox)?;
        let runs = jailed.is_some() || marked.iter().any(|process| process.role == Role::Vmm);
        let mut kept = None;
        if let Some(helper) = &self.helper {
            // What an earlier try kept is of another moment.
            helper.drop_memory(memory_of(id))?;
        }
        match (memory, &self.helper) {
            (true, Some(helper)) if jailed.is_some() => {
                let _still = self.stand_still(sandbox)?;
                let written = self.write_beside(helper, id, sandbox, copy).await;
                self.go_on(helper, sandbox, written.is_ok()).await?;
                written?;
                let boot = self.recorded(sandbox);
                kept = boot.map(|boot| (boot, self.templates.processor().clone()));
            }
            _ if !runs => blocking(copy).await?,
            // The guest lets nobody write, and all that was written is on the disk.
            _ => self.hold_and_copy(sandbox, copy).await?,
        }
        let (folders, id, beside) = (self.folders.clone(), id.clone(), beside.clone());
        blocking(move || snapshots::finish(&folders, &id, &beside, kept)).await
    }

    async fn write_beside(
        &self,
        helper: &Helper,
        id: &SnapshotId,
        sandbox: &SandboxId,
        copy: impl FnOnce() -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), Fault> {
        let boot = self.recorded(sandbox).ok_or_else(|| Fault::host("there is no run"))?;
        self.write_down(helper, sandbox, &boot).await?;
        blocking(copy).await?;
        match helper.keep_memory(sandbox, memory_of(id), self.memory_made_of(&boot))? {
            Outcome::Changed => Ok(()),
            // A helper that was still at it when its daemon ended: what it kept is not of this moment.
            Outcome::Unchanged => Err(Fault::host("an older memory was in the way")),
        }
    }

    /// Copies while the guest lets nobody write. A copy of a time in which somebody did is none.
    async fn hold_and_copy(
        &self,
        sandbox: &SandboxId,
        copy: impl FnOnce() -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), Fault> {
        let way = Way::to(&self.folders, self.helper.as_ref(), sandbox);
        let holding = || "holding its disk still".to_string();
        let mut guest = vsock::ask(&way, &Request::Hold).await.during(holding)?;
        guest.done(HOLD).await.during(holding)?;
        blocking(copy).await?;
        guest.send(Kind::Stdin, &[]).await.during(holding)?;
        guest.done(HOLD).await.during(holding)
    }
}
