//! Opens a sandbox's tap for its VMM.

use crate::answer::{At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{link, sys};
use banger_wire::derive;
use banger_wire::id::SandboxId;
use std::os::fd::OwnedFd;

pub(crate) fn run(sandbox: &SandboxId, caller: &Caller) -> Result<OwnedFd, Bad> {
    let netlink = Netlink::route().at("opening netlink")?;
    link::own(&netlink, caller, Some(sandbox))?.ok_or(Bad::Refused("there is no tap"))?;
    let tap = sys::open_tap(&derive::tap(caller.install()?, sandbox)).at("opening the tap")?;
    sys::own_tap(&tap, caller.uid).at("giving the tap its owner")?;
    Ok(tap)
}
