//! Ends a machine's processes.

use crate::answer::{Answer, Bad};
use crate::jail::{self, Role};
use crate::table::Caller;
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;
use rustix::process::{Signal, pidfd_send_signal};

pub(crate) fn run(sandbox: &SandboxId, kill: bool, caller: &Caller) -> Answer {
    let jail = jail::find(caller, sandbox)?.ok_or(Bad::Refused("there is no such jail"))?;
    let any = if kill {
        jail::end(&jail)?
    } else {
        // The vsock device serves the VMM until that is gone.
        let mut vmms = jail::inside(&jail)?;
        vmms.retain(|process| process.role == Role::Vmm);
        for process in &vmms {
            // One that ended meanwhile needs no signal.
            let _ = pidfd_send_signal(&process.pidfd, Signal::TERM);
        }
        !vmms.is_empty()
    };
    Ok(if any { Reply::Changed } else { Reply::Unchanged })
}
