//! The interfaces of a caller: found by derived name, and only taken for ours when their alias says so.

use crate::answer::{At, Bad};
use crate::netlink::{Link, Netlink};
use crate::table::Caller;
use banger_wire::derive;
use banger_wire::id::SandboxId;

/// The caller's bridge, or the tap of one of its sandboxes. `None` when it is not there.
///
/// One without any alias is ours too: it is a half-made one, since nobody else derives this name.
pub(crate) fn own(
    netlink: &Netlink,
    caller: &Caller,
    sandbox: Option<&SandboxId>,
) -> Result<Option<Link>, Bad> {
    let install = caller.install()?;
    let name = sandbox.map_or_else(|| derive::bridge(install), |id| derive::tap(install, id));
    let Some(link) = netlink.find(&name).at("looking at interfaces")? else { return Ok(None) };
    let (kind, alias) = (if sandbox.is_some() { "tun" } else { "bridge" }, alias(caller, sandbox)?);
    if link.kind != kind || !(link.alias.is_empty() || link.alias == alias) {
        return Err(Bad::Refused("an interface of that name is somebody else's"));
    }
    Ok(Some(link))
}

/// What an interface of the caller says about itself.
pub(crate) fn alias(caller: &Caller, sandbox: Option<&SandboxId>) -> Result<String, Bad> {
    Ok(derive::alias(caller.uid, caller.install()?, sandbox))
}
