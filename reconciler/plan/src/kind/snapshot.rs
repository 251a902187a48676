//! Snapshots: a sandbox's disk as it was, and its memory. Taking one is a part of the sandbox's own list, so that nothing else
//! happens to it meanwhile; removing one is a list of its own.

use super::View;
use crate::action::Action;
use crate::actual::{Actual, Seen, SnapshotFact};
use crate::desired::{Desired, DesiredSandbox, DesiredSnapshot, Key, Life};
use crate::plan::{List, Wait};
use banger_wire::agent::{GuestState, Phase};
use banger_wire::id::SnapshotId;

/// The snapshot that a sandbox's disk begins from.
pub(super) fn origin<'a>(sandbox: &DesiredSandbox, actual: &'a Actual) -> Option<&'a SnapshotFact> {
    let origin = sandbox.origin.as_ref()?;
    actual.snapshots.get(&origin.snapshot).and_then(Seen::present)
}

/// Waits for the snapshot that a new disk begins from, or says that there will never be one.
pub(super) fn wait_for_origin(
    sandbox: &DesiredSandbox,
    desired: &Desired,
    actual: &Actual,
    list: &mut List,
) {
    let Some(wanted) = &sandbox.origin else { return };
    match actual.snapshots.get(&wanted.snapshot) {
        Some(Seen::Present(_)) => {}
        Some(Seen::Unknown(why)) => list.blocked.push(format!("its snapshot: {why}")),
        Some(Seen::Absent) => {
            let key = Key::Snapshot(wanted.snapshot.clone());
            list.waits.push(Wait::For(key.clone(), desired.title(&key)));
        }
        None => list.blocked.push("the snapshot that it begins from is gone".to_string()),
    }
}

pub(crate) fn plan_snapshot(
    id: &SnapshotId,
    snapshot: &DesiredSnapshot,
    desired: &Desired,
    actual: &Actual,
) -> List {
    let mut list = List::default();
    let there = actual.snapshots.get(id).unwrap_or(&Seen::Absent);
    match (snapshot.life, there) {
        (_, Seen::Unknown(why)) => list.blocked.push(format!("cannot be told: {why}")),
        (Life::Removed, Seen::Present(_)) => {
            list.push(Action::RemoveSnapshot { snapshot: id.clone() }, "removed");
        }
        (Life::Wanted, Seen::Absent) => {
            let of = desired.sandboxes.get(&snapshot.sandbox);
            match of.filter(|sandbox| sandbox.life == Life::Wanted) {
                // A part of the sandbox's list.
                Some(_) => {}
                None => list.blocked.push("its sandbox is gone".to_string()),
            }
        }
        (Life::Wanted, Seen::Present(_)) | (Life::Removed, Seen::Absent) => {}
    }
    list
}

/// Takes what is to be taken of a sandbox, before anything else happens to it.
pub(super) fn plan_taking(view: &View<'_>, desired: &Desired, list: &mut List) {
    let (sandbox, fact) = (view.desired, view.fact);
    let wanted = desired.snapshots.iter().filter(|(id, snapshot)| {
        snapshot.sandbox == sandbox.id
            && snapshot.life == Life::Wanted
            && view.actual.snapshots.get(*id).is_none_or(Seen::is_absent)
    });
    for (id, snapshot) in wanted {
        let Some(_) = fact.disk.present() else {
            list.blocked.push(format!("snapshot {}: it has no disk yet", snapshot.name));
            continue;
        };
        let mut memory = false;
        if let Some(vmm) = fact.vmm.present() {
            let guest = fact.guest.present();
            let can_say = |guest: &GuestState| {
                guest.generation.0 > 0 && guest.phase != Phase::Leaving && !vmm.is_suspended
            };
            if !guest.is_some_and(can_say) {
                // It will, or it ends.
                continue;
            }
            list.push(Action::SyncGuest { sandbox: sandbox.id.clone() }, "before a snapshot");
            memory = vmm.can_suspend && !snapshot.disk_only && sandbox.volumes.is_empty();
        }
        let (snapshot, name) = (id.clone(), snapshot.name.clone());
        let sandbox = sandbox.id.clone();
        list.push(Action::TakeSnapshot { snapshot, sandbox, memory, name }, "not there");
    }
}
