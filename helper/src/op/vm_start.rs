//! Starts a machine in a jail of its own.

use crate::answer::{At, Bad};
use crate::jail::{self, Furnish, Jail, Launch, Record, Role, connect, memory, read_end};
use crate::netlink::Netlink;
use crate::programs::{self, Firecracker, Qemu};
use crate::table::Caller;
use crate::{cgroup, link, sys};
use banger_wire::derive::{self, MARK};
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;
use banger_wire::machine::{
    API, Backend, CONSOLE, CONSOLE_SOCKET, Card, INITRAMFS, KERNEL, LOG, MEMORY, METRICS, Machine,
    STATE, VHOST, disk,
};
use banger_wire::qemu;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program may take to open its socket.
const OPEN: Duration = Duration::from_secs(8);
/// How much of what a failed program said is answered, in bytes.
const SHOWN: usize = 600;
/// The name of the vsock device's program in a jail.
const VSOCK: &str = "vhost-device-vsock";
/// What a file may have besides a machine's memory, in bytes: the state of its devices is written beside it.
const BESIDE: u64 = 64 << 20;

pub(crate) fn run(
    sandbox: &SandboxId,
    machine: &Machine,
    descriptors: &[OwnedFd],
    caller: &mut Caller,
) -> Result<Reply, Bad> {
    machine.check().map_err(Bad::Refused)?;
    let programs = Programs::find(machine.backend)?;
    let netlink = Netlink::route().at("opening netlink")?;
    if machine.card == Card::Tap && link::own(&netlink, caller, Some(sandbox))?.is_none() {
        return Err(Bad::Refused("there is no tap"));
    }
    if cgroup::is_taken(caller.uid, sandbox)? {
        return Err(Bad::Refused("a machine of that id is there already"));
    }
    let kept = match &machine.from {
        Some(key) => Some(memory::open_kept(caller, key, machine)?),
        None => None,
    };
    let (jail, record) = jail::create(caller, sandbox, &programs.root(sandbox), machine)?;
    let start = Start { sandbox, machine, descriptors, kept, jail: &jail, record: &record };
    let outcome = start.run(&programs, caller);
    if !matches!(outcome, Ok(Reply::Changed)) {
        // What is left of it is in the way of the next try, and of nothing else.
        jail::end(&jail)?;
        cgroup::remove(caller.uid, sandbox)?;
        jail::clear(&jail.folder)?;
    }
    outcome
}

/// What runs it.
enum Programs {
    Firecracker(Firecracker),
    Qemu(Qemu),
}

impl Programs {
    fn find(backend: Backend) -> Result<Self, Bad> {
        match backend {
            Backend::Firecracker => match programs::firecracker() {
                Ok(found) => Ok(Self::Firecracker(found.clone())),
                Err(_) => Err(Bad::Refused("there is no Firecracker that can be used")),
            },
            Backend::Qemu => match programs::qemu() {
                Ok(found) => Ok(Self::Qemu(found)),
                Err(_) => Err(Bad::Refused("there is no QEMU that can be used")),
            },
        }
    }

    /// Where the jail's root is below its folder: the jailer has its own idea of that.
    fn root(&self, sandbox: &SandboxId) -> PathBuf {
        match self {
            Self::Firecracker(found) => {
                let name = found.firecracker.file_name().unwrap_or_default();
                Path::new(name).join(sandbox.as_str()).join("root")
            }
            Self::Qemu(_) => PathBuf::from("root"),
        }
    }
}

struct Start<'a> {
    sandbox: &'a SandboxId,
    machine: &'a Machine,
    descriptors: &'a [OwnedFd],
    /// The state and the memory that it starts from.
    kept: Option<[File; 2]>,
    jail: &'a Jail,
    record: &'a Record,
}

