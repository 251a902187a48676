//! Kernels: fetched once per recipe, shared by everything.

use crate::action::Action;
use crate::actual::{Actual, Seen};
use crate::desired::{ArtifactLife, DesiredKernel};
use crate::plan::List;
use banger_wire::id::Digest;

pub(crate) fn plan_kernel(recipe: &Digest, kernel: &DesiredKernel, actual: &Actual) -> List {
    let mut list = List::default();
    let recipe = recipe.clone();
    match (kernel.life, actual.kernels.get(&recipe)) {
        (ArtifactLife::Wanted, Some(Seen::Absent)) => {
            let source = kernel.source.clone();
            list.push(Action::BuildKernel { recipe, source }, "not there");
        }
        (ArtifactLife::Removed, Some(Seen::Present(_))) => {
            list.push(Action::RemoveKernel { recipe }, "removed");
        }
        (_, Some(Seen::Unknown(why))) => list.blocked.push(format!("cannot be told: {why}")),
        (_, None) => list.blocked.push("it was not looked at".to_string()),
        (ArtifactLife::Wanted, Some(Seen::Present(_)))
        | (ArtifactLife::Removed, Some(Seen::Absent))
        | (ArtifactLife::Cached, Some(_)) => {}
    }
    list
}
