//! Looks into sandboxes: the ports that listen in them, and what they use.

use super::{Context, Refusal, problem};
use crate::stats::stats;
use axum::Json;
use axum::extract::{Path, Query, State};
use banger_wire::agent::{Reply, Request};
use banger_wire::api::{Port, ProblemKind, SandboxStats};
use banger_wire::id::Name;
use serde::Deserialize;
use std::time::Duration;

/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
pub(super) struct Of {
    project: Option<Name>,
}

/// What every running sandbox uses, or those of one project.
pub(super) async fn all_stats(
    State(context): State<Context>,
    Query(of): Query<Of>,
) -> Result<Json<Vec<SandboxStats>>, Refusal> {
    let snapshot = context.engine.snapshots().borrow().clone();
    // Without netlink there are no figures of the network, and all others.
    let cards = crate::drivers::net::traffic().await.unwrap_or_default();
    let (folders, helper) = (context.folders.clone(), context.helper.clone());
    let read =
        move || stats(&folders, &snapshot.desired, &snapshot.actual, &cards, helper.as_ref());
    let read = tokio::task::spawn_blocking(read).await;
    let mut all = read.map_err(|error| problem(ProblemKind::Internal, error.to_string()))?;
    all.retain(|stats| of.project.as_ref().is_none_or(|project| stats.project == *project));
    Ok(Json(all))
}

/// What listens in a guest, as it says, and what of it is published.
pub(super) async fn ports(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
) -> Result<Json<Vec<Port>>, Refusal> {
    let snapshot = context.engine.snapshots().borrow().clone();
    let Some(sandbox) = snapshot.desired.sandbox(&project, &name) else {
        let message = format!("there is no sandbox {name} in project {project}");
        return Err(problem(ProblemKind::NotFound, message).into());
    };
    let mut guest = context.guest.ask(&sandbox.id, &Request::Ports).await?;
    let Ok(Reply::Ports { ports }) = guest.reply(PATIENCE).await else {
        return Err(problem(ProblemKind::Host, "the guest does not tell its ports").into());
    };
    let clean = |text: &str| banger_wire::text::clean_line(text).chars().take(64).collect();
    let published = snapshot.actual.sandboxes.get(&sandbox.id).map(|fact| &fact.ports);
    let host_of = |guest: u16| {
        published
            .and_then(|ports| ports.iter().find(|(_, to)| **to == guest))
            .map(|(host, _)| *host)
    };
    let mut seen: Vec<Port> = ports
        .into_iter()
        .take(1024)
        .map(|port| Port {
            published: host_of(port.port).filter(|_| port.protocol == "tcp"),
            protocol: clean(&port.protocol),
            address: Some(port.address),
            port: port.port,
            program: clean(&port.program),
        })
        .collect();
    // Published ports that nothing listens behind are worth knowing too.
    for (host, guest) in published.into_iter().flatten() {
        if !seen.iter().any(|port| port.published == Some(*host)) {
            let (protocol, program) = ("tcp".to_string(), String::new());
            seen.push(Port {
                protocol,
                address: None,
                port: *guest,
                program,
                published: Some(*host),
            });
        }
    }
    Ok(Json(seen))
}
