//! The server for the host's own programs: 127.0.0.1, UDP and TCP, never any other address (R-D1).

use super::answer::{Answer, answer, refuse};
use crate::fault::Fault;
use banger_plan::zone::Zone;
use banger_wire::derive::DNS_PORT;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// The longest question that is read, in bytes.
const LONGEST: usize = 4096;
/// TCP connections at once, and how long one may take.
const CONNECTIONS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// The open sockets.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Opens both sockets.
    ///
    /// # Errors
    /// When somebody else has the port.
    pub async fn open() -> Result<Self, Fault> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
        let fail = |error: io::Error| {
            let fault = Fault::io(format!("the DNS server at {address}"), error);
            fault.hint("names of sandboxes are not answered while somebody else has the port")
        };
        let udp = UdpSocket::bind(address).map_err(fail)?;
        let tcp = TcpListener::bind(address).await.map_err(fail)?;
        Ok(Self { udp, tcp })
    }
}

fn reply(question: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    match answer(question, zone) {
        Answer::Reply(bytes) => Some(bytes),
        Answer::Elsewhere => Some(refuse(question)),
        Answer::Nothing => None,
    }
}

/// Serves until the process ends. UDP has a thread of its own: a question is one read and one write.
pub async fn serve_host(server: Server, zone: watch::Receiver<Arc<Zone>>) {
    let (udp, zone_of_thread) = (server.udp, zone.clone());
    std::thread::spawn(move || serve_udp(&udp, &zone_of_thread));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match server.tcp.accept().await {
            Ok((stream, from)) if from.ip().is_loopback() => {
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let zone = zone.borrow().clone();
                tokio::spawn(async move {
                    // Whoever breaks off needs no answer.
                    let _ = timeout(PATIENCE, serve_tcp(stream, &zone)).await;
                    drop(place);
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("accepting for DNS: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn serve_udp(socket: &UdpSocket, zone: &watch::Receiver<Arc<Zone>>) {
    let mut buffer = [0; LONGEST];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let said = reply(&buffer[..count], &zone.borrow());
        if let Some(said) = said.filter(|_| from.ip().is_loopback()) {
            // Whoever asked may be gone.
            let _ = socket.send_to(&said, from);
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let length = usize::from(stream.read_u16().await?);
        if length > LONGEST {
            return Ok(());
        }
        let mut question = vec![0; length];
        stream.read_exact(&mut question).await?;
        let Some(said) = reply(&question, zone) else { return Ok(()) };
        let length = u16::try_from(said.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &said].concat()).await?;
    }
}
