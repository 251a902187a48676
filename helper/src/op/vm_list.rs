//! The caller's jails and who lives in them.

use crate::answer::{Answer, Bad};
use crate::jail::{self, Role};
use crate::table::Caller;
use banger_wire::helper::{Jailed, Living, MAX_JAILS, Reply};
use banger_wire::id::SandboxId;

pub(crate) fn run(after: Option<&SandboxId>, caller: &Caller) -> Answer {
    let mut ids = jail::list(caller)?;
    ids.retain(|id| after.is_none_or(|after| id > after));
    let more = ids.len() > MAX_JAILS;
    ids.truncate(MAX_JAILS);
    let jails = ids.iter().map(|id| look(id, caller)).collect::<Result<Vec<_>, Bad>>()?;
    Ok(Reply::Jails { jails: jails.into_iter().flatten().collect(), more })
}

fn look(sandbox: &SandboxId, caller: &Caller) -> Result<Option<Jailed>, Bad> {
    let Some(jail) = jail::find(caller, sandbox)? else { return Ok(None) };
    let inside = jail::inside(&jail)?;
    let living = inside.iter().map(|process| Living {
        vsock: process.role == Role::Vsock,
        pid: process.pid,
        secs: process.secs,
    });
    let started = jail.record.map(|record| record.started);
    Ok(Some(Jailed { sandbox: sandbox.clone(), started, living: living.collect() }))
}
