//! Removes the caller's bridge.

use crate::answer::{Answer, At, Bad};
use crate::link;
use crate::netlink::Netlink;
use crate::table::Caller;
use banger_wire::helper::Reply;

pub(crate) fn run(caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    let Some(bridge) = link::own(&netlink, caller, None)? else { return Ok(Reply::Unchanged) };
    let links = netlink.links().at("looking at interfaces")?;
    if links.iter().any(|link| link.master == bridge.index) {
        return Err(Bad::Refused("the bridge has ports"));
    }
    netlink.remove(bridge.index).at("removing the bridge")?;
    Ok(Reply::Changed)
}
