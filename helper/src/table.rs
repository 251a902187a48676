//! Everything that root will do for an owner. What is not in this table does not happen.
//!
//! | operation | reads only | descriptors | effect |
//! |---|---|---|---|
//! | hello | yes | 0 | the versions are compared; nothing else is answered before |
//! | probe | yes | 0 | facts about the host |
//! | cgroup-join | no | 1 pidfd | a process of the caller enters the cgroup of one of its sandboxes |
//! | cgroup-remove | no | 0 | that cgroup is killed and removed |

use crate::answer::{Answer, Bad};
use crate::op;
use banger_wire::helper::Request;
use std::os::fd::OwnedFd;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// By the kernel's word.
    pub(crate) uid: u32,
    /// Whether both sides speak the same version. Without it only reading is allowed.
    pub(crate) agreed: bool,
}

/// One line of the table.
struct Row {
    reads_only: bool,
    descriptors: usize,
}

fn row(request: &Request) -> Row {
    match request {
        Request::Hello { .. } => Row { reads_only: true, descriptors: 0 },
        Request::Probe {} => Row { reads_only: true, descriptors: 0 },
        Request::CgroupJoin { .. } => Row { reads_only: false, descriptors: 1 },
        Request::CgroupRemove { .. } => Row { reads_only: false, descriptors: 0 },
    }
}

/// Holds a request against its row, then carries it out.
pub(crate) fn run(request: &Request, descriptors: Vec<OwnedFd>, caller: &mut Caller) -> Answer {
    let row = row(request);
    if !row.reads_only && !caller.agreed {
        return Err(Bad::Refused("the versions were not agreed on"));
    }
    if descriptors.len() != row.descriptors {
        return Err(Bad::Refused("the number of descriptors is wrong"));
    }
    match request {
        Request::Hello { version } => op::hello::run(*version, caller),
        Request::Probe {} => op::probe::run(),
        Request::CgroupJoin { sandbox, limits } => {
            op::cgroup_join::run(caller.uid, sandbox, *limits, &descriptors[0])
        }
        Request::CgroupRemove { sandbox } => op::cgroup_remove::run(caller.uid, sandbox),
    }
}
