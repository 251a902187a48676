//! Becoming a particular sandbox.

use crate::boot::HAND_OVER;
use crate::names::Names;
use crate::network;
use crate::provision;
use crate::root;
use crate::state::State;
use crate::{Error, at, sys};
use banger_wire::agent::{Identity, Phase};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_settime};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

/// Where an image has a machine id: systemd's, and D-Bus's own, where that is no link to it.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// Takes on identities, one at a time.
#[derive(Clone)]
pub(crate) struct Identities {
    state: State,
    entered: Arc<Mutex<Option<Entered>>>,
    names: Names,
}

/// What there is once the root was entered.
struct Entered {
    /// A folder on the sandbox's own disk that the guest does not see.
    hidden: Arc<File>,
    /// Whether the image's own init runs.
    has_init: bool,
    /// What brings the sandbox from its identity to ready.
    work: AbortHandle,
    /// The service that is kept running.
    service: Option<AbortHandle>,
}

impl Identities {
    pub(crate) fn new(state: State) -> Self {
        Self { state, entered: Arc::new(Mutex::new(None)), names: Names::default() }
    }

    /// The line to the host for names.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The folder on the sandbox's own disk that its processes do not see, once there is one.
    pub(crate) async fn hidden(&self) -> Option<Arc<File>> {
        self.entered.lock().await.as_ref().map(|entered| entered.hidden.clone())
    }

    /// A workspace came: goes on from there, if that was waited for.
    pub(crate) async fn go_on(&self) {
        let mut entered = self.entered.lock().await;
        if let Some(entered) = entered.as_mut().filter(|_| self.state.phase() == Phase::Shipping) {
            let (hidden, has_init) = (entered.hidden.clone(), entered.has_init);
            let work = tokio::spawn(provision::bring_up(self.state.clone(), hidden, has_init));
            entered.work = work.abort_handle();
        }
    }

    /// Becomes this sandbox, or this generation of it. The same generation again changes nothing.
    pub(crate) async fn take_on(&self, identity: Identity) -> Result<(), Error> {
        let mut entered = self.entered.lock().await;
        if self.state.phase() == Phase::Leaving {
            return Err("the guest is shutting down".into());
        }
        let now = self.state.identity().map(|now| now.generation);
        if entered.is_some() && now == Some(identity.generation) && !identity.woken {
            return Ok(());
        }
        let first = entered.is_none();
        if first {
            self.state.set_phase(Phase::Identifying, "");
        }
        let outcome = self.become_it(&mut entered, &identity);
        if let Err(error) = &outcome {
            self.state.set_phase(Phase::Failed, error.to_string());
        }
        outcome
    }

    fn become_it(&self, entered: &mut Option<Entered>, identity: &Identity) -> Result<(), Error> {
        set_clock(identity.clock_ns)?;
        add_entropy(&identity.entropy)?;
        // The kernel makes it when it is read for the first time, which is now.
        self.state.set_boot_id();
        if let (Some(before), Some(old)) = (&*entered, self.state.identity())
            && identity.woken
        {
            wake(&old, identity)?;
            belong(&before.hidden, identity)?;
        }
        // From here on nothing fails that was entered already.
        let (hidden, has_init, service) = match entered.take() {
            Some(before) => {
                before.work.abort();
                (before.hidden, before.has_init, before.service)
            }
            None => {
                let hidden = Arc::new(root::enter(&identity.volumes)?);
                belong(&hidden, identity)?;
                let has_init = has_init();
                if let Some(folder) = &identity.workdir {
                    at(folder, fs::create_dir_all(folder))?;
                }
                network::set_up(identity.network.as_ref())?;
                if identity.network.is_some() {
                    self.names.start()?;
                }
                let address = identity.network.map(|network| network.address);
                name_host(None, &identity.hostname, address)?;
                announce(if has_init { HAND_OVER } else { "stay" })?;
                (hidden, has_init, None)
            }
        };
        self.state.set_identity(identity.clone(), Phase::Provisioning);
        // An image with an init starts its own services by it.
        let by_init = identity.image_service && has_init;
        let serves = !(identity.command.is_empty() || by_init);
        let service = service.or_else(|| {
            serves.then(|| tokio::spawn(provision::keep_running(self.state.clone())).abort_handle())
        });
        let work = tokio::spawn(provision::bring_up(self.state.clone(), hidden.clone(), has_init));
        *entered = Some(Entered { hidden, has_init, work: work.abort_handle(), service });
        Ok(())
    }
}

