//! Replaces the caller's rules.

use crate::answer::Answer;
use crate::rules;
use crate::table::Caller;
use banger_wire::helper::Reply;
use banger_wire::net::{Policy, Subnet};

pub(crate) fn run(subnet: Subnet, policy: &Policy, caller: &mut Caller) -> Answer {
    caller.checked = None;
    rules::apply(subnet, policy, caller)?;
    Ok(Reply::Changed)
}
