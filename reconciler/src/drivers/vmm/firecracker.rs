//! Firecracker's API, as far as it is used: each request is a type, and what it does not know it refuses.
//!
//! Field names are those of its OpenAPI file. Paths are names in the jail.

use super::Start;
use crate::fault::{During, Fault};
use crate::helper::Helper;
use banger_wire::derive::{mac, show_mac, tap};
use banger_wire::helper::Line;
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::{
    AGENT, Card, INITRAMFS, KERNEL, LOG, MEMORY, METRICS, STATE, Version, WRITTEN_MEMORY,
    WRITTEN_STATE, disk,
};
use banger_wire::size::Mib;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

/// How long one request may take. A VMM that was stopped answers none.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a memory is written down in a second, at the least, in MiB.
const SLOWEST_MIB: u64 = 10;
/// How long a machine may take to go on.
pub(super) const GO_ON: Duration = Duration::from_secs(30);
/// How long until a machine is told again to go on.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;
/// The id of the one card.
const NET: &str = "net";
/// The first version whose console can be held to a rate.
const SERIAL_RATE: Version = Version(1, 16, 0);

/// `PUT /logger`
#[derive(Debug, Serialize)]
pub struct Logger {
    /// A file or FIFO.
    pub log_path: String,
    /// `Error`, `Warning`, `Info`, …
    pub level: String,
    /// Whether each line has its level.
    pub show_level: bool,
}

/// `PUT /metrics`
#[derive(Debug, Serialize)]
pub struct Metrics {
    /// A file or FIFO.
    pub metrics_path: String,
}

/// `PUT /machine-config`
#[derive(Debug, Serialize)]
pub struct MachineConfig {
    /// Processors.
    pub vcpu_count: u8,
    /// Memory, in MiB.
    pub mem_size_mib: u32,
}

/// `PUT /boot-source`
#[derive(Debug, Serialize)]
pub struct BootSource {
    /// An uncompressed kernel.
    pub kernel_image_path: String,
    /// The archive that it boots from.
    pub initrd_path: String,
    /// Its command line.
    pub boot_args: String,
}

/// `PUT /drives/{drive_id}`
#[derive(Debug, Serialize)]
pub struct Drive {
    /// Its id.
    pub drive_id: String,
    /// Its file, raw.
    pub path_on_host: String,
    /// Whether the kernel mounts it as its root. Ours never does.
    pub is_root_device: bool,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// `Writeback`: what the guest syncs is synced. Firecracker's own default loses it.
    pub cache_type: String,
    /// What may be read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PUT /network-interfaces/{iface_id}`
#[derive(Debug, Serialize)]
pub struct NetworkInterface {
    /// Its id.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
    /// The guest's hardware address.
    pub guest_mac: String,
    /// What may be received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// What may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`
#[derive(Debug, Serialize)]
pub struct Vsock {
    /// The guest's address.
    pub guest_cid: u32,
    /// The socket that leads to it.
    pub uds_path: String,
}

/// So many tokens, refilled in so many milliseconds.
#[derive(Debug, Serialize)]
pub struct TokenBucket {
    /// Bytes.
    pub size: u64,
    /// Milliseconds until it is full again.
    pub refill_time: u64,
}

/// How fast something may be used.
#[derive(Debug, Serialize)]
pub struct RateLimiter {
    /// Bytes.
    pub bandwidth: TokenBucket,
}

impl RateLimiter {
    /// So many MiB in a second; 0 is no limit.
    fn of(mib: u32) -> Option<Self> {
        let bandwidth = TokenBucket { size: u64::from(mib) << 20, refill_time: 1000 };
        (mib > 0).then_some(Self { bandwidth })
    }
}

/// `PUT /serial`. Only since 1.16.
#[derive(Debug, Serialize)]
pub struct Serial {
    /// How much the guest may write to its console.
    pub rate_limiter: TokenBucket,
}

/// `PUT /actions`
#[derive(Debug, Serialize)]
pub struct Action {
    /// `InstanceStart`, `FlushMetrics`, …
    pub action_type: String,
}

/// `PATCH /vm`
#[derive(Debug, Serialize)]
pub struct Vm {
    /// `Paused` or `Resumed`.
    pub state: String,
}

/// `PUT /snapshot/create`
#[derive(Debug, Serialize)]
pub struct SnapshotCreate {
    /// `Full`.
    pub snapshot_type: String,
    /// Where the state of the devices goes.
    pub snapshot_path: String,
    /// Where the memory goes.
    pub mem_file_path: String,
}

/// Where a memory comes from.
#[derive(Debug, Serialize)]
pub struct MemoryBackend {
    /// `File`: read when it is needed, never written.
    pub backend_type: String,
    /// Its file.
    pub backend_path: String,
}

/// Another tap than the one in a state.
#[derive(Debug, Serialize)]
pub struct NetworkOverride {
    /// Which card.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
}

/// `PUT /snapshot/load`
#[derive(Debug, Serialize)]
pub struct SnapshotLoad {
    /// The state of the devices.
    pub snapshot_path: String,
    /// The memory.
    pub mem_backend: MemoryBackend,
    /// Whether the guest goes on at once.
    pub resume_vm: bool,
    /// The taps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
}

/// The API of one Firecracker. It takes one request after the other.
pub struct Api {
    sender: SendRequest<Full<Bytes>>,
}

impl Api {
    /// Connects by the helper.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(helper: &Helper, sandbox: &SandboxId) -> Result<Self, Fault> {
        let socket = helper.open(sandbox, Line::Api)?;
        Self::over(UnixStream::from_std(socket.into()).during(|| "Firecracker's API".into())?).await
    }

