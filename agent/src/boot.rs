//! Process 1: mounts, modules, the server, and then the hand-over or the reaping.

use crate::{Error, at, shutdown};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The folder that becomes the guest's root.
pub(crate) const NEW_ROOT: &str = "/newroot";
/// What the server says when the image has an init to hand over to.
pub(crate) const HAND_OVER: &str = "init";

pub(crate) fn run() -> Result<(), Error> {
    early_mounts()?;
    load_modules()?;
    // The `@` asks systemd not to kill the server in its last sweep, so that it sees the end of a shutdown.
    let mut server = at(
        "starting the server",
        Command::new("/proc/self/exe")
            .arg0("@banger-agent")
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn(),
    )?;
    let mut word = String::new();
    let mut words = BufReader::new(server.stdout.take().expect("piped"));
    at("listening to the server", words.read_line(&mut word))?;
    match word.trim() {
        HAND_OVER => hand_over()?,
        // The server ended before it said anything: reaping it ends the machine.
        "" => {}
        _stay => at("entering the root", chroot(NEW_ROOT).and_then(|()| chdir("/")))?,
    }
    reap(server.id())
}

fn early_mounts() -> Result<(), Error> {
    for (kind, target) in
        [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")]
    {
        at(format!("making {target}"), fs::create_dir_all(target))?;
        at(format!("mounting {target}"), mount_kind(kind, Path::new(target)))?;
    }
    Ok(())
}

/// Mounts a filesystem that has no device.
pub(crate) fn mount_kind(kind: &str, target: &Path) -> nix::Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::MS_NOSUID, None::<&str>)
}

/// Loads the modules that the host put beside us, in the order that it worked out.
fn load_modules() -> Result<(), Error> {
    let list = at("reading /modules/order", fs::read_to_string("/modules/order"))?;
    for name in list.lines() {
        let path = format!("/modules/{name}");
        let file = at(&path, File::open(&path))?;
        // Bit 2 lets the kernel unpack a compressed module itself.
        let packed = !name.ends_with(".ko");
        let flags = ModuleInitFlags::from_bits_retain(if packed { 4 } else { 0 });
        match finit_module(&file, c"", flags) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(format!("loading {name}: {error}").into()),
        }
    }
    Ok(())
}

/// Makes the new root the root of everything and becomes the image's init. Only returns to fail.
fn hand_over() -> Result<(), Error> {
    at("entering the root", chdir(NEW_ROOT))?;
    at("moving the root", mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>))?;
    at("entering the root", chroot(".").and_then(|()| chdir("/")))?;
    let error = Command::new("/sbin/init").env_clear().env("TERM", "linux").exec();
    Err(format!("starting /sbin/init: {error}").into())
}

/// Waits for every orphan, until the server ends: without it the guest is of no use.
fn reap(server: u32) -> Result<(), Error> {
    loop {
        match waitpid(None, Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))
                if pid == Pid::from_raw(i32::try_from(server).unwrap_or(i32::MAX)) =>
            {
                eprintln!("banger-agent: the server ended");
                shutdown::power_off();
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(format!("waiting for processes: {error}").into()),
        }
    }
}
