//! One sandbox, as the file describes it.

use banger_wire::agent::Signal as StopSignal;
use banger_wire::id::Name;
use banger_wire::machine::Backend;
use banger_wire::net::Egress;
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Its image.
    pub image: Name,
    /// Another kernel than its image's.
    pub kernel: Option<Name>,
    /// What runs it, where the host's own choice will not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<Backend>,
    /// Processors, 1 to 32.
    pub cpus: u8,
    /// Memory.
    pub memory: Mib,
    /// Its own disk, above the image. It may grow.
    pub disk: Mib,
    /// What it may read and write of each of its disks in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_rate: Option<Mib>,
    /// What its network card may receive in a second, and what it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_rate: Option<Mib>,
    /// Sandboxes of the same file that must be ready before it starts.
    pub after: BTreeSet<Name>,
    /// Volumes and where they are mounted, in the file's order.
    pub volumes: Vec<Mount>,
    /// Environment of its commands.
    pub env: BTreeMap<String, String>,
    /// Networks that it is on.
    #[serde(default)]
    pub networks: BTreeSet<Name>,
    /// Where it may connect to.
    #[serde(default)]
    pub egress: Egress,
    /// Ports on the host's loopback that lead into it.
    pub publish: Vec<Publish>,
    /// Shell lines that run once in the guest before it is ready.
    pub provision: Vec<String>,
    /// Its service, when the image has no init: what follows the entrypoint, instead of the image's own.
    pub command: Vec<String>,
    /// What its service begins with, instead of the image's own. One empty word takes that away.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The user of its service and of commands that name none, instead of the image's own.
    #[serde(default)]
    pub user: Option<String>,
    /// The folder where its service and commands start, instead of the image's own.
    #[serde(default)]
    pub workdir: Option<String>,
    /// A repository that is shipped into it.
    #[serde(default)]
    pub workspace: Option<WorkspaceSpec>,
    /// The signal that asks its service to end, instead of the image's own.
    #[serde(default)]
    pub stop_signal: Option<StopSignal>,
    /// When it counts as ready, besides its agent answering.
    pub ready: Option<ReadySpec>,
    /// What to do when it ends.
    pub restart: Restart,
    /// What to do when it is not as it should be.
    pub drift: Drift,
    /// Whether it runs.
    pub mode: Mode,
    /// How often it was asked to restart. Not in the file: `vm restart` counts it up.
    #[serde(default)]
    pub restarts: u32,
    /// Boot even where it could start from a template. Not in the file: `vm run --cold` sets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// Stop without asking the guest. Not in the file: `vm kill` sets it.
    #[serde(default)]
    pub kill: bool,
}

impl SandboxSpec {
    /// A sandbox of this image with every default.
    pub fn new(image: Name) -> Self {
        Self {
            image,
            kernel: None,
            vmm: None,
            cpus: 1,
            memory: Mib::new(512).expect("in bounds"),
            disk: Mib::new(10 << 10).expect("in bounds"),
            disk_rate: None,
            net_rate: None,
            after: BTreeSet::new(),
            volumes: Vec::new(),
            env: BTreeMap::new(),
            networks: BTreeSet::new(),
            egress: Egress::default(),
            publish: Vec::new(),
            provision: Vec::new(),
            command: Vec::new(),
            entrypoint: Vec::new(),
            user: None,
            workdir: None,
            workspace: None,
            stop_signal: None,
            ready: None,
            restart: Restart::OnFailure,
            drift: Drift::Heal,
            mode: Mode::Running,
            restarts: 0,
            cold: false,
            kill: false,
        }
    }
}

/// A repository of the host's, shipped into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceSpec {
    /// Its folder on the host: below the file's own as it is written, absolute as it is desired.
    pub folder: String,
    /// The absolute folder in the guest, where commands start.
    pub at: String,
    /// Untracked files that go too, as git's patterns.
    #[serde(default)]
    pub include: Vec<String>,
    /// Commits of history that go along: all for 0, one if not given.
    #[serde(default)]
    pub depth: Option<u32>,
}

impl WorkspaceSpec {
    /// Where it goes when no folder is named.
    pub const AT: &str = "/work";
}

/// A volume in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Which volume.
    pub volume: Name,
    /// The absolute folder in the guest.
    pub at: String,
}

/// A port of the host that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The port on 127.0.0.1, 1024 to 65535.
    pub host: u16,
    /// The port in the guest, 1 to 65535.
    pub guest: u16,
}

/// When a sandbox counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadySpec {
    /// A command that succeeds when it is ready.
    pub exec: Vec<String>,
    /// Seconds until it counts as failed, 1 to 3600.
    pub timeout_secs: u32,
}

/// What to do when a sandbox that should run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Start it again.
    Always,
    /// Start it again unless the guest powered itself off in order.
    OnFailure,
    /// Leave it.
    Never,
}

/// What to do when a sandbox is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// Make it so again.
    Heal,
    /// Say so and leave it.
    Report,
}

/// Whether a sandbox runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It runs.
    Running,
    /// It is stopped; its disk stays.
    Stopped,
    /// Its memory is kept, too, and it goes on from it.
    Suspended,
}
