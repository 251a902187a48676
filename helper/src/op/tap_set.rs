//! Opens or closes a sandbox's port.

use crate::answer::{Answer, At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{link, rules};
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;

pub(crate) fn run(sandbox: &SandboxId, up: bool, caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    let tap = link::own(&netlink, caller, Some(sandbox))?.ok_or(Bad::Refused("there is no tap"))?;
    if up && !rules::are_there(caller)? {
        return Err(Bad::Refused("there are no rules"));
    }
    netlink.set_up(tap.index, up).at("opening or closing the tap")?;
    Ok(Reply::Changed)
}
