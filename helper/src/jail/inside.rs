//! Who lives in a jail: the processes whose root is the jail's. They cannot change it, and nobody else has it.

use super::Jail;
use crate::answer::{At, Bad};
use banger_wire::derive::{FIRST_JAIL_USER, JAIL_USERS, MARK};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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

/// Every process of the host, by the place that is its root.
pub(crate) struct Census(BTreeMap<(u64, u64), Vec<Pid>>);

impl Census {
    /// Looks at all processes once.
    pub(crate) fn take() -> Result<Self, Bad> {
        let mut roots: BTreeMap<(u64, u64), Vec<Pid>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").at("looking at processes")? {
            let entry = entry.at("looking at processes")?;
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            if let Some(root) = root_of(&entry.path())? {
                roots.entry(root).or_default().push(pid);
            }
        }
        Ok(Self(roots))
    }

    /// Every living process of a jail.
    pub(crate) fn inside(&self, jail: &Jail) -> Result<Vec<Inside>, Bad> {
        let Some((root, _)) = jail.root() else { return Ok(Vec::new()) };
        let root = match fs::metadata(&root) {
            Ok(meta) => (meta.dev(), meta.ino()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Bad::Failed("looking at a jail", error)),
        };
        let mut found = Vec::new();
        for pid in self.0.get(&root).map_or(&[][..], Vec::as_slice) {
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            let path = PathBuf::from(format!("/proc/{number}"));
            // Held, then looked at again: the number may be another's by now.
            let pidfd = match pidfd_open(*pid, PidfdFlags::empty()) {
                Ok(pidfd) => pidfd,
                Err(Errno::SRCH) => continue,
                Err(error) => return Err(Bad::Failed("holding a process", error.into())),
            };
            if root_of(&path)? == Some(root) {
                found.push(Inside { pid: number, pidfd, role: role(&path), secs: age(&path) });
            }
        }
        Ok(found)
    }
}

/// Every living process of a jail.
pub(crate) fn inside(jail: &Jail) -> Result<Vec<Inside>, Bad> {
    Census::take()?.inside(jail)
}

/// The place that is a process's root. None when it is gone. A first thread that ended has none, but the others of its
/// process may still be there.
fn root_of(process: &Path) -> Result<Option<(u64, u64)>, Bad> {
    const ESRCH: i32 = 3;
    let root = |thread: &Path| match fs::metadata(thread.join("root")) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) =>
        {
            Ok(None)
        }
        // Some hosts hide a few of theirs, even from root; none of a jail's user.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_jailed(thread) => Ok(None),
        // It says nothing about a process that it cannot be looked at.
        Err(error) => Err(Bad::Failed("looking at a process", error)),
    };
    if let Some(found) = root(process)? {
        return Ok(Some(found));
    }
    for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
        if let Some(found) = root(&thread.path())? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether a process's user is one of jails. One that cannot be told may be.
fn is_jailed(process: &Path) -> bool {
    fs::metadata(process)
        .map_or(true, |meta| (FIRST_JAIL_USER..FIRST_JAIL_USER + JAIL_USERS).contains(&meta.uid()))
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
    let mut killed: Vec<Inside> = Vec::new();
    loop {
        let left = inside(jail)?;
        any |= !left.is_empty();
        for process in &left {
            // One that ended meanwhile needs no signal.
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
        }
        killed.extend(left);
        // A process is gone when all of its threads are, which its descriptor tells: until then it has its files open.
        killed.retain(|process| is_alive(&process.pidfd));
        if killed.is_empty() && inside(jail)?.is_empty() {
            return Ok(any);
        }
        if start.elapsed() > PATIENCE {
            return Err(Bad::Refused("a process in its jail does not end"));
        }
        sleep(Duration::from_millis(5));
    }
}

fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(0))
}
