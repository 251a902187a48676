//! References of registries become digests before anything is desired. What was looked up once stays, until somebody
//! asks for the newer one: the same file means the same image (R-N6).

use crate::desired::{ArtifactLife, Desired};
use banger_schema::Spec;
use banger_schema::catalog;
use banger_schema::spec::{ImageSource, OciImage};
use banger_wire::derive::DEFAULT_PROJECT;
use banger_wire::id::Name;
use std::collections::BTreeSet;

/// Declares the catalog's images of registries that sandboxes name, so that they too have a digest of their own.
pub fn declare(spec: &mut Spec) {
    let used: BTreeSet<&Name> = spec.sandboxes.values().map(|sandbox| &sandbox.image).collect();
    let open: Vec<_> = used
        .into_iter()
        .filter(|name| !spec.images.contains_key(*name))
        .filter_map(|name| Some((name.clone(), catalog::image(spec, name)?.clone())))
        .filter(|(_, image)| matches!(image.source, ImageSource::Oci(_)))
        .collect();
    spec.images.extend(open);
}

/// Gives open references a digest; those for which there is none come back, each once.
pub fn pin(spec: &mut Spec, digest: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    for image in spec.images.values_mut() {
        let ImageSource::Oci(OciImage { reference, digest: known @ None }) = &mut image.source
        else {
            continue;
        };
        *known = digest(reference);
        if known.is_none() {
            open.insert(reference.clone());
        }
    }
    open
}

/// The digest that a reference has already: in this project, else among what was pulled by command, else anywhere.
pub fn remembered(desired: &Desired, project: &Name, reference: &str) -> Option<String> {
    let digest = |source: &ImageSource| match source {
        ImageSource::Oci(image) if image.reference == reference => image.digest.clone(),
        ImageSource::Oci(_) | ImageSource::Debian(_) | ImageSource::Path(_) => None,
    };
    let default = Name::new(DEFAULT_PROJECT).expect("a valid name");
    let of_project = |project: &Name| {
        let images = desired.projects.get(project).into_iter().flat_map(|s| s.images.values());
        images.into_iter().find_map(|image| digest(&image.source))
    };
    let of_life = |life: ArtifactLife| {
        let images = desired.images.values().filter(move |image| image.life == life);
        images.into_iter().find_map(|image| digest(&image.source))
    };
    of_project(project)
        .or_else(|| of_project(&default))
        .or_else(|| of_life(ArtifactLife::Wanted))
        .or_else(|| of_life(ArtifactLife::Cached))
}
