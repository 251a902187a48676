//! Compares versions, and learns which installation the caller is.

use crate::answer::{Answer, Bad};
use crate::table::Caller;
use banger_wire::helper::{PROTOCOL, Reply};
use banger_wire::id::InstallId;

pub(crate) fn run(version: u32, install: &InstallId, caller: &mut Caller) -> Answer {
    if caller.install.as_ref().is_some_and(|known| known != install) {
        return Err(Bad::Refused("a caller is one installation"));
    }
    caller.agreed = version == PROTOCOL;
    caller.install = Some(install.clone());
    Ok(Reply::Hello { version: PROTOCOL })
}
