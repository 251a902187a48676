//! The cgroup of a sandbox: `<v2 hierarchy>/banger-<uid>/<sandbox>`. Every name is derived here.

use crate::answer::{At, Bad};
use banger_wire::derive::owner_cgroup;
use banger_wire::helper::Controller;
use banger_wire::id::SandboxId;
use banger_wire::machine::{Backend, Machine};
use banger_wire::qemu::TRANSLATIONS_MIB;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// What Firecracker needs besides a guest's memory, in MiB.
const FIRECRACKER_MIB: u32 = 64;
/// What QEMU and its vsock device need, in MiB.
const QEMU_MIB: u32 = 256;
/// The part of a guest's memory that the tables may have that map it. The process's and the processor's take eight bytes each for
/// a page of 4 KiB, which is 1/256 together; this is twice that.
const TABLES: u64 = 128;

/// Where the v2 hierarchy is mounted.
pub(crate) fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| before.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

/// The controllers that the hierarchy offers and we use.
fn controllers(root: &Path) -> Vec<Controller> {
    listed(&root.join("cgroup.controllers"))
}

/// The controllers that sandboxes of an owner are limited by: those that are offered; once the first one was started, those that
/// were handed down to it, which can be fewer.
pub(crate) fn effective(root: &Path, uid: u32) -> Vec<Controller> {
    let handed_down = root.join(owner_cgroup(uid)).join("cgroup.subtree_control");
    if handed_down.exists() { listed(&handed_down) } else { controllers(root) }
}

