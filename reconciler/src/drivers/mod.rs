//! The four edges to the world. Drivers decide nothing: each call has one effect, and says whether it had any.
//!
//! A new VMM is one file in [`vmm`]. The simulated world ([`sim`]) implements the same traits, for what has to be
//! tried ten thousand times.

pub mod disk;
pub mod guest;
pub mod net;
pub mod sim;
pub mod vmm;

use crate::fault::Fault;
use async_trait::async_trait;
use banger_plan::actual::{
    ArtifactFact, Backends, DiskFact, NetworkFact, RunFact, Seen, SnapshotFact, SuspendedFact,
    TapFact, TemplateFact, VmmFact, VolumeFact,
};
use banger_plan::boot::Boot;
use banger_plan::desired::{Desired, Origin};
use banger_schema::spec::{ImageSource, KernelSource, WorkspaceSpec};
use banger_wire::agent::{GuestState, Identity};
use banger_wire::id::{Digest, SandboxId, SnapshotId, VolumeId};
use banger_wire::machine::BootKey;
use banger_wire::net::{Policy, Subnet};
use banger_wire::size::Mib;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether an action found anything to do. Only the log looks at it; the next observation is the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It already was so.
    Unchanged,
    /// It is so now.
    Changed,
}

/// When to look again. It never says what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Desired state changed.
    Desired,
    /// A list of actions ended.
    ListDone,
    /// A process of a sandbox ended.
    Vmm(SandboxId),
    /// A guest says something new.
    Guest(SandboxId),
}

/// Says how far a long action is: so much, of so much (0 when that is unknown).
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// All four.
#[derive(Clone)]
pub struct Drivers {
    /// Images, kernels and disks.
    pub disk: Arc<dyn Disk>,
    /// Processes.
    pub vmm: Arc<dyn Vmm>,
    /// Guests.
    pub guest: Arc<dyn Guest>,
    /// The bridge, its ports and its rules; ports on the loopback.
    pub net: Arc<dyn Net>,
}

/// What the disk driver sees.
#[derive(Debug, Clone, Default)]
pub struct DiskFacts {
    /// Kernels by recipe.
    pub kernels: BTreeMap<Digest, Seen<ArtifactFact>>,
    /// Images by recipe.
    pub images: BTreeMap<Digest, Seen<ArtifactFact>>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, Seen<VolumeFact>>,
    /// Sandboxes' own disks.
    pub disks: BTreeMap<SandboxId, Seen<DiskFact>>,
    /// Sandboxes that have a folder, with a disk in it or without.
    pub folders: BTreeSet<SandboxId>,
    /// What nothing desired accounts for.
    pub foreign: Vec<String>,
}

/// A disk to make or to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskTarget {
    /// A volume's.
    Volume(VolumeId),
    /// A sandbox's own, above this image.
    Sandbox {
        /// Whose.
        sandbox: SandboxId,
        /// The image's recipe.
        recipe: Digest,
        /// The image's content.
        content: Digest,
        /// The snapshot that it begins from.
        origin: Option<Origin>,
    },
}

/// Something to remove from disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskRemoval {
    /// A kernel by recipe.
    Kernel(Digest),
    /// An image by recipe.
    Image(Digest),
    /// A volume with its data.
    Volume(VolumeId),
    /// A sandbox's own disk with its data.
    Sandbox(SandboxId),
    /// A snapshot with its data. Its memory is not on disk, but the helper's.
    Snapshot(SnapshotId),
}

/// Images, kernels and disks.
#[async_trait]
pub trait Disk: Send + Sync {
    /// What is there of all that is desired.
    async fn observe(&self, desired: &Desired) -> DiskFacts;
    /// Fetches and stores a kernel.
    async fn build_kernel(
        &self,
        recipe: &Digest,
        source: &KernelSource,
        progress: Progress,
    ) -> Result<Outcome, Fault>;
    /// Fetches or builds an image, and stores it.
    async fn build_image(
        &self,
        recipe: &Digest,
        source: &ImageSource,
        progress: Progress,
    ) -> Result<Outcome, Fault>;
    /// Makes a disk of this size, or makes it as large. Never smaller.
    async fn ensure_disk(&self, target: &DiskTarget, size: Mib) -> Result<Outcome, Fault>;
    /// Removes something. What is not there is no error.
    async fn remove(&self, what: &DiskRemoval) -> Result<Outcome, Fault>;
}

/// What the VMM driver sees of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmFacts {
    /// Its processes.
    pub vmm: Seen<VmmFact>,
    /// The folder of its run.
    pub run: Seen<RunFact>,
    /// The memory that it goes on from.
    pub suspended: Seen<SuspendedFact>,
    /// Whether it has a jail or a cgroup.
    pub jail: bool,
}

