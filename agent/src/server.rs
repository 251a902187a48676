//! The server: one conversation per vsock connection.

use crate::identity::Identities;
use crate::state::State;
use crate::{Error, at, exec, files, forward, hold, shutdown};
use banger_wire::agent::{HEARTBEAT_SECS, LISTENS, PORT, Reply, Request};
use banger_wire::frame::Kind;
use banger_wire::stream::{Reader, send_message as reply};
use std::time::Duration;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// How long a connection may take to say what it wants.
const FIRST_FRAME: Duration = Duration::from_secs(10);

pub(crate) fn run() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<(), Error> {
    let listener =
        at("listening on vsock", VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, PORT)))?;
    eprintln!("{LISTENS}");
    let state = State::new();
    let identities = Identities::new(state.clone());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("banger-agent: accepting: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // A process in the guest could connect over vsock loopback; only the host may speak.
        if peer.cid() != VMADDR_CID_HOST {
            continue;
        }
        let (state, identities) = (state.clone(), identities.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, state, identities).await {
                eprintln!("banger-agent: a conversation ended: {error}");
            }
        });
    }
}

async fn converse(stream: VsockStream, state: State, identities: Identities) -> Result<(), Error> {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    let Some(first) = tokio::time::timeout(FIRST_FRAME, reader.next()).await?? else {
        return Ok(());
    };
    if first.kind != Kind::Control {
        return Err("the first frame is not a message".into());
    }
    let request = match serde_json::from_slice(&first.payload) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("not understood: {error}");
            return Ok(reply(&mut write, &Reply::Failed { message }).await?);
        }
    };
    match request {
        Request::Watch => watch(&state, &mut write).await,
        Request::Identify(identity) => {
            answer(&mut write, identities.take_on(*identity).await).await
        }
        Request::Exec(request) => exec::run(request, &state, reader, write).await,
        Request::Forward { port } => forward::run(port, reader, write).await,
        Request::Names => identities.names().run(reader, write).await,
        Request::Ports => {
            let ports = tokio::task::spawn_blocking(crate::ports::listening).await?;
            Ok(reply(&mut write, &Reply::Ports { ports }).await?)
        }
        Request::Ssh => crate::ssh::relay(&state, reader, write).await,
        Request::Put(put) => files::put(put, &state, reader, write).await,
        Request::Get { path } => files::get(path, &state, write).await,
        Request::Ship { at } => {
            let hidden = identities.hidden().await;
            if files::ship(at, &state, hidden, reader, write).await? {
                identities.go_on().await;
            }
            Ok(())
        }
        Request::Survey => files::survey(&state, identities.hidden().await, write).await,
        Request::Sync => {
            let synced = tokio::task::spawn_blocking(nix::unistd::sync).await;
            answer(&mut write, synced.map_err(Error::from)).await
        }
        Request::Hold => hold::run(identities.hidden().await, reader, write).await,
        Request::Shutdown => shutdown::run(&state, &mut write).await,
    }
}

async fn answer(
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
    outcome: Result<(), Error>,
) -> Result<(), Error> {
    let message = match outcome {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed { message: error.to_string() },
    };
    Ok(reply(write, &message).await?)
}

async fn watch(
    state: &State,
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<(), Error> {
    let mut changes = state.watch();
    loop {
        let now = changes.borrow_and_update().clone();
        reply(write, &Reply::State(now)).await?;
        let heartbeat =
            tokio::time::timeout(Duration::from_secs(HEARTBEAT_SECS), changes.changed());
        if matches!(heartbeat.await, Ok(Err(_))) {
            return Ok(());
        }
    }
}