impl Start<'_> {
    fn run(&self, programs: &Programs, caller: &mut Caller) -> Result<Reply, Bad> {
        let uid = self.record.uid;
        let mut furnish = Furnish::new(&self.jail.folder, self.record);
        let mut mounts = Vec::new();
        let (boot, disks) = self.descriptors.split_at(2);
        for (file, name) in boot.iter().zip([KERNEL, INITRAMFS]) {
            jail::lend(file, caller.uid, uid, false)?;
            mounts.push(furnish.file(file, name, true)?);
        }
        for (file, name) in self.kept.iter().flatten().zip([STATE, MEMORY]) {
            mounts.push(furnish.file(file, name, true)?);
        }
        let mut largest = (u64::from(self.machine.memory_mib) << 20) + BESIDE;
        for (file, index) in disks.iter().zip(0u8..) {
            let read_only = self.machine.is_read_only(index);
            jail::lend(file, caller.uid, uid, !read_only)?;
            mounts.push(furnish.file(file, &disk(usize::from(index)), read_only)?);
            let size = rustix::fs::fstat(file).at("looking at a disk")?.st_size;
            largest = largest.max(size.unsigned_abs());
        }
        let tap = match self.machine.card {
            Card::None | Card::User => None,
            Card::Tap => {
                let tap = sys::open_tap(&derive::tap(caller.install()?, self.sandbox));
                let tap = tap.at("opening the tap")?;
                // The VMM's own user may attach to it, and nobody else.
                sys::own_tap(&tap, uid).at("giving the tap its owner")?;
                Some(tap)
            }
        };
        let launch =
            Launch {
                root: furnish.root().to_path_buf(),
                mounts,
                system: Vec::new(),
                cgroup: cgroup::ensure(caller.uid, self.sandbox, self.machine)?,
                // QEMU's own network is the host's. Firecracker opens its tap by name, where the tap is.
                own_network: match (self.machine.backend, self.machine.card) {
                    (Backend::Qemu, Card::None | Card::Tap)
                    | (Backend::Firecracker, Card::None) => true,
                    (Backend::Qemu, Card::User)
                    | (Backend::Firecracker, Card::Tap | Card::User) => false,
                },
                program: PathBuf::new(),
                arguments: Vec::new(),
                user: None,
                largest,
                mark: None,
            };
        match programs {
            Programs::Firecracker(found) => {
                // It opens the tap itself, by its name.
                drop(tap);
                self.firecracker(found, launch, &furnish, caller)
            }
            Programs::Qemu(found) => self.qemu(found, launch, tap, &mut furnish, caller),
        }
    }

    fn firecracker(
        &self,
        found: &Firecracker,
        mut launch: Launch,
        furnish: &Furnish,
        caller: &mut Caller,
    ) -> Result<Reply, Bad> {
        let (console, log) = (furnish.fifo(CONSOLE)?, furnish.fifo(LOG)?);
        furnish.fifo(METRICS)?;
        launch.program = found.jailer.clone();
        let (uid, base) = (self.record.uid, &self.jail.folder);
        launch.arguments =
            jailer_arguments(self.sandbox, &found.firecracker, uid, base, launch.largest);
        let child = spawn(&launch, Stdio::null(), &console, &log)?;
        self.opened(child, API, caller)
    }

    fn qemu(
        &self,
        found: &Qemu,
        mut launch: Launch,
        tap: Option<OwnedFd>,
        furnish: &mut Furnish,
        caller: &mut Caller,
    ) -> Result<Reply, Bad> {
        let log = furnish.fifo(LOG)?;
        launch.user = Some(self.record.uid);
        launch.system = furnish.system(self.machine.kvm)?;
        let device = File::open(&found.vsock).at("opening the vsock device's program")?;
        let mut program = furnish.file(&device, VSOCK, true)?;
        program.executable = true;
        // Wherever it is installed, in the jail it has one place.
        let vsock = Launch {
            mounts: vec![program],
            program: Path::new("/").join(VSOCK),
            arguments: qemu::vsock_arguments(self.machine),
            own_network: true,
            mark: Some((MARK.into(), Role::Vsock.mark().into())),
            ..launch.clone()
        };
        let child = spawn(&vsock, Stdio::null(), &log, &log)?;
        let opened = self.opened(child, VHOST, caller)?;
        if opened != Reply::Changed {
            return Ok(opened);
        }
        launch.program = found.qemu.clone();
        launch.arguments = qemu::arguments(self.sandbox, self.machine);
        launch.mark = Some((MARK.into(), Role::Vmm.mark().into()));
        let input = tap.map_or_else(Stdio::null, Stdio::from);
        let child = spawn(&launch, input, &log, &log)?;
        self.opened(child, CONSOLE_SOCKET, caller)
    }

    /// Waits until a process has opened its socket.
    fn opened(&self, mut child: Child, socket: &str, caller: &mut Caller) -> Result<Reply, Bad> {
        let (begun, root) = (Instant::now(), self.jail.folder.join(&self.record.root));
        let is_open = || match self.machine.backend {
            // A socket has its name before anybody listens there.
            Backend::Firecracker => connect(&root, socket, self.record.uid).is_ok(),
            // Theirs take one connection, which is not ours.
            Backend::Qemu => fs::symlink_metadata(root.join(socket)).is_ok(),
        };
        let mut ended = None;
        while ended.is_none() && !is_open() && begun.elapsed() < OPEN {
            ended = child.try_wait().at("waiting for a program")?;
            sleep(Duration::from_millis(1));
        }
        if ended.is_none() && is_open() {
            caller.children.push(child);
            return Ok(Reply::Changed);
        }
        // Wherever it is on its way: nobody waits for it any more. It is the same process all along.
        let _ = child.kill();
        let _ = child.wait();
        // The jailer says what it has to say where the console will be.
        let said = [LOG, CONSOLE].map(|name| self.said(name)).join(" ");
        Ok(Reply::Ended { said: said.trim().to_string() })
    }

    /// The end of what programs said.
    fn said(&self, name: &str) -> String {
        let root = self.jail.folder.join(&self.record.root);
        let Ok(end) = read_end(&root, name, self.record.uid) else { return String::new() };
        let mut bytes = Vec::new();
        // A FIFO holds so much at most; that there is no more yet is an error, and the end.
        let _ = File::from(end).take(64 << 10).read_to_end(&mut bytes);
        let text =
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN)..]).into_owned();
        banger_wire::text::clean_line(text.trim())
    }
}

