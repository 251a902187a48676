//! QEMU as the daemon's own user, where there is no helper: in the run's folder, marked in its environment.

use super::Start;
use crate::drivers::Wake;
use crate::fault::{During, Fault};
use crate::process::find_program;
use banger_wire::derive::{MARK, Role, process_mark};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::{AGENT, CONSOLE_SOCKET, INITRAMFS, KERNEL, LOG, VHOST, disk};
use banger_wire::qemu;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a process may take to open its socket.
const OPEN: Duration = Duration::from_secs(10);
/// How much of what a failed program said is shown, in bytes.
const SHOWN: usize = 600;

/// Starts both processes.
pub(super) async fn start(
    start: &Start<'_>,
    install: &InstallId,
    wakes: &mpsc::UnboundedSender<Wake>,
) -> Result<(), Fault> {
    let vsock = program("vhost-device-vsock", "cargo install vhost-device-vsock")?;
    let qemu = program("qemu-system-x86_64", "apt install qemu-system-x86")?;
    furnish(start)?;
    let log = fifo(&start.run.join(LOG))?;
    let run = Run { start, install, log: &log };
    let mut device = run.spawn(Role::Vsock, &vsock, &qemu::vsock_arguments(&start.machine))?;
    opened(&mut device, &start.run.join(VHOST), "vhost-device-vsock", &log).await?;
    collect(device, start.id, wakes);
    let arguments = qemu::arguments(start.id, &start.machine);
    let mut vmm = run.spawn(Role::Vmm, &qemu, &arguments)?;
    opened(&mut vmm, &start.run.join(CONSOLE_SOCKET), "qemu", &log).await?;
    collect(vmm, start.id, wakes);
    Ok(())
}

fn program(name: &str, install: &str) -> Result<PathBuf, Fault> {
    find_program(name).ok_or_else(|| Fault::host(format!("{name} is not installed")).hint(install))
}

/// Gives every file the name that it would have in a jail.
fn furnish(start: &Start<'_>) -> Result<(), Fault> {
    let disks = (0..start.files.len().saturating_sub(2)).map(disk);
    let names = [KERNEL, INITRAMFS].map(String::from).into_iter().chain(disks);
    for (name, file) in names.zip(&start.files) {
        let link = start.run.join(name);
        crate::folders::remove(&link)?;
        std::os::unix::fs::symlink(file, &link).during(|| format!("making {}", link.display()))?;
    }
    for socket in [AGENT, VHOST, CONSOLE_SOCKET] {
        crate::folders::remove(&start.run.join(socket))?;
    }
    Ok(())
}

/// Where both processes say what they have to say. What nobody reads in time is lost: it must not hold them up.
fn fifo(path: &Path) -> Result<File, Fault> {
    let making = || format!("making {}", path.display());
    crate::folders::remove(path)?;
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).during(making)?;
    let flags = OFlag::O_NONBLOCK.bits();
    File::options().read(true).write(true).custom_flags(flags).open(path).during(making)
}

struct Run<'a> {
    start: &'a Start<'a>,
    install: &'a InstallId,
    log: &'a File,
}

impl Run<'_> {
    fn spawn(
        &self,
        role: Role,
        program: &Path,
        arguments: &[String],
    ) -> Result<tokio::process::Child, Fault> {
        let Start { id, machine, run, .. } = self.start;
        let log = || self.log.try_clone().during(|| "handing on a descriptor".into());
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env(MARK, process_mark(self.install, id, role, machine.boot.as_str()))
            .current_dir(run)
            // Not in the daemon's group: a signal that ends it must not reach guests.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .during(|| format!("starting {}", program.display()))
    }
}

/// Waits until a process has opened its socket.
async fn opened(
    child: &mut tokio::process::Child,
    socket: &Path,
    name: &str,
    log: &File,
) -> Result<(), Fault> {
    let begun = Instant::now();
    while !socket.exists() {
        let ended = child.try_wait().during(|| format!("waiting for {name}"))?;
        if ended.is_some() || begun.elapsed() > OPEN {
            let what = if ended.is_some() { "ended at once" } else { "did not open its socket" };
            return Err(Fault::host(format!("{name} {what}: {}", said(log))));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// The end of what was said so far.
fn said(log: &File) -> String {
    let mut bytes = Vec::new();
    // That there is no more yet is an error, and the end.
    let _ = log.take(64 << 10).read_to_end(&mut bytes);
    let end = &bytes[bytes.len().saturating_sub(SHOWN)..];
    banger_wire::text::clean(String::from_utf8_lossy(end).trim())
}

/// Collects a child when it ends, so that no zombie stays; and wakes the loop.
fn collect(mut child: tokio::process::Child, id: &SandboxId, wakes: &mpsc::UnboundedSender<Wake>) {
    let (id, wakes) = (id.clone(), wakes.clone());
    tokio::spawn(async move {
        let _ = child.wait().await;
        let _ = wakes.send(Wake::Vmm(id));
    });
}
