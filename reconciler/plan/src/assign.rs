//! Spec to Desired: every choice is made here, once, and stored before any effect.
//!
//! Numbers of a sandbox that should go stay taken until it was seen gone ([`forget`]).

use crate::actual::Actual;
use crate::desired::{
    ArtifactLife, Desired, DesiredImage, DesiredKernel, DesiredSandbox, DesiredVolume, Key, Life,
};
use crate::recipe;
use banger_schema::catalog;
use banger_schema::spec::{Mode, SandboxSpec, Spec};
use banger_wire::id::{Cid, Digest, Generation, Name, SandboxId, VolumeId};
use banger_wire::net::{HostNumber, Subnet};
use std::collections::{BTreeMap, BTreeSet};

/// Gives a project a spec: what is not in it any more should go.
///
/// `consent` allows a sandbox whose image changes here to lose its disk. The spec must have passed
/// [`check`](banger_schema::check::check); names that it leaves undeclared come from the catalog.
pub fn assign(previous: &Desired, project: &Name, spec: &Spec, consent: bool) -> Desired {
    let mut next = previous.clone();
    let empty = spec.sandboxes.is_empty()
        && spec.volumes.is_empty()
        && spec.images.is_empty()
        && spec.networks.is_empty()
        && spec.kernels.is_empty();
    if empty {
        next.projects.remove(project);
    } else {
        next.projects.insert(project.clone(), spec.clone());
    }
    assign_volumes(&mut next, project, spec);
    for sandbox in next.sandboxes.values_mut() {
        if sandbox.project == *project && !spec.sandboxes.contains_key(&sandbox.name) {
            sandbox.life = Life::Removed;
        }
    }
    for (name, sandbox) in &spec.sandboxes {
        // Restarts are asked for by counting up. A file counts from 0 again, which asks for nothing.
        let before = previous.projects.get(project).and_then(|before| before.sandboxes.get(name));
        let before = before.map_or(0, |before| before.restarts);
        let asked = sandbox.restarts.saturating_sub(before);
        assign_sandbox(&mut next, project, name, spec, sandbox, asked, consent);
    }
    assign_artifacts(&mut next);
    next
}

fn assign_volumes(next: &mut Desired, project: &Name, spec: &Spec) {
    for volume in next.volumes.values_mut().filter(|volume| volume.project == *project) {
        if !spec.volumes.contains_key(&volume.name) {
            volume.life = Life::Removed;
        }
    }
    for (name, volume) in &spec.volumes {
        let found = next.volumes.values_mut().find(|known| {
            known.project == *project && known.name == *name && known.life == Life::Wanted
        });
        match found {
            // A volume never shrinks: its data might not fit.
            Some(known) => known.size = known.size.max(volume.size),
            None => {
                let id = VolumeId::from_bits(bits(next, project, name));
                let (project, name, size) = (project.clone(), name.clone(), volume.size);
                next.volumes.insert(id, DesiredVolume { project, name, size, life: Life::Wanted });
            }
        }
    }
}

/// 128 bits that no other thing of this installation ever had.
pub(crate) fn bits(next: &mut Desired, project: &Name, name: &Name) -> u128 {
    next.serial += 1;
    let digest = recipe::digest(&("id", &next.install, next.serial, project, name));
    u128::from_str_radix(&digest.as_str()[..32], 16).expect("hex digits")
}

