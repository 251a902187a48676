//! A sandbox's own disk, above its image.

use super::View;
use crate::action::Action;
use crate::actual::Seen;
use crate::plan::List;

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    if let Some(why) = &view.verdict.remove_disk {
        let sandbox = view.desired.id.clone();
        let ephemeral = view.desired.ephemeral || view.fact.disk.is_absent();
        list.push(Action::RemoveDisk { sandbox, ephemeral }, why.clone());
    }
}

pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    if view.verdict.start.is_none() && !view.verdict.makes_disk {
        return;
    }
    let (sandbox, size) = (view.desired.id.clone(), view.desired.spec.disk);
    match view.fact.disk.present().filter(|_| view.verdict.remove_disk.is_none()) {
        None => {
            let image = view.actual.images.get(&view.desired.image).and_then(Seen::present);
            let recipe = view.desired.image.clone();
            let content = image.map(|image| image.content.clone());
            let (recipe, content, origin) = match super::snapshot::origin(view.desired, view.actual)
            {
                Some(from) => {
                    let (recipe, content) = (from.disk.recipe.clone(), from.disk.content.clone());
                    (recipe, Some(content), view.desired.origin.clone())
                }
                None => (recipe, content, None),
            };
            let action = Action::CreateDisk { sandbox, size, recipe, content, origin };
            list.push(action, "it has none");
        }
        Some(disk) if disk.size < size => {
            let from = disk.size;
            let (recipe, content) = (disk.recipe.clone(), disk.content.clone());
            let origin = disk.origin.clone();
            let action = Action::GrowDisk { sandbox, recipe, content, origin, from, size };
            list.push(action, format!("disk {from} → {size}"));
        }
        Some(_) => {}
    }
}
