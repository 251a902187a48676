//! SSH to sandboxes by name: the stream over vsock, and the host key that it must have.

use super::guest::{Client, upgrade};
use super::{Context, Refusal, problem};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use banger_plan::zone::{Lookup, find};
use banger_wire::agent::{self, Reply};
use banger_wire::api::{Problem, ProblemKind};
use banger_wire::id::SandboxId;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, split};

/// How long the guest may take to start its server.
const PATIENCE: Duration = Duration::from_secs(20);

fn named(context: &Context, name: &str) -> Result<SandboxId, Problem> {
    let desired = context.engine.desired();
    match find(&desired, name) {
        Lookup::Found(sandbox) => Ok(sandbox.id.clone()),
        Lookup::Nobody => {
            Err(problem(ProblemKind::NotFound, format!("there is no sandbox {name}")))
        }
        Lookup::Several(names) => {
            let shown = problem(ProblemKind::User, format!("{name} could be several sandboxes"));
            Err(Problem { hints: vec![format!("name one: {}", names.join(", "))], ..shown })
        }
    }
}

/// The public half of a sandbox's host key.
pub(super) async fn host_key(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<String>, Refusal> {
    let id = named(&context, &name)?;
    Ok(Json(context.keys.host_key(&id)?))
}

/// The stream to a sandbox's SSH server.
pub(super) async fn connect(
    State(context): State<Context>,
    Path(name): Path<String>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let id = named(&context, &name)?;
    let mut guest = context.guest.ask(&id, &agent::Request::Ssh).await?;
    match guest.reply(PATIENCE).await {
        Ok(Reply::Done) => {}
        Ok(Reply::Failed { message }) => {
            let said: String = banger_wire::text::clean_line(&message).chars().take(512).collect();
            return Err(problem(ProblemKind::Host, said).into());
        }
        Ok(_) | Err(_) => {
            return Err(problem(ProblemKind::Host, format!("{name} serves no SSH")).into());
        }
    }
    upgrade(&mut request, move |client| async move {
        let _active = context.active();
        if let Err(error) = carry(client, guest).await {
            tracing::debug!("ssh to {name}: {error}");
        }
    })
}

async fn carry(client: Client, guest: crate::vsock::Conversation) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_guest, early) = guest.reader.into_parts();
    let mut to_guest = guest.writer;
    to_client.write_all(&early).await?;
    let inward = async {
        tokio::io::copy(&mut from_client, &mut to_guest).await?;
        to_guest.shutdown().await
    };
    let outward = async {
        tokio::io::copy(&mut from_guest, &mut to_client).await?;
        to_client.shutdown().await
    };
    // A client that has said all may still be told something; a guest that has said all is gone.
    tokio::select! {
        inward = async { inward.await?; std::future::pending().await } => inward,
        outward = outward => outward,
    }
}