fn assign_sandbox(
    next: &mut Desired,
    project: &Name,
    name: &Name,
    spec: &Spec,
    sandbox: &SandboxSpec,
    restarts_asked: u32,
    consent: bool,
) {
    let image = catalog::image(spec, &sandbox.image).expect("the spec was checked");
    let default_kernel = Name::new(catalog::DEFAULT_KERNEL).expect("a valid name");
    let kernel = sandbox.kernel.as_ref().or(image.kernel.as_ref()).unwrap_or(&default_kernel);
    let kernel = catalog::kernel(spec, kernel).expect("the spec was checked");
    let volume_of = |volume: &Name| {
        let mut of_project = next.volumes.iter().filter(|(_, v)| v.project == *project);
        let found = of_project.find(|(_, v)| v.name == *volume && v.life == Life::Wanted);
        found.map(|(id, _)| id.clone()).expect("the spec was checked")
    };
    let volumes: Vec<VolumeId> = sandbox.volumes.iter().map(|m| volume_of(&m.volume)).collect();
    let (image, kernel) = (recipe::image(&image.source), recipe::kernel(&kernel.source));
    let mut spec = sandbox.clone();
    let known = next.sandbox(project, name).map(|known| known.id.clone());
    if let Some(known) = known.and_then(|id| next.sandboxes.get_mut(&id)) {
        // A disk never shrinks, and a restart that was asked for by command is not undone by the file.
        spec.disk = if known.image == image { spec.disk.max(known.spec.disk) } else { spec.disk };
        spec.restarts = known.spec.restarts + restarts_asked;
        if known.spec.mode == Mode::Stopped && spec.mode == Mode::Running {
            // Another boot than the one that was stopped, even if that one is still on its way out.
            spec.restarts += 1;
        }
        let replaced = known.image != image;
        // Another image's disk begins empty.
        let origin = known.origin.clone().filter(|_| !replaced);
        let after = DesiredSandbox { image, kernel, volumes, origin, spec, ..known.clone() };
        if after != *known {
            let generation = Generation(known.generation.0 + 1);
            // What was agreed to for one image does not hold for the next.
            let consent = consent || known.consent && !replaced;
            *known = DesiredSandbox { generation, consent, ..after };
        } else {
            known.consent |= consent;
        }
        return;
    }
    let id = SandboxId::from_bits(bits(next, project, name));
    let assigned = DesiredSandbox {
        id: id.clone(),
        project: project.clone(),
        name: name.clone(),
        generation: Generation(1),
        life: Life::Wanted,
        consent: false,
        ephemeral: false,
        cid: free_cid(next),
        host: free_host(next),
        image,
        kernel,
        volumes,
        origin: None,
        spec,
    };
    next.sandboxes.insert(id, assigned);
}

/// The lowest context id that no sandbox has, wanted or not yet gone.
fn free_cid(next: &Desired) -> Cid {
    let taken: BTreeSet<u32> = next.sandboxes.values().map(|s| s.cid.get()).collect();
    let free = (Cid::FIRST..u32::MAX).find(|cid| !taken.contains(cid));
    Cid::new(free.expect("fewer sandboxes than context ids")).expect("above the reserved ones")
}

/// Seconds until an address that was given back may be another sandbox's (R-D6).
pub const COOL_DOWN_SECS: u64 = 60;

/// The lowest number that no sandbox has, wanted or not yet gone, and that is not cooling; when there is none, the
/// one that has cooled longest.
fn free_host(next: &Desired) -> HostNumber {
    let taken: BTreeSet<HostNumber> = next.sandboxes.values().map(|s| s.host).collect();
    let all = HostNumber::FIRST..=HostNumber::LAST;
    let mut free = all.map(|n| HostNumber::new(n).expect("in bounds"));
    let free = free.find(|host| !taken.contains(host) && !next.cooling.contains_key(host));
    let coolest = || next.cooling.iter().min_by_key(|(_, since)| **since).map(|(host, _)| *host);
    free.or_else(coolest).expect("fewer sandboxes than numbers")
}

/// Lets addresses be used again that have cooled long enough. A clock that jumps only makes them cool longer.
pub fn thaw(desired: &mut Desired, now_secs: u64) {
    desired.cooling.retain(|_, since| now_secs.abs_diff(*since) < COOL_DOWN_SECS);
}

/// Chooses the subnet: the first that overlaps none of the host's routes. One that is in use is kept.
pub fn choose_subnet(desired: &mut Desired, free: impl Fn(Subnet) -> bool) {
    let keep = desired.subnet.is_some_and(|subnet| !desired.sandboxes.is_empty() || free(subnet));
    if !keep {
        desired.subnet = Subnet::all().find(|subnet| free(*subnet));
    }
}

