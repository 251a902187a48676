//! Ports on the host's loopback that lead into a sandbox.

use super::View;
use crate::action::Action;
use crate::plan::List;
use std::collections::BTreeMap;

/// The ports that should be open now: none unless the guest is there and stays.
fn wanted(view: &View<'_>) -> BTreeMap<u16, u16> {
    let stays = view.desired.runs()
        && view.verdict.stop.is_none()
        && view.verdict.start.is_none()
        && view.fact.guest.present().is_some();
    let publish = view.desired.spec.publish.iter().filter(|_| stays);
    publish.map(|publish| (publish.host, publish.guest)).collect()
}

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    let wanted = wanted(view);
    for (host, guest) in &view.fact.ports {
        if wanted.get(host) != Some(guest) {
            let action = Action::Unpublish { sandbox: view.desired.id.clone(), host: *host };
            list.push(action, "not wanted now");
        }
    }
}

pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    for (host, guest) in wanted(view) {
        if view.fact.ports.get(&host) != Some(&guest) {
            let action = Action::Publish { sandbox: view.desired.id.clone(), host, guest };
            list.push(action, "not open");
        }
    }
}
