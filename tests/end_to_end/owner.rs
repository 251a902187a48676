//! Owners of a test's own: users who talk to the helper themselves, without a daemon, with files of their own.

use super::home::{Home, can_run};
use crate::helper::{Helper, start_for};
use crate::namespace::Namespace;
use banger_wire::derive::owner_cgroup;
use banger_wire::helper::{Reply, Request};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::{Backend, BootKey, Card, KernelWords, Machine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

/// A place for owners: a folder, the jails, and a network namespace that all of their processes are in.
pub(crate) struct Ground {
    pub(crate) namespace: Namespace,
    folder: tempfile::TempDir,
}

/// A user with a kernel, an initramfs and a disk.
pub(crate) struct Owner<'a> {
    pub(crate) uid: u32,
    pub(crate) install: InstallId,
    pub(crate) folder: PathBuf,
    ground: &'a Ground,
}

/// What a machine is lent.
pub(crate) struct Lent(pub(crate) Vec<OwnedFd>);

impl Lent {
    pub(crate) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

impl Ground {
    /// A new one, where guests can run.
    pub(crate) fn new() -> Option<Self> {
        if !can_run() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bj").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("open to all");
        Some(Self { namespace: Namespace::new(), folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn jails(&self) -> PathBuf {
        self.path().join("jails")
    }

    /// A user of this number; its folder is for nobody else.
    pub(crate) fn owner(&self, uid: u32, install: u128) -> Owner<'_> {
        let folder = self.path().join(format!("owner-{uid}-{install}"));
        fs::DirBuilder::new().mode(0o700).create(&folder).expect("a folder");
        let home = Home::with_kernel();
        let kernels = fs::read_dir(home.path().join("state/kernels")).expect("kernels").flatten();
        let mut kernels = kernels.map(|entry| entry.path().join("vmlinuz"));
        let kernel = kernels.find(|path| path.is_file()).expect("a kernel");
        fs::copy(kernel, folder.join("kernel")).expect("copies");
        fs::write(folder.join("initramfs"), [0; 4096]).expect("writes");
        fs::write(folder.join("disk"), [0; 1 << 20]).expect("writes");
        for name in ["", "kernel", "initramfs", "disk"] {
            chown(folder.join(name), Some(uid), Some(uid)).expect("theirs");
        }
        Owner { uid, install: InstallId::from_bits(install), folder, ground: self }
    }

    /// What runs here: in the namespace, or in a jail, which has one of its own.
    fn all_processes(&self) -> Vec<(i32, String)> {
        let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let jails = below(self.jails()).flat_map(|owner| below(owner.path()));
        let roots = jails.filter_map(|jail| fs::metadata(jail.path().join("root")).ok());
        let roots: BTreeSet<(u64, u64)> = roots.map(|meta| (meta.dev(), meta.ino())).collect();
        let jailed = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let meta = fs::metadata(entry.path().join("root")).ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let inside = roots.contains(&(meta.dev(), meta.ino()));
            inside.then(|| (pid, name.trim().to_string()))
        });
        let mut found: Vec<_> = self.namespace.processes().into_iter().chain(jailed).collect();
        found.sort();
        found.dedup();
        found
    }

    /// What runs here, besides helpers.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mut found = self.all_processes();
        found.retain(|(_, name)| !["banger-helper", "strace"].contains(&name.as_str()));
        found
    }

    /// Waits until nothing runs here any more.
    pub(crate) fn assert_empty(&self) {
        let start = std::time::Instant::now();
        while !self.all_processes().is_empty() {
            let left = self.all_processes();
            assert!(start.elapsed().as_secs() < 10, "still there: {left:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for (pid, _) in self.all_processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Owner<'_> {
    /// A helper that knows nobody yet.
    pub(crate) fn stranger(&self, front: &[&str]) -> Helper {
        start_for(self.uid, &self.ground.jails(), &self.ground.namespace, front).expect("root")
    }

    pub(crate) fn helper(&self) -> Helper {
        self.stranger(&[]).hello(&self.install)
    }

    pub(crate) fn open(&self, name: &str, writable: bool) -> OwnedFd {
        File::options().read(true).write(writable).open(self.folder.join(name)).expect(name).into()
    }

    /// A kernel, an initramfs and one disk.
    pub(crate) fn lent(&self) -> Lent {
        Lent(vec![
            self.open("kernel", false),
            self.open("initramfs", false),
            self.open("disk", true),
        ])
    }

    /// Starts a machine of theirs.
    pub(crate) fn start(&self, helper: &Helper, sandbox: &SandboxId) -> Reply {
        let request = Request::VmStart { sandbox: sandbox.clone(), machine: Box::new(machine()) };
        let lent = self.lent();
        let bytes = serde_json::to_vec(&request).expect("encodes");
        helper.say(&bytes, &lent.borrowed()).expect("an answer").0
    }

    /// A jail's folder and the root in it.
    pub(crate) fn jail(&self, sandbox: &SandboxId) -> (PathBuf, PathBuf) {
        let own = self.ground.jails().join(format!("{}-{}", self.uid, self.install));
        let jail = own.join(sandbox.as_str());
        (jail.clone(), jail.join("root"))
    }

    /// Their cgroup's folder, where there is a v2 hierarchy.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        Some(Path::new(line.split(' ').nth(4)?).join(owner_cgroup(self.uid)))
    }
}

/// A small machine that finds no init, and stays.
pub(crate) fn machine() -> Machine {
    Machine {
        boot: BootKey::try_from("0123456789abcdef".to_string()).expect("good"),
        backend: Backend::Qemu,
        kvm: false,
        cpus: 1,
        memory_mib: 128,
        cid: 77,
        card: Card::None,
        disks: 1,
        read_only: 0,
        words: KernelWords::try_from("quiet panic=0".to_string()).expect("good"),
        disk_rate_mib: 0,
        net_rate_mib: 0,
        from: None,
    }
}

/// Everything below a folder: what, whose, when it was changed; links are not followed.
pub(crate) fn census(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(path) = folders.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        found.push(format!(
            "{} {:o} {}:{} {} {} {}.{}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.ino(),
            meta.size(),
            meta.ctime(),
            meta.ctime_nsec()
        ));
        if meta.is_dir() {
            folders.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    found.sort();
    found
}

/// Fails with what differs, and nothing else.
pub(crate) fn assert_same(before: &[String], after: &[String]) {
    let lines = |all: &[String]| -> BTreeSet<String> {
        all.iter().flat_map(|text| text.lines().map(String::from).collect::<Vec<_>>()).collect()
    };
    let (before, after) = (lines(before), lines(after));
    let gone: Vec<_> = before.difference(&after).collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}
