//! The caller's memories.

use crate::answer::Answer;
use crate::jail::memory;
use crate::table::Caller;
use banger_wire::helper::Reply;

pub(crate) fn run(caller: &Caller) -> Answer {
    Ok(Reply::Memories { memories: memory::list(caller)? })
}
