//! Files that go into sandboxes and come back: workspaces, and copies.

use super::guest::{find, relay, upgrade};
use super::{Context, Refusal, problem};
use crate::workspace::{self, Place};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use banger_schema::spec::WorkspaceSpec;
use banger_wire::agent;
use banger_wire::api::workspace::{Pushed, Returned};
use banger_wire::api::{Problem, ProblemKind};
use banger_wire::id::{Name, SandboxId};
use banger_wire::stream::Reader;
use std::io;
use tokio::io::split;

/// A running sandbox with a workspace.
fn workspace_of(
    context: &Context,
    project: &Name,
    name: &Name,
) -> Result<(SandboxId, Place, WorkspaceSpec), Problem> {
    let id = find(context, project, name)?;
    super::guest::running(context, &id, name)?;
    let desired = context.engine.desired();
    let spec = desired.sandboxes.get(&id).and_then(|sandbox| sandbox.spec.workspace.clone());
    let spec = spec.ok_or_else(|| Problem {
        hints: vec!["give it one: workspace \".\" in its Bangerfile, or vm run PATH".into()],
        ..problem(ProblemKind::User, format!("sandbox {name} has no workspace"))
    })?;
    let place = workspace::place(context.guest.way(&id), &context.folders.workspace(&id));
    Ok((id, place, spec))
}

pub(super) async fn push(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
) -> Result<Json<Pushed>, Refusal> {
    let _active = context.active();
    let (id, place, spec) = workspace_of(&context, &project, &name)?;
    // Not given up on when the client goes: half a shipment would be the next one's work.
    let shipped =
        tokio::spawn(async move { workspace::ship(&place, id.as_str(), &spec, None).await });
    let shipped =
        shipped.await.map_err(|error| problem(ProblemKind::Internal, error.to_string()))?;
    Ok(Json(shipped?))
}

pub(super) async fn fetch(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
) -> Result<Json<Returned>, Refusal> {
    let _active = context.active();
    let (_, place, _) = workspace_of(&context, &project, &name)?;
    let fetched = tokio::spawn(async move { workspace::fetch(&place).await });
    let fetched =
        fetched.await.map_err(|error| problem(ProblemKind::Internal, error.to_string()))?;
    Ok(Json(fetched?))
}

/// Copies of files, both ways. The first frame says which; the rest is the guest's agent's.
pub(super) async fn files(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let id = find(&context, &project, &name)?;
    super::guest::running(&context, &id, &name)?;
    upgrade(&mut request, move |client| async move {
        let _active = context.active();
        let (read, mut write) = split(client);
        let mut reader = Reader::new(read);
        let served = async {
            let first = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let wanted: agent::Request = serde_json::from_slice(&first.payload)?;
            if !matches!(wanted, agent::Request::Put(_) | agent::Request::Get { .. }) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            relay(&context, &id, wanted, reader, &mut write).await
        };
        if let Err(error) = served.await {
            tracing::debug!("files of {name}: {error}");
        }
    })
}
