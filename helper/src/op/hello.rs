//! Compares versions.

use crate::answer::Answer;
use crate::table::Caller;
use banger_wire::helper::{PROTOCOL, Reply};

pub(crate) fn run(version: u32, caller: &mut Caller) -> Answer {
    caller.agreed = version == PROTOCOL;
    Ok(Reply::Hello { version: PROTOCOL })
}
