//! What is refused before anything is stored: what would lose data, and what the host cannot carry.

use crate::desired::{ArtifactLife, Desired, Life};
use banger_schema::spec::{Mode, Spec};
use banger_wire::id::{Digest, Name};
use banger_wire::size::Mib;

/// What the host can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Its memory.
    pub memory_mib: u64,
    /// Its processors.
    pub cpus: u32,
}

/// How much of the host's memory all running sandboxes may be given, in hundredths.
const MEMORY_SHARE: u64 = 80;
/// Nothing that needs space is begun below this much of it (R-R13).
pub const LEAST_FREE_MIB: u64 = 2048;
/// How many sandboxes one host carries at most.
const MAX_SANDBOXES: usize = 1000;

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Disks never shrink.
    #[error("{what} cannot shrink from {from} to {to}: its data might not fit")]
    Shrink {
        /// Which disk.
        what: String,
        /// From.
        from: Mib,
        /// To.
        to: Mib,
    },
    /// Too much memory.
    #[error(
        "the running sandboxes would have {wanted_mib} MiB of memory, more than {MEMORY_SHARE} % \
         of the host's {host_mib} MiB"
    )]
    Memory {
        /// What all running sandboxes would have.
        wanted_mib: u64,
        /// What the host has.
        host_mib: u64,
    },
    /// Too many processors in one sandbox.
    #[error("sandbox {name} wants {cpus} processors, and the host has {host}")]
    Cpus {
        /// Which.
        name: Name,
        /// What it wants.
        cpus: u8,
        /// What the host has.
        host: u32,
    },
    /// Too many sandboxes.
    #[error("there would be {0} sandboxes, more than the {MAX_SANDBOXES} that one host carries")]
    Count(usize),
    /// More networks and members than can be enforced in one step.
    #[error("the sandboxes would be on too many networks for one host")]
    Networks,
    /// Another project has this port.
    #[error("port {port} of sandbox {name} is already published by {owner}")]
    Port {
        /// Which port.
        port: u16,
        /// Who wants it.
        name: Name,
        /// Who has it, `project/name`.
        owner: String,
    },
    /// It is in use.
    #[error("{what} is used by {users}")]
    Used {
        /// What.
        what: String,
        /// By whom.
        users: String,
    },
}

impl Refusal {
    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Refusal::Shrink { .. } => {
                "make a new one with another name and copy what you need".into()
            }
            Refusal::Memory { .. } => "stop some sandboxes or give them less memory".into(),
            Refusal::Cpus { .. } => "give it fewer".into(),
            Refusal::Networks => "put sandboxes on fewer networks".into(),
            Refusal::Count(_) => "remove some: banger ps shows them".into(),
            Refusal::Port { .. } => "choose another port".into(),
            Refusal::Used { .. } => "remove what uses it first".into(),
        }
    }
}

/// Whether `next`, which came from giving `project` this `spec`, may replace `previous`.
///
/// # Errors
/// The first reason why not.
pub fn admit(
    previous: &Desired,
    next: &Desired,
    project: &Name,
    spec: &Spec,
    host: Capacity,
) -> Result<(), Refusal> {
    for volume in previous.volumes.values() {
        let wanted = spec.volumes.get(&volume.name);
        if volume.project == *project
            && volume.life == Life::Wanted
            && let Some(wanted) = wanted
            && wanted.size < volume.size
        {
            let what = format!("volume {}", volume.name);
            return Err(Refusal::Shrink { what, from: volume.size, to: wanted.size });
        }
    }
    for (name, wanted) in &spec.sandboxes {
        let had = previous.sandbox(project, name).map_or(0, |old| old.spec.cpus);
        if wanted.cpus > had && u32::from(wanted.cpus) > host.cpus.max(1) {
            let (name, cpus) = (name.clone(), wanted.cpus);
            return Err(Refusal::Cpus { name, cpus, host: host.cpus });
        }
        let (old, new) = (previous.sandbox(project, name), next.sandbox(project, name));
        if let (Some(old), Some(new)) = (old, new)
            && old.image == new.image
            && wanted.disk < old.spec.disk
        {
            let what = format!("the disk of sandbox {name}");
            return Err(Refusal::Shrink { what, from: old.spec.disk, to: wanted.disk });
        }
    }
    if next.sandboxes.len() > MAX_SANDBOXES {
        return Err(Refusal::Count(next.sandboxes.len()));
    }
    networks(next)?;
    memory(previous, next, host)?;
    ports(next, project, spec)
}

