//! What guests are run by, and what holds them.

use super::{Gathered, Helper, QEMU, Said, VSOCK};
use crate::host::Kvm;
use banger_wire::derive::JAIL_USERS;
use banger_wire::helper::Controller;
use banger_wire::machine::{Backend, Version};
use std::collections::BTreeSet;

pub(super) fn kvm(gathered: &Gathered) -> Option<Said> {
    let kvm = gathered.host.kvm;
    let slower = format!("{}; what is chosen is software emulation, which is slower", kvm.says());
    match kvm {
        Kvm::Works => Said::ok(kvm.says()),
        Kvm::NoKernels => {
            Said::warn(slower, "switch nested virtualisation on where this machine is run")
        }
        Kvm::Absent { module: Some(module) } => Said::warn(slower, format!("modprobe {module}")),
        Kvm::Absent { module: None } => Said::warn(
            slower,
            "switch virtualisation on in the firmware, or where this machine is run",
        ),
        Kvm::Refused => match (gathered.host.uid, &gathered.host.user) {
            (0, _) | (_, None) => Said::warn(slower, "let this container have /dev/kvm"),
            (_, Some(user)) => {
                Said::warn(slower, format!("usermod -aG kvm {user}, and log in again"))
            }
        },
    }
}

/// Why a VMM cannot be had, if so.
fn missing(gathered: &Gathered, backend: Backend) -> Option<String> {
    let facts = gathered.facts()?;
    let without_helper = || {
        // The helper looks itself; without one the daemon finds them when it starts them.
        let alone = backend == Backend::Qemu && facts.helper.is_none();
        let lacking = [QEMU, VSOCK].into_iter().find(|name| alone && facts.lacks.contains(*name));
        lacking.map(|name| format!("{name} is not there"))
    };
    facts.missing.get(&backend).cloned().or_else(without_helper)
}

fn install(backend: Backend) -> String {
    match backend {
        Backend::Firecracker => {
            let oldest = Version::OLDEST;
            format!(
                "put firecracker and jailer {oldest} or newer, but not 1.15.0, into /usr/local/bin as root's; the next \
                 daemon uses them"
            )
        }
        Backend::Qemu => {
            format!("apt install qemu-system-x86; cargo install --root /usr/local {VSOCK}")
        }
    }
}

pub(super) fn vmm(gathered: &Gathered) -> Option<Said> {
    let facts = gathered.facts()?;
    let (vmm, why) = (facts.vmm, &facts.why);
    match missing(gathered, vmm) {
        Some(lacking) => {
            Said::fail(format!("{vmm} is chosen ({why}), but: {lacking}"), install(vmm))
        }
        None => Said::ok(format!("{vmm} is chosen: {why}")),
    }
}

pub(super) fn firecracker(gathered: &Gathered) -> Option<Said> {
    let facts = gathered.facts()?;
    match (missing(gathered, Backend::Firecracker), &facts.helper) {
        // Without a helper there is no jailer: the helper's check says it.
        (_, None) => None,
        (None, Some(Ok(helper))) => {
            let version = helper.firecracker.as_ref().ok()?;
            Said::ok(format!("{version}, with its jailer"))
        }
        (None, Some(Err(_))) => None,
        (Some(why), Some(_)) if gathered.host.kvm == Kvm::Works => {
            Said::warn(why, install(Backend::Firecracker))
        }
        (Some(why), Some(_)) => Said::ok(format!("it is not used without KVM; {why}")),
    }
}

pub(super) fn qemu(gathered: &Gathered) -> Option<Said> {
    gathered.facts()?;
    match missing(gathered, Backend::Qemu) {
        Some(why) => Said::warn(why, install(Backend::Qemu)),
        // One that does not answer does not tell either.
        None if matches!(gathered.helper(), Helper::Mute) => None,
        None => Said::ok(format!("{QEMU} and {VSOCK} are there")),
    }
}

/// What a controller limits.
fn limits(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "processor time",
        Controller::Memory => "memory",
        Controller::Pids => "the number of processes",
    }
}

pub(super) fn cgroup(gathered: &Gathered) -> Option<Said> {
    let own = gathered.host.cgroup.as_ref();
    let helper = match gathered.helper() {
        Helper::Sees(facts) => Some(facts),
        Helper::Unknown => None,
        // Only the helper makes cgroups.
        Helper::None | Helper::Mute => return None,
    };
    let unlimited = |lacking: &BTreeSet<Controller>| {
        let what: Vec<&str> = lacking.iter().map(|controller| limits(*controller)).collect();
        format!("of sandboxes this is not limited: {}", what.join(", "))
    };
    let all = BTreeSet::from([Controller::Cpu, Controller::Memory, Controller::Pids]);
    let boot = "boot with systemd.unified_cgroup_hierarchy=1";
    if own.is_none() && helper.is_none_or(|facts| !facts.cgroup2) {
        return Said::fail(format!("cgroup v2 is not mounted; {}", unlimited(&all)), boot);
    }
    let path = own.map_or("/sys/fs/cgroup".into(), |own| own.path.display().to_string());
    let offered = match (helper, own) {
        (Some(facts), _) if !facts.cgroup2 => {
            let found = format!("cgroup v2 at {path} cannot be written; {}", unlimited(&all));
            return Said::fail(found, format!("mount -o remount,rw {path}"));
        }
        (Some(facts), _) => facts.controllers.iter().copied().collect(),
        (None, own) => own.map(|own| own.controllers.clone()).unwrap_or_default(),
    };
    let lacking: BTreeSet<Controller> = all.difference(&offered).copied().collect();
    if lacking.is_empty() {
        return Said::ok(format!(
            "cgroup v2 at {path} limits processor time, memory and processes"
        ));
    }
    let host = own.map(|own| own.controllers.clone()).unwrap_or_default();
    if helper.is_some() && lacking.is_subset(&host) {
        let found = format!("cgroup v2 at {path} hands not all down; {}", unlimited(&lacking));
        return Said::fail(
            found,
            "in a container, use the host's cgroups (--cgroupns=host); else see who has processes at its root",
        );
    }
    Said::fail(format!("cgroup v2 at {path} lacks controllers; {}", unlimited(&lacking)), boot)
}

pub(super) fn jail_users(gathered: &Gathered) -> Option<Said> {
    let taken = gathered.host.jail_users_taken;
    let found = format!(
        "{taken} of the {JAIL_USERS} users of jails are others' too, by /etc/passwd or /etc/subuid"
    );
    let hint = "give those of /etc/passwd and /etc/subuid numbers below 0x70000000";
    match (gathered.helper(), taken) {
        (Helper::None, _) => None,
        (Helper::Mute | Helper::Sees(_) | Helper::Unknown, 0) => {
            Said::ok("the users of jails are nobody else's")
        }
        (Helper::Mute | Helper::Sees(_) | Helper::Unknown, JAIL_USERS..) => Said::fail(found, hint),
        (Helper::Mute | Helper::Sees(_) | Helper::Unknown, _) => {
            Said::warn(format!("{found}: they are left out"), hint)
        }
    }
}
