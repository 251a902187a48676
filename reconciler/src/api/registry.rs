//! Registries: what references mean, who we are there, and the blobs that are here.

use super::{Context, Refusal};
use axum::Json;
use axum::extract::State;
use banger_plan::pin;
use banger_wire::api::{CachedBlob, Login, Prune, RemoteCatalog, Resolve, Resolved};

pub(super) async fn resolve(
    State(context): State<Context>,
    Json(ask): Json<Resolve>,
) -> Result<Json<Resolved>, Refusal> {
    let _active = context.active();
    let known = pin::remembered(&context.engine.desired(), &ask.project, &ask.reference);
    let now = context.registry.resolve(&ask.reference).await?;
    Ok(Json(Resolved { now, known }))
}

/// The newest catalog and its signature, as they come.
pub(super) async fn catalog(
    State(context): State<Context>,
) -> Result<Json<RemoteCatalog>, Refusal> {
    let _active = context.active();
    let (address, text, signature) = context.registry.catalog().await?;
    Ok(Json(RemoteCatalog { address, text, signature }))
}

pub(super) async fn log_in(
    State(context): State<Context>,
    Json(login): Json<Login>,
) -> Result<Json<()>, Refusal> {
    let _active = context.active();
    context.registry.log_in(&login.registry, &login.user, &login.password).await?;
    Ok(Json(()))
}

/// Whether there was anything to forget.
pub(super) async fn log_out(
    State(context): State<Context>,
    Json(login): Json<Login>,
) -> Result<Json<bool>, Refusal> {
    Ok(Json(context.registry.log_out(&login.registry)?))
}

pub(super) async fn blobs(State(context): State<Context>) -> Json<Vec<CachedBlob>> {
    let list = context.registry.cache().list().into_iter();
    let blob = |(digest, bytes, whole): (banger_wire::id::Digest, u64, bool)| CachedBlob {
        digest: digest.to_string(),
        bytes,
        whole,
    };
    Json(list.map(blob).collect())
}

/// Removes every blob that nobody is fetching: images that are built do not need them.
pub(super) async fn prune(
    State(context): State<Context>,
    Json(prune): Json<Prune>,
) -> Result<Json<Vec<CachedBlob>>, Refusal> {
    let mut gone = Vec::new();
    for (digest, bytes, whole) in context.registry.cache().list() {
        if prune.dry_run || context.registry.cache().remove(&digest)? {
            gone.push(CachedBlob { digest: digest.to_string(), bytes, whole });
        }
    }
    Ok(Json(gone))
}
