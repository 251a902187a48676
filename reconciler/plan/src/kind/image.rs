//! Images: built once per recipe, shared read-only by every sandbox.

use crate::action::Action;
use crate::actual::{Actual, Seen};
use crate::desired::{ArtifactLife, Desired, DesiredImage, Key};
use crate::plan::{List, Wait};
use banger_wire::id::Digest;

pub(crate) fn plan_image(
    recipe: &Digest,
    image: &DesiredImage,
    desired: &Desired,
    actual: &Actual,
) -> List {
    let mut list = List::default();
    let recipe = recipe.clone();
    match (image.life, actual.images.get(&recipe)) {
        (ArtifactLife::Wanted, Some(Seen::Absent)) => {
            let builder = image.builder.clone();
            if actual.kernels.get(&builder).and_then(Seen::present).is_none() {
                let key = Key::Kernel(builder.clone());
                list.waits.push(Wait::For(key.clone(), desired.title(&key)));
            }
            let source = image.source.clone();
            list.push(Action::BuildImage { recipe, source, builder }, "not there");
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
