//! Keeps what Firecracker wrote down of a machine, as a template.

use crate::answer::Answer;
use crate::jail::{self, template};
use crate::table::Caller;
use banger_wire::helper::{Reply, TemplateOf};
use banger_wire::id::SandboxId;
use banger_wire::machine::BootKey;

pub(crate) fn run(sandbox: &SandboxId, key: &BootKey, of: &TemplateOf, caller: &Caller) -> Answer {
    let (root, record) = jail::must(caller, sandbox)?;
    let new = template::keep(caller, &root, &record, key, of)?;
    Ok(if new { Reply::Changed } else { Reply::Unchanged })
}
