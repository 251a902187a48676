//! What a spec leaves open and only the world can answer: the digests of references. It is asked before anything is
//! desired, once for each reference, and the answer stays.

use crate::registry::Registry;
use banger_plan::Desired;
use banger_plan::pin;
use banger_schema::Spec;
use banger_schema::spec::{ImageSource, KernelSource};
use banger_wire::api::{Problem, ProblemKind};
use banger_wire::id::Name;
use std::collections::BTreeMap;

/// The spec with nothing left open.
///
/// # Errors
/// When a registry cannot be asked, or a path is not what a client sends.
pub(crate) async fn resolve(
    registry: &Registry,
    desired: &Desired,
    project: &Name,
    mut spec: Spec,
) -> Result<Spec, Problem> {
    absolute(&spec)?;
    pin::declare(&mut spec);
    let open = pin::pin(&mut spec, |reference| pin::remembered(desired, project, reference));
    let mut found = BTreeMap::new();
    for reference in open {
        let digest = registry.resolve(&reference).await.map_err(|fault| fault.problem())?;
        found.insert(reference, digest);
    }
    pin::pin(&mut spec, |reference| found.get(reference).cloned());
    Ok(spec)
}

/// The client makes paths whole: only it knows where the file is.
fn absolute(spec: &Spec) -> Result<(), Problem> {
    let images = spec.images.values().filter_map(|image| match &image.source {
        ImageSource::Path(file) => Some(file),
        ImageSource::Debian(_) | ImageSource::Oci(_) => None,
    });
    let kernels = spec.kernels.values().filter_map(|kernel| match &kernel.source {
        KernelSource::Path(file) => Some(file),
        KernelSource::Debian { .. } | KernelSource::Url { .. } => None,
    });
    let mut files = images.chain(kernels);
    match files.find(|file| !file.path.starts_with('/') || file.stamp.is_none()) {
        None => Ok(()),
        Some(file) => Err(Problem {
            kind: ProblemKind::User,
            message: format!("the path {} is not whole", file.path),
            hints: vec!["the client and the daemon should be of the same version".into()],
        }),
    }
}
