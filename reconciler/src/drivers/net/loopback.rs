//! Published ports: a listener on the host's loopback whose streams go over vsock to the guest's port.
//!
//! No rule of the host's firewall is involved, and nothing listens on any other address.

use crate::drivers::Outcome;
use crate::drivers::guest::VsockGuest;
use crate::fault::Fault;
use banger_wire::agent::{Reply, Request};
use banger_wire::id::SandboxId;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// How long a guest's program may take to accept.
const ACCEPT: Duration = Duration::from_secs(10);
/// Streams through one port at once.
const MAX_STREAMS: usize = 1024;

/// Listeners of this daemon. A new daemon opens its own.
pub(super) struct Loopback {
    guest: Arc<VsockGuest>,
    open: Mutex<BTreeMap<SandboxId, BTreeMap<u16, Port>>>,
}

struct Port {
    guest: u16,
    task: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loopback {
    /// Carries streams to these guests.
    pub(super) fn new(guest: Arc<VsockGuest>) -> Self {
        Self { guest, open: Mutex::default() }
    }

    /// The open ports, by sandbox: host to guest.
    pub(super) fn observe(&self) -> BTreeMap<SandboxId, BTreeMap<u16, u16>> {
        let mut open = self.open.lock().expect("no holder panics");
        for ports in open.values_mut() {
            ports.retain(|_, port| !port.task.is_finished());
        }
        open.retain(|_, ports| !ports.is_empty());
        let of = |ports: &BTreeMap<u16, Port>| {
            ports.iter().map(|(host, port)| (*host, port.guest)).collect()
        };
        open.iter().map(|(id, ports)| (id.clone(), of(ports))).collect()
    }

    /// Opens a port.
    pub(super) async fn publish(
        &self,
        sandbox: &SandboxId,
        host: u16,
        guest: u16,
    ) -> Result<Outcome, Fault> {
        self.unpublish(sandbox, host);
        let listener = TcpListener::bind(("127.0.0.1", host)).await.map_err(|error| {
            let taken = error.kind() == ErrorKind::AddrInUse;
            let fault = Fault::io(format!("publishing port {host}"), error);
            match owner(host).filter(|_| taken) {
                Some(owner) => fault.hint(format!("{owner} has it; choose another port")),
                None => fault,
            }
        })?;
        let task = tokio::spawn(serve(listener, self.guest.clone(), sandbox.clone(), guest));
        let port = Port { guest, task: task.abort_handle() };
        let mut open = self.open.lock().expect("no holder panics");
        open.entry(sandbox.clone()).or_default().insert(host, port);
        Ok(Outcome::Changed)
    }

    /// Closes a port.
    pub(super) fn unpublish(&self, sandbox: &SandboxId, host: u16) -> Outcome {
        let mut open = self.open.lock().expect("no holder panics");
        let closed = open.get_mut(sandbox).and_then(|ports| ports.remove(&host)).is_some();
        if closed { Outcome::Changed } else { Outcome::Unchanged }
    }
}

async fn serve(listener: TcpListener, guest: Arc<VsockGuest>, sandbox: SandboxId, port: u16) {
    let mut streams = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while streams.try_join_next().is_some() {}
                if streams.len() < MAX_STREAMS {
                    streams.spawn(carry(stream, guest.clone(), sandbox.clone(), port));
                }
            }
            Err(error) => {
                tracing::debug!("accepting for port {port}: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn carry(mut outside: TcpStream, guest: Arc<VsockGuest>, sandbox: SandboxId, port: u16) {
    let opened = async {
        let mut inside = guest.ask(&sandbox, &Request::Forward { port }).await?;
        match inside.reply(ACCEPT).await {
            Ok(Reply::Done) => Ok(inside),
            Ok(other) => Err(Fault::host(format!("{other:?}"))),
            Err(error) => Err(Fault::io("forwarding", error)),
        }
    };
    let inside = match opened.await {
        Ok(inside) => inside,
        Err(fault) => {
            return tracing::debug!("port {port} of {sandbox}: {}", fault.problem().message);
        }
    };
    let (mut read, early) = inside.reader.into_parts();
    let mut write = inside.writer;
    let (mut from_outside, mut to_outside) = outside.split();
    let inward = async {
        tokio::io::copy(&mut from_outside, &mut write).await?;
        write.shutdown().await
    };
    let outward = async {
        to_outside.write_all(&early).await?;
        tokio::io::copy(&mut read, &mut to_outside).await?;
        to_outside.shutdown().await
    };
    // A stream that breaks is the business of its two ends. When the guest has said all, the stream is over.
    tokio::select! {
        () = async { let _ = inward.await; std::future::pending().await } => {}
        _ = outward => {}
    }
}

/// The program that listens on a port of the loopback, where we may see it.
fn owner(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let listens = *fields.get(3)? == "0A";
        (listens && u16::from_str_radix(local, 16) == Ok(port))
            .then(|| fields.get(9).map(ToString::to_string))?
    })?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let has = descriptors.flatten().any(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
        });
        if has {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), entry.file_name().display()));
        }
    }
    None
}
