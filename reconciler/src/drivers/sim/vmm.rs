//! Simulated machines: templates, and guests whose memory is kept. A memory that does not fit its disks is never gone on from.

use super::{Sim, SimRecord, SimVmm, World, changed};
use crate::drivers::{Begin, Outcome, Vmm, VmmFacts, VmmSeen};
use crate::fault::Fault;
use async_trait::async_trait;
use banger_plan::actual::{
    Backends, RunFact, Seen, SnapshotFact, SuspendedFact, TemplateFact, VmmFact,
};
use banger_plan::boot::{Boot, Nic};
use banger_plan::desired::{Desired, Origin};
use banger_plan::recipe;
use banger_plan::snapshot::memory_of;
use banger_wire::id::{Generation, SandboxId, SnapshotId};
use banger_wire::machine::{Backend, BootKey};

impl World {
    /// Whoever stands still with no memory kept of it goes on, and is past what was recorded.
    fn go_on(&mut self) {
        let kept = |record: &SimRecord| self.memories.contains_key(&record.memory);
        let stands = |id: &SandboxId| self.suspended.get(id).is_some_and(kept);
        let still: Vec<SandboxId> = self
            .vmms
            .iter()
            .filter(|(id, vmm)| vmm.paused && !stands(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in still {
            self.suspended.remove(&id);
            self.run_disk(&id);
            self.vmms.get_mut(&id).expect("there").paused = false;
        }
    }

    /// Makes a disk of a snapshot's.
    pub(super) fn begin(&mut self, id: &SandboxId, origin: &Origin) {
        let (_, memory) = &self.snapshots[&origin.snapshot];
        if let Some(boot) = memory.clone() {
            let runs = self.disk_runs.get(id).copied().unwrap_or_default();
            let memory = memory_of(&origin.snapshot);
            self.suspended.insert(id.clone(), SimRecord { memory, boot, runs, own: false });
        }
        self.disk_runs.entry(id.clone()).or_default();
    }

    fn run_disk(&mut self, id: &SandboxId) {
        *self.disk_runs.entry(id.clone()).or_default() += 1;
    }

    fn fresh_memory(&self) -> BootKey {
        let digest =
            recipe::digest(&("memory", self.effects)).as_str()[..BootKey::LENGTH].to_string();
        BootKey::try_from(digest).expect("digests are hex digits")
    }

    fn lacks_template(&self, boot: &Boot) -> bool {
        boot.backend == Backend::Firecracker && !self.templates.contains_key(&template_key(boot))
    }
}

/// Machines of the same make have the same.
fn template_key(boot: &Boot) -> BootKey {
    let make = (&boot.kernel, &boot.image, boot.cpus, boot.memory, boot.disk, boot.volumes.len());
    let digest = recipe::digest(&make).as_str()[..BootKey::LENGTH].to_string();
    BootKey::try_from(digest).expect("digests are hex digits")
}

#[async_trait]
impl Vmm for Sim {
    async fn observe(&self, desired: &Desired) -> VmmSeen {
        let mut world = self.world();
        world.go_on();
        let facts = desired.sandboxes.keys().map(|id| {
            let vmm = world.vmms.get(id).map(|vmm| VmmFact {
                boot: vmm.boot.key(),
                uptime_secs: vmm.uptime,
                whole: true,
                backend: "sim".into(),
                lacks_template: !vmm.woken && world.lacks_template(&vmm.boot),
                can_suspend: vmm.boot.backend == Backend::Firecracker,
                is_suspended: vmm.paused,
            });
            let run = world
                .runs
                .get(id)
                .map(|(boot, left)| RunFact { boot: Some(boot.clone()), left: *left });
            let vmm = match (world.blind, vmm) {
                (true, _) => Seen::Unknown("the simulation is blind".into()),
                (false, vmm) => vmm.map_or(Seen::Absent, Seen::Present),
            };
            let suspended = world.suspended.get(id).map(|record| {
                let gone = !world.memories.contains_key(&record.memory);
                let changed = world.disk_runs.get(id) != Some(&record.runs);
                SuspendedFact {
                    memory: record.memory.clone(),
                    boot: Some(record.boot.clone()),
                    own: record.own,
                    unusable: (gone || changed).then(|| "it does not fit".to_string()),
                }
            });
            let facts = VmmFacts {
                vmm,
                run: run.map_or(Seen::Absent, Seen::Present),
                suspended: suspended.map_or(Seen::Absent, Seen::Present),
                jail: false,
            };
            (id.clone(), facts)
        });
        let sandboxes = facts.collect();
        let snapshot = |id: &SnapshotId| {
            let Some((disk, boot)) = world.snapshots.get(id) else { return Seen::Absent };
            let boot = boot.clone().filter(|_| world.memories.contains_key(&memory_of(id)));
            Seen::Present(SnapshotFact { disk: disk.clone(), bytes: 1, taken_secs: 0, boot })
        };
        let foreign = world.vmms.keys().filter(|id| !desired.sandboxes.contains_key(*id));
        VmmSeen {
            sandboxes,
            templates: world.templates.clone(),
            memories: world.memories.keys().cloned().collect(),
            snapshots: desired.snapshots.keys().map(|id| (id.clone(), snapshot(id))).collect(),
            foreign: foreign.map(|id| format!("processes of {id}")).collect(),
        }
    }

    fn backends(&self) -> Backends {
        self.world().backends.clone()
    }

    async fn keep_template(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        self.effect("keep_template", |world| {
            let vmm = &world.vmms[sandbox];
            let guest = vmm.guest.as_ref().expect("it waits");
            assert_eq!(guest.generation, Generation(0), "its memory is nobody's yet");
            let (kernel, image) = (vmm.boot.kernel.clone(), vmm.boot.image.clone());
            let fact = TemplateFact { kernel, image, current: true, idle_secs: 0 };
            let key = template_key(&vmm.boot);
            changed(world.templates.insert(key, fact).is_none())
        })
    }

    async fn drop_memory(&self, memory: &BootKey) -> Result<Outcome, Fault> {
        self.effect("drop_memory", |world| {
            let guests = world.memories.remove(memory).is_some();
            changed(world.templates.remove(memory).is_some() || guests)
        })
    }

    async fn suspend(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let memory = self.world().fresh_memory();
        self.effect("suspend: record", |world| {
            let runs = world.disk_runs[sandbox];
            let vmm = world.vmms.get_mut(sandbox).expect("it runs");
            vmm.paused = true;
            let (memory, boot) = (memory.clone(), vmm.boot.clone());
            let record = SimRecord { memory, boot, runs, own: true };
            let before = world.suspended.insert(sandbox.clone(), record);
            assert!(before.is_none(), "an old memory was given up");
            changed(true)
        })?;
        self.effect("suspend: memory", |world| {
            let guest = world.vmms[sandbox].guest.clone().expect("it answered");
            changed(world.memories.insert(memory, guest).is_none())
        })
    }

    async fn take_snapshot(
        &self,
        snapshot: &SnapshotId,
        sandbox: &SandboxId,
        memory: bool,
    ) -> Result<Outcome, Fault> {
        if memory {
            self.effect("snapshot: memory", |world| {
                let guest = world.vmms[sandbox].guest.clone().expect("it answered");
                world.memories.insert(memory_of(snapshot), guest);
                changed(true)
            })?;
        }
        self.effect("snapshot: disk", |world| {
            let disk = world.disks.get(sandbox).cloned().expect("it has a disk");
            let boot = world.vmms.get(sandbox).filter(|_| memory).map(|vmm| vmm.boot.clone());
            changed(world.snapshots.insert(snapshot.clone(), (disk, boot)).is_none())
        })
    }

    async fn forget_memory(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        self.effect("forget", |world| changed(world.suspended.remove(sandbox).is_some()))
    }

    async fn start(&self, boot: &Boot, begin: Begin) -> Result<Outcome, Fault> {
        let wakes = begin == Begin::Memory;
        let started = self.effect("start", |world| {
            let id = &boot.sandbox;
            assert!(world.disks.contains_key(id), "a VMM needs its disk");
            assert!(
                boot.volumes.iter().all(|(volume, _)| world.volumes.contains_key(volume)),
                "and its volumes"
            );
            assert!(!world.vmms.contains_key(id), "one VMM per sandbox");
            assert!(boot.nic != Nic::Tap || world.taps.contains_key(id), "and its port");
            world.runs.insert(id.clone(), (boot.clone(), false));
            *world.starts.entry(id.clone()).or_default() += 1;
            let record = world.suspended.get(id).filter(|_| wakes);
            assert!(wakes || !world.suspended.contains_key(id), "a memory is given up first");
            let guest = record.map(|record| {
                assert_eq!(
                    world.disk_runs.get(id),
                    Some(&record.runs),
                    "its disks are as they were"
                );
                world.memories[&record.memory].clone()
            });
            assert_eq!(guest.is_some(), wakes, "there is a memory");
            if !wakes {
                world.run_disk(id);
            }
            let (uptime, silent, unheard) = (0, world.mute.contains(id), 0);
            let boot = boot.clone();
            let vmm = SimVmm { boot, uptime, guest, silent, unheard, paused: wakes, woken: wakes };
            world.vmms.insert(id.clone(), vmm);
            changed(true)
        });
        if !wakes {
            return started;
        }
        started?;
        self.forget_memory(&boot.sandbox).await?;
        self.effect("resume", |world| {
            world.go_on();
            changed(true)
        })
    }

    async fn stop(&self, sandbox: &SandboxId, _kill: bool) -> Result<Outcome, Fault> {
        self.effect("stop", |world| changed(world.vmms.remove(sandbox).is_some()))
    }

    async fn remove_run(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        self.effect("remove_run", |world| {
            assert!(!world.vmms.contains_key(sandbox), "its processes are gone first");
            changed(world.runs.remove(sandbox).is_some())
        })
    }

    async fn last_words(&self, _: &SandboxId) -> String {
        "simulated console".into()
    }
}
