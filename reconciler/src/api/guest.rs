//! Streams to guests: exec, run, console.

use super::{Context, Refusal, problem, watch};
use crate::drivers::vmm::console_files;
use crate::engine::{Consent, Terms};
use crate::fault::Fault;
use crate::workspace;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse, Response};
use banger_plan::assign::{keep_ephemeral, remove_ephemeral};
use banger_schema::Spec;
use banger_wire::agent;
use banger_wire::api::{Event, Problem, ProblemKind, Run};
use banger_wire::frame::Kind;
use banger_wire::id::{Name, SandboxId};
use banger_wire::stream::{Reader, send_message};
use futures_util::StreamExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

pub(super) type Client = TokioIo<Upgraded>;

/// Answers that the connection is a stream from now on, and hands it over.
pub(super) fn upgrade<F>(
    request: &mut Request,
    serve: impl FnOnce(Client) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send,
{
    let upgrade: Option<OnUpgrade> = request.extensions_mut().remove();
    let upgrade =
        upgrade.ok_or_else(|| problem(ProblemKind::User, "this needs a connection upgrade"))?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => serve(TokioIo::new(stream)).await,
            Err(error) => tracing::debug!("a client went away: {error}"),
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "banger")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

pub(super) fn find(context: &Context, project: &Name, name: &Name) -> Result<SandboxId, Problem> {
    let desired = context.engine.desired();
    let found = desired.sandbox(project, name);
    found.map(|sandbox| sandbox.id.clone()).ok_or_else(|| {
        problem(ProblemKind::NotFound, format!("there is no sandbox {name} in project {project}"))
    })
}

/// Refuses what needs a running sandbox where it does not run.
pub(super) fn running(context: &Context, id: &SandboxId, name: &Name) -> Result<(), Problem> {
    let snapshot = context.engine.snapshots().borrow().clone();
    let fact = snapshot.actual.sandboxes.get(id);
    if fact.is_some_and(|fact| fact.vmm.present().is_some()) {
        return Ok(());
    }
    let not_running = problem(ProblemKind::User, format!("sandbox {name} does not run"));
    Err(Problem { hints: vec![format!("banger vm start {name}")], ..not_running })
}

pub(super) async fn exec(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let id = find(&context, &project, &name)?;
    running(&context, &id, &name)?;
    upgrade(&mut request, move |client| async move {
        let _active = context.active();
        let (read, mut write) = split(client);
        let mut reader = Reader::new(read);
        let served = async {
            let first = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let exec: agent::Exec = serde_json::from_slice(&first.payload)?;
            relay(&context, &id, agent::Request::Exec(exec), reader, &mut write).await
        };
        if let Err(error) = served.await {
            tracing::debug!("exec in {name}: {error}");
        }
    })
}

/// Opens a conversation with the guest and carries both directions until one ends.
pub(super) async fn relay(
    context: &Context,
    id: &SandboxId,
    wanted: agent::Request,
    reader: Reader<ReadHalf<Client>>,
    write: &mut WriteHalf<Client>,
) -> io::Result<()> {
    let guest = match context.guest.ask(id, &wanted).await {
        Ok(guest) => guest,
        Err(fault) => {
            let message = fault.problem().message;
            return send_message(write, &agent::Reply::Failed { message }).await;
        }
    };
    let (mut from_guest, early) = guest.reader.into_parts();
    let (mut from_client, sent) = reader.into_parts();
    let mut to_guest = guest.writer;
    write.write_all(&early).await?;
    to_guest.write_all(&sent).await?;
    let inward = tokio::io::copy(&mut from_client, &mut to_guest);
    let outward = async {
        tokio::io::copy(&mut from_guest, write).await?;
        write.shutdown().await
    };
    // When the client goes, the guest's agent sees the end of the connection and hangs up on the command.
    tokio::select! {
        inward = inward => inward.map(drop),
        outward = outward => outward,
    }
}

pub(super) async fn run(
    State(context): State<Context>,
    Path(project): Path<Name>,
    mut request: Request,
) -> Result<Response, Refusal> {
    upgrade(&mut request, move |client| async move {
        let _active = context.active();
        let (read, mut write) = split(client);
        let reader = Reader::new(read);
        if let Err(error) = serve_run(&context, &project, reader, &mut write).await {
            tracing::debug!("run: {error}");
        }
    })
}

/// A sandbox that lives as long as this connection.
async fn serve_run(
    context: &Context,
    project: &Name,
    mut reader: Reader<ReadHalf<Client>>,
    write: &mut WriteHalf<Client>,
) -> io::Result<()> {
    let first = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Run { spec, exec }: Run<Spec> = match serde_json::from_slice(&first.payload) {
        Ok(run) if first.kind == Kind::Control => run,
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(error) => return fail(write, problem(ProblemKind::User, error.to_string())).await,
    };
    let Some(name) = spec.sandboxes.keys().next().cloned() else {
        return fail(write, problem(ProblemKind::User, "there is no sandbox to run")).await;
    };
    let spec = match super::change::whole(context, project, spec).await {
        Ok(spec) => spec,
        Err(problem) => return fail(write, problem).await,
    };
    let terms = Terms { dry_run: false, consent: Consent::Only(None), ephemeral: true, also: None };
    let proposed = context.engine.propose(project, terms, |desired| {
        let before = desired.projects.get(project).cloned().unwrap_or_default();
        let create = banger_wire::api::Edit::Create { spec };
        banger_plan::edit::edit(&before, &create, false)
            .map_err(|error| problem(ProblemKind::User, error.to_string()))
    });
    let change = match proposed.await {
        Ok(proposal) if proposal.accepted => proposal.change,
        Ok(_) => return fail(write, problem(ProblemKind::Refused, "it would destroy data")).await,
        Err(problem) => return fail(write, problem).await,
    };
    let Ok(id) = find(context, project, &name) else { return Err(io::ErrorKind::NotFound.into()) };
    let served = bring_up(context, &id, change, exec, reader, write).await;
    if matches!(served, Ok(Ended::BrokeOff)) && has_work(context, &id).await {
        tracing::warn!(
            "{name} stays: its client went away, and what was done in it was not brought back"
        );
        let kept = context.engine.change(|desired| Ok(keep_ephemeral(desired, &id)));
        return kept.await.map_err(|problem| io::Error::other(problem.message));
    }
    let (engine, project) = (context.engine.clone(), project.clone());
    // Not given up on when the store cannot be written for a while: the sandbox must not outlive its connection.
    for _ in 0..600 {
        let removed = engine.change(|desired| {
            let ours = desired.sandbox(&project, &name).is_some_and(|s| s.id == id && s.ephemeral);
            Ok(if ours { remove_ephemeral(desired, &project, &name) } else { desired.clone() })
        });
        match removed.await {
            Ok(()) => break,
            Err(problem) => tracing::warn!("removing {name}: {}", problem.message),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    served.map(drop)
}

/// How a run's connection ended.
enum Ended {
    /// As it should: nobody wants the sandbox any more.
    Done,
    /// Without a word.
    BrokeOff,
}

/// Whether something was done in a sandbox's workspace, as far as can be told.
async fn has_work(context: &Context, id: &SandboxId) -> bool {
    let desired = context.engine.desired();
    if desired.sandboxes.get(id).is_none_or(|sandbox| sandbox.spec.workspace.is_none()) {
        return false;
    }
    let place = workspace::place(context.guest.way(id), &context.folders.workspace(id));
    match workspace::fetch(&place).await {
        Ok(returned) => !returned.is_empty(),
        Err(_) => true,
    }
}

async fn fail(write: &mut WriteHalf<Client>, problem: Problem) -> io::Result<()> {
    send_message(write, &Event::Settled { ok: false, problems: vec![problem] }).await
}

/// Waits for the sandbox to be ready, then runs the command.
async fn bring_up(
    context: &Context,
    id: &SandboxId,
    change: u64,
    exec: Option<agent::Exec>,
    mut reader: Reader<ReadHalf<Client>>,
    write: &mut WriteHalf<Client>,
) -> io::Result<Ended> {
    let (sender, mut events) = mpsc::channel(64);
    let watched = watch::follow_sandbox(context, id, change, &sender);
    tokio::pin!(watched);
    let ready = loop {
        tokio::select! {
            ready = &mut watched => break ready,
            Some(event) = events.recv() => send_message(write, &event).await?,
            // Nothing is due from the client before the command runs: this is its end.
            early = reader.next() => match early? {
                None => return Ok(Ended::Done),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            },
        }
    };
    while let Ok(event) = events.try_recv() {
        send_message(write, &event).await?;
    }
    match ready {
        Ok(()) => {
            send_message(write, &Event::Settled { ok: true, problems: Vec::new() }).await?;
            match exec {
                Some(exec) => {
                    relay(context, id, agent::Request::Exec(exec), reader, write).await?;
                    Ok(Ended::Done)
                }
                // Nothing is due from the client but a word that it is done.
                None => Ok(match reader.next().await {
                    Ok(Some(_)) => Ended::Done,
                    Ok(None) | Err(_) => Ended::BrokeOff,
                }),
            }
        }
        Err(problem) => fail(write, problem).await.map(|()| Ended::Done),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Logs {
    #[serde(default)]
    follow: bool,
}

/// What a sandbox wrote to its console, as far as it is kept; and what it writes from now on.
pub(super) async fn logs(
    State(context): State<Context>,
    Path((project, name)): Path<(Name, Name)>,
    Query(Logs { follow }): Query<Logs>,
) -> Result<Response, Refusal> {
    let id = find(&context, &project, &name)?;
    let [older, newer] = console_files(&context.folders, &id);
    let mut text = tokio::fs::read(&older).await.unwrap_or_default();
    let newest = match tokio::fs::read(&newer).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Fault::io("reading the console", error).into()),
    };
    let read = newest.len() as u64;
    text.extend(newest);
    let before = futures_util::stream::once(async move { Ok::<_, io::Error>(text) });
    if !follow {
        return Ok(Body::from_stream(before).into_response());
    }
    let after =
        futures_util::stream::unfold((newer, read, context), |(path, at, context)| async move {
            let (bytes, at) = next_bytes(&path, at).await;
            Some((Ok::<_, io::Error>(bytes), (path, at, context)))
        });
    Ok(Body::from_stream(before.chain(after)).into_response())
}

/// Waits for more in a file that may be replaced by an empty one.
async fn next_bytes(path: &PathBuf, at: u64) -> (Vec<u8>, u64) {
    loop {
        if let Ok(mut file) = tokio::fs::File::open(path).await {
            let size = file.metadata().await.map_or(0, |meta| meta.len());
            let from = if size < at { 0 } else { at };
            let mut bytes = Vec::new();
            if size > from
                && file.seek(io::SeekFrom::Start(from)).await.is_ok()
                && file.read_to_end(&mut bytes).await.is_ok_and(|count| count > 0)
            {
                let at = from + bytes.len() as u64;
                return (bytes, at);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
