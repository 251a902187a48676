//! Kills who is left in a jail and removes it, with its cgroup.

use crate::answer::Answer;
use crate::table::Caller;
use crate::{cgroup, jail};
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;

pub(crate) fn run(sandbox: &SandboxId, caller: &Caller) -> Answer {
    let jail = jail::find(caller, sandbox)?;
    if let Some(jail) = &jail {
        jail::end(jail)?;
    }
    let had_cgroup = cgroup::remove(caller.uid, sandbox)?;
    if let Some(jail) = &jail {
        jail::clear(&jail.folder)?;
    }
    Ok(if jail.is_some() || had_cgroup { Reply::Changed } else { Reply::Unchanged })
}
