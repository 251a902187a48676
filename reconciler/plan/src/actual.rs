//! What was seen. Made by *observe*, once per pass; planning sees nothing else.

use crate::boot::Boot;
use crate::desired::Origin;
use banger_wire::agent::{GuestState, Signal};
use banger_wire::id::{Digest, SandboxId, SnapshotId, VolumeId};
use banger_wire::machine::{Backend, BootKey};
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One fact. Nothing is destroyed or made anew on [`Seen::Unknown`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// It is not there.
    Absent,
    /// It is there, like this.
    Present(T),
    /// It could not be told, and why.
    Unknown(String),
}

impl<T> Seen<T> {
    /// The fact, when it is there.
    pub fn present(&self) -> Option<&T> {
        match self {
            Seen::Present(fact) => Some(fact),
            Seen::Absent | Seen::Unknown(_) => None,
        }
    }

    /// Whether it certainly is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Seen::Absent)
    }

    /// Why it could not be told.
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Seen::Unknown(why) => Some(why),
            Seen::Absent | Seen::Present(_) => None,
        }
    }
}

/// What was seen of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Kernels by recipe. One that is not in here was not asked for.
    pub kernels: BTreeMap<Digest, Seen<ArtifactFact>>,
    /// Images by recipe.
    pub images: BTreeMap<Digest, Seen<ArtifactFact>>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, Seen<VolumeFact>>,
    /// Snapshots.
    pub snapshots: BTreeMap<SnapshotId, Seen<SnapshotFact>>,
    /// Sandboxes.
    pub sandboxes: BTreeMap<SandboxId, SandboxFact>,
    /// The bridge and the rules of the host.
    pub network: Seen<NetworkFact>,
    /// What this host runs guests with.
    pub backends: Backends,
    /// Memories that machines can start from.
    pub templates: BTreeMap<BootKey, TemplateFact>,
    /// Memories of guests that were kept.
    pub memories: BTreeSet<BootKey>,
    /// Things in our folders that nothing desired accounts for. They are left alone.
    pub foreign: Vec<String>,
}

impl Default for Actual {
    /// Nothing was looked at.
    fn default() -> Self {
        Self {
            kernels: BTreeMap::new(),
            images: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            network: Seen::Unknown("it was not looked at".to_string()),
            backends: Backends::default(),
            templates: BTreeMap::new(),
            memories: BTreeSet::new(),
            foreign: Vec::new(),
        }
    }
}

/// What this host runs guests with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    /// What a sandbox gets that names none.
    pub default: Backend,
    /// Why that.
    pub why: String,
    /// Why others cannot be had.
    pub missing: BTreeMap<Backend, String>,
}

impl Default for Backends {
    /// What runs everywhere.
    fn default() -> Self {
        Self { default: Backend::Qemu, why: String::new(), missing: BTreeMap::new() }
    }
}

/// A machine's memory from the moment in which its guest waited for an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFact {
    /// The content of its kernel.
    pub kernel: Digest,
    /// The content of its image.
    pub image: Digest,
    /// Whether it was made with the agent and the VMM of now.
    pub current: bool,
    /// Seconds since it was made or last used.
    pub idle_secs: u64,
}

/// What the host has of a network for guests. It is [`Seen::Absent`] nowhere: a host without one says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFact {
    /// Why this host cannot give guests a network whose rules are enforced. `None` when it can.
    pub missing: Option<String>,
    /// The bridge.
    pub bridge: BridgeFact,
    /// The rules.
    pub rules: RulesFact,
    /// Ports on the bridge of sandboxes that nothing desired accounts for. While there are any, bridge and rules stay.
    pub strangers: BTreeMap<SandboxId, TapFact>,
    /// Whether the host's resolver asks us for names of sandboxes. `None` when it has none that could.
    pub names_routed: Option<bool>,
}

/// The bridge of this installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeFact {
    /// It is not there.
    Absent,
    /// It is there, but not as it should be.
    Different,
    /// It is as it should be.
    Right,
}

/// The rules of this installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesFact {
    /// They are not there.
    Absent,
    /// They are not as we wrote them: somebody changed or emptied them.
    Altered,
    /// They cannot be read, so they count for nothing.
    Unreadable,
    /// They are as we wrote them, for another policy than is wanted now.
    Older,
    /// They are as we wrote them, for the policy that is wanted now.
    Current,
}

impl RulesFact {
    /// Whether what we wrote last is enforced.
    pub fn enforced(self) -> bool {
        matches!(self, RulesFact::Older | RulesFact::Current)
    }
}

