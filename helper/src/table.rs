//! Everything that root will do for an owner. What is not in this table does not happen.
//!
//! | operation | reads only | descriptors | effect |
//! |---|---|---|---|
//! | hello | yes | 0 | the versions are compared and the installation is named; nothing else is answered before |
//! | probe | yes | 0 | facts about the host |
//! | bridge-ensure | no | 0 | the installation's bridge is there, with its address, unless its letters are another's; the host forwards |
//! | bridge-remove | no | 0 | that bridge is removed, unless it has ports |
//! | tap-ensure | no | 0 | a sandbox's tap is a closed, isolated port of that bridge |
//! | tap-set | no | 0 | that port is opened, if there are rules, or closed |
//! | tap-remove | no | 0 | that tap is removed |
//! | rules-apply | no | 0 | the installation's two tables of nftables are replaced in one step, unless its letters are another's |
//! | rules-check | yes | 0 | whether they are as they were written |
//! | rules-remove | no | 0 | they are removed, unless the bridge has ports |
//! | dns-route | no | 0 | the host's resolver asks 127.0.0.1 for names below `vm`, by that bridge's link |
//! | vm-start | no | kernel, initramfs, 1 to 16 disks: files of the caller's | Firecracker by its jailer, or QEMU, in a new jail with a user of its own |
//! | vm-list | yes | 0 | the caller's jails and whether their processes live |
//! | vm-open | yes | 0, answers with 1 | a connection to a socket of that jail, the end to read of a FIFO there, or a pidfd |
//! | vm-end | no | 0 | the VMM in that jail is asked to end, or all in it are killed |
//! | vm-remove | no | 0 | all in that jail are killed, it and its cgroup are removed |
//! | memory-keep | no | 0 | what Firecracker wrote down in that jail is copied to where only root writes |
//! | memory-list | yes | 0 | the caller's memories |
//! | memory-drop | no | 0 | one of them is removed |

use crate::answer::{Answer, Bad};
use crate::op;
use crate::rules::Checked;
use banger_wire::helper::{Reply, Request};
use banger_wire::id::InstallId;
use std::os::fd::OwnedFd;
use std::process::Child;

/// Who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    /// By the kernel's word.
    pub(crate) uid: u32,
    /// Whether both sides speak the same version. Without it only reading is allowed.
    pub(crate) agreed: bool,
    /// The installation that its names come from.
    pub(crate) install: Option<InstallId>,
    /// The last look at its rules.
    pub(crate) checked: Option<Checked>,
    /// Processes that were started here, to be collected when they end. They outlive us.
    pub(crate) children: Vec<Child>,
}

impl Caller {
    /// Nobody yet but a user.
    pub(crate) fn new(uid: u32) -> Self {
        Self { uid, agreed: false, install: None, checked: None, children: Vec::new() }
    }

    /// Collects processes that ended.
    pub(crate) fn collect(&mut self) {
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// The installation.
    pub(crate) fn install(&self) -> Result<&InstallId, Bad> {
        self.install.as_ref().ok_or(Bad::Refused("the installation was not named"))
    }
}

/// One line of the table.
struct Row {
    reads_only: bool,
    descriptors: usize,
}

const READS: Row = Row { reads_only: true, descriptors: 0 };
const CHANGES: Row = Row { reads_only: false, descriptors: 0 };

fn row(request: &Request) -> Row {
    match request {
        Request::Hello { .. } => READS,
        Request::Probe {} => READS,
        Request::BridgeEnsure { .. } => CHANGES,
        Request::BridgeRemove {} => CHANGES,
        Request::TapEnsure { .. } => CHANGES,
        Request::TapSet { .. } => CHANGES,
        Request::TapRemove { .. } => CHANGES,
        Request::RulesApply { .. } => CHANGES,
        Request::RulesCheck { .. } => READS,
        Request::RulesRemove {} => CHANGES,
        Request::DnsRoute {} => CHANGES,
        Request::VmStart { machine, .. } => {
            Row { descriptors: 2 + usize::from(machine.disks), ..CHANGES }
        }
        Request::VmList { .. } => READS,
        Request::VmOpen { .. } => READS,
        Request::VmEnd { .. } => CHANGES,
        Request::VmRemove { .. } => CHANGES,
        Request::MemoryKeep { .. } => CHANGES,
        Request::MemoryList {} => READS,
        Request::MemoryDrop { .. } => CHANGES,
    }
}

/// Whether an operation changes nothing.
pub(crate) fn only_looks(request: &Request) -> bool {
    row(request).reads_only
}

/// Holds a request against its row, then carries it out. A descriptor may come back with the answer.
pub(crate) fn run(
    request: &Request,
    descriptors: Vec<OwnedFd>,
    caller: &mut Caller,
) -> Result<(Reply, Option<OwnedFd>), Bad> {
    let row = row(request);
    if !row.reads_only && !caller.agreed {
        return Err(Bad::Refused("the versions were not agreed on"));
    }
    if descriptors.len() != row.descriptors {
        return Err(Bad::Refused("the number of descriptors is wrong"));
    }
    if let Request::VmOpen { sandbox, what } = request {
        return Ok((Reply::Changed, Some(op::vm_open::run(sandbox, *what, caller)?)));
    }
    Ok((carry_out(request, &descriptors, caller)?, None))
}

fn carry_out(request: &Request, descriptors: &[OwnedFd], caller: &mut Caller) -> Answer {
    match request {
        Request::Hello { version, install } => op::hello::run(*version, install, caller),
        Request::Probe {} => op::probe::run(caller),
        Request::BridgeEnsure { subnet } => op::bridge_ensure::run(*subnet, caller),
        Request::BridgeRemove {} => op::bridge_remove::run(caller),
        Request::TapEnsure { sandbox } => op::tap_ensure::run(sandbox, caller),
        Request::TapSet { sandbox, up } => op::tap_set::run(sandbox, *up, caller),
        Request::TapRemove { sandbox } => op::tap_remove::run(sandbox, caller),
        Request::RulesApply { subnet, policy } => op::rules_apply::run(*subnet, policy, caller),
        Request::RulesCheck { subnet, policy } => op::rules_check::run(*subnet, policy, caller),
        Request::RulesRemove {} => op::rules_remove::run(caller),
        Request::DnsRoute {} => op::dns_route::run(caller),
        Request::VmStart { sandbox, machine } => {
            op::vm_start::run(sandbox, machine, descriptors, caller)
        }
        Request::VmList { after } => op::vm_list::run(after.as_ref(), caller),
        Request::VmOpen { .. } => Err(Bad::Refused("it answers with a descriptor")),
        Request::VmEnd { sandbox, kill } => op::vm_end::run(sandbox, *kill, caller),
        Request::VmRemove { sandbox } => op::vm_remove::run(sandbox, caller),
        Request::MemoryKeep { sandbox, memory, of } => {
            op::memory_keep::run(sandbox, memory, of, caller)
        }
        Request::MemoryList {} => op::memory_list::run(caller),
        Request::MemoryDrop { memory } => op::memory_drop::run(memory, caller),
    }
}
