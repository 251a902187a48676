//! Tells whether the caller's rules are there and as they should be, and whether names are routed.

use crate::answer::Answer;
use crate::rules;
use crate::table::Caller;
use banger_wire::helper::Reply;
use banger_wire::net::{Policy, Subnet};

pub(crate) fn run(subnet: Subnet, policy: &Policy, caller: &mut Caller) -> Answer {
    let rules = rules::check(subnet, policy, caller)?;
    Ok(Reply::Rules { rules, names_routed: super::dns_route::is_routed(caller)? })
}