/// Works out which kernels and images are wanted, over all projects.
fn assign_artifacts(next: &mut Desired) {
    let default_kernel = Name::new(catalog::DEFAULT_KERNEL).expect("a valid name");
    let mut kernels = BTreeMap::new();
    let mut images = BTreeMap::new();
    for spec in next.projects.values() {
        for kernel in spec.kernels.values() {
            kernels.insert(recipe::kernel(&kernel.source), kernel.source.clone());
        }
        let used = spec.sandboxes.values().map(|sandbox| &sandbox.image);
        for name in spec.images.keys().chain(used) {
            let image = catalog::image(spec, name).expect("the spec was checked");
            // An image comes with the kernel that its sandboxes boot.
            let kernel = image.kernel.as_ref().unwrap_or(&default_kernel);
            let kernel = catalog::kernel(spec, kernel).expect("the spec was checked");
            kernels.insert(recipe::kernel(&kernel.source), kernel.source.clone());
            images.insert(recipe::image(&image.source), image.source.clone());
        }
        for name in spec.sandboxes.values().filter_map(|sandbox| sandbox.kernel.as_ref()) {
            let kernel = catalog::kernel(spec, name).expect("the spec was checked");
            kernels.insert(recipe::kernel(&kernel.source), kernel.source.clone());
        }
    }
    let snapshots = next.snapshots.values().filter(|s| s.life == Life::Wanted);
    let of_snapshots = snapshots.flat_map(|s| [&s.image, &s.kernel]);
    let used: BTreeSet<&Digest> =
        next.sandboxes.values().flat_map(|s| [&s.image, &s.kernel]).chain(of_snapshots).collect();
    for (digest, kernel) in &mut next.kernels {
        if !kernels.contains_key(digest)
            && !used.contains(digest)
            && kernel.life != ArtifactLife::Removed
        {
            kernel.life = ArtifactLife::Cached;
        }
    }
    for (digest, image) in &mut next.images {
        if !images.contains_key(digest)
            && !used.contains(digest)
            && image.life != ArtifactLife::Removed
        {
            image.life = ArtifactLife::Cached;
        }
    }
    for (digest, source) in kernels {
        next.kernels.insert(digest, DesiredKernel { source, life: ArtifactLife::Wanted });
    }
    for (digest, source) in images {
        next.images.insert(digest, DesiredImage { source, life: ArtifactLife::Wanted });
    }
}

/// Drops what should go and was seen gone, which frees its numbers. `None` when there is nothing to drop.
///
/// `looked_for` is what was desired when `actual` was taken: what was still wanted then may be in the making now,
/// and so may be what is `busy`.
pub fn forget(
    desired: &Desired,
    looked_for: &Desired,
    actual: &Actual,
    busy: &BTreeSet<Key>,
    now_secs: u64,
) -> Option<Desired> {
    let mut next = desired.clone();
    next.sandboxes.retain(|id, sandbox| {
        let before = looked_for.sandboxes.get(id).is_some_and(|s| s.life == Life::Removed);
        let gone = actual.sandboxes.get(id).is_some_and(crate::actual::SandboxFact::is_gone);
        let quiet = !busy.contains(&Key::Sandbox(id.clone()));
        sandbox.life == Life::Wanted || !(before && gone && quiet)
    });
    next.snapshots.retain(|id, snapshot| {
        let before = looked_for.snapshots.get(id).is_some_and(|s| s.life == Life::Removed);
        let gone = actual.snapshots.get(id).is_some_and(crate::Seen::is_absent);
        // It is taken in its sandbox's list.
        let own = [Key::Snapshot(id.clone()), Key::Sandbox(snapshot.sandbox.clone())];
        let quiet = !own.iter().any(|key| busy.contains(key));
        snapshot.life == Life::Wanted || !(before && gone && quiet)
    });
    next.volumes.retain(|id, volume| {
        let before = looked_for.volumes.get(id).is_some_and(|v| v.life == Life::Removed);
        let gone = actual.volumes.get(id).is_some_and(crate::Seen::is_absent);
        let quiet = !busy.contains(&Key::Volume(id.clone()));
        volume.life == Life::Wanted || !(before && gone && quiet)
    });
    next.kernels.retain(|digest, kernel| {
        let before = looked_for.kernels.get(digest).is_some_and(|k| k.life != ArtifactLife::Wanted);
        let gone = actual.kernels.get(digest).is_some_and(crate::Seen::is_absent);
        let quiet = !busy.contains(&Key::Kernel(digest.clone()));
        kernel.life == ArtifactLife::Wanted || !(before && gone && quiet)
    });
    next.images.retain(|digest, image| {
        let before = looked_for.images.get(digest).is_some_and(|i| i.life != ArtifactLife::Wanted);
        let gone = actual.images.get(digest).is_some_and(crate::Seen::is_absent);
        let quiet = !busy.contains(&Key::Image(digest.clone()));
        image.life == ArtifactLife::Wanted || !(before && gone && quiet)
    });
    let kept: BTreeSet<HostNumber> = next.sandboxes.values().map(|s| s.host).collect();
    for sandbox in desired.sandboxes.values().filter(|s| !kept.contains(&s.host)) {
        next.cooling.insert(sandbox.host, now_secs);
    }
    (next != *desired).then_some(next)
}

