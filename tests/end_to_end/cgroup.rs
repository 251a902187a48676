//! The host's cgroups as the tests see them: whose they are, what limits them, and one that is too narrow.

use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a hierarchy is mounted: the first one of a kind whose mount says a word.
fn mounted(kind: &str, word: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let fits = |line: &&str| line.contains(&format!(" - {kind} ")) && line.contains(word);
    mounts.lines().find(fits)?.split(' ').nth(4).map(PathBuf::from)
}

/// Where the sandboxes of this user have theirs.
pub(crate) fn of_this_user() -> Option<PathBuf> {
    Some(mounted("cgroup2", "")?.join(format!("banger-{}", nix::unistd::geteuid())))
}

/// Those of them that no process is in.
pub(crate) fn idle() -> BTreeSet<PathBuf> {
    let all = of_this_user().and_then(|owner| fs::read_dir(owner).ok());
    let all = all.into_iter().flatten().flatten().map(|entry| entry.path());
    let is_idle =
        |own: &PathBuf| fs::read(own.join("cgroup.procs")).is_ok_and(|all| all.is_empty());
    all.filter(is_idle).collect()
}

/// The limits of the cgroup of a process, by file, of those controllers that the host offers.
pub(crate) fn limits(process: &Path) -> BTreeMap<&'static str, String> {
    let Some(root) = mounted("cgroup2", "") else { return BTreeMap::new() };
    let own = fs::read_to_string(process.join("cgroup")).expect("reads");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup");
    let offered = fs::read_to_string(root.join("cgroup.controllers")).expect("reads");
    let offers = |name: &str| offered.split_whitespace().any(|offered| offered == name);
    let files = [("cpu", "cpu.max"), ("memory", "memory.max"), ("pids", "pids.max")];
    let read = |file| fs::read_to_string(root.join(own).join(file)).expect(file).trim().to_string();
    let offered = files.into_iter().filter(|(controller, _)| offers(controller));
    offered.map(|(_, file)| (file, read(file))).collect()
}

/// A cgroup with hardly any memory for one process. Whoever needs more in it is killed by the kernel.
pub(crate) struct Narrow(PathBuf);

impl Narrow {
    /// None where no memory controller can be had.
    pub(crate) fn around(pid: Pid) -> Option<Self> {
        let controlled = |root: &PathBuf| {
            let handed_down = fs::read_to_string(root.join("cgroup.subtree_control"));
            handed_down.is_ok_and(|all| all.contains("memory"))
        };
        let (root, limit) = match mounted("cgroup2", "").filter(controlled) {
            Some(root) => (root, "memory.max"),
            None => (mounted("cgroup", ",memory")?, "memory.limit_in_bytes"),
        };
        let own = Self(root.join(format!("banger-test-{pid}")));
        fs::create_dir(&own.0).ok()?;
        fs::write(own.0.join(limit), "4194304").expect("a limit");
        // What it has already is counted where it was.
        fs::write(own.0.join("cgroup.procs"), pid.to_string()).expect("moves");
        Some(own)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        // A killed process is in it until somebody collects it.
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            fs::remove_dir(&self.0).is_ok()
        });
        assert!(gone || std::thread::panicking(), "somebody is left in {}", self.0.display());
    }
}
