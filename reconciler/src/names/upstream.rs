//! The host's own resolvers, asked on behalf of a guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many servers are asked.
const SERVERS: usize = 3;

/// The longest answer that fits on a guest's line, in bytes.
const LONGEST: usize = banger_wire::frame::MAX_CHUNK - banger_wire::agent::NAMES_HEADER;

/// The host's list of resolvers: `BANGER_RESOLV_CONF`, else the system's.
fn list() -> PathBuf {
    std::env::var_os("BANGER_RESOLV_CONF").map_or_else(|| "/etc/resolv.conf".into(), PathBuf::from)
}

fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        let address: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::from((address, 53)))
    };
    text.lines().filter_map(server).take(SERVERS).collect()
}

/// The first server's answer. `None` when none gives one.
pub(super) async fn ask(question: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
    // Read each time: it changes with the network.
    let text = tokio::fs::read_to_string(list()).await.unwrap_or_default();
    for server in servers(&text) {
        let asked = async {
            if by_tcp { ask_tcp(question, server).await } else { ask_udp(question, server).await }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(said)) => return Some(said),
            Ok(Err(error)) => tracing::debug!("asking {server}: {error}"),
            Err(_) => tracing::debug!("asking {server}: no answer"),
        }
    }
    None
}

/// From a port and with a number of our own, so that nobody can answer in its place by guessing the guest's.
async fn ask_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let number: [u8; 2] = crate::host::random();
    let (Some(theirs), Some(rest)) = (question.get(..2), question.get(2..)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    socket.send(&[&number[..], rest].concat()).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let count = socket.recv(&mut buffer).await?;
        if count > 12 && buffer[..2] == number && buffer[2] & 0x80 != 0 {
            return Ok([theirs, &buffer[2..count]].concat());
        }
    }
}

async fn ask_tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut said = vec![0; length];
    stream.read_exact(&mut said).await?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_do() {
        let text = "# nameserver 9.9.9.9\nnameserver 192.0.2.1\nsearch x\n nameserver fe80::1%eth0\nnameserver nonsense\nnameserver 127.0.0.53 # local\nnameserver 192.0.2.4";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[fe80::1]:53", "127.0.0.53:53"]);
    }
}
