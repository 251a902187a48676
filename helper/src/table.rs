//! Everything that root will do for an owner. What is not in this table does not happen.
//!
//! | operation | reads only | descriptors | effect |
//! |---|---|---|---|
//! | hello | yes | 0 | the versions are compared and the installation is named; nothing else is answered before |
//! | probe | yes | 0 | facts about the host |
//! | cgroup-join | no | 1 pidfd | a process of the caller enters the cgroup of one of its sandboxes |
//! | cgroup-remove | no | 0 | that cgroup is killed and removed |
//! | bridge-ensure | no | 0 | the installation's bridge is there, with its address; the host forwards |
//! | bridge-remove | no | 0 | that bridge is removed, unless it has ports |
//! | tap-ensure | no | 0 | a sandbox's tap is a closed, isolated port of that bridge |
//! | tap-set | no | 0 | that port is opened, if there are rules, or closed |
//! | tap-open | no | 0, answers with 1 | a descriptor of that tap |
//! | tap-remove | no | 0 | that tap is removed |
//! | rules-apply | no | 0 | the installation's two tables of nftables are replaced in one step |
//! | rules-check | yes | 0 | whether they are as they were written |
//! | rules-remove | no | 0 | they are removed, unless the bridge has ports |
//! | dns-route | no | 0 | the host's resolver asks 127.0.0.1 for names below `vm`, by that bridge's link |

use crate::answer::{Answer, Bad};
use crate::op;
use crate::rules::Checked;
use banger_wire::helper::{Reply, Request};
use banger_wire::id::InstallId;
use std::os::fd::OwnedFd;

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
}

impl Caller {
    /// Nobody yet but a user.
    pub(crate) fn new(uid: u32) -> Self {
        Self { uid, agreed: false, install: None, checked: None }
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
        Request::CgroupJoin { .. } => Row { descriptors: 1, ..CHANGES },
        Request::CgroupRemove { .. } => CHANGES,
        Request::BridgeEnsure { .. } => CHANGES,
        Request::BridgeRemove {} => CHANGES,
        Request::TapEnsure { .. } => CHANGES,
        Request::TapSet { .. } => CHANGES,
        Request::TapOpen { .. } => CHANGES,
        Request::TapRemove { .. } => CHANGES,
        Request::RulesApply { .. } => CHANGES,
        Request::RulesCheck { .. } => READS,
        Request::RulesRemove {} => CHANGES,
        Request::DnsRoute {} => CHANGES,
    }
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
    if let Request::TapOpen { sandbox } = request {
        return Ok((Reply::Changed, Some(op::tap_open::run(sandbox, caller)?)));
    }
    Ok((carry_out(request, &descriptors, caller)?, None))
}

fn carry_out(request: &Request, descriptors: &[OwnedFd], caller: &mut Caller) -> Answer {
    match request {
        Request::Hello { version, install } => op::hello::run(*version, install, caller),
        Request::Probe {} => op::probe::run(),
        Request::CgroupJoin { sandbox, limits } => {
            op::cgroup_join::run(caller.uid, sandbox, *limits, &descriptors[0])
        }
        Request::CgroupRemove { sandbox } => op::cgroup_remove::run(caller.uid, sandbox),
        Request::BridgeEnsure { subnet } => op::bridge_ensure::run(*subnet, caller),
        Request::BridgeRemove {} => op::bridge_remove::run(caller),
        Request::TapEnsure { sandbox } => op::tap_ensure::run(sandbox, caller),
        Request::TapSet { sandbox, up } => op::tap_set::run(sandbox, *up, caller),
        Request::TapOpen { .. } => Err(Bad::Refused("it answers with a descriptor")),
        Request::TapRemove { sandbox } => op::tap_remove::run(sandbox, caller),
        Request::RulesApply { subnet, policy } => op::rules_apply::run(*subnet, policy, caller),
        Request::RulesCheck { subnet, policy } => op::rules_check::run(*subnet, policy, caller),
        Request::RulesRemove {} => op::rules_remove::run(caller),
        Request::DnsRoute {} => op::dns_route::run(caller),
    }
}
