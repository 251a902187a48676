//! Talks to the root helper. Where none is installed and we are root, we start the same program ourselves.

use crate::drivers::{NetChange, Outcome};
use crate::fault::Fault;
use crate::lines::Lines;
use crate::process::find_program;
use banger_wire::helper::{
    Facts, Jailed, Line, MAX_MESSAGE, Memory, MemoryOf, PROTOCOL, Reply, Request, Rules,
};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::{BootKey, Machine};
use banger_wire::net::{Policy, Subnet};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most descriptors of one request.
const MAX_DESCRIPTORS: usize = 2 + Machine::MAX_DISKS as usize;
/// The programs that the helper is told of when we start it: the variable that names one, and its name.
const PROGRAMS: [(&str, &str); 4] = [
    ("BANGER_FIRECRACKER", "firecracker"),
    ("BANGER_JAILER", "jailer"),
    ("BANGER_QEMU", "qemu-system-x86_64"),
    ("BANGER_VSOCK", "vhost-device-vsock"),
];
/// Where the helper is told to keep jails.
const JAILS: &str = "BANGER_JAILS";
/// Where they are if nothing is told.
const JAILS_FOLDER: &str = "/var/lib/banger-jails";
/// How long keeping a memory may take: all of it is copied.
const KEEP_PATIENCE: Duration = Duration::from_secs(900);
/// How long the helper may take for one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder of all jails. Only root may look into it.
pub fn jails_folder() -> PathBuf {
    let named = std::env::var_os(JAILS).filter(|path| !path.is_empty());
    named.map_or_else(|| PathBuf::from(JAILS_FOLDER), PathBuf::from)
}

/// The helper. One request at a time; when it is gone, the next request starts it again.
#[derive(Clone)]
pub struct Helper(Arc<Inner>);

struct Inner {
    program: PathBuf,
    install: InstallId,
    connection: Mutex<Option<Connection>>,
    lines: Lines,
}

struct Connection {
    socket: OwnedFd,
    child: Child,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its socket closes with ours, and it ends; this only collects it.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        // One that does not answer does not end either.
        let _ = self.child.kill();
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::warn!("the helper does not end: it waits for a disk");
    }
}

impl Connection {
    fn open(program: &Path, install: &InstallId) -> Result<Self, Fault> {
        let fail =
            |what: &str, error: std::io::Error| Fault::io(format!("the helper: {what}"), error);
        let pair =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(|error| fail("making a socket", error.into()))?;
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::from(theirs));
        // We are root when we come here: what root says to its own child is no way around it.
        for (variable, name) in PROGRAMS {
            let named =
                std::env::var_os(variable).map(PathBuf::from).or_else(|| find_program(name));
            command.envs(named.map(|path| (variable, path)));
        }
        command.envs(std::env::var_os(JAILS).map(|path| (JAILS, path)));
        let child = command.spawn();
        let child =
            child.map_err(|error| fail(&format!("starting {}", program.display()), error))?;
        let connection = Self { socket, child };
        connection.set_patience(PATIENCE)?;
        let hello = Request::Hello { version: PROTOCOL, install: install.clone() };
        let (reply, _) = connection.ask(&hello, &[])?;
        if reply != (Reply::Hello { version: PROTOCOL }) {
            return Err(Fault::host(format!("the helper speaks another version: {reply:?}"))
                .hint("install banger and its helper from the same release"));
        }
        Ok(connection)
    }

    fn set_patience(&self, patience: Duration) -> Result<(), Fault> {
        let limit = set_socket_timeout(&self.socket, Timeout::Recv, Some(patience));
        limit.map_err(|error| Fault::io("the helper: a limit", error.into()))
    }

    /// One request with its descriptors, and its answer with at most one.
    fn ask(
        &self,
        request: &Request,
        descriptors: &[OwnedFd],
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        let fail = |error: rustix::io::Errno| Fault::io("talking to the helper", error.into());
        let bytes = serde_json::to_vec(request).expect("messages encode");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(Fault::host("a machine has too many disks"));
        }
        let slices = [IoSlice::new(&bytes)];
        sendmsg(&self.socket, &slices, &mut ancillary, SendFlags::NOSIGNAL).map_err(fail)?;
        let mut answer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut answer)];
        let message = recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(fail)?;
        let received = ancillary.drain().find_map(|part| {
            if let RecvAncillaryMessage::ScmRights(mut fds) = part { fds.next() } else { None }
        });
        let reply = serde_json::from_slice(&answer[..message.bytes])
            .map_err(|_| Fault::host("the helper is gone"))?;
        Ok((reply, received))
    }
}

