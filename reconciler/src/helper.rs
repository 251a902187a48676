//! Talks to the root helper. Where none is installed and we are root, we start the same program ourselves.

use crate::fault::Fault;
use crate::process::Held;
use banger_wire::helper::{Facts, Limits, MAX_MESSAGE, PROTOCOL, Reply, Request};
use banger_wire::id::SandboxId;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A connection to the helper. One request at a time.
#[derive(Clone)]
pub struct Helper(Arc<Mutex<Connection>>);

struct Connection {
    socket: OwnedFd,
    child: Child,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its socket closes with ours, and it ends; this only collects it.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Helper {
    /// Starts the helper as a child. `None` when we are not root: then there is no cgroup for a sandbox.
    ///
    /// # Errors
    /// When the program cannot be started or speaks another version.
    pub fn start(program: &Path) -> Result<Option<Self>, Fault> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let fail =
            |what: &str, error: std::io::Error| Fault::io(format!("the helper: {what}"), error);
        let pair =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(|error| fail("making a socket", error.into()))?;
        let child = Command::new(program).env_clear().stdin(Stdio::from(theirs)).spawn();
        let child =
            child.map_err(|error| fail(&format!("starting {}", program.display()), error))?;
        let helper = Self(Arc::new(Mutex::new(Connection { socket, child })));
        let reply = helper.ask(&Request::Hello { version: PROTOCOL }, None)?;
        if reply != (Reply::Hello { version: PROTOCOL }) {
            return Err(Fault::host(format!("the helper speaks another version: {reply:?}"))
                .hint("install banger and its helper from the same release"));
        }
        Ok(Some(helper))
    }

    fn ask(&self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Reply, Fault> {
        let connection = self.0.lock().expect("no holder panics");
        let fail = |error: rustix::io::Errno| Fault::io("talking to the helper", error.into());
        let bytes = serde_json::to_vec(request).expect("messages encode");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed = descriptor.map(|descriptor| [descriptor.as_fd()]);
        if let Some(borrowed) = &borrowed {
            ancillary.push(SendAncillaryMessage::ScmRights(borrowed));
        }
        let slices = [IoSlice::new(&bytes)];
        sendmsg(&connection.socket, &slices, &mut ancillary, SendFlags::NOSIGNAL).map_err(fail)?;
        let mut answer = vec![0; MAX_MESSAGE];
        let (_, count) =
            recv(&connection.socket, &mut answer[..], RecvFlags::empty()).map_err(fail)?;
        serde_json::from_slice(&answer[..count])
            .map_err(|_| Fault::host("the helper is gone").hint("start banger's daemon again"))
    }

    /// What the helper sees of the host.
    ///
    /// # Errors
    /// When the helper is gone.
    pub fn probe(&self) -> Result<Facts, Fault> {
        let reply = self.ask(&Request::Probe {}, None)?;
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
        done(self.ask(&Request::CgroupJoin { sandbox, limits }, Some(process.pidfd()))?)
    }

    /// Ends what is left in a sandbox's cgroup and removes it.
    ///
    /// # Errors
    /// When the helper refuses or fails.
    pub fn cgroup_remove(&self, sandbox: &SandboxId) -> Result<(), Fault> {
        done(self.ask(&Request::CgroupRemove { sandbox: sandbox.clone() }, None)?)
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
        Reply::Hello { .. } | Reply::Facts(_) | Reply::Unchanged | Reply::Changed => {
            Fault::host("the helper answered something else than was asked")
        }
    }
}