/// What the VMM driver sees.
#[derive(Debug, Clone, Default)]
pub struct VmmSeen {
    /// Of each sandbox.
    pub sandboxes: BTreeMap<SandboxId, VmmFacts>,
    /// Memories that machines can start from.
    pub templates: BTreeMap<BootKey, TemplateFact>,
    /// Memories of guests that were kept.
    pub memories: BTreeSet<BootKey>,
    /// Snapshots that are desired.
    pub snapshots: BTreeMap<SnapshotId, Seen<SnapshotFact>>,
    /// What nothing desired accounts for.
    pub foreign: Vec<String>,
}

/// How a machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// From a template where there is one; else it boots.
    Template,
    /// It boots.
    Boot,
    /// It goes on from the memory that was kept of its guest. That memory is given up before the guest goes on.
    Memory,
}

/// Processes.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// What is there of all that is desired.
    async fn observe(&self, desired: &Desired) -> VmmSeen;
    /// What guests can be run with here.
    fn backends(&self) -> Backends;
    /// Records the run and starts its processes.
    async fn start(&self, boot: &Boot, begin: Begin) -> Result<Outcome, Fault>;
    /// Lets a guest stand still and keeps its memory, for its sandbox to go on from. When that fails, it goes on at once.
    async fn suspend(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
    /// Keeps a sandbox's disk as it is now, and its memory, too, if that is asked for. Its guest stands still meanwhile.
    async fn take_snapshot(
        &self,
        snapshot: &SnapshotId,
        sandbox: &SandboxId,
        memory: bool,
    ) -> Result<Outcome, Fault>;
    /// Gives up the memory that a sandbox would go on from.
    async fn forget_memory(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
    /// Keeps the memory of a guest that waits for its identity. What fails is only said.
    async fn keep_template(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
    /// Drops a memory.
    async fn drop_memory(&self, memory: &BootKey) -> Result<Outcome, Fault>;
    /// Ends the processes: waits for them unless `kill`, then TERM, then KILL. They are gone when it returns well.
    async fn stop(&self, sandbox: &SandboxId, kill: bool) -> Result<Outcome, Fault>;
    /// Removes the folder of a run, its jail and its cgroup.
    async fn remove_run(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
    /// The end of what a sandbox wrote to its console, to explain why it ended.
    async fn last_words(&self, sandbox: &SandboxId) -> String;
}

/// What the guest driver hears of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFacts {
    /// What it says. Absent while it does not answer.
    pub state: Seen<GuestState>,
    /// Seconds since it was last heard, or since this daemon began to listen.
    pub silent_secs: u64,
}

/// Guests.
#[async_trait]
pub trait Guest: Send + Sync {
    /// What the guests of these running sandboxes say.
    async fn observe(&self, running: &[SandboxId]) -> BTreeMap<SandboxId, GuestFacts>;
    /// Gives a guest its identity, or a newer one.
    async fn identify(&self, sandbox: &SandboxId, identity: Identity) -> Result<Outcome, Fault>;
    /// Ships a workspace to a guest that has none.
    async fn ship(
        &self,
        sandbox: &SandboxId,
        workspace: &WorkspaceSpec,
        progress: Progress,
    ) -> Result<Outcome, Fault>;
    /// Asks a guest to write back what it holds of its disks. Best effort.
    async fn sync(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
    /// Asks a guest to shut down. Best effort: what it does not do, stopping its processes does.
    async fn shut_down(&self, sandbox: &SandboxId) -> Result<Outcome, Fault>;
}

/// What the net driver sees.
#[derive(Debug, Clone)]
pub struct NetFacts {
    /// The bridge and the rules of the host.
    pub network: Seen<NetworkFact>,
    /// Sandboxes' ports on the bridge. `Unknown` for all, or what is there.
    pub taps: Result<BTreeMap<SandboxId, TapFact>, String>,
    /// The open ports of the host's loopback, by sandbox: host to guest.
    pub ports: BTreeMap<SandboxId, BTreeMap<u16, u16>>,
}

/// One change of the bridge, its ports or its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetChange {
    /// Make the bridge, or make it as it should be.
    EnsureBridge(Subnet),
    /// Remove the bridge.
    RemoveBridge,
    /// Replace all rules.
    ApplyRules(Subnet, Policy),
    /// Remove all rules.
    RemoveRules,
    /// Let the host's resolver ask us.
    RouteNames,
    /// Make a sandbox's port, closed; or make it as it should be.
    EnsureTap(SandboxId),
    /// Open or close a sandbox's port.
    SetTap(SandboxId, bool),
    /// Remove a sandbox's port.
    RemoveTap(SandboxId),
}

/// The bridge, its ports and its rules; ports on the host's loopback.
#[async_trait]
pub trait Net: Send + Sync {
    /// What is there of all that is desired.
    async fn observe(&self, desired: &Desired) -> NetFacts;
    /// Makes one change.
    async fn change(&self, change: NetChange) -> Result<Outcome, Fault>;
    /// Opens a port of the loopback.
    async fn publish(&self, sandbox: &SandboxId, host: u16, guest: u16) -> Result<Outcome, Fault>;
    /// Closes a port of the loopback.
    async fn unpublish(&self, sandbox: &SandboxId, host: u16) -> Result<Outcome, Fault>;
}
