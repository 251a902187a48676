//! The bridge and the rules of the whole host. Rules come first and go last: a port that passes frames is behind them.

use crate::action::Action;
use crate::actual::{Actual, BridgeFact, NetworkFact, RulesFact, Seen};
use crate::boot::Nic;
use crate::desired::{Desired, DesiredSandbox};
use crate::plan::List;
use crate::policy::policy;
use banger_wire::net::Egress;

pub(crate) fn plan_network(desired: &Desired, actual: &Actual) -> List {
    let mut list = List::default();
    let fact = match &actual.network {
        Seen::Present(fact) => fact,
        Seen::Absent => return list,
        Seen::Unknown(why) => {
            // Nobody waits for it: no reason to say so.
            if desired.sandboxes.values().any(DesiredSandbox::runs) {
                list.blocked.push(format!("cannot be told: {why}"));
            }
            return list;
        }
    };
    let Some(subnet) = desired.subnet.filter(|_| fact.missing.is_none()) else { return list };
    let in_use = desired.sandboxes.values().any(DesiredSandbox::runs)
        || !fact.strangers.is_empty()
        || actual.sandboxes.values().any(|sandbox| !sandbox.tap.is_absent());
    if !in_use {
        if fact.bridge != BridgeFact::Absent {
            list.push(Action::RemoveBridge, "nobody needs it");
        }
        if fact.rules != RulesFact::Absent {
            list.push(Action::RemoveRules, "nobody needs them");
        }
        return list;
    }
    if !fact.rules.enforced() {
        // At once, and whatever else the sandboxes have to do or to wait for.
        let own = actual.sandboxes.iter().filter_map(|(id, s)| Some((id, s.tap.present()?)));
        for (sandbox, _) in own.chain(&fact.strangers).filter(|(_, tap)| tap.up) {
            let sandbox = sandbox.clone();
            list.push(Action::CutTap { sandbox }, "the rules are not enforced");
        }
    }
    let why = match fact.rules {
        RulesFact::Absent => Some("not there"),
        RulesFact::Altered => Some("somebody changed them"),
        RulesFact::Unreadable => Some("they cannot be read"),
        RulesFact::Older => Some("what is wanted changed (live)"),
        RulesFact::Current => None,
    };
    if let Some(why) = why {
        list.push(Action::ApplyRules { subnet, policy: Box::new(policy(desired)) }, why);
    }
    let why = match fact.bridge {
        BridgeFact::Absent => Some("not there"),
        BridgeFact::Different => Some("not as it should be"),
        BridgeFact::Right => None,
    };
    if let Some(why) = why {
        list.push(Action::EnsureBridge { subnet }, why);
    }
    if fact.names_routed == Some(false) {
        list.push(Action::RouteNames, "its resolver does not ask us");
    }
    list
}

/// Whether a port that is up now would be behind the rules that are wanted.
pub(super) fn is_current(actual: &Actual) -> bool {
    actual.network.present().is_some_and(|fact: &NetworkFact| {
        fact.rules == RulesFact::Current && fact.bridge == BridgeFact::Right
    })
}

/// How a sandbox is to be connected here.
///
/// # Errors
/// Why it cannot be: what its file asks for is not enforced by half.
pub(super) fn nic(
    sandbox: &DesiredSandbox,
    desired: &Desired,
    actual: &Actual,
) -> Result<Nic, String> {
    let missing = match &actual.network {
        Seen::Unknown(why) => return Err(format!("its network cannot be told: {why}")),
        Seen::Absent => Some("the host has no network for guests".to_string()),
        Seen::Present(fact) => fact.missing.clone(),
    };
    let missing = missing.or_else(|| {
        let taken = "every subnet that banger may use overlaps a route of the host";
        desired.subnet.is_none().then(|| taken.to_string())
    });
    let Some(missing) = missing else { return Ok(Nic::Tap) };
    match (sandbox.spec.networks.is_empty(), sandbox.spec.egress) {
        (true, Egress::None) => Ok(Nic::None),
        // The VMM's own network leads to the host's loopback too: only who says so gets it.
        (true, Egress::Host) => Ok(Nic::User),
        (true, egress @ (Egress::Public | Egress::Open)) => Err(format!(
            "its egress \"{egress}\" cannot be enforced here: {missing}; \"none\" needs no rules"
        )),
        (false, Egress::None | Egress::Public | Egress::Open | Egress::Host) => {
            Err(format!("its networks cannot be had here: {missing}"))
        }
    }
}
