//! Images and kernels.

use super::{Context, Refusal, problem};
use axum::Json;
use axum::extract::{Path, State};
use banger_plan::actual::{ArtifactFact, Seen};
use banger_plan::desired::{ArtifactLife, Desired};
use banger_plan::{admit, assign, recipe};
use banger_schema::{Spec, catalog, check};
use banger_wire::api::{Artifact, Problem, ProblemKind};
use banger_wire::derive::DEFAULT_PROJECT;
use banger_wire::id::{Digest, Name};

fn names(found: Vec<(Option<&Name>, &Name)>) -> Vec<String> {
    let full = |(project, name): (Option<&Name>, &Name)| match project {
        Some(project) => format!("{project}/{name}"),
        None => name.to_string(),
    };
    found.into_iter().map(full).collect()
}

fn artifact(
    digest: &Digest,
    source: String,
    names: Vec<String>,
    used_by: Vec<String>,
    seen: Option<&Seen<ArtifactFact>>,
) -> Artifact {
    let fact = seen.and_then(Seen::present);
    Artifact {
        recipe: digest.to_string(),
        source,
        names,
        content: fact.map(|fact| fact.content.to_string()),
        bytes: fact.map(|fact| fact.bytes),
        details: fact.map(|fact| fact.details.clone()).unwrap_or_default(),
        used_by,
    }
}

fn users(
    desired: &Desired,
    uses: impl Fn(&banger_plan::desired::DesiredSandbox) -> bool,
) -> Vec<String> {
    let users = desired.sandboxes.values().filter(|sandbox| uses(sandbox));
    users.map(|sandbox| format!("{}/{}", sandbox.project, sandbox.name)).collect()
}

pub(super) async fn images(State(context): State<Context>) -> Json<Vec<Artifact>> {
    let snapshot = context.engine.snapshots().borrow().clone();
    let desired = &snapshot.desired;
    let there = desired.images.iter().filter(|(_, image)| image.life != ArtifactLife::Removed);
    let list = there.map(|(digest, image)| {
        let source = recipe::describe_image(&image.source);
        let used_by = users(desired, |sandbox| sandbox.image == *digest);
        let names = names(desired.image_names(digest));
        artifact(digest, source, names, used_by, snapshot.actual.images.get(digest))
    });
    Json(list.collect())
}

pub(super) async fn kernels(State(context): State<Context>) -> Json<Vec<Artifact>> {
    let snapshot = context.engine.snapshots().borrow().clone();
    let desired = &snapshot.desired;
    let there = desired.kernels.iter().filter(|(_, kernel)| kernel.life != ArtifactLife::Removed);
    let list = there.map(|(digest, kernel)| {
        let source = recipe::describe_kernel(&kernel.source);
        let used_by = users(desired, |sandbox| sandbox.kernel == *digest);
        let names = names(desired.kernel_names(digest));
        artifact(digest, source, names, used_by, snapshot.actual.kernels.get(digest))
    });
    Json(list.collect())
}

/// The image as a project declares it, with its kernel: for whoever wants to declare it too.
pub(super) async fn image_spec(
    State(context): State<Context>,
    Path(digest): Path<Digest>,
) -> Result<Json<Spec>, Refusal> {
    let desired = context.engine.desired();
    let own = desired.projects.values().find_map(|spec| {
        let found = spec.images.iter().find(|(_, i)| recipe::image(&i.source) == digest);
        found.map(|(name, image)| (spec, name.clone(), image.clone()))
    });
    let Some((from, name, image)) = own else {
        let message = format!("no project declares an image {}", digest.short());
        return Err(problem(ProblemKind::NotFound, message).into());
    };
    let mut spec = Spec::default();
    if let Some(kernel) = &image.kernel
        && let Some(found) = from.kernels.get(kernel)
    {
        spec.kernels.insert(kernel.clone(), found.clone());
    }
    spec.images.insert(name, image);
    Ok(Json(spec))
}

fn refused(refusal: &admit::Refusal) -> Problem {
    let hints = vec![refusal.hint()];
    Problem { kind: ProblemKind::Refused, message: refusal.to_string(), hints }
}

/// Without what was declared by command and nobody uses: deleting by command takes that back.
fn undeclared(desired: &Desired, drop: impl FnOnce(&mut Spec)) -> Desired {
    let project = Name::new(DEFAULT_PROJECT).expect("a valid name");
    let Some(spec) = desired.projects.get(&project) else { return desired.clone() };
    let mut without = spec.clone();
    drop(&mut without);
    let sound = check::check(&without, catalog::embedded()).is_empty();
    if sound { assign::assign(desired, &project, &without, false) } else { desired.clone() }
}

pub(super) async fn delete_image(
    State(context): State<Context>,
    Path(digest): Path<Digest>,
) -> Result<Json<()>, Refusal> {
    let change = |desired: &Desired| {
        let mut next = undeclared(desired, |spec| {
            spec.images.retain(|_, image| recipe::image(&image.source) != digest);
        });
        if !next.images.contains_key(&digest) {
            return Err(problem(
                ProblemKind::NotFound,
                format!("there is no image {}", digest.short()),
            ));
        }
        admit::remove_image(&mut next, &digest).map_err(|refusal| refused(&refusal))?;
        Ok(next)
    };
    Ok(Json(context.engine.change(change).await?))
}

pub(super) async fn delete_kernel(
    State(context): State<Context>,
    Path(digest): Path<Digest>,
) -> Result<Json<()>, Refusal> {
    let change = |desired: &Desired| {
        let mut next = undeclared(desired, |spec| {
            spec.kernels.retain(|_, kernel| recipe::kernel(&kernel.source) != digest);
        });
        if !next.kernels.contains_key(&digest) {
            return Err(problem(
                ProblemKind::NotFound,
                format!("there is no kernel {}", digest.short()),
            ));
        }
        admit::remove_kernel(&mut next, &digest).map_err(|refusal| refused(&refusal))?;
        Ok(next)
    };
    Ok(Json(context.engine.change(change).await?))
}
