//! The host's side of a guest's vsock: a Unix socket, `CONNECT <port>`, `OK <port>`. Firecracker and
//! `vhost-device-vsock` speak the same.
//!
//! Whoever answers on that socket *is* that guest; no name or number that it says counts (R-G8).

use crate::way::Way;
use banger_wire::agent::{PORT, Reply, Request};
use banger_wire::frame::{Frame, Kind};
use banger_wire::json::from_guest;
use banger_wire::stream::{Reader, send, send_message};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a guest may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a write to a guest may stall.
const WRITE: Duration = Duration::from_secs(10);

/// A conversation with a guest's agent.
#[derive(Debug)]
pub struct Conversation {
    /// What the guest says.
    pub reader: Reader<OwnedReadHalf>,
    /// What it is told.
    pub writer: OwnedWriteHalf,
    /// While this is there, it can be cut.
    _held: Option<Arc<OwnedFd>>,
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Connects to a guest's agent and sends the first message.
///
/// # Errors
/// When the guest does not answer in time or not as it should.
pub async fn ask(way: &Way, request: &Request) -> io::Result<Conversation> {
    let mut stream = timeout(CONNECT, connect(way)).await??;
    let held = way.hold(&stream)?;
    timeout(WRITE, send_message(&mut stream, request)).await??;
    let (read, writer) = stream.into_split();
    Ok(Conversation { reader: Reader::new(read), writer, _held: held })
}

async fn connect(way: &Way) -> io::Result<UnixStream> {
    let mut stream = way.connect().await?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await?;
    let mut line = Vec::new();
    // "OK " and a number of at most ten digits.
    while line.len() < 16 {
        match stream.read_u8().await? {
            b'\n' if line.starts_with(b"OK ") => return Ok(stream),
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Err(broken("the vsock device answered something else than OK"))
}

impl Conversation {
    /// The next message, within this time.
    ///
    /// # Errors
    /// When there is none, or it is not one.
    pub async fn reply(&mut self, within: Duration) -> io::Result<Reply> {
        match timeout(within, self.reader.next()).await?? {
            Some(Frame { kind: Kind::Control, payload }) => from_guest(&payload),
            Some(_) => Err(broken("the guest sent a stream where a message was due")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the guest does not take it.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        timeout(WRITE, send(&mut self.writer, kind, payload)).await?
    }

    /// Waits for `Done`.
    ///
    /// # Errors
    /// When the guest says that it failed, or something else, or nothing for so long.
    pub async fn done(&mut self, silence: Duration) -> io::Result<()> {
        match self.reply(silence).await? {
            Reply::Done => Ok(()),
            Reply::Failed { message } => {
                Err(io::Error::other(banger_wire::text::clean_line(&message)))
            }
            Reply::State(_)
            | Reply::Started
            | Reply::Taken
            | Reply::Ports { .. }
            | Reply::Into { .. }
            | Reply::Took { .. }
            | Reply::Workspace { .. }
            | Reply::Exit { .. } => Err(broken("the guest sent another message than was due")),
        }
    }
}
