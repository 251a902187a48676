//! Turns to boot: so many guests boot at once as the host has processors, at least two. Among many, each would take as long
//! as all of them together, some too long to be waited for; and whoever boots later goes on from the template of the first.

use banger_plan::action::Action;
use banger_plan::actual::{Actual, SandboxFact};
use banger_plan::boot::Nic;
use banger_plan::desired::{Desired, Key};
use banger_plan::kind::GUEST_DEADLINE_SECS;
use banger_plan::plan::{List, Wait};
use banger_wire::agent::Phase;
use banger_wire::id::Generation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Who waited for so long is next.
const LONG: Duration = Duration::from_secs(30);

/// Who has one.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    /// Those whose list with a start is under way.
    starting: BTreeSet<Key>,
    /// Those whose guest is on its way to its identity, as seen last.
    booting: BTreeSet<Key>,
    /// Those who had to wait, and since when.
    waiting: BTreeMap<Key, Instant>,
}

impl Turns {
    /// For a host with so many processors.
    pub(super) fn new(cpus: u32) -> Self {
        let most = (cpus as usize).max(2);
        let (starting, booting, waiting) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { most, starting, booting, waiting }
    }

    /// Looks who boots.
    pub(super) fn settle(&mut self, actual: &Actual) {
        let booting = actual.sandboxes.iter().filter(|(_, fact)| boots(fact));
        self.booting = booting.map(|(id, _)| Key::Sandbox(id.clone())).collect();
        let there =
            |key: &Key| matches!(key, Key::Sandbox(id) if actual.sandboxes.contains_key(id));
        self.waiting.retain(|key, _| there(key));
    }

    /// A list ended.
    pub(super) fn list_done(&mut self, key: &Key) {
        self.starting.remove(key);
    }

    /// The place in the line. Who waited for long comes first, whoever else came. Of the others, who was tried least, so that those
    /// who never boot do not keep anybody from it; then whom somebody waits for at a terminal.
    pub(super) fn place(&self, key: &Key, tries: u32, ephemeral: bool) -> impl Ord + use<> {
        let since = self.waiting.get(key).copied().filter(|since| since.elapsed() >= LONG);
        (since.is_none(), since, tries, !ephemeral)
    }

    /// Takes a turn for a list that boots a guest, and says whether it may begin. Without one it waits, for all to see.
    pub(super) fn take(
        &mut self,
        key: &Key,
        list: &mut List,
        desired: &Desired,
        actual: &Actual,
    ) -> bool {
        if !needs_turn(key, list, desired, actual) {
            return true;
        }
        let others: BTreeSet<&Key> =
            self.starting.union(&self.booting).filter(|other| *other != key).collect();
        if others.len() >= self.most {
            list.waits.push(Wait::Turn(others.len()));
            self.waiting.entry(key.clone()).or_insert_with(Instant::now);
            return false;
        }
        self.waiting.remove(key);
        self.starting.insert(key.clone());
        true
    }
}

/// What takes something away from a guest does not wait for others: a port of the host's, or the way to the host itself.
/// What goes on from a memory does not boot.
fn needs_turn(key: &Key, list: &List, desired: &Desired, actual: &Actual) -> bool {
    let Some(Action::StartVmm { boot, wakes: false, .. }) = list.start().map(|step| &step.action)
    else {
        return false;
    };
    let Key::Sandbox(id) = key else { return false };
    let (Some(sandbox), Some(fact)) = (desired.sandboxes.get(id), actual.sandboxes.get(id)) else {
        return false;
    };
    let runs = fact.vmm.present().and(fact.run.present());
    let nic = runs.and_then(|run| run.boot.as_ref()).map(|boot| boot.nic);
    let narrows = nic == Some(Nic::User) && boot.as_ref().map(|boot| boot.nic) != nic;
    // A restart closes all of its ports for a while.
    let stays = |port: &u16| sandbox.spec.publish.iter().any(|publish| publish.host == *port);
    let closes = !fact.ports.keys().all(stays);
    !narrows && !closes
}

/// Whether a guest is on its way to its identity. One that never gets there keeps its turn no longer than it is waited for.
fn boots(fact: &SandboxFact) -> bool {
    let arrived = fact
        .guest
        .present()
        .is_some_and(|guest| guest.generation > Generation(0) || guest.phase == Phase::Failed);
    let young = fact
        .vmm
        .present()
        .is_some_and(|vmm| !vmm.is_suspended && vmm.uptime_secs < GUEST_DEADLINE_SECS);
    young && !arrived
}