    /// Speaks over a connection.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn over(stream: UnixStream) -> Result<Self, Fault> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
        // Ends with either side.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends one request and waits until it is carried out.
    ///
    /// # Errors
    /// When it is refused, with Firecracker's words, or not answered in time.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Fault> {
        self.send_within(PATIENCE, method, path, body).await
    }

    async fn send_within(
        &mut self,
        patience: Duration,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Fault> {
        let body = serde_json::to_vec(body).expect("plain values encode");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a good request");
        let answered = async {
            let answer = self.sender.send_request(request).await.map_err(|error| broke(&error))?;
            let status = answer.status();
            let said = Limited::new(answer.into_body(), LONGEST).collect().await;
            let said = said.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok((status, said))
        };
        let (status, said) = timeout(patience, answered)
            .await
            .map_err(|_| Fault::host(format!("Firecracker does not answer to {path}")))??;
        if status.is_success() {
            return Ok(());
        }
        let said = banger_wire::text::clean_line(&String::from_utf8_lossy(&said));
        Err(Fault::host(format!("Firecracker refused {path}: {said}")))
    }

    /// Lets the guest stand still, or go on.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_running(&mut self, running: bool) -> Result<(), Fault> {
        let state = if running { "Resumed" } else { "Paused" };
        self.send(Method::PATCH, "/vm", &Vm { state: state.into() }).await
    }

    async fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), Fault> {
        self.send(Method::PUT, path, body).await
    }
}

fn broke(error: &hyper::Error) -> Fault {
    Fault::host(format!("the connection to Firecracker broke: {error}"))
}

