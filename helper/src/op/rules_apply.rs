//! Replaces the caller's rules.

use crate::answer::{Answer, At};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{claim, rules};
use banger_wire::helper::Reply;
use banger_wire::net::{Policy, Subnet};

pub(crate) fn run(subnet: Subnet, policy: &Policy, caller: &mut Caller) -> Answer {
    caller.checked = None;
    let _alone = claim::take(&Netlink::route().at("opening netlink")?, caller)?;
    rules::apply(subnet, policy, caller)?;
    Ok(Reply::Changed)
}