impl Helper {
    /// Starts the helper as a child. `None` when we are not root: then a sandbox has no cgroup and no bridge.
    ///
    /// # Errors
    /// When the program cannot be started or speaks another version.
    pub fn start(program: &Path, install: &InstallId) -> Result<Option<Self>, Fault> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let connection = Mutex::new(Some(Connection::open(program, install)?));
        let (program, install) = (program.to_path_buf(), install.clone());
        let lines = Lines::default();
        Ok(Some(Self(Arc::new(Inner { program, install, connection, lines }))))
    }

    /// Connections to guests in jails.
    pub fn lines(&self) -> &Lines {
        &self.0.lines
    }

    fn ask(
        &self,
        request: &Request,
        descriptors: &[OwnedFd],
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        // It may run other programs: the rest of the daemon goes on meanwhile.
        tokio::task::block_in_place(|| self.ask_now(request, descriptors))
    }

    fn ask_now(
        &self,
        request: &Request,
        descriptors: &[OwnedFd],
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        let mut connection = self.0.connection.lock().expect("no holder panics");
        // One that ended while nobody asked is simply started again.
        if connection.as_mut().is_some_and(|open| !matches!(open.child.try_wait(), Ok(None))) {
            *connection = None;
        }
        if connection.is_none() {
            *connection = Some(Connection::open(&self.0.program, &self.0.install)?);
        }
        let answer = connection.as_ref().map(|connection| connection.ask(request, descriptors));
        let answer = answer.unwrap_or_else(|| Err(Fault::host("the helper is gone")));
        if answer.is_err() {
            // Every operation can be asked for again, so the next one begins anew.
            *connection = None;
        }
        answer
    }

    fn carry_out(&self, request: &Request) -> Result<Outcome, Fault> {
        outcome(&self.ask(request, &[])?.0)
    }

    /// Changes the network.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn network(&self, change: &NetChange) -> Result<Outcome, Fault> {
        let request = match change.clone() {
            NetChange::EnsureBridge(subnet) => Request::BridgeEnsure { subnet },
            NetChange::RemoveBridge => Request::BridgeRemove {},
            NetChange::ApplyRules(subnet, policy) => Request::RulesApply { subnet, policy },
            NetChange::RemoveRules => Request::RulesRemove {},
            NetChange::RouteNames => Request::DnsRoute {},
            NetChange::EnsureTap(sandbox) => Request::TapEnsure { sandbox },
            NetChange::SetTap(sandbox, up) => Request::TapSet { sandbox, up },
            NetChange::RemoveTap(sandbox) => Request::TapRemove { sandbox },
        };
        self.carry_out(&request)
    }

    /// How the rules are, against what they should enforce; and whether the host's resolver asks us for names.
    ///
    /// # Errors
    /// When the helper cannot tell.
    pub fn rules(&self, subnet: Subnet, policy: Policy) -> Result<(Rules, Option<bool>), Fault> {
        let (reply, _) = self.ask(&Request::RulesCheck { subnet, policy }, &[])?;
        if let Reply::Rules { rules, names_routed } = reply {
            Ok((rules, names_routed))
        } else {
            Err(unexpected(&reply))
        }
    }

    /// What the helper sees of the host.
    ///
    /// # Errors
    /// When the helper is gone.
    pub fn probe(&self) -> Result<Facts, Fault> {
        let (reply, _) = self.ask(&Request::Probe {}, &[])?;
        if let Reply::Facts(facts) = reply { Ok(facts) } else { Err(unexpected(&reply)) }
    }

    /// Starts a machine in a jail. Its kernel, initramfs and disks are descriptors, in this order.
    ///
    /// # Errors
    /// When the helper refuses, or a program ended at once; with what it said. Then nothing is left.
    pub fn start_machine(
        &self,
        sandbox: &SandboxId,
        machine: Machine,
        files: &[OwnedFd],
    ) -> Result<(), Fault> {
        let (sandbox, machine) = (sandbox.clone(), Box::new(machine));
        let (reply, _) = self.ask(&Request::VmStart { sandbox, machine }, files)?;
        if let Reply::Ended { said } = &reply {
            return Err(Fault::host(format!("its VMM ended at once: {said}")));
        }
        outcome(&reply).map(drop)
    }

    /// Our jails, and who lives in them.
    ///
    /// # Errors
    /// When the helper cannot tell.
    pub fn jails(&self) -> Result<Vec<Jailed>, Fault> {
        let mut found: Vec<Jailed> = Vec::new();
        loop {
            let after = found.last().map(|jail| jail.sandbox.clone());
            let (reply, _) = self.ask(&Request::VmList { after }, &[])?;
            let Reply::Jails { jails, more } = reply else { return Err(unexpected(&reply)) };
            let goes_on = more && !jails.is_empty();
            found.extend(jails);
            if !goes_on {
                return Ok(found);
            }
        }
    }

    /// A way into a jail.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self, sandbox: &SandboxId, what: Line) -> Result<OwnedFd, Fault> {
        match self.ask(&Request::VmOpen { sandbox: sandbox.clone(), what }, &[])? {
            (Reply::Changed, Some(descriptor)) => Ok(descriptor),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Asks a machine's VMM to end, or kills all of its processes, which are then gone.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn end(&self, sandbox: &SandboxId, kill: bool) -> Result<(), Fault> {
        self.carry_out(&Request::VmEnd { sandbox: sandbox.clone(), kill }).map(drop)
    }

    /// Keeps what Firecracker wrote down in a jail.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn keep_memory(
        &self,
        sandbox: &SandboxId,
        memory: BootKey,
        of: MemoryOf,
    ) -> Result<Outcome, Fault> {
        let sandbox = sandbox.clone();
        let request = Request::MemoryKeep { sandbox, memory, of };
        // A helper of its own: nobody waits for all the copying but who asked for it.
        tokio::task::block_in_place(|| {
            let own = Connection::open(&self.0.program, &self.0.install)?;
            own.set_patience(KEEP_PATIENCE)?;
            outcome(&own.ask(&request, &[])?.0)
        })
    }

    /// Our memories.
    ///
    /// # Errors
    /// When the helper cannot tell.
    pub fn memories(&self) -> Result<Vec<Memory>, Fault> {
        let (reply, _) = self.ask(&Request::MemoryList {}, &[])?;
        if let Reply::Memories { memories } = reply {
            Ok(memories)
        } else {
            Err(unexpected(&reply))
        }
    }

    /// Drops a memory.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn drop_memory(&self, memory: BootKey) -> Result<Outcome, Fault> {
        self.carry_out(&Request::MemoryDrop { memory })
    }

    /// Removes a jail with all in it.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn remove_jail(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        self.carry_out(&Request::VmRemove { sandbox: sandbox.clone() })
    }
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper").field("program", &self.0.program).finish_non_exhaustive()
    }
}

/// Whether an operation found anything to do.
fn outcome(reply: &Reply) -> Result<Outcome, Fault> {
    match reply {
        Reply::Changed => Ok(Outcome::Changed),
        Reply::Unchanged => Ok(Outcome::Unchanged),
        Reply::Hello { .. }
        | Reply::Facts(_)
        | Reply::Rules { .. }
        | Reply::Jails { .. }
        | Reply::Memories { .. }
        | Reply::Ended { .. }
        | Reply::Refused { .. }
        | Reply::Failed { .. } => Err(unexpected(reply)),
    }
}

fn unexpected(reply: &Reply) -> Fault {
    match reply {
        Reply::Refused { rule } => Fault::host(format!("the helper refused: {rule}")),
        Reply::Failed { errno, at } => {
            Fault::io(format!("the helper, {at}"), std::io::Error::from_raw_os_error(*errno))
        }
        Reply::Hello { .. }
        | Reply::Facts(_)
        | Reply::Rules { .. }
        | Reply::Jails { .. }
        | Reply::Memories { .. }
        | Reply::Ended { .. }
        | Reply::Unchanged
        | Reply::Changed => Fault::host("the helper answered something else than was asked"),
    }
}
