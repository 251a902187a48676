//! Snapshots: a sandbox's disk as it was, and its memory. Taking one is a part of the sandbox's own list, so that nothing else
//! happens to it meanwhile; removing one is a list of its own.

use super::{Verdict, View};
use crate::action::Action;
use crate::actual::{Actual, DiskFact, SandboxFact, Seen, SnapshotFact};
use crate::desired::{Desired, DesiredSandbox, DesiredSnapshot, Key, Life};
use crate::plan::{List, Wait};
use banger_wire::agent::{GuestState, Phase};
use banger_wire::id::{Name, SnapshotId};

/// The snapshot that a sandbox's disk begins from.
pub(super) fn origin<'a>(sandbox: &DesiredSandbox, actual: &'a Actual) -> Option<&'a SnapshotFact> {
    let origin = sandbox.origin.as_ref()?;
    actual.snapshots.get(&origin.snapshot).and_then(Seen::present)
}

/// Why a disk has to be made anew of a snapshot. Nothing is destroyed for one that is not there: the disk stays in use.
pub(super) fn replacement(
    sandbox: &DesiredSandbox,
    disk: &DiskFact,
    actual: &Actual,
) -> Option<String> {
    let origin = sandbox.origin.as_ref().filter(|origin| disk.origin.as_ref() != Some(origin))?;
    let there = actual.snapshots.get(&origin.snapshot).and_then(Seen::present);
    there.map(|_| "it is put back to a snapshot (replace)".to_string())
}

/// Puts the disk of a sandbox that does not run back to its snapshot, at once: why the disk goes, and whether one is made.
pub(super) fn put_back(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    actual: &Actual,
) -> (Option<String>, bool) {
    let goes = fact.disk.present().and_then(|disk| replacement(sandbox, disk, actual));
    // One that went before a crash is still to be made.
    let went = fact.disk.is_absent() && origin(sandbox, actual).is_some();
    let makes = goes.is_some() || went;
    (goes, makes)
}

/// Why a new disk cannot begin from a sandbox's snapshot, and never will.
pub(super) fn lost_origin(sandbox: &DesiredSandbox, actual: &Actual) -> Option<String> {
    let origin = sandbox.origin.as_ref()?;
    match actual.snapshots.get(&origin.snapshot) {
        Some(Seen::Present(_) | Seen::Absent) => None,
        Some(Seen::Unknown(why)) => Some(format!("its snapshot cannot be told: {why}")),
        None => Some("the snapshot that its disk begins from is gone".to_string()),
    }
}

/// Waits for the snapshot that a new disk begins from.
pub(super) fn wait_for_origin(
    sandbox: &DesiredSandbox,
    desired: &Desired,
    actual: &Actual,
    list: &mut List,
) {
    let Some(wanted) = &sandbox.origin else { return };
    if actual.snapshots.get(&wanted.snapshot).is_some_and(Seen::is_absent) {
        let key = Key::Snapshot(wanted.snapshot.clone());
        list.waits.push(Wait::For(key.clone(), desired.title(&key)));
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
        (Life::Wanted, Seen::Unknown(why)) => list.blocked.push(format!("cannot be told: {why}")),
        // What is there of it goes, whatever that is; but not before whoever begins from it.
        (Life::Removed, Seen::Present(_) | Seen::Unknown(_)) => match beginner(id, desired, actual)
        {
            Some(name) => list.blocked.push(format!("sandbox {name} is still to begin from it")),
            None => list.push(Action::RemoveSnapshot { snapshot: id.clone() }, "removed"),
        },
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

/// Who should begin from a snapshot and has not yet, as far as can be told.
fn beginner<'a>(id: &SnapshotId, desired: &'a Desired, actual: &Actual) -> Option<&'a Name> {
    let wanted = desired.sandboxes.values().filter(|sandbox| sandbox.life == Life::Wanted);
    let mut begin = wanted.filter(|sandbox| {
        let disk = actual.sandboxes.get(&sandbox.id).and_then(|fact| fact.disk.present());
        let has = disk.is_some_and(|disk| disk.origin == sandbox.origin);
        sandbox.origin.as_ref().is_some_and(|origin| origin.snapshot == *id) && !has
    });
    begin.next().map(|sandbox| &sandbox.name)
}

/// Before a sandbox's disk goes, what is wanted of it is kept.
pub(super) fn plan_before_removal(view: &View<'_>, desired: &Desired, list: &mut List) {
    if view.verdict.remove_disk.is_some() {
        take(view, desired, list);
    }
}

/// Else when nothing else is to be done about its machine, so that a snapshot that fails holds up nothing.
pub(super) fn plan_at_rest(view: &View<'_>, desired: &Desired, list: &mut List) {
    let Verdict { remove_disk, stop, start, .. } = &view.verdict;
    if [remove_disk, stop, start].iter().all(|why| why.is_none()) {
        take(view, desired, list);
    }
}

/// Takes what is to be taken of a sandbox.
fn take(view: &View<'_>, desired: &Desired, list: &mut List) {
    if view.desired.life == Life::Removed {
        return;
    }
    let (sandbox, fact) = (view.desired, view.fact);
    let wanted = desired.snapshots.iter().filter(|(id, snapshot)| {
        snapshot.sandbox == sandbox.id
            && snapshot.life == Life::Wanted
            && view.actual.snapshots.get(*id).is_none_or(Seen::is_absent)
    });
    for (id, snapshot) in wanted {
        // None is taken of a disk that is yet to be put back; but what goes may be kept before.
        let is_own = |disk: &&DiskFact| {
            let origin = sandbox.origin.as_ref();
            origin.is_none_or(|origin| origin.snapshot == *id) || disk.origin == sandbox.origin
        };
        let goes = view.verdict.remove_disk.is_some();
        if fact.disk.present().filter(|disk| goes || is_own(disk)).is_none() {
            continue;
        }
        let mut memory = false;
        // Whoever ends has ended by then.
        let ends = view.verdict.stop.is_some();
        if let Some(vmm) = fact.vmm.present().filter(|_| !ends) {
            let guest = fact.guest.present();
            let can_say = |guest: &GuestState| {
                guest.generation.0 > 0 && guest.phase != Phase::Leaving && !vmm.is_suspended
            };
            if !guest.is_some_and(can_say) {
                // It will, or it ends.
                continue;
            }
            list.push(Action::SyncGuest { sandbox: sandbox.id.clone() }, "before a snapshot");
            // Who runs a command in one that goes with it is not to lose the connection.
            let may = !snapshot.disk_only && !sandbox.ephemeral && sandbox.volumes.is_empty();
            memory = vmm.can_suspend && may;
        }
        let (snapshot, name) = (id.clone(), snapshot.name.clone());
        let sandbox = sandbox.id.clone();
        list.push(Action::TakeSnapshot { snapshot, sandbox, memory, name }, "not there");
    }
}
