//! The daemon's API: HTTP/1.1 and JSON over a Unix socket. These are the bodies.
//!
//! `S` stands for a project's spec, which is another package's type.

pub mod facts;
pub mod workspace;

use crate::agent::Exec;
use crate::id::{Generation, Name, SandboxId};
use crate::net::Egress;
use serde::{Deserialize, Serialize};

/// `POST /v1/projects/{project}/apply`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply<S> {
    /// What the project wants, whole: what is not in it goes.
    pub spec: S,
    /// Only plan.
    pub dry_run: bool,
    /// Whether data may be destroyed.
    pub consent: bool,
}

/// `POST /v1/projects/{project}/destroy`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Only plan.
    pub dry_run: bool,
    /// Whether data may be destroyed.
    pub consent: bool,
}

/// The answer to `apply`, `destroy` and `edit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// What would be done, or will be.
    pub plan: Plan,
    /// Whether it was accepted. A dry run and a plan that needs consent are not.
    pub accepted: bool,
    /// The things whose data this change destroys.
    pub destroys: Vec<String>,
    /// The number of this change: events after it are about it.
    pub change: u64,
}

/// A plan for people and programs: one line per action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In the order in which they are carried out.
    pub lines: Vec<PlanLine>,
}

/// One action, or one that waits for consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanLine {
    /// `+` makes, `-` removes, `~` changes, `!` is blocked.
    pub sign: char,
    /// Whose, for example `sandbox web`.
    pub resource: String,
    /// What is done.
    pub action: String,
    /// Why.
    pub cause: String,
    /// Whether it destroys data.
    pub destroys: bool,
}

/// `POST /v1/projects/{project}/edit`: an imperative command as a change of the project's spec.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Edit<S> {
    /// Merge the parts of this spec into the project's.
    Create {
        /// Sandboxes, images and kernels to add.
        spec: S,
    },
    /// Put these images and kernels in place of those of the same names.
    Update {
        /// Images and kernels.
        spec: S,
        /// Whether sandboxes whose image changes may lose their disks.
        consent: bool,
    },
    /// Mode running.
    Start {
        /// Which sandbox.
        name: Name,
    },
    /// Mode stopped.
    Stop {
        /// Which sandbox.
        name: Name,
    },
    /// Mode suspended.
    Suspend {
        /// Which sandbox.
        name: Name,
    },
    /// Mode stopped, without asking the guest.
    Kill {
        /// Which sandbox.
        name: Name,
    },
    /// Count its restarts up.
    Restart {
        /// Which sandbox.
        name: Name,
    },
    /// Remove it and its disk. Volumes stay.
    Delete {
        /// Which sandbox.
        name: Name,
    },
    /// Keep its disk as it is now, and its memory where that is possible.
    Snapshot {
        /// Which sandbox.
        name: Name,
        /// What the snapshot is called.
        snapshot: Name,
        /// Whether the memory is left out.
        disk_only: bool,
    },
    /// Put its disk, and its memory where there is one, back to a snapshot. What is on the disk now is lost.
    Restore {
        /// Which sandbox.
        name: Name,
        /// One of its snapshots.
        snapshot: Name,
    },
    /// Make a sandbox that begins where a snapshot was taken.
    Fork {
        /// The snapshot.
        snapshot: Name,
        /// The new sandbox.
        name: Name,
    },
    /// Remove a snapshot.
    DropSnapshot {
        /// Which.
        snapshot: Name,
    },
}

/// A line of `GET /v1/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// The sandbox that it is of. That one may be gone.
    pub sandbox: Name,
    /// Whether it was taken: until then everything below is empty.
    pub taken: bool,
    /// When, in seconds since 1970.
    pub taken_secs: u64,
    /// Whether it has a memory to go on from.
    pub memory: bool,
    /// The size of its disk, with unit.
    pub size: String,
    /// Bytes that its disk takes up. Blocks that it shares with another count here, too.
    pub bytes: u64,
    /// Why it is not as it should be. Empty when it is.
    pub reason: String,
}

