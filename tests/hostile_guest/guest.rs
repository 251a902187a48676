//! A guest behind a Unix socket that speaks as its vsock device and its agent do, but for what a case wants otherwise.

use banger_tree::stream::Sender;
use banger_wire::agent::{GuestState, Phase, Reply, Request};
use banger_wire::frame::{Kind, encode};
use banger_wire::id::Generation;
use banger_wire::stream::Reader;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// One thing that a guest does.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Sends this.
    Send(Vec<u8>),
    /// Sends it a byte a second.
    Drip(Vec<u8>),
    /// Sends it for ever.
    Repeat(Vec<u8>),
    /// Says and reads nothing more.
    Silence,
    /// Reads all that it is sent, and says nothing more.
    Swallow,
    /// Takes a stream of the host's to its end.
    Take,
}

/// Where a guest stops being what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Before it was asked for anything.
    Connect,
    /// When it is asked for this.
    Asked(&'static str),
    /// Never.
    Nowhere,
}

pub(super) struct Guest {
    script: Arc<Mutex<(At, Vec<Act>)>>,
    /// What it says about itself where it is well-behaved.
    pub(super) state: watch::Sender<GuestState>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// What a well-behaved guest says.
pub(super) fn ready(generation: u64) -> GuestState {
    GuestState {
        version: "0.1.0".into(),
        boot_id: "boot".into(),
        generation: Generation(generation),
        phase: Phase::Ready,
        detail: String::new(),
    }
}

pub(super) fn message(reply: &Reply) -> Vec<u8> {
    encode(Kind::Control, &serde_json::to_vec(reply).expect("JSON"))
}

/// A tree in frames, with its end.
pub(super) fn tree(build: impl FnOnce(&mut Sender<Vec<u8>>)) -> Vec<u8> {
    let mut sender = Sender::new(Vec::new());
    build(&mut sender);
    let bytes = sender.end().expect("ends");
    let chunks = bytes.chunks(Kind::Stdout.limit()).flat_map(|chunk| encode(Kind::Stdout, chunk));
    chunks.chain(encode(Kind::Stdout, &[])).collect()
}

/// The name of a request as a case names it.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::Watch => "watch",
        Request::Identify(_) => "identify",
        Request::Exec(_) => "exec",
        Request::Forward { .. } => "forward",
        Request::Names => "names",
        Request::Ssh => "ssh",
        Request::Ports => "ports",
        Request::Put(_) => "put",
        Request::Get { .. } => "get",
        Request::Ship { .. } => "ship",
        Request::Survey => "survey",
        Request::Sync => "sync",
        Request::Hold => "hold",
        Request::Shutdown => "shutdown",
    }
}

pub(super) fn workspace(revision: u64) -> Vec<u8> {
    message(&Reply::Workspace { at: "/work".into(), revision })
}

/// What is due.
fn due(request: &Request) -> Vec<Act> {
    let send = |reply: Reply| vec![Act::Send(message(&reply))];
    match request {
        Request::Watch => Vec::new(),
        Request::Identify(_) | Request::Sync | Request::Hold | Request::Shutdown => {
            send(Reply::Done)
        }
        Request::Exec(_) => {
            vec![Act::Send([message(&Reply::Started), message(&Reply::Exit { code: 1 })].concat())]
        }
        Request::Forward { .. } | Request::Names | Request::Ssh => {
            vec![Act::Send(message(&Reply::Done)), Act::Swallow]
        }
        Request::Ports => send(Reply::Ports { ports: Vec::new() }),
        Request::Put(_) | Request::Get { .. } => send(Reply::Failed { message: "no".into() }),
        Request::Ship { .. } => vec![
            Act::Send(workspace(0)),
            Act::Take,
            Act::Send([tree(|_| {}), workspace(1)].concat()),
        ],
        Request::Survey => vec![Act::Send([workspace(1), tree(|_| {})].concat())],
    }
}

impl Guest {
    /// Listens at this path.
    pub(super) fn at(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("listens");
        let script = Arc::new(Mutex::new((At::Nowhere, Vec::new())));
        let (state, _) = watch::channel(ready(1));
        let tasks: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (told, known, says) = (script.clone(), tasks.clone(), state.subscribe());
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, says) = (told.lock().expect("no holder panics").clone(), says.clone());
                // A host that hangs up is no error of the guest's.
                let task = tokio::spawn(async move { drop(serve(stream, told, says).await) });
                let mut known = known.lock().expect("no holder panics");
                known.retain(|task| !task.is_finished());
                known.push(task.abort_handle());
            }
        });
        tasks.lock().expect("no holder panics").push(accept.abort_handle());
        Self { script, state, tasks }
    }

    /// From now on it behaves so.
    pub(super) fn behave(&self, at: At, acts: &[Act]) {
        *self.script.lock().expect("no holder panics") = (at, acts.to_vec());
        // Who was talked to otherwise is talked to no more; the first task is the one that accepts.
        for task in self.tasks.lock().expect("no holder panics").iter().skip(1) {
            task.abort();
        }
    }

    fn hang_up(&self) {
        self.tasks.lock().expect("no holder panics").iter().for_each(AbortHandle::abort);
    }
}

async fn serve(
    mut stream: UnixStream,
    (at, acts): (At, Vec<Act>),
    mut says: watch::Receiver<GuestState>,
) -> io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stream.read_u8().await?);
    }
    if at == At::Connect {
        let (read, mut write) = stream.into_split();
        return play(&acts, &mut Reader::new(read), &mut write).await;
    }
    stream.write_all(b"OK 1073741824\n").await?;
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    let Some(first) = reader.next().await? else { return Ok(()) };
    let request: Request = serde_json::from_slice(&first.payload)?;
    if at == At::Asked(kind(&request)) {
        return play(&acts, &mut reader, &mut write).await;
    }
    if request == Request::Watch {
        loop {
            let said = says.borrow_and_update().clone();
            write.write_all(&message(&Reply::State(said))).await?;
            tokio::select! {
                _ = says.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
                gone = reader.next() => return gone.map(drop),
            }
        }
    }
    play(&due(&request), &mut reader, &mut write).await
}

async fn play(
    acts: &[Act],
    reader: &mut Reader<impl tokio::io::AsyncRead + Unpin>,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    for act in acts {
        match act {
            Act::Send(bytes) => write.write_all(bytes).await?,
            Act::Drip(bytes) => {
                for byte in bytes {
                    write.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Act::Repeat(bytes) => loop {
                write.write_all(bytes).await?;
            },
            Act::Silence => std::future::pending().await,
            Act::Swallow => {
                while reader.next().await?.is_some() {}
                return Ok(());
            }
            Act::Take => {
                while reader.next().await?.is_some_and(|frame| !frame.payload.is_empty()) {}
            }
        }
    }
    Ok(())
}
