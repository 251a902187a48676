//! A way into a jail.

use crate::answer::Bad;
use crate::jail::{self, Role, connect, read_end};
use crate::table::Caller;
use banger_wire::helper::Line;
use banger_wire::id::SandboxId;
use banger_wire::machine::{AGENT, API, Backend, CONSOLE, CONSOLE_SOCKET, LOG, METRICS};
use std::os::fd::OwnedFd;

pub(crate) fn run(sandbox: &SandboxId, what: Line, caller: &Caller) -> Result<OwnedFd, Bad> {
    let (root, record) = jail::must(caller, sandbox)?;
    let qemu = record.started.backend == Backend::Qemu;
    match what {
        Line::Agent => connect(&root, AGENT, record.uid),
        Line::Api => connect(&root, API, record.uid),
        Line::Console if qemu => connect(&root, CONSOLE_SOCKET, record.uid),
        Line::Console => read_end(&root, CONSOLE, record.uid),
        Line::Log => read_end(&root, LOG, record.uid),
        Line::Metrics => read_end(&root, METRICS, record.uid),
        Line::Vmm => process(sandbox, Role::Vmm, caller),
        Line::Vsock => process(sandbox, Role::Vsock, caller),
    }
}

fn process(sandbox: &SandboxId, role: Role, caller: &Caller) -> Result<OwnedFd, Bad> {
    let jail = jail::find(caller, sandbox)?.ok_or(Bad::Refused("there is no such jail"))?;
    let found = jail::inside(&jail)?.into_iter().find(|process| process.role == role);
    Ok(found.ok_or(Bad::Refused("there is no such process"))?.pidfd)
}
