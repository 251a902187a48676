//! Keeps what Firecracker wrote down of a machine, for a later start.

use crate::answer::Answer;
use crate::jail::{self, memory};
use crate::table::Caller;
use banger_wire::helper::{MemoryOf, Reply};
use banger_wire::id::SandboxId;
use banger_wire::machine::BootKey;

pub(crate) fn run(sandbox: &SandboxId, key: &BootKey, of: &MemoryOf, caller: &Caller) -> Answer {
    let (root, record) = jail::must(caller, sandbox)?;
    let new = memory::keep(caller, &root, &record, key, of)?;
    Ok(if new { Reply::Changed } else { Reply::Unchanged })
}
