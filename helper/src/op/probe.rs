//! Facts about the host.

use crate::answer::Answer;
use crate::table::Caller;
use crate::{cgroup, programs, rules};
use banger_wire::helper::{Facts, NetworkSupport, Reply};
use rustix::fs::{Access, access};

pub(crate) fn run(caller: &Caller) -> Answer {
    let root = cgroup::hierarchy().filter(|root| access(root, Access::WRITE_OK).is_ok());
    let controllers = root.as_deref().map(|root| cgroup::effective(root, caller.uid));
    let controllers = controllers.unwrap_or_default();
    Ok(Reply::Facts(Facts {
        cgroup2: root.is_some(),
        controllers,
        network: network(),
        firecracker: programs::firecracker()
            .as_ref()
            .map(|found| found.version)
            .map_err(Clone::clone),
        qemu: programs::qemu().map(drop),
    }))
}

/// What guests' network lacks here. The right to change it shows only when it is used, or here: in the list of
/// what this process may do.
fn network() -> NetworkSupport {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let may = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let may = may.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    if may & (1 << CAP_NET_ADMIN) == 0 {
        NetworkSupport::NoRight
    } else if access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK).is_err() {
        NetworkSupport::NoTun
    } else if rules::program().is_none() {
        NetworkSupport::NoNft
    } else {
        NetworkSupport::Full
    }
}
