//! What the host has to enforce: from Desired alone, so that it is known before anything is seen.

use crate::desired::{Desired, DesiredSandbox, Life};
use banger_schema::spec::Scope;
use banger_wire::id::Name;
use banger_wire::net::{Policy, PolicyPort};
use std::collections::BTreeMap;

/// A network, over all projects: one project's own, or (without a project) one that several share.
pub type Group<'a> = (Option<&'a Name>, &'a Name);

/// The networks that a sandbox is on.
pub fn groups<'a>(desired: &'a Desired, sandbox: &'a DesiredSandbox) -> Vec<Group<'a>> {
    let declared = desired.projects.get(&sandbox.project).map(|project| &project.networks);
    let scope =
        |name: &Name| declared.and_then(|d| d.get(name)).map_or(Scope::Project, |n| n.scope);
    let group = |name: &'a Name| match scope(name) {
        Scope::Project => (Some(&sandbox.project), name),
        Scope::Host => (None, name),
    };
    sandbox.spec.networks.iter().map(group).collect()
}

/// Whether two sandboxes may reach each other.
pub fn reach(desired: &Desired, one: &DesiredSandbox, other: &DesiredSandbox) -> bool {
    let theirs = groups(desired, other);
    groups(desired, one).iter().any(|group| theirs.contains(group))
}

/// The whole policy of the host. One that should go is not in it any more: its port passes nothing then.
pub fn policy(desired: &Desired) -> Policy {
    let wanted = || desired.sandboxes.values().filter(|sandbox| sandbox.life == Life::Wanted);
    let mut members: BTreeMap<Group<'_>, u32> = BTreeMap::new();
    for group in wanted().flat_map(|sandbox| groups(desired, sandbox)) {
        *members.entry(group).or_default() += 1;
    }
    // A group of one is no group.
    members.retain(|_, count| *count > 1);
    let numbers: BTreeMap<Group<'_>, u16> = members.into_keys().zip(0..).collect();
    let port = |sandbox: &DesiredSandbox| {
        let own = groups(desired, sandbox);
        let mut own: Vec<u16> =
            own.iter().filter_map(|group| numbers.get(group)).copied().collect();
        own.sort_unstable();
        PolicyPort(sandbox.id.clone(), sandbox.host, sandbox.spec.egress, own)
    };
    Policy { ports: wanted().map(port).collect() }
}
