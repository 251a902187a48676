//! Makes the caller's bridge, or makes it as it should be.

use crate::answer::{Answer, At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{claim, link, sysctl};
use banger_wire::derive;
use banger_wire::helper::Reply;
use banger_wire::net::Subnet;

pub(crate) fn run(subnet: Subnet, caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    let found = link::own(&netlink, caller, None)?;
    let index = found.as_ref().map(|bridge| bridge.index);
    let routes = netlink.routes().at("looking at routes")?;
    let taken = routes
        .iter()
        .any(|route| Some(route.interface) != index && subnet.overlaps(route.base, route.prefix));
    if taken {
        return Err(Bad::Refused("the subnet overlaps a route of the host"));
    }
    let _alone = claim::take(&netlink, caller)?;
    let name = derive::bridge(caller.install()?);
    if found.is_none() {
        let mac = derive::bridge_mac(caller.install()?);
        netlink.add_bridge(&name, mac).at("making the bridge")?;
    }
    let bridge = link::own(&netlink, caller, None)?.ok_or(Bad::Refused("the bridge went away"))?;
    let alias = link::alias(caller, None)?;
    netlink.set_alias(bridge.index, &alias).at("naming the bridge's owner")?;
    sysctl::bridge(&name)?;
    let address = (subnet.gateway(), Subnet::PREFIX);
    if !netlink.addresses(bridge.index).at("looking at addresses")?.contains(&address) {
        netlink
            .add_address(bridge.index, address.0, address.1)
            .at("giving the bridge its address")?;
    }
    netlink.set_up(bridge.index, true).at("opening the bridge")?;
    sysctl::forward()?;
    Ok(Reply::Changed)
}
