//! Puts a process of the caller into the cgroup of one of its sandboxes.

use crate::answer::{Answer, At, Bad};
use crate::cgroup;
use banger_wire::helper::{Controller, Limits, Reply};
use banger_wire::id::SandboxId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(crate) fn run(uid: u32, sandbox: &SandboxId, limits: Limits, pidfd: &OwnedFd) -> Answer {
    check(limits)?;
    let pid = own_process(uid, pidfd)?;
    let (root, owner, own) = cgroup::folders(uid, sandbox)?;
    let controllers = cgroup::controllers(&root);
    make(&owner)?;
    enable(&root, &controllers);
    enable(&owner, &controllers);
    make(&own)?;
    for controller in &controllers {
        limit(&own, *controller, limits)?;
    }
    if cgroup::members(&own)?.contains(&pid) {
        return Ok(Reply::Unchanged);
    }
    fs::write(own.join("cgroup.procs"), pid.to_string()).at("entering the cgroup")?;
    if !alive(pidfd) {
        // Its number may be another's by now. Whoever it is goes back to where everybody starts.
        let _ = fs::write(root.join("cgroup.procs"), pid.to_string());
        return Err(Bad::Refused("the process ended"));
    }
    Ok(Reply::Changed)
}

fn check(limits: Limits) -> Result<(), Bad> {
    let good = (64..=4 << 20).contains(&limits.memory_mib)
        && (8..=4096).contains(&limits.pids)
        && (10..=102_400).contains(&limits.cpu_percent);
    if good { Ok(()) } else { Err(Bad::Refused("a limit is out of bounds")) }
}

/// The number of the process behind a pidfd, when it lives and belongs to the caller.
fn own_process(uid: u32, pidfd: &OwnedFd) -> Result<u32, Bad> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = info.at("looking at the descriptor")?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    let pid = pid.ok_or(Bad::Refused("the descriptor is not a pidfd"))?;
    let pid: u32 = pid.parse().map_err(|_| Bad::Refused("the process ended"))?;
    let owner = fs::metadata(format!("/proc/{pid}")).at("looking at the process")?.uid();
    if owner != uid || !alive(pidfd) {
        return Err(Bad::Refused("the process is not the caller's"));
    }
    Ok(pid)
}

/// A pidfd becomes readable when its process ends.
fn alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(0))
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
        let name = cgroup::name(*controller);
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

fn limit(folder: &Path, controller: Controller, limits: Limits) -> Result<(), Bad> {
    let (file, value) = match controller {
        Controller::Memory => ("memory.max", (u64::from(limits.memory_mib) << 20).to_string()),
        Controller::Pids => ("pids.max", limits.pids.to_string()),
        // So many microseconds of processor time in every 100,000.
        Controller::Cpu => ("cpu.max", format!("{} 100000", u64::from(limits.cpu_percent) * 1000)),
    };
    match fs::write(folder.join(file), value) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.at("setting a limit"),
    }
}
