//! The rules of an installation: replaced in one step, and recognised as just those that we wrote.
//!
//! The kernel keeps no text, so a chain of ours that nothing leads to carries two digests in its name: of what we
//! meant to write, and of what the kernel listed right after. Whoever changes a rule changes the listing.

mod nft;

use crate::answer::{At, Bad};
use crate::netlink::{Netlink, Route};
use crate::table::Caller;
use banger_wire::derive;
use banger_wire::helper::Rules;
use banger_wire::id::InstallId;
use banger_wire::net::{HostNumber, Policy, Subnet};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

pub(crate) use nft::program;

/// What was found when the firewall was in some generation. While it stays in it, nothing can have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    generation: u32,
    wanted: String,
    rules: Rules,
}

/// The shortest prefix of a network whose hosts count as next door.
const WIDEST: u8 = 8;
/// The letters of a digest that a mark carries.
const DIGITS: usize = 16;

fn digest(text: &str) -> String {
    let bytes = Sha256::digest(text);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..DIGITS].to_string()
}

/// Replaces the rules.
pub(crate) fn apply(subnet: Subnet, policy: &Policy, caller: &Caller) -> Result<(), Bad> {
    check_policy(policy)?;
    let install = caller.install()?;
    let table = derive::table(caller.uid, install);
    let text = nft::render(&table, install, subnet, policy, &on_link(install)?);
    nft::run(&text)?;
    let listed = nft::list(&table)?.ok_or(Bad::Refused("the rules went away"))?;
    nft::run(&nft::mark(&table, &digest(&text), &digest(&listed.rules)))
}

/// How the rules are, against what they should enforce.
pub(crate) fn check(subnet: Subnet, policy: &Policy, caller: &mut Caller) -> Result<Rules, Bad> {
    check_policy(policy)?;
    let install = caller.install()?;
    let table = derive::table(caller.uid, install);
    let wanted = digest(&nft::render(&table, install, subnet, policy, &on_link(install)?));
    let netfilter = Netlink::netfilter().at("opening netlink")?;
    let generation = netfilter.generation().at("looking at the firewall")?;
    if let Some(checked) = &caller.checked
        && checked.generation == generation
        && checked.wanted == wanted
    {
        return Ok(checked.rules);
    }
    let rules = match nft::list(&table)? {
        None => Rules::Absent,
        Some(listed) => match listed.mark {
            Some((_, rules)) if rules != digest(&listed.rules) => Rules::Altered,
            Some((meant, _)) if meant == wanted => Rules::Current,
            Some(_) => Rules::Older,
            None => Rules::Altered,
        },
    };
    // Read before the listing: a change in between makes another generation, which is looked at again.
    caller.checked = Some(Checked { generation, wanted, rules });
    Ok(rules)
}

/// Whether there are any rules of ours.
pub(crate) fn are_there(caller: &Caller) -> Result<bool, Bad> {
    Ok(nft::list(&derive::table(caller.uid, caller.install()?))?
        .is_some_and(|listed| listed.mark.is_some()))
}

/// The names of the tables of all installations on this host.
pub(crate) fn all() -> Result<Vec<String>, Bad> {
    let tables = nft::tables()?.into_iter();
    let name = |table: String| table.strip_prefix("table inet ").map(String::from);
    Ok(tables.filter_map(name).filter(|name| name.starts_with("banger_")).collect())
}

/// Removes the rules. Returns whether there were any.
pub(crate) fn remove(caller: &Caller) -> Result<bool, Bad> {
    nft::remove(&derive::table(caller.uid, caller.install()?))
}

/// What the message's type does not say: how many, and each number once.
fn check_policy(policy: &Policy) -> Result<(), Bad> {
    let mut hosts: BTreeSet<HostNumber> = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let good = policy.ports.len() <= Policy::MAX
        && policy.ports.iter().all(|port| {
            port.3.len() <= Policy::MAX_GROUPS
                && port.3.iter().all(|group| usize::from(*group) < Policy::MAX)
                && hosts.insert(port.1)
                && ids.insert(&port.0)
        });
    if good { Ok(()) } else { Err(Bad::Refused("the policy is out of bounds")) }
}

/// The networks whose hosts are next door to this one, besides our own: nobody's internet (R-V1).
fn on_link(install: &InstallId) -> Result<BTreeSet<Route>, Bad> {
    let netlink = Netlink::route().at("opening netlink")?;
    let bridge = netlink.find(&derive::bridge(install)).at("looking at interfaces")?;
    let own = bridge.map(|bridge| bridge.index);
    let routes = netlink.routes().at("looking at routes")?;
    // A tunnel that takes half of the internet is a way out, and no neighbour.
    let next_door =
        |route: &Route| route.on_link && Some(route.interface) != own && route.prefix >= WIDEST;
    // The interface's number may change without any change of what is reachable.
    let plain = |route: Route| Route { interface: 0, ..route };
    Ok(routes.into_iter().filter(next_door).map(plain).collect())
}
