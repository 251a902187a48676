//! Looks at the last pass, and streams of what happens.

use super::{Context, problem};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_plan::desired::Key;
use banger_plan::status::{Settled, settled};
use banger_wire::api::{Event, Phase, Problem, ProblemKind, Status};
use banger_wire::id::{Name, SandboxId};
use serde::Deserialize;
use tokio::sync::mpsc;

#[derive(Debug, Deserialize)]
pub(super) struct Of {
    project: Option<Name>,
}

pub(super) async fn status(State(context): State<Context>, Query(of): Query<Of>) -> Json<Status> {
    let mut status = context.engine.snapshots().borrow().status.clone();
    if let Some(project) = of.project {
        status.sandboxes.retain(|sandbox| sandbox.project == project);
        status.volumes.retain(|volume| volume.project == project);
    }
    Json(status)
}

#[derive(Debug, Deserialize)]
pub(super) struct After {
    /// Only a pass that knows of this change can be the last.
    #[serde(default)]
    after: u64,
    /// Only this sandbox and what it needs.
    sandbox: Option<Name>,
}

/// Events of a project, a line each, until it stands still.
pub(super) async fn events(
    State(context): State<Context>,
    Path(project): Path<Name>,
    Query(After { after, sandbox }): Query<After>,
) -> Response {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let _active = context.active();
        follow(&context, &project, sandbox.as_ref(), after, &sender).await;
    });
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let event: Event = receiver.recv().await?;
        let mut line = serde_json::to_vec(&event).expect("events encode");
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(line), receiver))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Sends a project's events until nothing more will happen by itself. Returns whether it is as it should be.
pub(super) async fn follow(
    context: &Context,
    project: &Name,
    only: Option<&Name>,
    after: u64,
    to: &mpsc::Sender<Event>,
) -> bool {
    let mut events = context.engine.events();
    let mut snapshots = context.engine.snapshots();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        while let Ok((key, event)) = events.try_recv() {
            let ours = snapshot.desired.belongs(&key, project)
                || context.engine.desired().belongs(&key, project);
            if ours && to.send(event).await.is_err() {
                return false;
            }
        }
        if snapshot.change >= after {
            let stands = settled(
                &snapshot.desired,
                &snapshot.status,
                &snapshot.plan,
                &snapshot.failures,
                project,
                only,
            );
            if let Settled::Yes(problems) = stands {
                let ok = problems.is_empty();
                // A listener that went away needs no answer.
                let _ = to.send(Event::Settled { ok, problems }).await;
                return ok;
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return false },
            event = events.recv() => {
                if let Ok((key, event)) = event
                    && context.engine.desired().belongs(&key, project)
                    && to.send(event).await.is_err()
                {
                    return false;
                }
            }
            () = to.closed() => return false,
        }
    }
}

/// Sends what happens to one sandbox and what it needs, until it is ready.
///
/// # Errors
/// With the reason, once it has failed or is gone.
pub(super) async fn follow_sandbox(
    context: &Context,
    id: &SandboxId,
    change: u64,
    to: &mpsc::Sender<Event>,
) -> Result<(), Problem> {
    let mut events = context.engine.events();
    let mut snapshots = context.engine.snapshots();
    let needs = context.engine.desired().needs(id);
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        // A pass from before the change knows old failures only.
        let recent = snapshot.change >= change;
        let mut all = snapshot.status.sandboxes.iter().filter(|_| recent);
        let status = all.find(|sandbox| sandbox.id == *id);
        match status.map(|status| (status.phase, status.reason.clone())) {
            Some((Phase::Ready, _)) => return Ok(()),
            Some((
                Phase::Failed
                | Phase::Degraded
                | Phase::Stopped
                | Phase::Suspended
                | Phase::Removing,
                reason,
            )) => {
                return Err(problem(ProblemKind::Host, reason));
            }
            Some((Phase::Pending | Phase::Starting | Phase::Stopping, _)) | None => {}
        }
        let failed = needs.iter().find_map(|key| snapshot.failures.get(key).map(|f| (key, f)));
        if let Some((key, failure)) = failed
            && recent
            && !matches!(key, Key::Sandbox(_))
        {
            return Err(failure.problem.clone());
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                return Err(problem(ProblemKind::Host, "the daemon is ending"));
            },
            event = events.recv() => {
                if let Ok((key, event)) = event && needs.contains(&key) {
                    // The listener's end is seen where it is written to.
                    let _ = to.send(event).await;
                }
            }
        }
    }
}
