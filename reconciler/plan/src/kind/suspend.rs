//! Suspended sandboxes: their memory is kept, and they go on from it.
//!
//! A memory fits only the disks as they were when it was kept. Whoever goes on from it gives it up first, so that it is never
//! used twice; what does not fit any more is given up, and the sandbox boots from its disks, which its guest had synced.

use super::View;
use super::verdict::{GUEST_DEADLINE_SECS, Verdict};
use crate::action::Action;
use crate::actual::{SandboxFact, SuspendedFact};
use crate::boot::Boot;
use crate::plan::List;
use banger_wire::agent::Phase;

/// What becomes of a sandbox that should be suspended.
pub(super) fn decide(fact: &SandboxFact, list: &mut List) -> Verdict {
    let nic = fact.run.present().and_then(|run| run.boot.as_ref()).map(|boot| boot.nic);
    let stay = Verdict { nic, ..Verdict::default() };
    let Some(vmm) = fact.vmm.present() else { return Verdict::default() };
    let ends =
        |why: &str, suspend| Verdict { stop: Some(why.into()), suspend, ..Verdict::default() };
    if vmm.is_suspended {
        return ends("it is suspended", false);
    }
    if !vmm.can_suspend {
        list.blocked
            .push("only a jailed Firecracker without a disk-rate can be suspended".to_string());
        return stay;
    }
    match fact.guest.present() {
        // Nobody's memory is worth keeping, nor that of a guest that is on its way out. One that only just goes on from its
        // memory is somebody, though it was not told who it is since.
        Some(guest)
            if matches!(guest.phase, Phase::Waiting | Phase::Identifying | Phase::Leaving) =>
        {
            ends("mode suspended", false)
        }
        Some(_) => ends("mode suspended", true),
        None if fact.silent_secs.min(vmm.uptime_secs) >= GUEST_DEADLINE_SECS => {
            ends(&format!("its guest did not answer for {GUEST_DEADLINE_SECS} s"), false)
        }
        None => stay,
    }
}

/// Why a sandbox that starts cannot go on from the memory that was kept.
pub(super) fn unfit(suspended: &SuspendedFact, boot: Option<&Boot>) -> Option<String> {
    if let Some(why) = &suspended.unusable {
        return Some(why.clone());
    }
    let kept = suspended.boot.as_ref();
    let lines =
        kept.zip(boot).map(|(kept, boot)| Boot::kept_differences(kept, boot, suspended.own));
    let lines = lines.unwrap_or_default();
    (!lines.is_empty()).then(|| lines.join(", "))
}

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    let sandbox = view.desired.id.clone();
    if view.verdict.suspend {
        let why = "mode suspended";
        list.push(Action::SyncGuest { sandbox: sandbox.clone() }, why);
        list.push(Action::Suspend { sandbox: sandbox.clone() }, why);
    }
    if let Some(why) = &view.verdict.forget {
        list.push(Action::ForgetMemory { sandbox }, why.clone());
    }
}
