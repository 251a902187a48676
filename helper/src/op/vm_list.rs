//! The caller's jails and who lives in them.

use crate::answer::{Answer, Bad};
use crate::jail::{self, Census, Role};
use crate::table::Caller;
use banger_wire::helper::{Jailed, Living, MAX_JAILS, Reply};
use banger_wire::id::SandboxId;

/// The most processes of one jail that are told of.
const MOST: usize = 8;

pub(crate) fn run(after: Option<&SandboxId>, caller: &Caller) -> Answer {
    let mut ids = jail::list(caller)?;
    ids.retain(|id| after.is_none_or(|after| id > after));
    let more = ids.len() > MAX_JAILS;
    ids.truncate(MAX_JAILS);
    let census = Census::take()?;
    let jails = ids.iter().map(|id| look(id, &census, caller)).collect::<Result<Vec<_>, Bad>>()?;
    Ok(Reply::Jails { jails: jails.into_iter().flatten().collect(), more })
}

fn look(sandbox: &SandboxId, census: &Census, caller: &Caller) -> Result<Option<Jailed>, Bad> {
    let Some(jail) = jail::find(caller, sandbox)? else { return Ok(None) };
    let inside = census.inside(&jail)?;
    // More than there should be is all that anybody needs to know.
    let living = inside.iter().take(MOST).map(|process| Living {
        vsock: process.role == Role::Vsock,
        pid: process.pid,
        secs: process.secs,
    });
    let started = jail.record.map(|record| record.started);
    Ok(Some(Jailed { sandbox: sandbox.clone(), started, living: living.collect() }))
}
