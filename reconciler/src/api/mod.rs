//! The daemon's API: HTTP/1.1 and JSON over a Unix socket that only its owner can open.
//!
//! There is no engine here: a handler turns a request into a proposal, a look at the last pass, or a stream.

mod artifact;
mod change;
mod facts;
mod guest;
mod look;
mod registry;
mod ssh;
mod watch;
mod workspace;

use crate::drivers::guest::VsockGuest;
use crate::engine::Engine;
use crate::fault::{During, Fault};
use crate::folders::Folders;
use crate::helper::Helper;
use crate::keys::Keys;
use crate::registry::Registry;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use banger_wire::api::{Problem, ProblemKind, Programs, Version};
use banger_wire::id::Digest;
use banger_wire::machine::Backend;
use nix::sys::stat::{Mode, umask};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{UnixListener, UnixStream};

/// What every handler may use.
#[derive(Clone)]
pub struct Context {
    /// The loop.
    pub engine: Arc<Engine>,
    /// The line to guests.
    pub guest: Arc<VsockGuest>,
    /// Where consoles are.
    pub folders: Folders,
    /// SSH keys.
    pub keys: Keys,
    /// Registries and what was fetched from them.
    pub registry: Registry,
    /// The guest's agent.
    pub agent: PathBuf,
    /// The root helper, where there is one.
    pub helper: Option<Helper>,
    /// Requests and streams that are under way.
    pub active: Arc<AtomicUsize>,
}

/// Counts one request or stream for as long as it lives.
pub struct Active(Arc<AtomicUsize>);

impl Context {
    /// One more.
    pub fn active(&self) -> Active {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active(self.active.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An error answer.
pub struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(fault.problem())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ProblemKind::User => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemKind::NotFound => StatusCode::NOT_FOUND,
            ProblemKind::Refused => StatusCode::CONFLICT,
            ProblemKind::Host => StatusCode::SERVICE_UNAVAILABLE,
            ProblemKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

/// A problem without hints.
fn problem(kind: ProblemKind, message: impl Into<String>) -> Problem {
    Problem { kind, message: message.into(), hints: Vec::new() }
}

/// Every route.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/programs", get(programs))
        .route("/v1/facts", get(facts::facts))
        .route("/v1/status", get(watch::status))
        .route("/v1/snapshots", get(look::snapshots))
        .route("/v1/images", get(artifact::images))
        .route("/v1/images/{recipe}", delete(artifact::delete_image))
        .route("/v1/kernels", get(artifact::kernels))
        .route("/v1/kernels/{recipe}", delete(artifact::delete_kernel))
        .route("/v1/images/{recipe}/spec", get(artifact::image_spec))
        .route("/v1/resolve", post(registry::resolve))
        .route("/v1/catalog", get(registry::catalog))
        .route("/v1/registries/login", post(registry::log_in))
        .route("/v1/registries/logout", post(registry::log_out))
        .route("/v1/blobs", get(registry::blobs))
        .route("/v1/blobs/prune", post(registry::prune))
        .route("/v1/projects/{project}", get(change::show))
        .route("/v1/projects/{project}/apply", post(change::apply))
        .route("/v1/projects/{project}/destroy", post(change::destroy))
        .route("/v1/projects/{project}/edit", post(change::edit))
        .route("/v1/projects/{project}/events", get(watch::events))
        .route("/v1/projects/{project}/run", post(guest::run))
        .route("/v1/projects/{project}/sandboxes/{name}/exec", post(guest::exec))
        .route("/v1/projects/{project}/sandboxes/{name}/logs", get(guest::logs))
        .route("/v1/projects/{project}/sandboxes/{name}/files", post(workspace::files))
        .route("/v1/projects/{project}/sandboxes/{name}/workspace/push", post(workspace::push))
        .route("/v1/projects/{project}/sandboxes/{name}/workspace/fetch", post(workspace::fetch))
        .route("/v1/projects/{project}/sandboxes/{name}/ports", get(look::ports))
        .route("/v1/stats", get(look::all_stats))
        .route("/v1/ssh/{name}", post(ssh::connect))
        .route("/v1/ssh/{name}/key", get(ssh::host_key))
        .with_state(context)
}

async fn version(State(context): State<Context>) -> Json<Version> {
    let backends = context.engine.snapshots().borrow().actual.backends.clone();
    let how = match (backends.default, crate::host::acceleration().0) {
        (Backend::Firecracker, _) => "",
        (Backend::Qemu, crate::host::Acceleration::Kvm) => " with KVM",
        (Backend::Qemu, crate::host::Acceleration::Tcg) => " by software emulation",
    };
    let mut vmm = format!("{}{how}: {}", backends.default, backends.why);
    for (backend, why) in &backends.missing {
        vmm.push_str(&format!("; no {backend}: {why}"));
    }
    Json(Version { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id(), vmm })
}

async fn programs(State(context): State<Context>) -> Result<Json<Programs>, Refusal> {
    let path = context.agent.display();
    let agent = std::fs::read(&context.agent).during(|| format!("reading the agent {path}"))?;
    let agent = Digest::from_bytes(&Sha256::digest(&agent).into()).to_string();
    let said = tokio::process::Command::new("qemu-system-x86_64").arg("--version").output().await;
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    let vmm = said.during(|| "asking qemu-system-x86_64 for its version".into())?;
    let vmm = banger_wire::text::clean_line(vmm.lines().next().unwrap_or_default());
    Ok(Json(Programs { agent, vmm }))
}

/// Opens the socket. It is the owner's alone from its first moment: the mask is set before it exists (R-U1).
///
/// # Errors
/// When the socket cannot be opened.
pub fn listen(path: &Path) -> Result<OwnersOnly, Fault> {
    crate::folders::remove(path)?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    Ok(OwnersOnly(listener.during(|| format!("opening the socket {}", path.display()))?))
}

/// Takes connections of our own user and root, and closes all others without a word (R-U2).
pub struct OwnersOnly(UnixListener);

impl axum::serve::Listener for OwnersOnly {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        let own = nix::unistd::geteuid().as_raw();
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
                        return (stream, ());
                    }
                }
                Err(error) => {
                    tracing::warn!("accepting: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}
