//! Volumes: disks that outlive their sandboxes.

use super::verdict::has_volume;
use crate::action::Action;
use crate::actual::{Actual, Seen};
use crate::desired::{DesiredVolume, Life};
use crate::plan::List;
use banger_wire::id::VolumeId;

pub(crate) fn plan_volume(id: &VolumeId, volume: &DesiredVolume, actual: &Actual) -> List {
    let mut list = List::default();
    let (id, size) = (id.clone(), volume.size);
    match (volume.life, actual.volumes.get(&id)) {
        (Life::Wanted, Some(Seen::Absent)) => {
            list.push(Action::CreateVolume { volume: id, size }, "not there");
        }
        (Life::Wanted, Some(Seen::Present(fact))) if fact.size < size => {
            let from = fact.size;
            list.push(
                Action::GrowVolume { volume: id, from, size },
                format!("size {from} → {size}"),
            );
        }
        (Life::Removed, Some(Seen::Present(_))) => match user(&id, actual) {
            Some(why) => list.blocked.push(why),
            None => list.push(Action::RemoveVolume { volume: id }, "removed"),
        },
        (_, Some(Seen::Unknown(why))) => list.blocked.push(format!("cannot be told: {why}")),
        (_, None) => list.blocked.push("it was not looked at".to_string()),
        (Life::Wanted, Some(Seen::Present(_))) | (Life::Removed, Some(Seen::Absent)) => {}
    }
    list
}

/// Why a volume cannot go yet: a VMM has it open, or it cannot be told whether one has.
fn user(id: &VolumeId, actual: &Actual) -> Option<String> {
    actual.sandboxes.values().find_map(|fact| {
        let open = !fact.vmm.is_absent() && has_volume(fact, id);
        open.then(|| "a sandbox still has it".to_string())
    })
}
