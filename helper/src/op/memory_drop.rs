//! Drops a memory.

use crate::answer::Answer;
use crate::jail::memory;
use crate::table::Caller;
use banger_wire::helper::Reply;
use banger_wire::machine::BootKey;

pub(crate) fn run(key: &BootKey, caller: &Caller) -> Answer {
    Ok(if memory::drop_kept(caller, key)? { Reply::Changed } else { Reply::Unchanged })
}
