//! What a Bangerfile says, as a value. It is also the canonical form that crosses to the daemon, as JSON.

mod image;
mod network;
mod sandbox;

pub use image::{
    DebianImage, ImageSource, ImageSpec, KernelSource, KernelSpec, LocalFile, OciImage,
};
pub use network::{NetworkSpec, Scope};
pub use sandbox::{Drift, Mode, Mount, Publish, ReadySpec, Restart, SandboxSpec, WorkspaceSpec};

use banger_wire::id::Name;
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that one project wants to exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The project's name, when the file gives it.
    pub project: Option<Name>,
    /// Kernels by name.
    pub kernels: BTreeMap<Name, KernelSpec>,
    /// Images by name.
    pub images: BTreeMap<Name, ImageSpec>,
    /// Volumes by name.
    pub volumes: BTreeMap<Name, VolumeSpec>,
    /// Networks by name.
    #[serde(default)]
    pub networks: BTreeMap<Name, NetworkSpec>,
    /// Sandboxes by name.
    pub sandboxes: BTreeMap<Name, SandboxSpec>,
}

/// A disk that outlives its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its size. It may grow.
    pub size: Mib,
}
