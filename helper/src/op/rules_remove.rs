//! Removes the caller's rules. Refused while one of its ports could pass frames without them.

use crate::answer::{Answer, At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{link, rules};
use banger_wire::helper::Reply;

pub(crate) fn run(caller: &mut Caller) -> Answer {
    caller.checked = None;
    let netlink = Netlink::route().at("opening netlink")?;
    if let Some(bridge) = link::own(&netlink, caller, None)? {
        let links = netlink.links().at("looking at interfaces")?;
        if links.iter().any(|link| link.master == bridge.index) {
            return Err(Bad::Refused("the bridge has ports"));
        }
    }
    let any = rules::remove(caller)?;
    Ok(if any { Reply::Changed } else { Reply::Unchanged })
}