/// A sandbox's port on the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapFact {
    /// Whether frames pass.
    pub up: bool,
    /// Whether it is an isolated port of our bridge.
    pub right: bool,
}

/// A kernel or image that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFact {
    /// The digest of its content.
    pub content: Digest,
    /// Bytes on disk.
    pub bytes: u64,
    /// More facts for people, `name: value`.
    pub details: Vec<String>,
    /// How the image says that its programs are run.
    pub config: ImageConfig,
}

/// How an image says that its programs are run. It is the guest's business alone (R-I9).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// The environment of everything that runs in it.
    pub env: BTreeMap<String, String>,
    /// The user of its service and of commands: a name or number, maybe with a group after a colon.
    pub user: Option<String>,
    /// The folder where they start.
    pub workdir: Option<String>,
    /// What its service begins with.
    pub entrypoint: Vec<String>,
    /// What follows.
    pub command: Vec<String>,
    /// What asks its service to end.
    pub stop_signal: Option<Signal>,
}

/// A volume's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFact {
    /// Its size.
    pub size: Mib,
}

/// Everything that was seen of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFact {
    /// Its own disk.
    pub disk: Seen<DiskFact>,
    /// Whether it has a folder that survives its runs, with a disk in it or without.
    pub folder: bool,
    /// Its processes.
    pub vmm: Seen<VmmFact>,
    /// The folder of its current or last run.
    pub run: Seen<RunFact>,
    /// The memory that it goes on from.
    pub suspended: Seen<SuspendedFact>,
    /// What its guest says. Absent while it does not answer.
    pub guest: Seen<GuestState>,
    /// Seconds since its guest was last heard, or since this daemon began to listen to it.
    pub silent_secs: u64,
    /// Its port on the bridge.
    pub tap: Seen<TapFact>,
    /// Host ports that lead into it, with the guest's port.
    pub ports: BTreeMap<u16, u16>,
    /// Whether a jail or cgroup of its own exists.
    pub jail: bool,
}

impl SandboxFact {
    /// Nothing of it is there.
    pub fn absent() -> Self {
        Self {
            disk: Seen::Absent,
            folder: false,
            vmm: Seen::Absent,
            run: Seen::Absent,
            suspended: Seen::Absent,
            guest: Seen::Absent,
            silent_secs: 0,
            tap: Seen::Absent,
            ports: BTreeMap::new(),
            jail: false,
        }
    }

    /// Whether nothing of it is there any more, so that its numbers can be used again.
    pub fn is_gone(&self) -> bool {
        self.disk.is_absent()
            && !self.folder
            && self.vmm.is_absent()
            && self.run.is_absent()
            && self.tap.is_absent()
            && self.ports.is_empty()
            && !self.jail
    }
}

/// A sandbox's own disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFact {
    /// Its size.
    pub size: Mib,
    /// The recipe of the image that it lies above.
    pub recipe: Digest,
    /// The content of the image that it lies above.
    pub content: Digest,
    /// The snapshot that it began from.
    pub origin: Option<Origin>,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFact {
    /// Its disk.
    pub disk: DiskFact,
    /// Bytes that the disk takes up.
    pub bytes: u64,
    /// When it was taken, in seconds since 1970.
    pub taken_secs: u64,
    /// What ran, when there is a memory to go on from.
    pub boot: Option<Boot>,
}

/// A sandbox's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmFact {
    /// The key of the [`Boot`] that it was started with.
    pub boot: BootKey,
    /// Seconds since it started, by the kernel's clock.
    pub uptime_secs: u64,
    /// Whether all of its processes are there.
    pub whole: bool,
    /// Which VMM, for people.
    pub backend: String,
    /// Whether its memory should be kept for others like it: it could be, and none is.
    pub lacks_template: bool,
    /// Whether its memory can be kept, for its sandbox to go on from.
    pub can_suspend: bool,
    /// Whether it stands still because its memory was kept. It must not go on: its sandbox goes on from that memory.
    pub is_suspended: bool,
}

/// The memory that a sandbox goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspendedFact {
    /// What it is known by.
    pub memory: BootKey,
    /// What had been started. None when that cannot be read, which makes it unusable.
    pub boot: Option<Boot>,
    /// Whether it was kept of this sandbox when it was suspended, and is not a snapshot's.
    pub own: bool,
    /// Why nothing can go on from it, when nothing can.
    pub unusable: Option<String>,
}

/// The folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFact {
    /// What was started, when the record is readable.
    pub boot: Option<Boot>,
    /// Whether the guest said goodbye before it ended.
    pub left: bool,
}
