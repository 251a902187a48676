//! A sandbox's guest: its identity, its workspace, and its orderly end.

use super::View;
use crate::action::Action;
use crate::actual::Seen;
use crate::desired::Life;
use crate::plan::List;
use banger_wire::agent::Phase;

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    let Some(why) = &view.verdict.stop else { return };
    let spec = &view.desired.spec;
    // What is thrown away needs no goodbye; a guest that does not answer cannot give one.
    let thrown_away = view.desired.ephemeral && view.desired.life == Life::Removed;
    let stands_still = view.fact.vmm.present().is_some_and(|vmm| vmm.is_suspended);
    let can_say_it = view.fact.guest.present().is_some() && !stands_still && !view.verdict.suspend;
    if !spec.kill && !thrown_away && can_say_it {
        list.push(Action::ShutdownGuest { sandbox: view.desired.id.clone() }, why.clone());
    }
}

pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    if !view.desired.runs() || view.verdict.stop.is_some() || view.verdict.start.is_some() {
        return;
    }
    let Some(guest) = view.fact.guest.present().filter(|_| view.verdict.nic.is_some()) else {
        return;
    };
    super::memory::plan_addition(view, list);
    if guest.generation != view.desired.generation && guest.phase != Phase::Leaving {
        let (sandbox, generation) = (view.desired.id.clone(), view.desired.generation);
        let why = match guest.generation.0 {
            0 => "its guest waits for it".to_string(),
            old => format!("its guest has generation {old} (live)"),
        };
        let nic = view.verdict.nic.unwrap_or_default();
        let image = view.actual.images.get(&view.desired.image).and_then(Seen::present);
        let config = Box::new(image.map(|fact| fact.config.clone()).unwrap_or_default());
        list.push(Action::Identify { sandbox, generation, nic, config }, why);
        return;
    }
    if guest.phase == Phase::Shipping
        && let Some(workspace) = view.desired.spec.workspace.clone()
    {
        let sandbox = view.desired.id.clone();
        list.push(Action::ShipWorkspace { sandbox, workspace }, "its guest waits for it");
    }
}
