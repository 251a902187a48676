//! Port 53 of the guest's loopback: what is asked there goes to the host over the line that it opened.

use crate::{Error, at};
use banger_wire::agent::{NAMES_HEADER, Reply};
use banger_wire::frame::Kind;
use banger_wire::stream::{Reader, send, send_message as reply};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The longest message, in bytes: one chunk holds it with its header.
const LONGEST: usize = 4096 - NAMES_HEADER;
/// Questions under way at once.
const UNDER_WAY: usize = 32;
/// How long the host may take for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a TCP connection may be quiet.
const QUIET: Duration = Duration::from_secs(10);

/// The line to the host, and who waits for what.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    line: Option<mpsc::Sender<Vec<u8>>>,
    waiting: HashMap<u32, oneshot::Sender<Vec<u8>>>,
    next: u32,
}

impl Names {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder panics")
    }

    /// Listens, and tells the guest's programs to ask here.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 53));
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 53));
        let (udp, tcp) = (at("port 53", udp)?, at("port 53", tcp)?);
        at("port 53", udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)))?;
        let (udp, tcp) =
            (at("port 53", UdpSocket::from_std(udp))?, at("port 53", TcpListener::from_std(tcp))?);
        tokio::spawn(self.clone().serve_udp(Arc::new(udp)));
        tokio::spawn(self.clone().serve_tcp(tcp));
        at("/etc/resolv.conf", point_here())
    }

    /// The host's line, until it breaks or a newer one comes.
    pub(crate) async fn run<R, W>(&self, mut reader: Reader<R>, mut write: W) -> Result<(), Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (sender, mut questions) = mpsc::channel(UNDER_WAY);
        self.lock().line = Some(sender.clone());
        reply(&mut write, &Reply::Done).await?;
        let outcome = loop {
            tokio::select! {
                question = questions.recv() => match question {
                    Some(question) => send(&mut write, Kind::Stdout, &question).await?,
                    None => break Ok(()),
                },
                frame = reader.next() => match frame {
                    Ok(Some(frame)) if frame.kind == Kind::Stdin => self.answered(&frame.payload),
                    Ok(Some(_)) => break Err("a message where an answer was due".into()),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error.into()),
                },
            }
        };
        let mut inner = self.lock();
        if inner.line.as_ref().is_some_and(|line| line.same_channel(&sender)) {
            inner.line = None;
        }
        outcome
    }

    fn answered(&self, payload: &[u8]) {
        let Some((header, answer)) = payload.split_at_checked(NAMES_HEADER) else { return };
        let number = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if let Some(waiting) = self.lock().waiting.remove(&number) {
            // Whoever asked may be gone.
            let _ = waiting.send(answer.to_vec());
        }
    }

    /// The host's answer, or one of our own that says that there is none.
    async fn ask(&self, question: &[u8], by_tcp: bool) -> Vec<u8> {
        let (sender, answer) = oneshot::channel();
        let (line, number) = {
            let mut inner = self.lock();
            if inner.waiting.len() >= UNDER_WAY {
                return failure(question);
            }
            inner.next = inner.next.wrapping_add(1);
            let number = inner.next;
            inner.waiting.insert(number, sender);
            (inner.line.clone(), number)
        };
        let header = [&[u8::from(by_tcp)][..], &number.to_be_bytes()].concat();
        let asked = async {
            line?.send([&header[..], question].concat()).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(PATIENCE, asked).await.ok().flatten();
        self.lock().waiting.remove(&number);
        answer.unwrap_or_else(|| failure(question))
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (names, socket, question) =
                (self.clone(), socket.clone(), buffer[..count].to_vec());
            tokio::spawn(async move {
                let answer = names.ask(&question, false).await;
                // Whoever asked may be gone.
                let _ = socket.send_to(&answer, from).await;
            });
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let names = self.clone();
            tokio::spawn(async move {
                let _ = names.converse(stream).await;
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = usize::from(timeout(QUIET, stream.read_u16()).await??);
            if length > LONGEST {
                return Ok(());
            }
            let mut question = vec![0; length];
            timeout(QUIET, stream.read_exact(&mut question)).await??;
            let answer = self.ask(&question, true).await;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
        }
    }
}

/// The same message as an answer that says "server failure".
fn failure(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    if let [_, _, flags, code, ..] = answer.as_mut_slice() {
        *flags |= 0x80;
        *code = (*code & 0xf0) | 2;
    }
    answer
}

/// A link there belongs to software that is not asked any more; the file behind it stays.
fn point_here() -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    fs::create_dir_all("/etc")?;
    fs::write(path, "# banger answers here.\nnameserver 127.0.0.1\nsearch vm\n")
}
