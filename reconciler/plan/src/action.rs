//! One driver call with one effect, carrying only the data it needs. It prints as one line.

use crate::actual::ImageConfig;
use crate::boot::{Boot, Nic};
use crate::desired::Origin;
use banger_schema::spec::{ImageSource, KernelSource, WorkspaceSpec};
use banger_wire::id::{Digest, Generation, Name, SandboxId, SnapshotId, VolumeId};
use banger_wire::machine::BootKey;
use banger_wire::net::{Policy, Subnet};
use banger_wire::size::Mib;
use std::fmt;

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the bridge, or make it as it should be.
    EnsureBridge {
        /// Its subnet.
        subnet: Subnet,
    },
    /// Remove the bridge.
    RemoveBridge,
    /// Replace all rules in one step.
    ApplyRules {
        /// The bridge's subnet.
        subnet: Subnet,
        /// What they enforce.
        policy: Box<Policy>,
    },
    /// Remove all rules.
    RemoveRules,
    /// Let the host's resolver ask us for names of sandboxes.
    RouteNames,
    /// Fetch and store a kernel.
    BuildKernel {
        /// Its recipe.
        recipe: Digest,
        /// What it is made from.
        source: KernelSource,
    },
    /// Remove a stored kernel.
    RemoveKernel {
        /// Its recipe.
        recipe: Digest,
    },
    /// Build and store an image.
    BuildImage {
        /// Its recipe.
        recipe: Digest,
        /// What it is made from.
        source: ImageSource,
    },
    /// Remove a stored image.
    RemoveImage {
        /// Its recipe.
        recipe: Digest,
    },
    /// Make a volume's disk.
    CreateVolume {
        /// Whose.
        volume: VolumeId,
        /// Its size.
        size: Mib,
    },
    /// Make a volume's disk larger.
    GrowVolume {
        /// Whose.
        volume: VolumeId,
        /// From.
        from: Mib,
        /// To.
        size: Mib,
    },
    /// Destroy a volume's disk.
    RemoveVolume {
        /// Whose.
        volume: VolumeId,
    },
    /// Make a sandbox's own disk.
    CreateDisk {
        /// Whose.
        sandbox: SandboxId,
        /// Its size.
        size: Mib,
        /// The recipe of the image below it.
        recipe: Digest,
        /// The content of the image below it; the recipe's current one when it is not built yet.
        content: Option<Digest>,
        /// The snapshot whose disk it begins from.
        origin: Option<Origin>,
    },
    /// Make a sandbox's own disk larger.
    GrowDisk {
        /// Whose.
        sandbox: SandboxId,
        /// The recipe of the image below it.
        recipe: Digest,
        /// The content of the image below it.
        content: Digest,
        /// The snapshot that it began from.
        origin: Option<Origin>,
        /// From.
        from: Mib,
        /// To.
        size: Mib,
    },
    /// Destroy a sandbox's own disk.
    RemoveDisk {
        /// Whose.
        sandbox: SandboxId,
        /// Whether anybody would miss it.
        ephemeral: bool,
    },
    /// Make a sandbox's port on the bridge, closed; or make it as it should be.
    EnsureTap {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Open its port.
    RaiseTap {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Close its port.
    CutTap {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Remove its port.
    RemoveTap {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Start the processes. The run's record is written first.
    StartVmm {
        /// With what. `None` in a plan whose image or kernel is not built yet.
        boot: Option<Box<Boot>>,
        /// Whose.
        sandbox: SandboxId,
        /// Whether it boots even where there is a template.
        cold: bool,
        /// Whether it goes on from the memory that was kept.
        wakes: bool,
        /// Processors, for people.
        cpus: u8,
        /// Memory, for people.
        memory: Mib,
    },
    /// Keep the memory of a guest that waits for its identity. Best effort: nothing depends on it.
    KeepTemplate {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Drop a memory that nothing goes on from.
    DropMemory {
        /// Which.
        memory: BootKey,
    },
    /// Ask the guest to write back what it holds of its disks. Best effort.
    SyncGuest {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Keep the memory of a guest, for its sandbox to go on from. It stands still from then on.
    Suspend {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Keep a sandbox's disk as it is now, and its memory.
    TakeSnapshot {
        /// Which.
        snapshot: SnapshotId,
        /// Of which sandbox.
        sandbox: SandboxId,
        /// Whether its memory is kept, too.
        memory: bool,
        /// What it is called, for people.
        name: Name,
    },
    /// Remove a snapshot. Its memory goes when nothing needs it.
    RemoveSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Give up the memory that a sandbox would go on from.
    ForgetMemory {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Ask the guest to stop its services, sync and power off. Best effort: the next action makes sure.
    ShutdownGuest {
        /// Whose.
        sandbox: SandboxId,
    },
    /// End the processes: wait, then TERM, then KILL. They are gone afterwards.
    StopVmm {
        /// Whose.
        sandbox: SandboxId,
        /// Do not wait for the guest.
        kill: bool,
    },
    /// Remove the folder of a run.
    RemoveRun {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Give the guest its identity, or a newer one.
    Identify {
        /// Whose.
        sandbox: SandboxId,
        /// Which.
        generation: Generation,
        /// How its card is connected.
        nic: Nic,
        /// How its image says that programs are run.
        config: Box<ImageConfig>,
    },
    /// Ship its workspace: all of it, before anything is provisioned.
    ShipWorkspace {
        /// Whose.
        sandbox: SandboxId,
        /// What, and where to.
        workspace: WorkspaceSpec,
    },
    /// Open a port on the host's loopback that leads into the guest.
    Publish {
        /// Whose.
        sandbox: SandboxId,
        /// The host's port.
        host: u16,
        /// The guest's port.
        guest: u16,
    },
    /// Close such a port.
    Unpublish {
        /// Whose.
        sandbox: SandboxId,
        /// The host's port.
        host: u16,
    },
}

impl Action {
    /// Whether it destroys data that somebody might miss.
    pub fn destroys(&self) -> bool {
        match self {
            Action::RemoveVolume { .. } | Action::RemoveSnapshot { .. } => true,
            Action::RemoveDisk { ephemeral, .. } => !ephemeral,
            Action::BuildKernel { .. }
            | Action::RemoveKernel { .. }
            | Action::BuildImage { .. }
            | Action::RemoveImage { .. }
            | Action::CreateVolume { .. }
            | Action::GrowVolume { .. }
            | Action::CreateDisk { .. }
            | Action::GrowDisk { .. }
            | Action::StartVmm { .. }
            | Action::ShutdownGuest { .. }
            | Action::StopVmm { .. }
            | Action::RemoveRun { .. }
            | Action::KeepTemplate { .. }
            | Action::DropMemory { .. }
            | Action::SyncGuest { .. }
            | Action::Suspend { .. }
            | Action::TakeSnapshot { .. }
            | Action::ForgetMemory { .. }
            | Action::Identify { .. }
            | Action::ShipWorkspace { .. }
            | Action::Publish { .. }
            | Action::Unpublish { .. }
            | Action::EnsureBridge { .. }
            | Action::RemoveBridge
            | Action::ApplyRules { .. }
            | Action::RemoveRules
            | Action::RouteNames
            | Action::EnsureTap { .. }
            | Action::RaiseTap { .. }
            | Action::CutTap { .. }
            | Action::RemoveTap { .. } => false,
        }
    }

    /// `+` makes, `-` removes, `~` changes.
    pub fn sign(&self) -> char {
        match self {
            Action::BuildKernel { .. }
            | Action::BuildImage { .. }
            | Action::CreateVolume { .. }
            | Action::CreateDisk { .. }
            | Action::StartVmm { .. }
            | Action::KeepTemplate { .. }
            | Action::TakeSnapshot { .. }
            | Action::EnsureBridge { .. }
            | Action::EnsureTap { .. }
            | Action::ShipWorkspace { .. }
            | Action::Publish { .. } => '+',
            Action::RemoveKernel { .. }
            | Action::RemoveImage { .. }
            | Action::RemoveVolume { .. }
            | Action::RemoveDisk { .. }
            | Action::ShutdownGuest { .. }
            | Action::StopVmm { .. }
            | Action::RemoveRun { .. }
            | Action::DropMemory { .. }
            | Action::ForgetMemory { .. }
            | Action::RemoveSnapshot { .. }
            | Action::RemoveBridge
            | Action::RemoveRules
            | Action::RemoveTap { .. }
            | Action::Unpublish { .. } => '-',
            Action::SyncGuest { .. }
            | Action::Suspend { .. }
            | Action::GrowVolume { .. }
            | Action::GrowDisk { .. }
            | Action::ApplyRules { .. }
            | Action::RouteNames
            | Action::RaiseTap { .. }
            | Action::CutTap { .. }
            | Action::Identify { .. } => '~',
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::BuildKernel { source, .. } => {
                write!(f, "fetch {}", crate::recipe::describe_kernel(source))
            }
            Action::BuildImage { source, .. } => {
                write!(f, "build {}", crate::recipe::describe_image(source))
            }
            Action::RemoveKernel { .. } | Action::RemoveImage { .. } => f.write_str("remove"),
            Action::CreateVolume { size, .. } => write!(f, "create {size}"),
            Action::GrowVolume { from, size, .. } => write!(f, "grow {from} → {size}"),
            Action::RemoveVolume { .. } => f.write_str("destroy with its data"),
            Action::CreateDisk { size, origin: Some(_), .. } => {
                write!(f, "create disk {size} from its snapshot")
            }
            Action::CreateDisk { size, .. } => write!(f, "create disk {size}"),
            Action::GrowDisk { from, size, .. } => write!(f, "grow disk {from} → {size}"),
            Action::RemoveDisk { ephemeral: true, .. } => f.write_str("clean up disk"),
            Action::RemoveDisk { ephemeral: false, .. } => {
                f.write_str("destroy disk with its data")
            }
            Action::StartVmm { wakes: true, .. } => f.write_str("go on from its memory"),
            Action::StartVmm { cpus, memory, .. } => {
                write!(f, "start with {cpus} cpu{}, {memory}", if *cpus == 1 { "" } else { "s" })
            }
            Action::ShutdownGuest { .. } => f.write_str("shut down guest"),
            Action::StopVmm { kill: true, .. } => f.write_str("kill"),
            Action::StopVmm { kill: false, .. } => f.write_str("stop"),
            Action::RemoveRun { .. } => f.write_str("clean up run"),
            Action::KeepTemplate { .. } => f.write_str("keep a template"),
            Action::DropMemory { memory } => write!(f, "drop {}", memory.as_str()),
            Action::SyncGuest { .. } => f.write_str("sync its disks"),
            Action::Suspend { .. } => f.write_str("suspend"),
            Action::TakeSnapshot { name, memory: true, .. } => {
                write!(f, "take snapshot {name} of its disk and memory")
            }
            Action::TakeSnapshot { name, memory: false, .. } => {
                write!(f, "take snapshot {name} of its disk")
            }
            Action::RemoveSnapshot { .. } => f.write_str("destroy with its data"),
            Action::ForgetMemory { .. } => f.write_str("give up its memory"),
            Action::Identify { generation, .. } => {
                write!(f, "identify as generation {}", generation.0)
            }
            Action::ShipWorkspace { workspace, .. } => {
                write!(f, "ship {} to {}", workspace.folder, workspace.at)
            }
            Action::EnsureBridge { subnet } => write!(f, "make the bridge {subnet}"),
            Action::RemoveBridge => f.write_str("remove the bridge"),
            Action::ApplyRules { policy, .. } => {
                let count = policy.ports.len();
                write!(f, "enforce rules for {count} sandbox{}", if count == 1 { "" } else { "es" })
            }
            Action::RemoveRules => f.write_str("remove the rules"),
            Action::RouteNames => f.write_str("route names to banger"),
            Action::EnsureTap { .. } => f.write_str("make its port"),
            Action::RaiseTap { .. } => f.write_str("open its port"),
            Action::CutTap { sandbox } => write!(f, "close the port of {sandbox}"),
            Action::RemoveTap { .. } => f.write_str("remove its port"),
            Action::Publish { host, guest, .. } => write!(f, "publish 127.0.0.1:{host} → {guest}"),
            Action::Unpublish { host, .. } => write!(f, "close 127.0.0.1:{host}"),
        }
    }
}