/// The first control frame on `POST /v1/projects/{project}/run`, an upgraded connection.
///
/// The sandbox lives as long as the connection. The daemon answers with [`Event`]s; once one is
/// `settled` and ready, the agent's frames of the command follow as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run<S> {
    /// Exactly one sandbox, and what it needs.
    pub spec: S,
    /// The command. Without one the sandbox stays for as long as the connection, and the client does what it likes.
    pub exec: Option<Exec>,
}

/// A line of `GET /v1/events` and a control frame of `run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// An action began.
    Started {
        /// Whose.
        resource: String,
        /// What.
        action: String,
    },
    /// An action is under way.
    Progress {
        /// Whose.
        resource: String,
        /// What.
        action: String,
        /// So much, in bytes or percent.
        done: u64,
        /// Of so much; 0 when unknown.
        total: u64,
    },
    /// An action ended well.
    Done {
        /// Whose.
        resource: String,
        /// What.
        action: String,
    },
    /// An action failed. It will be tried again.
    Failed {
        /// Whose.
        resource: String,
        /// What.
        action: String,
        /// Why.
        error: Problem,
    },
    /// A sandbox is in another phase.
    Phase {
        /// Whose.
        resource: String,
        /// Which.
        phase: Phase,
        /// Why.
        reason: String,
    },
    /// Nothing more will happen by itself; the stream ends.
    Settled {
        /// Whether everything is as it should be.
        ok: bool,
        /// What is not.
        problems: Vec<Problem>,
    },
}

/// What went wrong: the body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Whose fault it is, which decides the exit code.
    pub kind: ProblemKind,
    /// What failed, on which thing.
    pub message: String,
    /// What to do.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// Whose fault a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request cannot be carried out as it is.
    User,
    /// The thing is not there.
    NotFound,
    /// It would destroy data, or a limit of the host forbids it.
    Refused,
    /// The host lacks something.
    Host,
    /// A bug of ours.
    Internal,
}

/// `GET /v1/status`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// By project and name.
    pub sandboxes: Vec<SandboxStatus>,
    /// By project and name.
    pub volumes: Vec<VolumeStatus>,
    /// Things in our folders that no project owns. They are left alone.
    pub foreign: Vec<String>,
}

/// How one sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxStatus {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub id: SandboxId,
    /// Where it stands.
    pub phase: Phase,
    /// Why, in one line. Empty when there is nothing to say.
    pub reason: String,
    /// Whether it is as its spec says.
    pub settled: bool,
    /// The generation of its spec.
    pub generation: Generation,
    /// The generation that its guest reported. 0 when it did not.
    pub observed_generation: Generation,
    /// Its image's name.
    pub image: String,
    /// Its processors.
    pub cpus: u8,
    /// Its memory, with unit.
    pub memory: String,
    /// Seconds since its VMM started, when it runs.
    pub uptime_secs: Option<u64>,
    /// The guest's boot id, when it answers.
    pub boot_id: Option<String>,
    /// The VMM that runs it, when one does.
    pub vmm: Option<String>,
    /// Its address on the host's bridge, when it has a port there.
    pub address: Option<std::net::Ipv4Addr>,
    /// The networks that it is on.
    pub networks: Vec<Name>,
    /// Where it may connect to.
    pub egress: Egress,
    /// Published ports, `host:guest`.
    pub ports: Vec<String>,
    /// Failures in a row.
    pub failures: u32,
    /// Seconds until the next try.
    pub next_try_secs: Option<u64>,
    /// Whether it lives only as long as a connection.
    pub ephemeral: bool,
}

/// How one volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeStatus {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Its size, with unit.
    pub size: String,
    /// Whether it exists.
    pub present: bool,
}

