//! What should exist on this host: every project's spec plus every choice that was made for it.
//!
//! This is what the store keeps. It holds intent only, never a fact.

use banger_schema::Spec;
use banger_schema::spec::{ImageSource, KernelSource, SandboxSpec};
use banger_wire::id::{Cid, Digest, Generation, InstallId, Name, SandboxId, SnapshotId, VolumeId};
use banger_wire::net::{HostNumber, Subnet};
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything that should exist on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// This installation.
    pub install: InstallId,
    /// How many sandboxes and volumes were ever assigned: makes ids that are never reused.
    pub serial: u64,
    /// What each project says.
    pub projects: BTreeMap<Name, Spec>,
    /// Kernels by the digest of their recipe.
    pub kernels: BTreeMap<Digest, DesiredKernel>,
    /// Images by the digest of their recipe.
    pub images: BTreeMap<Digest, DesiredImage>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, DesiredVolume>,
    /// Sandboxes. One that should go stays here until it was seen gone, and keeps its numbers till then.
    pub sandboxes: BTreeMap<SandboxId, DesiredSandbox>,
    /// Snapshots. They outlive their sandboxes.
    pub snapshots: BTreeMap<SnapshotId, DesiredSnapshot>,
    /// The subnet of this installation, chosen free of the host's routes. `None` while there is none.
    pub subnet: Option<Subnet>,
    /// Addresses that were given back, and when, in seconds since 1970: they are not used again at once (R-D6).
    pub cooling: BTreeMap<HostNumber, u64>,
}

impl Desired {
    /// Nothing, on this installation.
    pub fn empty(install: InstallId) -> Self {
        Self {
            install,
            serial: 0,
            projects: BTreeMap::new(),
            kernels: BTreeMap::new(),
            images: BTreeMap::new(),
            volumes: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            subnet: None,
            cooling: BTreeMap::new(),
        }
    }

    /// A sandbox's address, as long as there is a subnet.
    pub fn address(&self, sandbox: &DesiredSandbox) -> Option<std::net::Ipv4Addr> {
        self.subnet.map(|subnet| subnet.address(sandbox.host))
    }

    /// The wanted sandbox of this project and name.
    pub fn sandbox(&self, project: &Name, name: &Name) -> Option<&DesiredSandbox> {
        self.sandboxes
            .values()
            .find(|s| s.life == Life::Wanted && s.project == *project && s.name == *name)
    }

    /// Whether there is nothing that the loop would have to keep true.
    pub fn is_idle(&self) -> bool {
        self.sandboxes.is_empty()
            && self.volumes.values().all(|volume| volume.life == Life::Wanted)
            && self.snapshots.values().all(|snapshot| snapshot.life == Life::Wanted)
            && !self.kernels.values().any(|kernel| kernel.life == ArtifactLife::Removed)
            && !self.images.values().any(|image| image.life == ArtifactLife::Removed)
    }
}

/// Whether a thing should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It should.
    Wanted,
    /// It should go.
    Removed,
}

/// Whether a built thing should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactLife {
    /// A project declares or uses it.
    Wanted,
    /// Nobody does any more; it may stay as a cache.
    Cached,
    /// It should go.
    Removed,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredKernel {
    /// What it is made from.
    pub source: KernelSource,
    /// Whether it should be there.
    pub life: ArtifactLife,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredImage {
    /// What it is made from.
    pub source: ImageSource,
    /// Whether it should be there.
    pub life: ArtifactLife,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredVolume {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Its size.
    pub size: Mib,
    /// Whether it should be there.
    pub life: Life,
}

/// A snapshot of a sandbox: its disk, and its memory where that is possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredSnapshot {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// What it is of.
    pub sandbox: SandboxId,
    /// What that was called.
    pub of: Name,
    /// Whether it should be there.
    pub life: Life,
    /// Whether the memory is left out.
    pub disk_only: bool,
    /// What the sandbox was made from.
    pub image: Digest,
    /// The same of its kernel.
    pub kernel: Digest,
    /// What its file said.
    pub spec: SandboxSpec,
}

/// Where a sandbox's disk begins, when it is not empty at first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Counts: a disk that is put back to the same snapshot twice is made twice.
    pub count: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.snapshot, self.count)
    }
}

impl std::str::FromStr for Origin {
    type Err = banger_wire::id::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (snapshot, count) = text.split_once('-').unwrap_or((text, ""));
        let rule = || "it is a snapshot's id and a number".to_string();
        let count = count.parse();
        let count = count.map_err(|_| Self::Err { what: "origin", rule: rule() })?;
        Ok(Self { snapshot: SnapshotId::new(snapshot)?, count })
    }
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredSandbox {
    /// Its identity.
    pub id: SandboxId,
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Counts the changes of everything below.
    pub generation: Generation,
    /// Whether it should be there.
    pub life: Life,
    /// Whether its disk may be destroyed to reach this generation.
    pub consent: bool,
    /// Whether it lives only as long as a client's connection.
    pub ephemeral: bool,
    /// Its vsock address.
    pub cid: Cid,
    /// Its number in the subnet, which gives its address.
    pub host: HostNumber,
    /// Its image's recipe.
    pub image: Digest,
    /// Its kernel's recipe.
    pub kernel: Digest,
    /// Its volumes, in the order of their devices.
    pub volumes: Vec<VolumeId>,
    /// The snapshot that its disk begins from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What its file says.
    pub spec: SandboxSpec,
}