/// What is enforced goes to the helper in one message.
fn networks(next: &Desired) -> Result<(), Refusal> {
    const LARGEST: usize = banger_wire::helper::MAX_MESSAGE - 1024;
    let policy = crate::policy::policy(next);
    let groups = policy.ports.iter().flat_map(|port| port.3.iter().copied()).max();
    let text = serde_json::to_vec(&policy).expect("plain values encode");
    let fits = groups.is_none_or(|last| usize::from(last) < banger_wire::net::Policy::MAX);
    if text.len() <= LARGEST && fits { Ok(()) } else { Err(Refusal::Networks) }
}

fn memory(previous: &Desired, next: &Desired, host: Capacity) -> Result<(), Refusal> {
    let total = |desired: &Desired| -> u64 {
        let running = desired.sandboxes.values().filter(|sandbox| sandbox.runs());
        running.map(|sandbox| sandbox.spec.memory.get()).sum()
    };
    let wanted_mib = total(next);
    // What makes it no worse is always allowed: it may be the way back.
    if wanted_mib > total(previous) && wanted_mib * 100 > host.memory_mib * MEMORY_SHARE {
        return Err(Refusal::Memory { wanted_mib, host_mib: host.memory_mib });
    }
    Ok(())
}

fn ports(next: &Desired, project: &Name, spec: &Spec) -> Result<(), Refusal> {
    for (name, sandbox) in &spec.sandboxes {
        for publish in sandbox.publish.iter().filter(|_| sandbox.mode == Mode::Running) {
            let mut others = next.sandboxes.values().filter(|o| o.runs() && o.project != *project);
            let owner = others.find(|o| o.spec.publish.iter().any(|p| p.host == publish.host));
            if let Some(owner) = owner {
                let owner = format!("{}/{}", owner.project, owner.name);
                return Err(Refusal::Port { port: publish.host, name: name.clone(), owner });
            }
        }
    }
    Ok(())
}

/// Marks an image as not wanted any more.
///
/// # Errors
/// When a sandbox uses it or a project declares it.
pub fn remove_image(desired: &mut Desired, recipe: &Digest) -> Result<(), Refusal> {
    let users = desired.sandboxes.values().filter(|s| s.image == *recipe);
    let mut users: Vec<String> = users.map(|s| format!("{}/{}", s.project, s.name)).collect();
    let snapshots = desired.snapshots.values().filter(|s| s.image == *recipe);
    users.extend(snapshots.map(|s| format!("snapshot {} of {}", s.name, s.project)));
    let declared = desired.image_names(recipe).into_iter().filter_map(|(project, _)| project);
    users.extend(declared.map(|project| format!("the Bangerfile of {project}")));
    if !users.is_empty() {
        let what = desired.title(&crate::desired::Key::Image(recipe.clone()));
        return Err(Refusal::Used { what, users: users.join(", ") });
    }
    if let Some(image) = desired.images.get_mut(recipe) {
        image.life = ArtifactLife::Removed;
    }
    Ok(())
}

/// Marks a kernel as not wanted any more.
///
/// # Errors
/// When a sandbox uses it or a project declares it.
pub fn remove_kernel(desired: &mut Desired, recipe: &Digest) -> Result<(), Refusal> {
    let users = desired.sandboxes.values().filter(|s| s.kernel == *recipe);
    let mut users: Vec<String> = users.map(|s| format!("{}/{}", s.project, s.name)).collect();
    let snapshots = desired.snapshots.values().filter(|s| s.kernel == *recipe);
    users.extend(snapshots.map(|s| format!("snapshot {} of {}", s.name, s.project)));
    let declared = desired.kernel_names(recipe).into_iter().filter_map(|(project, _)| project);
    users.extend(declared.map(|project| format!("the Bangerfile of {project}")));
    if !users.is_empty() {
        let what = desired.title(&crate::desired::Key::Kernel(recipe.clone()));
        return Err(Refusal::Used { what, users: users.join(", ") });
    }
    if let Some(kernel) = desired.kernels.get_mut(recipe) {
        kernel.life = ArtifactLife::Removed;
    }
    Ok(())
}
