//! QEMU's `microvm`, with KVM or by software emulation, and `vhost-device-vsock` beside it.

use super::{CONSOLE, Machine, VSOCK};
use crate::drivers::Wake;
use crate::fault::{During, Fault};
use crate::host::Acceleration;
use crate::process::find_program;
use banger_plan::boot::Nic;
use banger_wire::derive::{MARK, Role, mac, process_mark, show_mac};
use banger_wire::helper::Limits;
use banger_wire::id::InstallId;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The socket between QEMU and its vsock device.
pub(super) const VHOST: &str = "vhost.sock";
/// How long a process may take to open its socket.
const OPEN: Duration = Duration::from_secs(10);
/// How much of what a failed process said is shown, in bytes.
const SHOWN: usize = 600;
/// Memory for translated code under emulation, in MiB.
const TRANSLATIONS_MIB: u32 = 256;

/// What is started.
pub(super) struct Start<'a> {
    pub(super) machine: &'a Machine,
    pub(super) install: &'a InstallId,
    pub(super) run: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) acceleration: Acceleration,
    pub(super) tsc_khz: Option<u64>,
}

/// For people.
pub(super) fn describe(acceleration: Acceleration) -> &'static str {
    match acceleration {
        Acceleration::Kvm => "qemu with KVM",
        Acceleration::Tcg => "qemu by software emulation",
    }
}

/// What the processes of a machine may use together.
pub(super) fn limits(machine: &Machine, acceleration: Acceleration) -> Limits {
    let own = match acceleration {
        Acceleration::Kvm => 256,
        Acceleration::Tcg => 256 + TRANSLATIONS_MIB,
    };
    let memory = u32::try_from(machine.memory.get()).unwrap_or(u32::MAX / 2);
    super::limits(memory.saturating_add(own), 128, u32::from(machine.cpus) * 100 + 100)
}

/// Starts both processes. The VMM gets the descriptor of its tap as its standard input.
pub(super) async fn start(
    start: &Start<'_>,
    tap: Option<OwnedFd>,
    wakes: &mpsc::UnboundedSender<Wake>,
) -> Result<(), Fault> {
    let vsock = program("vhost-device-vsock", "cargo install vhost-device-vsock")?;
    let qemu = program("qemu-system-x86_64", "apt install qemu-system-x86")?;
    let log = start.run.join("vsock.log");
    let mut device =
        spawn(start, Role::Vsock, &vsock, &vsock_arguments(start), Stdio::null(), &log)?;
    opened(&mut device, &start.run.join(VHOST), "vhost-device-vsock", &log).await?;
    collect(device, start, wakes);
    let log = start.run.join("vmm.log");
    let input = tap.map_or_else(Stdio::null, Stdio::from);
    let mut vmm = spawn(start, Role::Vmm, &qemu, &qemu_arguments(start), input, &log)?;
    opened(&mut vmm, &start.run.join(CONSOLE), "qemu", &log).await?;
    collect(vmm, start, wakes);
    Ok(())
}

fn program(name: &str, install: &str) -> Result<PathBuf, Fault> {
    find_program(name).ok_or_else(|| Fault::host(format!("{name} is not installed")).hint(install))
}

fn spawn(
    start: &Start<'_>,
    role: Role,
    program: &Path,
    arguments: &[String],
    input: Stdio,
    log: &Path,
) -> Result<tokio::process::Child, Fault> {
    let file = File::create(log).during(|| format!("making {}", log.display()))?;
    let copy = file.try_clone().during(|| format!("making {}", log.display()))?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env(MARK, process_mark(start.install, &start.machine.id, role, &start.machine.boot))
        .current_dir(start.run)
        // Not in the daemon's group: a signal that ends it must not reach guests.
        .process_group(0)
        .stdin(input)
        .stdout(file)
        .stderr(copy)
        .spawn()
        .during(|| format!("starting {}", program.display()))
}

