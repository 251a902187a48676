//! Forwarded ports and sockets, both ways.

use super::handler::Shared;
use super::spool::Spool;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The most that one packet carries.
pub(super) const CHUNK: usize = 32 << 10;

/// What the client asked to be listened on, as it names it.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Listen {
    /// An address and a port.
    Tcp(String, u32),
    /// A path.
    Unix(String),
}

/// From the client to a TCP port that the guest reaches. In the channel's own task, so that a slow connect holds
/// nothing up.
pub(super) async fn to_tcp(
    channel: Channel<Msg>,
    host: String,
    port: u32,
    answer: ChannelOpenHandle,
) {
    let connect = async {
        let port = u16::try_from(port).map_err(io::Error::other)?;
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    open(channel, connect, answer).await;
}

/// From the client to a socket in the guest.
pub(super) async fn to_unix(channel: Channel<Msg>, path: String, answer: ChannelOpenHandle) {
    open(channel, UnixStream::connect(path), answer).await;
}

async fn open<S: AsyncRead + AsyncWrite>(
    channel: Channel<Msg>,
    connect: impl Future<Output = io::Result<S>>,
    answer: ChannelOpenHandle,
) {
    match connect.await {
        Ok(stream) => {
            answer.accept().await;
            carry(channel, stream).await;
        }
        Err(_) => answer.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}

/// From a TCP port of the guest to the client. Returns the port that is listened on.
pub(super) async fn listen_tcp(
    address: &str,
    port: u32,
    session: Handle,
    shared: Arc<Shared>,
) -> io::Result<(u32, AbortHandle)> {
    // As OpenSSH's `GatewayPorts clientspecified`: the client says on which addresses.
    let bind = match address {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        other => other,
    };
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let listener = TcpListener::bind((bind, port)).await?;
    let bound = u32::from(listener.local_addr()?.port());
    let address = address.to_string();
    let task = tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            // The client's answer is waited for, so not here.
            let (session, shared, address) = (session.clone(), shared.clone(), address.clone());
            tokio::spawn(async move {
                let (ip, port) = (peer.ip().to_string(), u32::from(peer.port()));
                let opened = session.channel_open_forwarded_tcpip(address, bound, ip, port).await;
                if let Ok(channel) = opened {
                    shared.spawn_forward(carry(channel, stream));
                }
            });
        }
    });
    Ok((bound, task.abort_handle()))
}

/// From a socket in the guest to the client.
pub(super) fn listen_unix(
    path: &str,
    owner: (u32, u32),
    session: Handle,
    shared: Arc<Shared>,
) -> io::Result<AbortHandle> {
    let listener = UnixListener::bind(path)?;
    let socket = Socket(path.to_string());
    std::os::unix::fs::lchown(path, Some(owner.0), Some(owner.1))?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (session, shared, path) = (session.clone(), shared.clone(), socket.0.clone());
            tokio::spawn(async move {
                if let Ok(channel) = session.channel_open_forwarded_streamlocal(path).await {
                    shared.spawn_forward(carry(channel, stream));
                }
            });
        }
    });
    Ok(task.abort_handle())
}

/// A socket's file, which goes with its listener.
struct Socket(String);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Both ways, each until its end; then the channel is closed. A client that closes it has sent all that it will: what
/// is on its way still arrives, and nothing is waited for any more.
async fn carry<S: AsyncRead + AsyncWrite>(channel: Channel<Msg>, stream: S) {
    let (mut reader, writer) = channel.split();
    let (mut from, mut to) = tokio::io::split(stream);
    let (spool, closed) = (Spool::default(), Notify::new());
    let fill = async {
        let mut open = true;
        while let Some(message) = reader.wait().await {
            if let ChannelMsg::Data { data } = &message {
                open = open && spool.push(data).is_ok();
            }
            if matches!(message, ChannelMsg::Eof) {
                spool.end();
            }
        }
        spool.end();
        closed.notify_one();
    };
    let inward = async {
        loop {
            match spool.pop().await {
                Ok(Some(bytes)) if to.write_all(&bytes).await.is_ok() => {}
                Ok(Some(_)) => break,
                Ok(None) => {
                    let _ = to.shutdown().await;
                    break;
                }
                Err(error) => {
                    eprintln!("banger-agent: ssh: a forwarded stream was broken off: {error}");
                    break;
                }
            }
        }
    };
    let outward = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            if writer.data(&chunk[..count]).await.is_err() {
                break;
            }
        }
        let _ = writer.eof().await;
    };
    let outward = async {
        tokio::select! {
            () = outward => {}
            () = closed.notified() => {}
        }
    };
    // The channel is over when both directions are; a reader that waits for its close must not hold that up.
    tokio::select! {
        _ = async { tokio::join!(inward, outward) } => {}
        () = async { fill.await; std::future::pending().await } => {}
    }
    let _ = writer.close().await;
}
