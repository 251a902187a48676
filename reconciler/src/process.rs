//! Processes that carry our mark: found in `/proc`, held by pidfd, never signalled by a bare number (R-R5).

use banger_wire::derive::{MARK, Role, parse_process_mark};
use banger_wire::id::{InstallId, SandboxId};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// One process of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marked {
    /// Whose.
    pub sandbox: SandboxId,
    /// What for.
    pub role: Role,
    /// The key of what it was started with.
    pub boot: String,
    /// Its number. Only good together with its start time.
    pub pid: i32,
    /// When it started, in clock ticks since the host's boot.
    pub started: u64,
}

/// Every living process of this installation that we may look at.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn marked(install: &InstallId) -> io::Result<Vec<Marked>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let environment = match fs::read(entry.path().join("environ")) {
            Ok(environment) => environment,
            Err(error) if is_not_ours(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(mark) = mark_of(&environment) else { continue };
        let Some((sandbox, role, boot)) = parse_process_mark(install, mark) else { continue };
        let Some(started) = start_time(pid)? else { continue };
        found.push(Marked { sandbox, role, boot, pid, started });
    }
    found.sort();
    Ok(found)
}

fn mark_of(environment: &[u8]) -> Option<&str> {
    let prefix = MARK.as_bytes();
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(prefix)?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

/// Processes end while we look, and others' cannot be read: neither is ours then. Anything else, like having no
/// descriptor left, says nothing about a process.
fn is_not_ours(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(ESRCH)
}

/// When a process started, in clock ticks since boot. `None` when it is gone or a zombie.
fn start_time(pid: i32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if is_not_ours(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name, in parentheses, may hold anything; the fields follow the last one.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, fields)) => fields.split_whitespace().collect(),
        None => return Ok(None),
    };
    if fields.first().is_none_or(|state| matches!(*state, "Z" | "X")) {
        return Ok(None);
    }
    Ok(fields.get(19).and_then(|text| text.parse().ok()))
}

/// Seconds since a process started.
pub fn uptime(process: &Marked) -> u64 {
    let now = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let now: f64 = now.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    (now - process.started as f64 / ticks as f64).max(0.0) as u64
}

/// The clock that only goes forward, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, rest) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + rest
}

/// The folder of a process's cgroup in the v2 hierarchy, where there is one.
pub fn cgroup2(pid: u32) -> Option<std::path::PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let below = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(crate::host::cgroup2_root()?.join(below))
}

/// A process that can neither be confused with another nor go away unnoticed.
#[derive(Debug)]
pub struct Held {
    pidfd: OwnedFd,
}

impl Held {
    /// Takes hold of a process. `None` when it ended meanwhile.
    ///
    /// # Errors
    /// When it cannot be told, as when no descriptor is left.
    pub fn new(process: &Marked) -> io::Result<Option<Self>> {
        let Some(pid) = rustix::process::Pid::from_raw(process.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The number may have been used again between looking and opening.
        let same = start_time(process.pid)? == Some(process.started);
        Ok(same.then_some(Self { pidfd }))
    }

    /// By a descriptor that somebody else opened.
    pub fn by(pidfd: OwnedFd) -> Self {
        Self { pidfd }
    }

    /// Sends a signal. One that ended needs none.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits until it ended. Whoever started it collects it.
    pub async fn ended(self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "its unsoundness needs a type that lies about its descriptor"
        )]
        let watched = AsyncFd::with_interest(self.pidfd, tokio::io::Interest::READABLE)?;
        let _ = watched.readable().await?;
        Ok(())
    }
}

/// Ends processes: waits `patience` for them to go by themselves, then TERM and as long again, then KILL.
///
/// # Errors
/// With those that are still there.
pub async fn end(processes: &[Marked], patience: Duration, term: Duration) -> Result<(), String> {
    let mut left: Vec<(&Marked, tokio::task::JoinHandle<io::Result<()>>)> = Vec::new();
    for process in processes {
        if let Some(held) = Held::new(process).map_err(|error| error.to_string())? {
            left.push((process, tokio::spawn(held.ended())));
        }
    }
    let stages = [
        (patience, Some(Signal::TERM)),
        (term, Some(Signal::KILL)),
        (Duration::from_secs(5), None),
    ];
    for (time, then) in stages {
        let deadline = tokio::time::Instant::now() + time;
        let mut still = Vec::new();
        for (process, mut ended) in left {
            if tokio::time::timeout_at(deadline, &mut ended).await.is_err() {
                still.push((process, ended));
            }
        }
        left = still;
        if left.is_empty() {
            return Ok(());
        }
        for (process, _) in &left {
            if let (Ok(Some(held)), Some(signal)) = (Held::new(process), then) {
                held.signal(signal);
            }
        }
    }
    let pids: Vec<String> = left.iter().map(|(process, _)| process.pid.to_string()).collect();
    Err(format!("processes that do not end: {}", pids.join(", ")))
}

/// This program, to be run again: the one that runs, also after another took its place on disk.
pub fn itself() -> PathBuf {
    let there = std::env::current_exe().ok().filter(|path| path.exists());
    there.unwrap_or_else(|| "/proc/self/exe".into())
}

/// Whether a program can be found, and where: beside this one, in `PATH`, or where only root's `PATH` leads.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.to_path_buf()));
    let system = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).into());
    let folders = beside.into_iter().chain(std::env::split_paths(&path)).chain(system);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}
