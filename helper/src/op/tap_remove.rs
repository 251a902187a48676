//! Removes a sandbox's tap.

use crate::answer::{Answer, At};
use crate::link;
use crate::netlink::Netlink;
use crate::table::Caller;
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;

pub(crate) fn run(sandbox: &SandboxId, caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    let Some(tap) = link::own(&netlink, caller, Some(sandbox))? else {
        return Ok(Reply::Unchanged);
    };
    netlink.remove(tap.index).at("removing the tap")?;
    Ok(Reply::Changed)
}
