//! Asks every driver once and puts the answers together. There are no decisions here.

use crate::drivers::{Drivers, VmmSeen};
use banger_plan::actual::{Actual, SandboxFact, Seen};
use banger_plan::desired::Desired;

/// What is there, of all that is desired.
pub async fn observe(drivers: &Drivers, desired: &Desired) -> Actual {
    let disks = drivers.disk.observe(desired).await;
    let VmmSeen { sandboxes: processes, templates, memories, snapshots, mut foreign } =
        drivers.vmm.observe(desired).await;
    let running: Vec<_> = processes
        .iter()
        .filter(|(_, facts)| facts.vmm.present().is_some())
        .map(|(id, _)| id.clone())
        .collect();
    let guests = drivers.guest.observe(&running).await;
    let net = drivers.net.observe(desired).await;
    fn unseen<T>() -> Seen<T> {
        Seen::Unknown("the driver said nothing about it".to_string())
    }
    let sandboxes = desired.sandboxes.keys().map(|id| {
        let facts = processes.get(id);
        let fact = SandboxFact {
            folder: disks.folders.contains(id),
            disk: disks.disks.get(id).cloned().unwrap_or_else(unseen),
            vmm: facts.map_or_else(
                || Seen::Unknown("its processes were not looked for".to_string()),
                |facts| facts.vmm.clone(),
            ),
            run: facts.map_or(Seen::Absent, |facts| facts.run.clone()),
            suspended: facts.map_or_else(unseen, |facts| facts.suspended.clone()),
            guest: guests.get(id).map_or(Seen::Absent, |guest| guest.state.clone()),
            silent_secs: guests.get(id).map_or(0, |guest| guest.silent_secs),
            tap: match &net.taps {
                Ok(taps) => taps.get(id).map_or(Seen::Absent, |tap| Seen::Present(*tap)),
                Err(why) => Seen::Unknown(why.clone()),
            },
            ports: net.ports.get(id).cloned().unwrap_or_default(),
            jail: facts.is_some_and(|facts| facts.jail),
        };
        (id.clone(), fact)
    });
    let sandboxes = sandboxes.collect();
    foreign.extend(disks.foreign);
    let taps = net.taps.iter().flatten().map(|(id, _)| id);
    let strange = taps.filter(|id| !desired.sandboxes.contains_key(id));
    foreign.extend(strange.map(|id| format!("a network port of the unknown sandbox {id}")));
    foreign.sort();
    Actual {
        kernels: disks.kernels,
        images: disks.images,
        volumes: disks.volumes,
        network: net.network,
        backends: drivers.vmm.backends(),
        templates,
        memories,
        snapshots,
        sandboxes,
        foreign,
    }
}
