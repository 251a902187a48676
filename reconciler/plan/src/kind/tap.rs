//! A sandbox's port on the bridge. It is opened behind rules only, and closed with all others when they are gone.

use super::{View, network};
use crate::action::Action;
use crate::actual::BridgeFact;
use crate::boot::Nic;
use crate::plan::List;

/// Whether the sandbox runs, or is about to, with a port.
fn needed(view: &View<'_>) -> bool {
    let goes_on = view.verdict.start.is_some()
        || view.fact.vmm.present().is_some() && view.verdict.stop.is_none();
    goes_on && view.verdict.nic == Some(Nic::Tap)
}

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    if view.fact.tap.is_absent() {
        return;
    }
    let sandbox = view.desired.id.clone();
    let undecided = view.verdict.nic.is_none() && view.desired.runs();
    if !needed(view) && !undecided {
        list.push(Action::RemoveTap { sandbox }, "not needed now");
    }
}

pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    if !needed(view) {
        return;
    }
    let sandbox = || view.desired.id.clone();
    let starts = view.verdict.start.is_some();
    let bridge = view.actual.network.present().map(|network| network.bridge);
    // A list that starts a sandbox waits for the network; one that repairs a port must not run before it.
    let ready = starts || bridge == Some(BridgeFact::Right);
    let tap = view.fact.tap.present();
    match tap {
        None if starts => list.push(Action::EnsureTap { sandbox: sandbox() }, "it has none"),
        Some(tap) if !tap.right && ready => {
            list.push(Action::EnsureTap { sandbox: sandbox() }, "its port is not as it should be");
        }
        None | Some(_) => {}
    }
    let down = tap.is_none_or(|tap| !tap.up) && (starts || tap.is_some());
    if down && (starts || network::is_current(view.actual)) {
        list.push(Action::RaiseTap { sandbox: sandbox() }, "its port is closed");
    }
}