/// What the jailer is told: only it knows Firecracker's way into its jail. Nothing but these values ever changes: no filter of
/// system calls is ever turned off, and no PCI is ever turned on. `largest` is that of a file, in bytes.
fn jailer_arguments(
    sandbox: &SandboxId,
    firecracker: &Path,
    uid: u32,
    base: &Path,
    largest: u64,
) -> Vec<String> {
    [
        ("--id", sandbox.as_str()),
        ("--exec-file", &firecracker.to_string_lossy()),
        ("--uid", &uid.to_string()),
        ("--gid", &uid.to_string()),
        ("--chroot-base-dir", &base.to_string_lossy()),
        ("--resource-limit", &format!("fsize={largest}")),
        ("--resource-limit", "no-file=1024"),
        ("--", "--api-sock"),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_string(), value.to_string()])
    .chain([API.to_string()])
    .collect()
}

/// Starts a process on its way. It is in a group of its own: a signal that ends the daemon's must not reach guests.
fn spawn(launch: &Launch, input: Stdio, out: &OwnedFd, error: &OwnedFd) -> Result<Child, Bad> {
    let plan = serde_json::to_string(launch).at("writing down a start")?;
    let output = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).at("handing on a descriptor");
    Command::new("/proc/self/exe")
        .arg(jail::ARGUMENT)
        .arg(plan)
        .env_clear()
        .process_group(0)
        .stdin(input)
        .stdout(output(out)?)
        .stderr(output(error)?)
        .spawn()
        .at("starting a process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jailer_is_told_the_same_but_for_five_values() {
        let id: SandboxId = "5JHRXSAG1EHESK4JY5BT4BDXS8".parse().expect("an id");
        let program = Path::new("/usr/local/bin/firecracker");
        let told = jailer_arguments(&id, program, 260_007, Path::new("/jails/0-A/5J"), 1 << 30);
        let expected = "--id 5JHRXSAG1EHESK4JY5BT4BDXS8 --exec-file /usr/local/bin/firecracker \
            --uid 260007 --gid 260007 --chroot-base-dir /jails/0-A/5J \
            --resource-limit fsize=1073741824 --resource-limit no-file=1024 -- --api-sock api.sock";
        assert_eq!(told, expected.split_whitespace().collect::<Vec<_>>());
    }
}
