//! What sandboxes use right now, as the host sees it: from a cgroup where there is one, else from their processes.

use crate::folders::Folders;
use crate::helper::Helper;
use crate::process;
use banger_plan::actual::Actual;
use banger_plan::desired::Desired;
use banger_wire::api::SandboxStats;
use banger_wire::derive;
use banger_wire::id::{InstallId, SandboxId};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes in one block, as `stat` counts.
const BLOCK: u64 = 512;

/// Of every sandbox that runs. Counters begin with the sandbox's start; what cannot be told is 0.
pub fn stats(
    folders: &Folders,
    desired: &Desired,
    actual: &Actual,
    cards: &BTreeMap<String, (u64, u64)>,
    helper: Option<&Helper>,
) -> Vec<SandboxStats> {
    let processes = processes(&desired.install, helper);
    let at_ns = process::monotonic_ns();
    let runs =
        |id: &SandboxId| actual.sandboxes.get(id).is_some_and(|fact| fact.vmm.present().is_some());
    let running = desired.sandboxes.values().filter(|sandbox| runs(&sandbox.id));
    running
        .map(|sandbox| {
            let own = processes.get(&sandbox.id).map_or(&[][..], Vec::as_slice);
            let usage = usage(&sandbox.id, own);
            // What the host sends is what the guest receives.
            let (sent, received) =
                cards.get(&derive::tap(&desired.install, &sandbox.id)).copied().unwrap_or_default();
            SandboxStats {
                project: sandbox.project.clone(),
                name: sandbox.name.clone(),
                at_ns,
                cpus: sandbox.spec.cpus,
                cpu_ns: usage.cpu_ns,
                memory_bytes: usage.memory_bytes,
                memory_limit_bytes: sandbox.spec.memory.bytes(),
                disk_bytes: on_disk(&folders.sandbox(&sandbox.id)),
                disk_limit_bytes: sandbox.spec.disk.bytes(),
                disk_read_bytes: usage.read_bytes,
                disk_written_bytes: usage.written_bytes,
                net_received_bytes: sent,
                net_sent_bytes: received,
                processes: u32::try_from(own.len()).unwrap_or(u32::MAX),
            }
        })
        .collect()
}

/// The processes of every sandbox: those that we marked, and those in the helper's jails. Only read by these numbers.
fn processes(install: &InstallId, helper: Option<&Helper>) -> BTreeMap<SandboxId, Vec<u32>> {
    let mut found: BTreeMap<SandboxId, Vec<u32>> = BTreeMap::new();
    for process in process::marked(install).unwrap_or_default() {
        found.entry(process.sandbox).or_default().push(process.pid.unsigned_abs());
    }
    for jail in helper.and_then(|helper| helper.jails().ok()).unwrap_or_default() {
        let pids = jail.living.iter().map(|process| process.pid);
        found.entry(jail.sandbox).or_default().extend(pids);
    }
    found
}

#[derive(Default)]
struct Usage {
    cpu_ns: u64,
    memory_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// The sum of its processes. A cgroup would say the same of processor time and more of memory: it counts what the
/// kernel keeps for them too.
fn usage(sandbox: &SandboxId, processes: &[u32]) -> Usage {
    let mut sum = Usage::default();
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    for pid in processes {
        let folder = format!("/proc/{pid}");
        let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, f)| f.split_whitespace().collect()).unwrap_or_default();
        let field =
            |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        sum.cpu_ns += (field(11) + field(12)) * tick_ns;
        let labelled = |text: &str, label: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        // The guest's memory is shared between its processes: each has its part.
        let kib = match labelled(&read("smaps_rollup"), "Pss:") {
            0 => labelled(&read("status"), "VmRSS:"),
            kib => kib,
        };
        sum.memory_bytes += kib << 10;
        let io = read("io");
        sum.read_bytes += labelled(&io, "read_bytes:");
        sum.written_bytes += labelled(&io, "write_bytes:");
    }
    if let Some(first) = processes.first()
        && let Some(folder) =
            process::cgroup2(*first).filter(|folder| folder.ends_with(sandbox.as_str()))
    {
        from_cgroup(&folder, &mut sum);
    }
    sum
}

fn from_cgroup(folder: &Path, usage: &mut Usage) {
    let cpu = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
    let micros = cpu.lines().find_map(|line| line.strip_prefix("usage_usec "));
    if let Some(micros) = micros.and_then(|text| text.trim().parse::<u64>().ok()) {
        usage.cpu_ns = micros * 1000;
    }
    let memory = fs::read_to_string(folder.join("memory.current")).ok();
    if let Some(bytes) = memory.and_then(|text| text.trim().parse().ok()) {
        usage.memory_bytes = bytes;
    }
}

/// What a folder's files take up, without what they only claim.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * BLOCK).sum()
}
