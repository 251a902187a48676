//! The way of one process into its jail. The helper starts itself for it: a process of one thread that takes a cgroup,
//! mounts that only it sees, a network with nothing in it, a root and a user, and then becomes the program.

use crate::sys;
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit, chdir, pivot_root, setrlimit, umask};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The word by which the helper starts itself for this.
pub(crate) const ARGUMENT: &str = "launch";

/// The most threads of a jail's user.
const MOST_THREADS: u64 = 256;

/// A file that appears in the jail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// A descriptor that the process inherits.
    pub(crate) descriptor: i32,
    /// Its name in the root, where an empty file waits.
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) executable: bool,
}

/// What becomes of the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) root: PathBuf,
    pub(crate) mounts: Vec<Mount>,
    /// Folders of the host that appear in the root, to be read only.
    pub(crate) system: Vec<PathBuf>,
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether it has a network of its own, with nothing in it. A tap that it was given leads to the host all the same.
    pub(crate) own_network: bool,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The user to become, behind the root. None for the jailer, which does both itself.
    pub(crate) user: Option<u32>,
    /// The largest file that it may write, in bytes.
    pub(crate) largest: u64,
    /// The one variable of its environment.
    pub(crate) mark: Option<(String, String)>,
}

/// Becomes the program. Returns only to fail.
pub(crate) fn run(text: &str) -> io::Error {
    let launch = || -> io::Result<std::convert::Infallible> {
        let launch: Launch = serde_json::from_str(text)?;
        become_it(&launch)
    };
    match launch() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn become_it(launch: &Launch) -> io::Result<std::convert::Infallible> {
    umask(Mode::from_raw_mode(0o077));
    if let Some(cgroup) = &launch.cgroup {
        // 0 is whoever writes it: everything from here on counts.
        fs::write(cgroup.join("cgroup.procs"), "0")?;
    }
    // Taken while this process still shares the mounts of who opened them.
    let trees = launch.mounts.iter().map(|mount| Ok((mount, tree(mount.descriptor)?)));
    let trees = trees.collect::<io::Result<Vec<_>>>()?;
    sys::own_namespaces(launch.own_network)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if launch.user.is_some() {
        mount_bind(&launch.root, &launch.root)?;
        // Nothing that is written in it can be run. It has devices.
        let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NOEXEC;
        mount_remount(&launch.root, flags, "")?;
    }
    for (mount, tree) in trees {
        let place = launch.root.join(&mount.name);
        move_mount(tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, mount.read_only);
        flags.set(MountFlags::NOEXEC, !mount.executable);
        mount_remount(&place, flags, "")?;
    }
    for folder in &launch.system {
        let place = launch.root.join(folder.strip_prefix("/").unwrap_or(folder));
        // Not what is mounted below: it would keep its own flags.
        mount_bind(folder, &place)?;
        let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
        mount_remount(&place, flags, "")?;
    }
    limit(Resource::Core, 0)?;
    limit(Resource::Nproc, MOST_THREADS)?;
    limit(Resource::Nofile, 1024)?;
    limit(Resource::Fsize, launch.largest)?;
    let mut command = Command::new(&launch.program);
    command.args(&launch.arguments).env_clear();
    if let Some((name, value)) = &launch.mark {
        command.env(name, value);
    }
    // Nobody has a use for what was inherited, from whomever.
    let open = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for descriptor in open.collect::<Vec<i32>>().into_iter().filter(|number| *number > 2) {
        sys::close_on_exec(descriptor);
    }
    if let Some(user) = launch.user {
        chdir(&launch.root)?;
        // The new root over the old one, which then goes.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        chdir("/")?;
        rustix::thread::set_no_new_privs(true)?;
        command.uid(user).gid(user);
    }
    Err(command.exec())
}

/// The file behind a descriptor, as a mount that has no place yet.
fn tree(descriptor: i32) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, format!("/proc/self/fd/{descriptor}"), flags)?)
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}
