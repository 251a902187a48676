//! What is seen of machines: who lives, since when, with what, and which memories were kept.

use super::suspend::Kept;
use super::{LARGEST_TEMPLATE, LEFT, NAMED, Processes, RECORD, STARTED, WOKEN};
use crate::drivers::{VmmFacts, VmmSeen};
use crate::host::{self, Acceleration};
use crate::process::{self, Held, Marked};
use crate::snapshots;
use banger_plan::actual::{RunFact, Seen, TemplateFact, VmmFact};
use banger_plan::boot::Boot;
use banger_plan::desired::Desired;
use banger_plan::snapshot::memory_of;
use banger_wire::derive::Role;
use banger_wire::helper::{Jailed, Line, Purpose};
use banger_wire::id::SandboxId;
use banger_wire::machine::{Backend, BootKey};
use std::collections::{BTreeMap, BTreeSet};

impl Processes {
    /// Looks at everything once.
    pub(super) fn look(&self, desired: &Desired) -> VmmSeen {
        let cgroups = host::cgroups();
        let marked = process::marked(&self.install);
        let helper = self.helper.as_ref();
        let jails = helper.map_or(Ok(Vec::new()), |helper| helper.jails());
        let memories = helper.map_or(Ok(Vec::new()), |helper| helper.memories());
        let memories = memories.map_err(|fault| fault.problem().message);
        let kept = Kept::of(&memories);
        let templates = self.templates.facts(memories.as_deref().unwrap_or_default());
        let mut direct: BTreeMap<&SandboxId, Vec<&Marked>> = BTreeMap::new();
        let of_machines = |process: &&Marked| process.role != Role::Build;
        for process in marked.as_deref().unwrap_or_default().iter().filter(of_machines) {
            direct.entry(&process.sandbox).or_default().push(process);
            let pid = process.pid.unsigned_abs();
            self.watch(&process.sandbox, pid, || Held::new(process).ok().flatten());
        }
        let jails: Result<BTreeMap<&SandboxId, &Jailed>, String> = match &jails {
            Ok(jails) => Ok(jails.iter().map(|jail| (&jail.sandbox, jail)).collect()),
            Err(fault) => Err(fault.problem().message),
        };
        for jail in jails.iter().flat_map(BTreeMap::values) {
            for process in &jail.living {
                let line = if process.vsock { Line::Vsock } else { Line::Vmm };
                let open = || self.helper.as_ref()?.open(&jail.sandbox, line).ok().map(Held::by);
                self.watch(&jail.sandbox, process.pid, open);
            }
            if !jail.living.is_empty() {
                self.go_on_unless(&jail.sandbox, &kept);
            }
        }
        let mut sandboxes = BTreeMap::new();
        for id in desired.sandboxes.keys() {
            let jail = jails.as_ref().ok().and_then(|jails| jails.get(id));
            let own = direct.get(id).map(Vec::as_slice);
            let vmm = match (&marked, &jails, own) {
                (Err(error), ..) => Seen::Unknown(error.to_string()),
                (_, Err(why), _) => Seen::Unknown(why.clone()),
                (_, _, Some(_)) if jail.is_some_and(|jail| !jail.living.is_empty()) => {
                    Seen::Unknown("it runs twice".to_string())
                }
                (_, _, Some(own)) => self.direct_fact(own),
                (_, _, None) => {
                    jail.map_or(Seen::Absent, |jail| self.jail_fact(jail, &kept, &templates))
                }
            };
            if vmm.present().is_some() {
                let measures = jail.and_then(|jail| jail.started.as_ref());
                let measures = measures.is_some_and(|s| s.backend == Backend::Firecracker);
                self.listen(id, own.is_none(), measures);
            }
            let facts = VmmFacts {
                vmm,
                run: self.run_fact(id),
                suspended: self.suspended_fact(id, &kept),
                jail: jail.is_some() || cgroups.contains(id),
            };
            sandboxes.insert(id.clone(), facts);
        }
        let known = |id: &SandboxId| desired.sandboxes.contains_key(id);
        let mut strange: BTreeSet<&SandboxId> = direct.keys().copied().collect();
        strange.extend(jails.iter().flat_map(BTreeMap::keys));
        strange.retain(|id| !known(id));
        let foreign =
            strange.into_iter().map(|id| format!("processes of the unknown sandbox {id}"));
        let of_guests = memories.iter().flatten().filter(|m| m.of.purpose == Purpose::Guest);
        let memories = of_guests.map(|memory| memory.memory.clone()).collect();
        let snapshots = desired.snapshots.keys().map(|id| {
            let fact = match &kept.0 {
                _ if !self.folders.snapshot(id).exists() => Seen::Absent,
                Ok(kept) => {
                    let has_memory = || kept.contains(&memory_of(id));
                    snapshots::fact(&self.folders, id, has_memory, self.templates.processor())
                }
                Err(why) => Seen::Unknown((*why).to_string()),
            };
            (id.clone(), fact)
        });
        let snapshots = snapshots.collect();
        VmmSeen { sandboxes, templates, memories, snapshots, foreign: foreign.collect() }
    }