/// Where a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for something that its reason names.
    Pending,
    /// It is on its way up.
    Starting,
    /// Its guest answered for this generation and everything it was told succeeded.
    Ready,
    /// It runs, but not as it should.
    Degraded,
    /// Its memory is kept, and it goes on from it.
    Suspended,
    /// It is on its way down.
    Stopping,
    /// It does not run, as its spec says or as its restart policy allows.
    Stopped,
    /// It failed, and is tried again.
    Failed,
    /// It is being removed.
    Removing,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Phase::Pending => "Pending",
            Phase::Starting => "Starting",
            Phase::Ready => "Ready",
            Phase::Degraded => "Degraded",
            Phase::Suspended => "Suspended",
            Phase::Stopping => "Stopping",
            Phase::Stopped => "Stopped",
            Phase::Failed => "Failed",
            Phase::Removing => "Removing",
        })
    }
}

/// A port of a sandbox: `GET /v1/projects/{project}/sandboxes/{name}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address in the guest that a program listens on. None when nothing listens.
    pub address: Option<std::net::IpAddr>,
    /// The port in the guest.
    pub port: u16,
    /// The program, as the guest says.
    pub program: String,
    /// The port of the host's loopback that leads there.
    pub published: Option<u16>,
}

/// What a running sandbox uses: `GET /v1/stats`. Counters begin with its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxStats {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// When this was seen, by the host's monotonic clock: two of these make a rate.
    pub at_ns: u64,
    /// Its processors.
    pub cpus: u8,
    /// Processor time.
    pub cpu_ns: u64,
    /// Memory of the host that it takes up.
    pub memory_bytes: u64,
    /// Memory that its guest has.
    pub memory_limit_bytes: u64,
    /// What its own disk takes up on the host.
    pub disk_bytes: u64,
    /// The size of its own disk.
    pub disk_limit_bytes: u64,
    /// Bytes read from the host's disks.
    pub disk_read_bytes: u64,
    /// Bytes written to the host's disks.
    pub disk_written_bytes: u64,
    /// Bytes that the guest received.
    pub net_received_bytes: u64,
    /// Bytes that the guest sent.
    pub net_sent_bytes: u64,
    /// Processes of the host that run it.
    pub processes: u32,
}

/// One image or kernel: `GET /v1/images`, `GET /v1/kernels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The digest of its recipe, which identifies it.
    pub recipe: String,
    /// What it is made from, in words.
    pub source: String,
    /// The names that projects know it by, `project/name`.
    pub names: Vec<String>,
    /// The digest of its content, once it is built.
    pub content: Option<String>,
    /// Bytes on disk, once it is built.
    pub bytes: Option<u64>,
    /// More facts, `name: value`.
    pub details: Vec<String>,
    /// The sandboxes that use it, `project/name`.
    pub used_by: Vec<String>,
}

/// `GET /v1/version`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How sandboxes run here, and why.
    pub vmm: String,
}

/// `POST /v1/resolve`: what a reference of a registry means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The whole reference.
    pub reference: String,
    /// The project that asks.
    pub project: Name,
}

/// The answer to [`Resolve`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// The digest that it leads to now.
    pub now: String,
    /// The digest that it was known to lead to.
    pub known: Option<String>,
}

/// `POST /v1/registries/login` and, without user and password, `logout`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The registry's host.
    pub registry: String,
    /// The user.
    #[serde(default)]
    pub user: String,
    /// The password or token.
    #[serde(default)]
    pub password: String,
}

/// `GET /v1/catalog`: the newest catalog, as it was fetched. Whoever uses it verifies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteCatalog {
    /// Where it was fetched.
    pub address: String,
    /// The catalog.
    pub text: String,
    /// Its signature file.
    pub signature: String,
}

/// `GET /v1/programs`: what sandboxes are run by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// The SHA-256 of the guest's agent.
    pub agent: String,
    /// The VMM and its version, as it says itself.
    pub vmm: String,
}

impl std::fmt::Display for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "agent {} and {}", self.agent.get(..12).unwrap_or(&self.agent), self.vmm)
    }
}

/// A blob of `GET /v1/blobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachedBlob {
    /// Its SHA-256.
    pub digest: String,
    /// Bytes that are there.
    pub bytes: u64,
    /// Whether it is whole; else the rest is fetched when it is needed.
    pub whole: bool,
}

/// `POST /v1/blobs/prune`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Only say what would be removed.
    pub dry_run: bool,
}
