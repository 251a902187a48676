//! What can be seen of this host without a daemon and without privilege: files are read, and nothing is changed.
//! `doctor` asks; what it means is decided in `banger_plan::doctor`.

use banger_plan::actual::Seen;
use banger_plan::doctor::{Cgroup, Folder, Folders, Host, Owned, PROGRAMS};
use banger_plan::host::{Kvm, cgroup2, jail_users_taken};
use banger_wire::derive::roots;
use banger_wire::helper::Controller;
use nix::sys::statvfs::statvfs;
use nix::unistd::{User, geteuid};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Looks at everything.
pub(crate) fn look() -> Host {
    let uid = geteuid();
    let roots = roots(|name| std::env::var_os(name), uid.is_root());
    Host {
        uid: uid.as_raw(),
        user: User::from_uid(uid).ok().flatten().map(|user| user.name),
        kvm: kvm(),
        cgroup: cgroup(),
        tun: Path::new("/dev/net/tun").exists(),
        lacks: PROGRAMS.into_iter().filter(|name| !is_there(name)).map(String::from).collect(),
        jail_users_taken: jail_users_taken(&text("/etc/passwd"), &text("/etc/subuid")),
        folders: roots.map(|(state, run)| Folders {
            free_mib: free_mib(&state),
            state: folder(state),
            run: folder(run),
        }),
    }
}

/// A file that is not there says nothing.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn kvm() -> Kvm {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    Kvm::of(opened.map(drop).map_err(|error| error.kind()), &text("/proc/cpuinfo"))
}

fn cgroup() -> Option<Cgroup> {
    let path = cgroup2(&text("/proc/self/mountinfo"))?;
    let offered = text(path.join("cgroup.controllers"));
    let known =
        [("cpu", Controller::Cpu), ("memory", Controller::Memory), ("pids", Controller::Pids)];
    let has = |name: &str| offered.split_whitespace().any(|own| own == name);
    let controllers = known.into_iter().filter(|(name, _)| has(name)).map(|(_, own)| own);
    Some(Cgroup { path, controllers: controllers.collect::<BTreeSet<_>>() })
}

/// Whether a program is in `PATH`, or where only root's `PATH` leads.
fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|folder| folder.join(name).is_file())
}

fn folder(path: PathBuf) -> Folder {
    let is = match fs::metadata(&path) {
        Ok(meta) => {
            Seen::Present(Owned { uid: meta.uid(), mode: meta.mode(), is_folder: meta.is_dir() })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Seen::Absent,
        Err(error) => Seen::Unknown(error.to_string()),
    };
    Folder { path, is }
}

/// The room where a folder is, or will be.
fn free_mib(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = statvfs(there).ok()?;
    Some((stat.blocks_available() * stat.fragment_size()) >> 20)
}