impl DesiredSandbox {
    /// Whether it should run.
    pub fn runs(&self) -> bool {
        self.life == Life::Wanted && self.spec.mode == banger_schema::spec::Mode::Running
    }
}

/// Whatever has a list of actions of its own. The order is the order of a plan: host first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The bridge and the rules of the whole host.
    Network,
    /// Memories that machines start from.
    Memories,
    /// A kernel, by recipe.
    Kernel(Digest),
    /// An image, by recipe.
    Image(Digest),
    /// A volume.
    Volume(VolumeId),
    /// A sandbox.
    Sandbox(SandboxId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl Key {
    /// The kind's place in a plan: host first.
    pub fn kind(&self) -> u8 {
        match self {
            Key::Network | Key::Memories => 0,
            Key::Kernel(_) => 1,
            Key::Image(_) => 2,
            Key::Volume(_) => 3,
            Key::Sandbox(_) => 4,
            Key::Snapshot(_) => 5,
        }
    }

    /// The sandbox, when it is one.
    pub fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Key::Sandbox(id) => Some(id),
            Key::Network
            | Key::Memories
            | Key::Kernel(_)
            | Key::Image(_)
            | Key::Volume(_)
            | Key::Snapshot(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Network => f.write_str("network"),
            Key::Memories => f.write_str("memories"),
            Key::Kernel(digest) => write!(f, "kernel {}", digest.short()),
            Key::Image(digest) => write!(f, "image {}", digest.short()),
            Key::Volume(id) => write!(f, "volume {id}"),
            Key::Sandbox(id) => write!(f, "sandbox {id}"),
            Key::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

impl Desired {
    /// A thing's name for people: `sandbox web`, `image dev`.
    pub fn title(&self, key: &Key) -> String {
        let named = |kind: &str, name: Option<&Name>| match name {
            Some(name) => format!("{kind} {name}"),
            None => key.to_string(),
        };
        match key {
            Key::Network | Key::Memories => key.to_string(),
            Key::Kernel(digest) => named("kernel", self.kernel_names(digest).first().map(|n| n.1)),
            Key::Image(digest) => named("image", self.image_names(digest).first().map(|n| n.1)),
            Key::Volume(id) => named("volume", self.volumes.get(id).map(|v| &v.name)),
            Key::Sandbox(id) => named("sandbox", self.sandboxes.get(id).map(|s| &s.name)),
            Key::Snapshot(id) => named("snapshot", self.snapshots.get(id).map(|s| &s.name)),
        }
    }

    /// The names under which projects know a kernel: `(project, name)`, the catalog's with no project.
    pub fn kernel_names(&self, digest: &Digest) -> Vec<(Option<&Name>, &Name)> {
        let own = self.projects.iter().flat_map(|(project, spec)| {
            spec.kernels.iter().map(move |(name, kernel)| (Some(project), name, kernel))
        });
        let catalog = banger_schema::catalog::embedded();
        own.chain(catalog.kernels.iter().map(|(name, kernel)| (None, name, kernel)))
            .filter(|(_, _, kernel)| crate::recipe::kernel(&kernel.source) == *digest)
            .map(|(project, name, _)| (project, name))
            .collect()
    }

    /// The names under which projects know an image: `(project, name)`, the catalog's with no project.
    pub fn image_names(&self, digest: &Digest) -> Vec<(Option<&Name>, &Name)> {
        let own = self.projects.iter().flat_map(|(project, spec)| {
            spec.images.iter().map(move |(name, image)| (Some(project), name, image))
        });
        let catalog = banger_schema::catalog::embedded();
        own.chain(catalog.images.iter().map(|(name, image)| (None, name, image)))
            .filter(|(_, _, image)| crate::recipe::image(&image.source) == *digest)
            .map(|(project, name, _)| (project, name))
            .collect()
    }
}

impl Desired {
    /// Whether a thing belongs to a project, or something of the project is made from it.
    pub fn belongs(&self, key: &Key, project: &Name) -> bool {
        let ours = |s: &&DesiredSandbox| s.project == *project;
        match key {
            Key::Network => self.sandboxes.values().any(|s| s.project == *project),
            // They come and go without anybody asking.
            Key::Memories => false,
            Key::Kernel(digest) => {
                self.sandboxes.values().filter(ours).any(|s| s.kernel == *digest)
                    || self.kernel_names(digest).iter().any(|(owner, _)| *owner == Some(project))
            }
            Key::Image(digest) => self.uses_image(digest, project),
            Key::Volume(id) => self.volumes.get(id).is_some_and(|v| v.project == *project),
            Key::Sandbox(id) => self.sandboxes.get(id).is_some_and(|s| s.project == *project),
            Key::Snapshot(id) => self.snapshots.get(id).is_some_and(|s| s.project == *project),
        }
    }

    /// A sandbox and what it is made from.
    pub fn needs(&self, id: &SandboxId) -> Vec<Key> {
        let Some(sandbox) = self.sandboxes.get(id) else { return Vec::new() };
        let mut keys = vec![
            Key::Sandbox(id.clone()),
            Key::Network,
            Key::Kernel(sandbox.kernel.clone()),
            Key::Image(sandbox.image.clone()),
        ];
        keys.extend(sandbox.volumes.iter().cloned().map(Key::Volume));
        keys
    }

    fn uses_image(&self, digest: &Digest, project: &Name) -> bool {
        self.sandboxes.values().any(|s| s.project == *project && s.image == *digest)
            || self.image_names(digest).iter().any(|(owner, _)| *owner == Some(project))
    }
}
