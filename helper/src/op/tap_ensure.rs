//! Makes the tap of one of the caller's sandboxes: a closed, isolated port of its bridge.

use crate::answer::{Answer, At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{link, sys, sysctl};
use banger_wire::derive;
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;
use banger_wire::net::Policy;

pub(crate) fn run(sandbox: &SandboxId, caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    let bridge = link::own(&netlink, caller, None)?.ok_or(Bad::Refused("there is no bridge"))?;
    let name = derive::tap(caller.install()?, sandbox);
    if link::own(&netlink, caller, Some(sandbox))?.is_none() {
        let links = netlink.links().at("looking at interfaces")?;
        if links.iter().filter(|link| link.master == bridge.index).count() >= Policy::MAX {
            return Err(Bad::Refused("the bridge is full"));
        }
        let tap = sys::open_tap(&name).at("making the tap")?;
        sys::own_tap(&tap, caller.uid).at("giving the tap its owner")?;
        sys::keep_tap(&tap).at("keeping the tap")?;
    }
    let tap =
        link::own(&netlink, caller, Some(sandbox))?.ok_or(Bad::Refused("the tap went away"))?;
    netlink.set_up(tap.index, false).at("closing the tap")?;
    sysctl::port(&name)?;
    netlink.without_arp(tap.index).at("closing the tap to ARP")?;
    let alias = link::alias(caller, Some(sandbox))?;
    netlink.set_alias(tap.index, &alias).at("naming the tap's owner")?;
    let mac = derive::mac(sandbox);
    netlink.make_port(tap.index, bridge.index, mac).at("making the tap a port")?;
    Ok(Reply::Changed)
}