/// Tells a Firecracker that waits what its machine is, and starts it.
pub(super) async fn configure(
    start: &Start<'_>,
    install: &InstallId,
    helper: &Helper,
    version: Version,
) -> Result<(), Fault> {
    let mut api = Api::open(helper, start.id).await?;
    let machine = &start.machine;
    watch(&mut api).await?;
    if version >= SERIAL_RATE {
        // What is kept is a megabyte: more than that in a second is nobody's loss. It is no part of a memory.
        let rate_limiter = TokenBucket { size: 1 << 20, refill_time: 1000 };
        api.put("/serial", &Serial { rate_limiter }).await?;
    }
    if machine.from.is_some() {
        return load(&mut api, start, install).await;
    }
    let config = MachineConfig { vcpu_count: machine.cpus, mem_size_mib: machine.memory_mib };
    api.put("/machine-config", &config).await?;
    let source = BootSource {
        kernel_image_path: KERNEL.into(),
        initrd_path: INITRAMFS.into(),
        boot_args: machine.words.as_str().into(),
    };
    api.put("/boot-source", &source).await?;
    for index in 0..machine.disks {
        let name = disk(usize::from(index));
        let drive = Drive {
            drive_id: name.clone(),
            path_on_host: name.clone(),
            is_root_device: false,
            is_read_only: machine.is_read_only(index),
            cache_type: "Writeback".into(),
            rate_limiter: RateLimiter::of(machine.disk_rate_mib),
        };
        api.put(&format!("/drives/{name}"), &drive).await?;
    }
    if machine.card == Card::Tap {
        let card = NetworkInterface {
            iface_id: NET.into(),
            host_dev_name: tap(install, start.id),
            guest_mac: show_mac(mac(start.id)),
            rx_rate_limiter: RateLimiter::of(machine.net_rate_mib),
            tx_rate_limiter: RateLimiter::of(machine.net_rate_mib),
        };
        api.put("/network-interfaces/net", &card).await?;
    }
    let vsock = Vsock { guest_cid: machine.cid, uds_path: AGENT.into() };
    api.put("/vsock", &vsock).await?;
    api.put("/actions", &Action { action_type: "InstanceStart".into() }).await
}

/// What it says and measures goes to where the daemon reads it.
async fn watch(api: &mut Api) -> Result<(), Fault> {
    let logger = Logger { log_path: LOG.into(), level: "Warning".into(), show_level: true };
    api.put("/logger", &logger).await?;
    api.put("/metrics", &Metrics { metrics_path: METRICS.into() }).await
}

/// Goes on where a memory was kept; or stands still there, when it has to be given up first.
async fn load(api: &mut Api, start: &Start<'_>, install: &InstallId) -> Result<(), Fault> {
    let card = (start.machine.card == Card::Tap)
        .then(|| NetworkOverride { iface_id: NET.into(), host_dev_name: tap(install, start.id) });
    let load = SnapshotLoad {
        snapshot_path: STATE.into(),
        mem_backend: MemoryBackend { backend_type: "File".into(), backend_path: MEMORY.into() },
        resume_vm: !start.wakes,
        network_overrides: card.into_iter().collect(),
    };
    api.put("/snapshot/load", &load).await
}

/// Writes a machine down in its jail. It stands still afterwards, and its guest has no connections any more.
pub(super) async fn write_down(helper: &Helper, id: &SandboxId, memory: Mib) -> Result<(), Fault> {
    let mut api = Api::open(helper, id).await?;
    api.set_running(false).await?;
    let create = SnapshotCreate {
        snapshot_type: "Full".into(),
        snapshot_path: WRITTEN_STATE.into(),
        mem_file_path: WRITTEN_MEMORY.into(),
    };
    let written = api.send_within(writing(memory), Method::PUT, "/snapshot/create", &create).await;
    helper.lines().cut(id);
    written
}

/// How long a memory may take to be written down. Until then its VMM answers nothing else.
pub(super) fn writing(memory: Mib) -> Duration {
    PATIENCE + Duration::from_secs(memory.get() / SLOWEST_MIB)
}

/// Lets a machine go on, whatever became of who let it stand still.
pub(super) async fn go_on(
    helper: &Helper,
    id: &SandboxId,
    patience: Duration,
) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        // A connection of its own: the one before may still wait for an answer. Who takes none for long is gone.
        let (outcome, patience) = match Api::open(helper, id).await {
            Ok(mut api) => (api.set_running(true).await, patience),
            Err(fault) => (Err(fault), patience.min(PATIENCE)),
        };
        match outcome {
            Err(_) if begun.elapsed() < patience => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