/// Takes on what a guest that goes on from a memory has to be told anew.
fn wake(old: &Identity, identity: &Identity) -> Result<(), Error> {
    if let (Some(before), Some(network)) = (&old.network, &identity.network) {
        network::change(before, network)?;
    }
    let address = |of: &Identity| of.network.map(|network| network.address);
    if old.hostname == identity.hostname && address(old) == address(identity) {
        return Ok(());
    }
    name_host(Some(&old.hostname), &identity.hostname, address(identity))
}

/// Marks the sandbox's own disk as its. A machine id that is there is another's then, the image's or of whose disk this is a copy:
/// it is made anew.
fn belong(hidden: &File, identity: &Identity) -> Result<(), Error> {
    let Some(sandbox) = &identity.sandbox else { return Ok(()) };
    let marker = format!("/proc/self/fd/{}/sandbox", hidden.as_raw_fd());
    let before = fs::read_to_string(&marker).unwrap_or_default();
    if before == sandbox.as_str() {
        return Ok(());
    }
    let random = at("a machine id", fs::read_to_string("/proc/sys/kernel/random/uuid"))?;
    let id = random.replace('-', "");
    for path in MACHINE_IDS {
        // What is not there yet is made by whoever needs it.
        if fs::read_to_string(path).is_ok_and(|id| id.trim().len() == 32) {
            let write = || {
                let mut file = File::create(path)?;
                file.write_all(id.as_bytes())?;
                // The mark says that it is this one.
                file.sync_all()
            };
            at(path, write())?;
        }
    }
    at("marking the disk", fs::write(&marker, sandbox.as_str()))
}

/// Tells process 1, which reads our standard output.
fn announce(word: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    at("telling process 1", writeln!(out, "{word}").and_then(|()| out.flush()))
}

/// Whether the image brings an init of its own. A BusyBox that is there for its shell is none: images of registries
/// have one under that name, with nothing for it to do.
fn has_init() -> bool {
    let init = Path::new("/sbin/init");
    if !is_executable(init) {
        return false;
    }
    let same = |one: &Path, other: &Path| {
        let (one, other) = (fs::metadata(one), fs::metadata(other));
        one.and_then(|one| Ok((one, other?)))
            .is_ok_and(|(one, other)| (one.dev(), one.ino()) == (other.dev(), other.ino()))
    };
    let busybox = ["/bin/busybox", "/bin/sh"].iter().any(|path| same(init, Path::new(path)));
    !busybox || is_executable(Path::new("/sbin/openrc"))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn set_clock(nanoseconds: u64) -> Result<(), Error> {
    let time = TimeSpec::nanoseconds(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
    at("setting the clock", clock_settime(ClockId::CLOCK_REALTIME, time))
}

fn add_entropy(hex: &str) -> Result<(), Error> {
    let mut bytes = [0u8; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = hex.get(index * 2..index * 2 + 2).ok_or("the entropy is too short")?;
        *byte = at("entropy", u8::from_str_radix(digits, 16))?;
    }
    let random = at("/dev/urandom", File::open("/dev/urandom"))?;
    at("adding entropy", sys::add_entropy(random.as_fd(), &bytes))?;
    // Many guests may begin from one memory: what the generator would say next must not be the same in two of them.
    at("reseeding", sys::reseed(random.as_fd()))
}

/// Sets the host name, and makes the guest able to resolve it, instead of one that it had before.
fn name_host(before: Option<&str>, name: &str, address: Option<Ipv4Addr>) -> Result<(), Error> {
    at("setting the host name", nix::unistd::sethostname(name))?;
    at(
        "/etc/hostname",
        fs::create_dir_all("/etc").and_then(|()| fs::write("/etc/hostname", format!("{name}\n"))),
    )?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut lines: Vec<String> = hosts
        .lines()
        .filter(|line| {
            !line.split_whitespace().skip(1).any(|known| known == name || Some(known) == before)
        })
        .map(String::from)
        .collect();
    if !lines.iter().any(|line| line.starts_with("127.0.0.1")) {
        lines.push("127.0.0.1\tlocalhost".to_string());
    }
    // As Debian does where there is no better address.
    let address = address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1));
    lines.push(format!("{address}\t{name}"));
    at("/etc/hosts", fs::write("/etc/hosts", lines.join("\n") + "\n"))
}
