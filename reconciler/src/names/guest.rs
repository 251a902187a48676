//! Guests' questions, over vsock: their agents listen on port 53 of their loopback and hand on what is asked there.
//!
//! A guest learns the names of the sandboxes that it can reach, and everything else as far as its egress goes.

use super::answer::{Answer, answer, deny, fail, has_one_label, refuse, stays_here};
use super::upstream;
use crate::drivers::guest::VsockGuest;
use crate::engine::{Engine, Snapshot};
use banger_plan::zone::guest_zone;
use banger_wire::agent::{NAMES_HEADER, Reply, Request};
use banger_wire::frame::Kind;
use banger_wire::id::SandboxId;
use banger_wire::net::Egress;
use banger_wire::stream::send;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Questions of one guest that are under way at once. More wait in the guest.
const UNDER_WAY: usize = 32;
/// The longest question, in bytes.
const LONGEST: usize = 4096;
/// How long a guest may take no answer.
const WRITE: Duration = Duration::from_secs(10);
/// Between two tries to reach a guest that did not take the line.
const RETRY: Duration = Duration::from_secs(1);

/// The tasks of this process that serve guests. One per guest that has its identity.
pub async fn serve_guests(engine: Arc<Engine>, guest: Arc<VsockGuest>) {
    let mut snapshots = engine.snapshots();
    let mut tasks: BTreeMap<SandboxId, AbortHandle> = BTreeMap::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let talks = |id: &SandboxId| {
            let fact = snapshot.actual.sandboxes.get(id);
            fact.and_then(|fact| fact.guest.present()).is_some_and(|said| said.generation.0 > 0)
        };
        tasks.retain(|id, task| {
            let keep = talks(id) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for id in snapshot.desired.sandboxes.keys().filter(|id| talks(id)) {
            if !tasks.contains_key(id) {
                let work = keep_serving(id.clone(), guest.clone(), engine.snapshots());
                tasks.insert(id.clone(), tokio::spawn(work).abort_handle());
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_serving(
    id: SandboxId,
    guest: Arc<VsockGuest>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    loop {
        let ended = serve(&id, &guest, &snapshots).await;
        tracing::debug!("names for {id}: {ended:?}");
        tokio::time::sleep(RETRY).await;
    }
}

/// One line to a guest, until it breaks.
async fn serve(
    id: &SandboxId,
    guest: &VsockGuest,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    let line = guest.ask(id, &Request::Names).await;
    let mut line = line.map_err(|fault| io::Error::other(fault.problem().message))?;
    if line.reply(RETRY * 5).await? != Reply::Done {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (sender, mut said) = mpsc::channel::<Vec<u8>>(UNDER_WAY);
    let places = Arc::new(tokio::sync::Semaphore::new(UNDER_WAY));
    loop {
        tokio::select! {
            frame = line.reader.next() => {
                let Some(frame) = frame? else { return Ok(()) };
                let payload = frame.payload;
                if frame.kind != Kind::Stdout || !(NAMES_HEADER + 1..=LONGEST).contains(&payload.len()) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                // Not more than so many at once: what is above that is dropped, as networks do.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (id, snapshot, sender) = (id.clone(), snapshots.borrow().clone(), sender.clone());
                tokio::spawn(async move {
                    let (header, question) = payload.split_at(NAMES_HEADER);
                    if let Some(answer) = reply(&id, &snapshot, question, header[0] != 0).await {
                        // The line may be gone by now.
                        let _ = sender.send([header, &answer].concat()).await;
                    }
                    drop(place);
                });
            }
            Some(answer) = said.recv() => {
                let sent = send(&mut line.writer, Kind::Stdin, &answer);
                // A guest that takes no answer for so long gets a new line when it wants one.
                tokio::time::timeout(WRITE, sent).await??;
            }
        }
    }
}

async fn reply(
    id: &SandboxId,
    snapshot: &Snapshot,
    question: &[u8],
    by_tcp: bool,
) -> Option<Vec<u8>> {
    let asks = snapshot.desired.sandboxes.get(id)?;
    let zone = guest_zone(&snapshot.desired, &snapshot.actual, asks);
    match answer(question, &zone) {
        Answer::Reply(bytes) => Some(bytes),
        Answer::Nothing => None,
        Answer::Elsewhere if has_one_label(question) => Some(deny(question)),
        Answer::Elsewhere if stays_here(question) => Some(refuse(question)),
        Answer::Elsewhere => match asks.spec.egress {
            // A name that is asked for is a message that gets out.
            Egress::None => Some(refuse(question)),
            Egress::Public | Egress::Open | Egress::Host => {
                Some(upstream::ask(question, by_tcp).await.unwrap_or_else(|| fail(question)))
            }
        },
    }
}
