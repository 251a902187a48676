//! Kept memories. Templates: a machine's memory from the moment in which its guest waited for an identity; a start from one skips
//! the boot. They are kept by the first start of each kind of machine, and dropped when nothing can start from them any more. And
//! memories of guests, which are dropped when no sandbox goes on from them and no snapshot has them.

use super::View;
use crate::action::Action;
use crate::actual::{Actual, Seen, TemplateFact};
use crate::desired::{Desired, Life};
use crate::plan::List;
use crate::snapshot::memory_of;
use banger_wire::agent::Phase;
use banger_wire::id::Digest;
use banger_wire::machine::BootKey;
use std::collections::BTreeSet;

/// How many are kept.
pub(crate) const MOST: usize = 8;

/// Drops what nothing can start from, the longest unused of too many, and memories that nobody goes on from any more.
pub(crate) fn plan_memories(desired: &Desired, actual: &Actual) -> List {
    let mut list = List::default();
    let has = |facts: &std::collections::BTreeMap<Digest, Seen<_>>, content: &Digest| {
        let known = |seen: &Seen<crate::actual::ArtifactFact>| match seen {
            Seen::Present(fact) => fact.content == *content,
            Seen::Absent => false,
            Seen::Unknown(_) => true,
        };
        facts.values().any(known)
    };
    // A sandbox may still lie above an image that its recipe does not lead to any more.
    let below_a_disk = |content: &Digest| {
        let disks = actual.sandboxes.values().filter_map(|fact| fact.disk.present());
        disks.into_iter().any(|disk| disk.content == *content)
    };
    let mut kept: Vec<(&BootKey, &TemplateFact)> = Vec::new();
    for (template, fact) in &actual.templates {
        let cause = if !fact.current {
            "the agent or the VMM is another now"
        } else if !has(&actual.kernels, &fact.kernel) {
            "its kernel is gone"
        } else if !has(&actual.images, &fact.image) && !below_a_disk(&fact.image) {
            "its image is gone"
        } else {
            kept.push((template, fact));
            continue;
        };
        list.push(Action::DropMemory { memory: template.clone() }, cause);
    }
    kept.sort_by_key(|(_, fact)| fact.idle_secs);
    for (template, _) in kept.into_iter().skip(MOST) {
        let cause = format!("{MOST} others were used since");
        list.push(Action::DropMemory { memory: template.clone() }, cause);
    }
    let suspended = || actual.sandboxes.values().map(|fact| &fact.suspended);
    // One that is to go stays as long as its snapshot does.
    let wanted = desired.snapshots.iter().filter(|(id, snapshot)| {
        let gone = actual.snapshots.get(*id).is_none_or(Seen::is_absent);
        snapshot.life == Life::Wanted || !gone
    });
    let of_snapshots: BTreeSet<BootKey> = wanted.map(|(id, _)| memory_of(id)).collect();
    for memory in actual.memories.difference(&of_snapshots) {
        // What cannot be told may be this one.
        let mut goes_on = suspended().filter(|seen| {
            seen.unknown().is_some() || seen.present().is_some_and(|fact| fact.memory == *memory)
        });
        if goes_on.next().is_none() {
            let action = Action::DropMemory { memory: memory.clone() };
            list.push(action, "nothing goes on from it");
        }
    }
    list
}

/// Keeps the memory of a guest that waits, before it is anybody.
pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    let waits = view.fact.guest.present().is_some_and(|guest| guest.phase == Phase::Waiting);
    let wanted = view.fact.vmm.present().is_some_and(|vmm| vmm.lacks_template);
    let goes_on = view.verdict.stop.is_none() && view.desired.runs();
    if waits && wanted && goes_on && !view.desired.spec.cold {
        let sandbox = view.desired.id.clone();
        list.push(Action::KeepTemplate { sandbox }, "no machine like it was started before");
    }
}
