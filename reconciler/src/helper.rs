//! Talks to the root helper. Where none is installed and we are root, we start the same program ourselves.

use crate::drivers::{NetChange, Outcome};
use crate::fault::Fault;
use crate::process::Held;
use banger_wire::helper::{Facts, Limits, MAX_MESSAGE, PROTOCOL, Reply, Request, Rules};
use banger_wire::id::{InstallId, SandboxId};
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

/// How long the helper may take for one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// The helper. One request at a time; when it is gone, the next request starts it again.
#[derive(Clone)]
pub struct Helper(Arc<Inner>);

struct Inner {
    program: PathBuf,
    install: InstallId,
    connection: Mutex<Option<Connection>>,
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
        let _ = self.child.wait();
    }
}

impl Connection {
    fn open(program: &Path, install: &InstallId) -> Result<Self, Fault> {
        let fail =
            |what: &str, error: std::io::Error| Fault::io(format!("the helper: {what}"), error);
        let pair =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(|error| fail("making a socket", error.into()))?;
        let child = Command::new(program).env_clear().stdin(Stdio::from(theirs)).spawn();
        let child =
            child.map_err(|error| fail(&format!("starting {}", program.display()), error))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
            .map_err(|error| fail("a limit", error.into()))?;
        let connection = Self { socket, child };
        let hello = Request::Hello { version: PROTOCOL, install: install.clone() };
        let (reply, _) = connection.ask(&hello, None)?;
        if reply != (Reply::Hello { version: PROTOCOL }) {
            return Err(Fault::host(format!("the helper speaks another version: {reply:?}"))
                .hint("install banger and its helper from the same release"));
        }
        Ok(connection)
    }

    /// One request and its answer, each with at most one descriptor.
    fn ask(
        &self,
        request: &Request,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        let fail = |error: rustix::io::Errno| Fault::io("talking to the helper", error.into());
        let bytes = serde_json::to_vec(request).expect("messages encode");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed = descriptor.map(|descriptor| [descriptor.as_fd()]);
        if let Some(borrowed) = &borrowed {
            ancillary.push(SendAncillaryMessage::ScmRights(borrowed));
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
        Ok(Some(Self(Arc::new(Inner { program, install, connection }))))
    }

    fn ask(
        &self,
        request: &Request,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        // It may run other programs: the rest of the daemon goes on meanwhile.
        tokio::task::block_in_place(|| self.ask_now(request, descriptor))
    }

    fn ask_now(
        &self,
        request: &Request,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Fault> {
        let mut connection = self.0.connection.lock().expect("no holder panics");
        if connection.is_none() {
            *connection = Some(Connection::open(&self.0.program, &self.0.install)?);
        }
        let answer = connection.as_ref().map(|connection| connection.ask(request, descriptor));
        let answer = answer.unwrap_or_else(|| Err(Fault::host("the helper is gone")));
        if answer.is_err() {
            // Every operation can be asked for again, so the next one begins anew.
            *connection = None;
        }
        answer
    }

    fn carry_out(&self, request: &Request) -> Result<Outcome, Fault> {
        let (reply, _) = self.ask(request, None)?;
        match reply {
            Reply::Changed => Ok(Outcome::Changed),
            Reply::Unchanged => Ok(Outcome::Unchanged),
            Reply::Hello { .. }
            | Reply::Facts(_)
            | Reply::Rules { .. }
            | Reply::Refused { .. }
            | Reply::Failed { .. } => Err(unexpected(&reply)),
        }
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
        let (reply, _) = self.ask(&Request::RulesCheck { subnet, policy }, None)?;
        if let Reply::Rules { rules, names_routed } = reply {
            Ok((rules, names_routed))
        } else {
            Err(unexpected(&reply))
        }
    }

    /// A descriptor of a sandbox's tap.
    ///
    /// # Errors
    /// When there is no tap, or it cannot be opened.
    pub fn open_tap(&self, sandbox: &SandboxId) -> Result<OwnedFd, Fault> {
        match self.ask(&Request::TapOpen { sandbox: sandbox.clone() }, None)? {
            (Reply::Changed, Some(tap)) => Ok(tap),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// What the helper sees of the host.
    ///
    /// # Errors
    /// When the helper is gone.
    pub fn probe(&self) -> Result<Facts, Fault> {
        let (reply, _) = self.ask(&Request::Probe {}, None)?;
        if let Reply::Facts(facts) = reply { Ok(facts) } else { Err(unexpected(&reply)) }
    }

    /// Puts a process into its sandbox's cgroup.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn cgroup_join(
        &self,
        sandbox: &SandboxId,
        limits: Limits,
        process: &Held,
    ) -> Result<(), Fault> {
        let sandbox = sandbox.clone();
        done(self.ask(&Request::CgroupJoin { sandbox, limits }, Some(process.pidfd()))?.0)
    }

    /// Ends what is left in a sandbox's cgroup and removes it.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn cgroup_remove(&self, sandbox: &SandboxId) -> Result<(), Fault> {
        self.carry_out(&Request::CgroupRemove { sandbox: sandbox.clone() }).map(drop)
    }
}

fn done(reply: Reply) -> Result<(), Fault> {
    if matches!(reply, Reply::Unchanged | Reply::Changed) {
        Ok(())
    } else {
        Err(unexpected(&reply))
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
        | Reply::Unchanged
        | Reply::Changed => Fault::host("the helper answered something else than was asked"),
    }
}
