//! Kills who is left in a jail and removes it, with its cgroup.

use crate::answer::Answer;
use crate::table::Caller;
use crate::{cgroup, jail};
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;

pub(crate) fn run(sandbox: &SandboxId, caller: &Caller) -> Answer {
    let jail = jail::find(caller, sandbox)?;
    match &jail {
        Some(jail) => {
            jail::end(jail)?;
        }
        None if cgroup::is_taken(caller.uid, sandbox)? => return Ok(Reply::Unchanged),
        None => {}
    }
    let had_cgroup = cgroup::remove(caller.uid, sandbox)?;
    if let Some(jail) = &jail {
        jail::clear(&jail.folder)?;
    }
    Ok(if jail.is_some() || had_cgroup { Reply::Changed } else { Reply::Unchanged })
}
