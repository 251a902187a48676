//! The parts of a sandbox and what each needs done. One file per kind.
//!
//! `ORDER` is the order in which a sandbox is set up. Tear-down reads it backwards.

mod disk;
mod guest;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod memory;
pub(crate) mod network;
mod port;
pub(crate) mod snapshot;
mod suspend;
mod tap;
mod verdict;
mod vmm;
pub(crate) mod volume;

use crate::actual::{Actual, SandboxFact};
use crate::desired::{Desired, DesiredSandbox};
use crate::plan::List;
pub use verdict::{GUEST_DEADLINE_SECS, Verdict, is_ready};

/// A part of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Disk,
    Tap,
    Vmm,
    Guest,
    Port,
}

/// The order of setting up.
const ORDER: [Part; 5] = [Part::Disk, Part::Tap, Part::Vmm, Part::Guest, Part::Port];

/// Everything that planning a part may look at.
struct View<'a> {
    desired: &'a DesiredSandbox,
    fact: &'a SandboxFact,
    actual: &'a Actual,
    verdict: Verdict,
}

/// The list of one sandbox: removals in reverse order, then additions.
pub(crate) fn plan_sandbox(sandbox: &DesiredSandbox, desired: &Desired, actual: &Actual) -> List {
    let mut list = List::default();
    let Some(fact) = actual.sandboxes.get(&sandbox.id) else {
        list.blocked.push("it was not looked at".to_string());
        return list;
    };
    let unknown = [
        fact.disk.unknown(),
        fact.vmm.unknown(),
        fact.run.unknown(),
        fact.suspended.unknown(),
        fact.tap.unknown(),
    ];
    if let Some(why) = unknown.into_iter().flatten().next() {
        list.blocked.push(format!("cannot be told: {why}"));
        return list;
    }
    let verdict = verdict::decide(sandbox, fact, desired, actual, &mut list);
    let view = View { desired: sandbox, fact, actual, verdict };
    for part in ORDER.iter().rev() {
        match part {
            Part::Disk => {
                snapshot::plan_before_removal(&view, desired, &mut list);
                disk::plan_removal(&view, &mut list);
            }
            Part::Tap => tap::plan_removal(&view, &mut list),
            Part::Vmm => vmm::plan_removal(&view, &mut list),
            Part::Guest => {
                guest::plan_removal(&view, &mut list);
                suspend::plan_removal(&view, &mut list);
            }
            Part::Port => port::plan_removal(&view, &mut list),
        }
    }
    for part in ORDER {
        match part {
            Part::Disk => disk::plan_addition(&view, &mut list),
            Part::Tap => tap::plan_addition(&view, &mut list),
            Part::Vmm => vmm::plan_addition(&view, &mut list),
            Part::Guest => guest::plan_addition(&view, &mut list),
            Part::Port => port::plan_addition(&view, &mut list),
        }
    }
    snapshot::plan_at_rest(&view, desired, &mut list);
    list
}