    /// For people.
    pub(super) fn describe(&self, backend: Backend, kvm: bool) -> String {
        match (backend, self.version, kvm) {
            (Backend::Firecracker, Some(version), _) => format!("firecracker {version}"),
            (Backend::Firecracker, None, _) => "firecracker".to_string(),
            (Backend::Qemu, _, true) => "qemu with KVM".to_string(),
            (Backend::Qemu, _, false) => "qemu by software emulation".to_string(),
        }
    }

    fn run_fact(&self, id: &SandboxId) -> Seen<RunFact> {
        let run = self.folders.vm(id);
        if !run.exists() {
            return Seen::Absent;
        }
        let record = std::fs::read(run.join(RECORD)).ok();
        // A record of what never came up is no run: whoever plans next starts it.
        let record = record.filter(|_| run.join(STARTED).exists());
        let boot = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Seen::Present(RunFact { boot, left: run.join(LEFT).exists() })
    }

    /// Processes without a jail.
    fn direct_fact(&self, processes: &[&Marked]) -> Seen<VmmFact> {
        // Without its VMM a machine has ended, whatever still serves it.
        let vmms = processes.iter().filter(|process| process.role == Role::Vmm);
        let Some(first) = vmms.min_by_key(|process| process.started) else {
            return Seen::Absent;
        };
        let Ok(boot) = BootKey::try_from(first.boot.clone()) else {
            return Seen::Unknown("a process of it has a strange mark".to_string());
        };
        let has = |role| processes.iter().any(|process| process.role == role);
        let same = processes.iter().all(|process| process.boot == first.boot);
        Seen::Present(VmmFact {
            boot,
            uptime_secs: process::uptime(first),
            whole: has(Role::Vmm) && has(Role::Vsock) && same && processes.len() == 2,
            backend: self.describe(Backend::Qemu, self.acceleration == Acceleration::Kvm),
            lacks_template: false,
            can_suspend: false,
            is_suspended: false,
        })
    }

    /// Processes in a jail. One that was never finished, or never told what it is, is not whole.
    fn jail_fact(
        &self,
        jail: &Jailed,
        kept: &Kept<'_>,
        templates: &BTreeMap<BootKey, TemplateFact>,
    ) -> Seen<VmmFact> {
        let vmms = jail.living.iter().filter(|process| !process.vsock);
        let Some(first) = vmms.max_by_key(|process| process.secs) else { return Seen::Absent };
        let count = |vsock| jail.living.iter().filter(|process| process.vsock == vsock).count();
        let Some(started) = &jail.started else {
            return Seen::Unknown("its jail has no record".to_string());
        };
        let needed = if started.backend == Backend::Qemu { 1 } else { 0 };
        let run = self.folders.vm(&jail.sandbox);
        // A folder that somebody emptied says nothing about who lives in the jail.
        let was_started = !run.exists() || run.join(STARTED).exists();
        Seen::Present(VmmFact {
            boot: started.boot.clone(),
            uptime_secs: first.secs,
            whole: was_started && count(false) == 1 && count(true) == needed,
            backend: format!("{}, jailed", self.describe(started.backend, started.kvm)),
            lacks_template: was_started
                && started.backend == Backend::Firecracker
                && started.from.is_none()
                && self.lacks_template(&jail.sandbox, templates),
            // Writes that a rate holds back may come after the memory was kept.
            can_suspend: was_started
                && started.backend == Backend::Firecracker
                && self.recorded(&jail.sandbox).is_some_and(|boot| boot.rates.0.is_none()),
            is_suspended: self.is_suspended(&jail.sandbox, kept),
        })
    }

    /// Whether a machine's memory is nobody's yet, and was made by the programs of now.
    pub(super) fn is_nobody(&self, id: &SandboxId) -> bool {
        let run = self.folders.vm(id);
        let programs = std::fs::read_to_string(run.join(STARTED)).unwrap_or_default();
        let somebodys = [NAMED, WOKEN].iter().any(|name| run.join(name).exists());
        programs == self.templates.programs().as_str() && !somebodys
    }

    fn lacks_template(&self, id: &SandboxId, kept: &BTreeMap<BootKey, TemplateFact>) -> bool {
        if !self.is_nobody(id) {
            return false;
        }
        let of = self.recorded(id).and_then(|boot| self.template_of(&boot).ok());
        let small = |boot: &Boot| boot.memory.get() <= u64::from(LARGEST_TEMPLATE);
        self.recorded(id).is_some_and(|boot| small(&boot))
            && of
                .is_some_and(|(key, _)| !kept.contains_key(&key) && !self.templates.was_tried(&key))
    }
}
