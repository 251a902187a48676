//! Who lives in a jail: the processes whose root is the jail's. They cannot change it, and nobody else has it.

use super::Jail;
use crate::answer::{At, Bad};
use banger_wire::derive::MARK;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process is for. It says so itself: nothing but a status hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Vmm,
    Vsock,
}

impl Role {
    /// In the environment of a process. Firecracker's is empty.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Role::Vmm => "vmm",
            Role::Vsock => "vsock",
        }
    }
}

/// A living process of a jail.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) role: Role,
    /// Seconds since it started.
    pub(crate) secs: u64,
}

/// Every living process of a jail.
pub(crate) fn inside(jail: &Jail) -> Result<Vec<Inside>, Bad> {
    let Some((root, _)) = jail.root() else { return Ok(Vec::new()) };
    let root = match fs::metadata(&root) {
        Ok(meta) => (meta.dev(), meta.ino()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Bad::Failed("looking at a jail", error)),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").at("looking at processes")? {
        let entry = entry.at("looking at processes")?;
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        let path = entry.path();
        if !is_inside(&path, root) {
            continue;
        }
        // Held, then looked at again: the number may be another's by now.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_inside(&path, root) {
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            found.push(Inside { pid: number, pidfd, role: role(&path), secs: age(&path) });
        }
    }
    Ok(found)
}

/// A zombie has no root any more.
fn is_inside(process: &Path, root: (u64, u64)) -> bool {
    fs::metadata(process.join("root")).is_ok_and(|meta| (meta.dev(), meta.ino()) == root)
}

fn role(process: &Path) -> Role {
    let vsock = format!("{MARK}={}", Role::Vsock.mark());
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let is_vsock =
        environment.split(|byte| *byte == 0).any(|variable| variable == vsock.as_bytes());
    if is_vsock { Role::Vsock } else { Role::Vmm }
}

/// Seconds since a process started.
fn age(process: &Path) -> u64 {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; the fields follow the last one.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().nth(19).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let now = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let now: f64 = now.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    (now - ticks / rustix::param::clock_ticks_per_second().max(1) as f64).max(0.0) as u64
}

/// Kills every process of a jail and waits until none is left. Returns whether there was any.
pub(crate) fn end(jail: &Jail) -> Result<bool, Bad> {
    let (start, mut any) = (Instant::now(), false);
    loop {
        let left = inside(jail)?;
        if left.is_empty() {
            return Ok(any);
        }
        any = true;
        for process in &left {
            // One that ended meanwhile needs no signal.
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
        }
        if start.elapsed() > PATIENCE {
            return Err(Bad::Refused("a process in its jail does not end"));
        }
        sleep(Duration::from_millis(5));
    }
}
