//! Looks into sandboxes: the ports that listen in them, and what they use.

use super::{Context, Refusal, problem};
use crate::stats::stats;
use axum::Json;
use axum::extract::{Path, Query, State};
use banger_plan::actual::Seen;
use banger_plan::desired::{Key, Life};
use banger_wire::agent::{Reply, Request};
use banger_wire::api::{Port, ProblemKind, SandboxStats, Snapshot};
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

/// All snapshots, by project and name.
pub(super) async fn snapshots(State(context): State<Context>) -> Json<Vec<Snapshot>> {
    let pass = context.engine.snapshots().borrow().clone();
    // What is wanted now; the pass may be from before.
    let desired = context.engine.desired();
    let wanted = desired.snapshots.iter().filter(|(_, s)| s.life == Life::Wanted);
    let list = wanted.map(|(id, snapshot)| {
        let there = pass.actual.snapshots.get(id);
        let fact = there.and_then(Seen::present);
        let blocked = pass.plan.lists.get(&Key::Snapshot(id.clone()));
        let blocked = blocked.and_then(|list| list.blocked.first()).cloned();
        Snapshot {
            project: snapshot.project.clone(),
            name: snapshot.name.clone(),
            sandbox: snapshot.of.clone(),
            taken: fact.is_some(),
            taken_secs: fact.map_or(0, |fact| fact.taken_secs),
            memory: fact.is_some_and(|fact| fact.boot.is_some()),
            size: fact.map(|fact| fact.disk.size.to_string()).unwrap_or_default(),
            bytes: fact.map_or(0, |fact| fact.bytes),
            reason: blocked.unwrap_or_default(),
        }
    });
    let mut list: Vec<Snapshot> = list.collect();
    list.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    Json(list)
}
