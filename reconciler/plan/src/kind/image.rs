//! Images: built once per recipe, shared read-only by every sandbox.

use crate::action::Action;
use crate::actual::{Actual, Seen};
use crate::desired::{ArtifactLife, DesiredImage};
use crate::plan::List;
use banger_wire::id::Digest;

pub(crate) fn plan_image(recipe: &Digest, image: &DesiredImage, actual: &Actual) -> List {
    let mut list = List::default();
    let recipe = recipe.clone();
    match (image.life, actual.images.get(&recipe)) {
        (ArtifactLife::Wanted, Some(Seen::Absent)) => {
            let source = image.source.clone();
            list.push(Action::BuildImage { recipe, source }, "not there");
        }
        (ArtifactLife::Removed, Some(Seen::Present(_))) => {
            list.push(Action::RemoveImage { recipe }, "removed");
        }
        (_, Some(Seen::Unknown(why))) => list.blocked.push(format!("cannot be told: {why}")),
        (_, None) => list.blocked.push("it was not looked at".to_string()),
        (ArtifactLife::Wanted, Some(Seen::Present(_)))
        | (ArtifactLife::Removed, Some(Seen::Absent))
        | (ArtifactLife::Cached, Some(_)) => {}
    }
    list
}