fn listed(file: &Path) -> Vec<Controller> {
    let offered = fs::read_to_string(file).unwrap_or_default();
    let mut found: Vec<Controller> = offered
        .split_whitespace()
        .filter_map(|name| match name {
            "cpu" => Some(Controller::Cpu),
            "memory" => Some(Controller::Memory),
            "pids" => Some(Controller::Pids),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// A controller's name in the files of the hierarchy.
pub(crate) fn name(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "cpu",
        Controller::Memory => "memory",
        Controller::Pids => "pids",
    }
}

/// The folders of an owner and of one of its sandboxes.
pub(crate) fn folders(uid: u32, sandbox: &SandboxId) -> Result<(PathBuf, PathBuf, PathBuf), Bad> {
    let root = hierarchy().ok_or(Bad::Refused("there is no cgroup v2 hierarchy"))?;
    let owner = root.join(owner_cgroup(uid));
    let own = owner.join(sandbox.as_str());
    Ok((root, owner, own))
}

/// The processes in a cgroup.
pub(crate) fn members(folder: &Path) -> Result<Vec<u32>, Bad> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).at("reading the cgroup")?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Makes a sandbox's cgroup with its machine's limits. None where there is no v2 hierarchy.
pub(crate) fn ensure(
    uid: u32,
    sandbox: &SandboxId,
    machine: &Machine,
) -> Result<Option<PathBuf>, Bad> {
    let Some(root) = hierarchy() else { return Ok(None) };
    let (_, owner, own) = folders(uid, sandbox)?;
    let controllers = controllers(&root);
    make(&owner)?;
    enable(&root, &controllers);
    enable(&owner, &controllers);
    make(&own)?;
    for controller in controllers {
        limit(&own, controller, machine)?;
    }
    Ok(Some(own))
}

fn make(folder: &Path) -> Result<(), Bad> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Bad::Failed("making the cgroup", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Hands the controllers down. What the kernel refuses is a limit that is not set, which `probe` shows.
fn enable(folder: &Path, controllers: &[Controller]) {
    for controller in controllers {
        let name = name(*controller);
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

fn limit(folder: &Path, controller: Controller, machine: &Machine) -> Result<(), Bad> {
    let (own, pids) = match (machine.backend, machine.kvm) {
        (Backend::Firecracker, _) => (FIRECRACKER_MIB, 64),
        (Backend::Qemu, true) => (QEMU_MIB, 128),
        (Backend::Qemu, false) => (QEMU_MIB + TRANSLATIONS_MIB, 128),
    };
    let (file, value) = match controller {
        Controller::Memory => {
            let mib = u64::from(machine.memory_mib);
            let all = mib + mib / TABLES + u64::from(own);
            ("memory.max", (all << 20).to_string())
        }
        Controller::Pids => ("pids.max", pids.to_string()),
        // So many microseconds of processor time in every 100,000: one processor more than the guest's.
        Controller::Cpu => {
            ("cpu.max", format!("{} 100000", (u64::from(machine.cpus) + 1) * 100_000))
        }
    };
    put(&folder.join(file), &value).at("setting a limit").map(drop)
}

/// Writes to a file of the hierarchy. Whether it is there: one that is not cannot be made, and must not be tried to.
fn put(file: &Path, value: &str) -> std::io::Result<bool> {
    match File::options().write(true).open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        opened => opened?.write_all(value.as_bytes()).map(|()| true),
    }
}

/// Whether processes are in a sandbox's cgroup. Without a jail they are another installation's of the same owner.
pub(crate) fn is_taken(uid: u32, sandbox: &SandboxId) -> Result<bool, Bad> {
    if hierarchy().is_none() {
        return Ok(false);
    }
    let (_, _, own) = folders(uid, sandbox)?;
    Ok(own.exists() && !members(&own)?.is_empty())
}

/// Ends every process in a sandbox's cgroup and removes it. Returns whether there was one.
pub(crate) fn remove(uid: u32, sandbox: &SandboxId) -> Result<bool, Bad> {
    if hierarchy().is_none() {
        return Ok(false);
    }
    let (_, owner, own) = folders(uid, sandbox)?;
    if !own.exists() {
        return Ok(false);
    }
    // Only since Linux 5.14.
    let at_once = put(&own.join("cgroup.kill"), "1").at("killing the cgroup")?;
    let start = Instant::now();
    while !members(&own)?.is_empty() {
        if !at_once {
            kill_each(&own)?;
        }
        if start.elapsed() > PATIENCE {
            return Err(Bad::Refused("a process in its cgroup does not end"));
        }
        sleep(Duration::from_millis(5));
    }
    // A killed process leaves the list before it leaves the cgroup.
    while let Err(error) = fs::remove_dir(&own) {
        if error.kind() != ErrorKind::ResourceBusy || start.elapsed() > PATIENCE {
            return Err(Bad::Failed("removing the cgroup", error));
        }
        sleep(Duration::from_millis(5));
    }
    // Goes with the last sandbox; while there are others it stays.
    let _ = fs::remove_dir(&owner);
    Ok(true)
}

/// Kills the processes in a cgroup one by one. Those that they start meanwhile are for the next time.
fn kill_each(folder: &Path) -> Result<(), Bad> {
    for pid in members(folder)? {
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        // The number may be another's by now: who is still in the list is who was meant.
        if members(folder)?.contains(&pid) {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_wire::machine::{Card, KernelWords};
    use std::process::Command;

    #[test]
    fn processes_are_killed_one_by_one_where_the_kernel_cannot_do_more() {
        let folder = std::env::temp_dir().join(format!("banger-kill-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut sleeps = [(); 2].map(|()| Command::new("sleep").arg("60").spawn().expect("runs"));
        let [ours, other] = &mut sleeps;
        fs::write(folder.join("cgroup.procs"), format!("{}\n", ours.id())).expect("writes");
        kill_each(&folder).expect("kills");
        assert!(!ours.wait().expect("ends").success());
        assert!(other.try_wait().expect("looks").is_none(), "another was killed");
        // One that is gone is no error.
        kill_each(&folder).expect("kills nobody");
        other.kill().and_then(|()| other.wait()).expect("ends");
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn a_guests_memory_is_limited_with_room_for_what_maps_it() {
        let folder = std::env::temp_dir().join(format!("banger-limit-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let machine = |backend, kvm, memory_mib| Machine {
            boot: "0123456789abcdef".to_string().try_into().expect("a key"),
            backend,
            kvm,
            cpus: 2,
            memory_mib,
            cid: 3,
            card: Card::None,
            disks: 1,
            read_only: 1,
            words: KernelWords::try_from("quiet".to_string()).expect("words"),
            disk_rate_mib: 0,
            net_rate_mib: 0,
            from: None,
        };
        for (machine, mib) in [
            (machine(Backend::Firecracker, true, 512), 512 + 4 + 64),
            (machine(Backend::Firecracker, true, 16 << 10), (16 << 10) + 128 + 64),
            (machine(Backend::Qemu, true, 512), 512 + 4 + 256),
            (machine(Backend::Qemu, false, 512), 512 + 4 + 256 + 256),
        ] {
            // A controller that was not handed down has no file, and sets no limit.
            limit(&folder, Controller::Memory, &machine).expect("no limit");
            assert!(!folder.join("memory.max").exists());
            fs::write(folder.join("memory.max"), "").expect("writes");
            limit(&folder, Controller::Memory, &machine).expect("limits");
            let set = fs::read_to_string(folder.join("memory.max")).expect("reads");
            assert_eq!(set.parse::<u64>().ok(), Some(mib << 20), "{machine:?}");
            fs::remove_file(folder.join("memory.max")).expect("removes");
        }
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn what_was_not_handed_down_limits_nobody() {
        let root = std::env::temp_dir().join(format!("banger-cgroup-{}", std::process::id()));
        let owner = root.join(owner_cgroup(7));
        fs::create_dir_all(&root).expect("a folder");
        fs::write(root.join("cgroup.controllers"), "io pids memory cpu\n").expect("writes");
        let all = [Controller::Cpu, Controller::Memory, Controller::Pids];
        assert_eq!(effective(&root, 7), all, "nobody was started");
        fs::create_dir(&owner).expect("a folder");
        fs::write(owner.join("cgroup.subtree_control"), "pids\n").expect("writes");
        assert_eq!(effective(&root, 7), [Controller::Pids]);
        assert_eq!(effective(&root, 8), all, "another's");
        fs::remove_dir_all(root).expect("removes");
    }
}