/// Waits until a process has opened its socket.
async fn opened(
    child: &mut tokio::process::Child,
    socket: &Path,
    name: &str,
    log: &Path,
) -> Result<(), Fault> {
    let begun = Instant::now();
    while !socket.exists() {
        let ended = child.try_wait().during(|| format!("waiting for {name}"))?;
        if ended.is_some() || begun.elapsed() > OPEN {
            let said = std::fs::read(log).unwrap_or_default();
            let said =
                String::from_utf8_lossy(&said[said.len().saturating_sub(SHOWN)..]).into_owned();
            let what = if ended.is_some() { "ended at once" } else { "did not open its socket" };
            return Err(Fault::host(format!("{name} {what}: {}", said.trim())));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Collects a child when it ends, so that no zombie stays; and wakes the loop.
fn collect(
    mut child: tokio::process::Child,
    start: &Start<'_>,
    wakes: &mpsc::UnboundedSender<Wake>,
) {
    let (id, wakes) = (start.machine.id.clone(), wakes.clone());
    tokio::spawn(async move {
        let _ = child.wait().await;
        let _ = wakes.send(Wake::Vmm(id));
    });
}

fn vsock_arguments(start: &Start<'_>) -> Vec<String> {
    // Relative paths: both processes start in the run's folder, and sockets have short names only.
    let cid = start.machine.cid.get();
    vec!["--vm".into(), format!("guest-cid={cid},uds-path={VSOCK},socket={VHOST}")]
}

fn qemu_arguments(start: &Start<'_>) -> Vec<String> {
    let Start { machine, .. } = start;
    let mib = machine.memory.get();
    let (accelerator, cpu) = match start.acceleration {
        Acceleration::Kvm => ("kvm".to_string(), "host"),
        Acceleration::Tcg => (format!("tcg,tb-size={TRANSLATIONS_MIB},thread=multi"), "max"),
    };
    let mut kernel_line = "console=ttyS0 quiet reboot=t panic=-1 random.trust_cpu=1".to_string();
    if let (Acceleration::Tcg, Some(khz)) = (start.acceleration, start.tsc_khz) {
        kernel_line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    let mut arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(String::from)
    .to_vec();
    let mut option = |name: &str, value: String| arguments.extend([format!("-{name}"), value]);
    option("name", format!("banger-{}", machine.id));
    option("machine", "microvm,memory-backend=memory".into());
    option("accel", accelerator);
    option("cpu", cpu.into());
    option("smp", machine.cpus.to_string());
    option("m", format!("{mib}M"));
    option("object", format!("memory-backend-memfd,id=memory,size={mib}M,share=on"));
    option("kernel", start.kernel.display().to_string());
    option("initrd", start.initramfs.display().to_string());
    option("append", kernel_line);
    option("chardev", format!("socket,id=console,path={CONSOLE},server=on,wait=off"));
    option("serial", "chardev:console".into());
    option("chardev", format!("socket,id=vsock,path={VHOST}"));
    option("device", "vhost-user-vsock-device,chardev=vsock".into());
    let card = match machine.nic {
        Nic::None => None,
        Nic::Tap => Some("tap,id=net,fd=0"),
        Nic::User => Some("user,id=net"),
    };
    if let Some(card) = card {
        let mac = show_mac(mac(&machine.id));
        option("netdev", card.into());
        option("device", format!("virtio-net-device,netdev=net,mac={mac}"));
    }
    for (index, drive) in machine.drives.iter().enumerate() {
        let access = if drive.read_only { "on" } else { "off" };
        // A comma in a path would start another option; QEMU takes two for one.
        let path = drive.path.display().to_string().replace(',', ",,");
        option(
            "drive",
            format!(
                "if=none,id=disk{index},format=raw,readonly={access},cache=writeback,file={path}"
            ),
        );
        option("device", format!("virtio-blk-device,drive=disk{index}"));
    }
    arguments
}
