//! Turns to boot: so many guests boot at once as the host has processors, at least two. Among many, each would take as long
//! as all of them together, some too long to be waited for; and whoever boots later goes on from the template of the first.

use banger_plan::actual::{Actual, VmmFact};
use banger_plan::desired::Key;
use banger_plan::kind::GUEST_DEADLINE_SECS;
use banger_plan::plan::{List, Wait};
use banger_wire::id::{Generation, SandboxId};
use std::collections::BTreeSet;

/// Who has one.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    taken: BTreeSet<Key>,
}

impl Turns {
    /// For a host with so many processors.
    pub(super) fn new(cpus: u32) -> Self {
        Self { most: (cpus as usize).max(2), taken: BTreeSet::new() }
    }

    /// Takes back the turns of those who booted, or came to nothing. Whoever boots already, has one.
    pub(super) fn settle(&mut self, actual: &Actual, busy: &BTreeSet<Key>) {
        self.taken.retain(|key| busy.contains(key));
        let booting = actual.sandboxes.keys().filter(|id| boots(actual, id));
        self.taken.extend(booting.map(|id| Key::Sandbox(id.clone())));
    }

    /// Takes a turn for a list that boots a guest, and says whether it may begin. Without one it waits, for all to see.
    pub(super) fn take(&mut self, key: &Key, list: &mut List) -> bool {
        if list.start().is_none() || self.taken.contains(key) {
            return true;
        }
        if self.taken.len() >= self.most {
            list.waits.push(Wait::Turn(self.taken.len()));
            return false;
        }
        self.taken.insert(key.clone())
    }
}

/// Whether a guest is on its way to its identity. One that never gets there keeps its turn no longer than it is waited for.
fn boots(actual: &Actual, id: &SandboxId) -> bool {
    let fact = &actual.sandboxes[id];
    let known = fact.guest.present().is_some_and(|guest| guest.generation > Generation(0));
    let young = |vmm: &VmmFact| !vmm.is_suspended && vmm.uptime_secs < GUEST_DEADLINE_SECS;
    !known && fact.vmm.present().is_some_and(young)
}