/// Marks a sandbox as living only as long as a client's connection.
pub fn mark_ephemeral(desired: &mut Desired, project: &Name, name: &Name) {
    let id = desired.sandbox(project, name).map(|sandbox| sandbox.id.clone());
    if let Some(sandbox) = id.and_then(|id| desired.sandboxes.get_mut(&id)) {
        sandbox.ephemeral = true;
    }
}

/// Removes a sandbox that lived as long as a connection, and what its project declared for it alone.
pub fn remove_ephemeral(desired: &Desired, project: &Name, name: &Name) -> Desired {
    let mut spec = desired.projects.get(project).cloned().unwrap_or_default();
    spec.sandboxes.remove(name);
    let used: BTreeSet<Name> = spec.sandboxes.values().map(|s| s.image.clone()).collect();
    spec.images.retain(|name, _| used.contains(name));
    let kernels = spec.images.values().filter_map(|image| image.kernel.clone());
    let own = spec.sandboxes.values().filter_map(|sandbox| sandbox.kernel.clone());
    let used: BTreeSet<Name> = kernels.chain(own).collect();
    spec.kernels.retain(|name, _| used.contains(name));
    let used: BTreeSet<&Name> = spec.sandboxes.values().flat_map(|s| &s.networks).collect();
    spec.networks.retain(|name, _| used.contains(name));
    assign(desired, project, &spec, false)
}

/// The sandboxes and volumes whose data a change destroys: those that should go from now on, and those that get
/// another image. What certainly has no data does not count, nor what nobody would miss.
pub fn destroyed(previous: &Desired, next: &Desired, actual: &Actual) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for (id, sandbox) in &next.sandboxes {
        let Some(before) = previous.sandboxes.get(id).filter(|before| before.life == Life::Wanted)
        else {
            continue;
        };
        let other_image = match actual.sandboxes.get(id).map(|fact| &fact.disk) {
            Some(crate::Seen::Absent) => continue,
            Some(crate::Seen::Present(disk)) => {
                let image = actual.images.get(&sandbox.image).and_then(crate::Seen::present);
                let put_back = disk.origin.is_some() && disk.origin == sandbox.origin;
                !put_back
                    && disk.recipe != sandbox.image
                    && image.is_none_or(|image| image.content != disk.content)
            }
            Some(crate::Seen::Unknown(_)) | None => sandbox.image != before.image,
        };
        if (sandbox.life == Life::Removed || other_image) && !sandbox.ephemeral {
            keys.insert(Key::Sandbox(id.clone()));
        }
    }
    for (id, volume) in &next.volumes {
        let before = previous.volumes.get(id).is_some_and(|before| before.life == Life::Wanted);
        let empty = actual.volumes.get(id).is_some_and(crate::Seen::is_absent);
        if before && volume.life == Life::Removed && !empty {
            keys.insert(Key::Volume(id.clone()));
        }
    }
    keys
}

/// Lets a sandbox stay that lived only as long as a connection: what was done in it is still to be brought back.
pub fn keep_ephemeral(desired: &Desired, id: &SandboxId) -> Desired {
    let mut next = desired.clone();
    if let Some(sandbox) = next.sandboxes.get_mut(id) {
        sandbox.ephemeral = false;
    }
    next
}

/// Removes every sandbox whose connection cannot be there any more, because the daemon is new. One with a workspace stays:
/// nobody knows whether what was done in it was brought back.
pub fn drop_ephemeral(desired: &Desired) -> Option<Desired> {
    let stale = desired.sandboxes.values().filter(|s| s.ephemeral && s.life == Life::Wanted);
    let stale: Vec<&DesiredSandbox> = stale.collect();
    (!stale.is_empty()).then(|| {
        stale.iter().fold(desired.clone(), |next, sandbox| match sandbox.spec.workspace {
            Some(_) => keep_ephemeral(&next, &sandbox.id),
            None => remove_ephemeral(&next, &sandbox.project, &sandbox.name),
        })
    })
}
