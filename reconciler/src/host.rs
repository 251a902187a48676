//! What this host is like: how sandboxes can run on it, and what it can carry.

use crate::apply::Moment;
use crate::keys::Keys;
use banger_plan::admit::Capacity;
use banger_plan::host::{Kvm, cgroup2};
use banger_wire::agent::Ssh;
use banger_wire::id::SandboxId;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// How guests' code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceleration {
    /// By the processor.
    Kvm,
    /// By software emulation.
    Tcg,
}

/// Which acceleration is used here, and why.
pub fn acceleration() -> (Acceleration, &'static str) {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let opened = opened.map(drop).map_err(|error| error.kind());
    let kvm = Kvm::of(opened, &fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let acceleration = match kvm {
        Kvm::Works => Acceleration::Kvm,
        Kvm::Absent { .. } | Kvm::Refused | Kvm::NoKernels => Acceleration::Tcg,
    };
    (acceleration, kvm.says())
}

/// The frequency of the time stamp counter in kHz, as far as the kernel tells.
///
/// Emulated guests see the host's counter, and their kernel cannot always measure it on a loaded host.
pub fn tsc_khz() -> Option<u64> {
    let exact = fs::read_to_string("/sys/devices/system/cpu/cpu0/tsc_freq_khz").ok();
    if let Some(khz) = exact.and_then(|text| text.trim().parse().ok()) {
        return Some(khz);
    }
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some((mhz * 1000.0) as u64)
}

/// What the host can carry.
pub fn capacity() -> Capacity {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total
        .and_then(|text| text.split_whitespace().next())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Capacity { memory_mib: kib >> 10, cpus: u32::try_from(cpus).unwrap_or(u32::MAX) }
}

/// The real clock, real randomness, and the installation's keys.
#[derive(Debug, Clone)]
pub struct RealMoment(pub Keys);

impl Moment for RealMoment {
    fn clock_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn entropy(&self) -> String {
        random::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn ssh(&self, sandbox: &SandboxId) -> Option<Ssh> {
        Some(self.0.of_guest(sandbox))
    }
}

/// Random bytes from the kernel.
///
/// # Panics
/// When the kernel has none, which it never says after boot.
pub fn random<const N: usize>() -> [u8; N] {
    use std::io::Read;
    let mut bytes = [0; N];
    let source = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    source.expect("the kernel has random bytes");
    bytes
}

/// Where the v2 hierarchy of cgroups is mounted.
pub fn cgroup2_root() -> Option<std::path::PathBuf> {
    cgroup2(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The sandboxes of this user that have a cgroup.
pub fn cgroups() -> std::collections::BTreeSet<SandboxId> {
    let root = cgroup2_root();
    let owner = banger_wire::derive::owner_cgroup(nix::unistd::geteuid().as_raw());
    let entries = root.and_then(|root| fs::read_dir(root.join(owner)).ok());
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| SandboxId::new(name).ok()).collect()
}
