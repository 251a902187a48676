//! SSH for images that have no server of their own: a process of this same program for each connection.
//!
//! The agent ([`start`]) hands it one end of a socket and the sandbox's identity; it serves that one connection
//! ([`run`]) and ends. Whatever goes wrong in it, the agent stays. SFTP is another process of its kind ([`sftp`]),
//! so that slow files do not hold up a connection.

mod forward;
mod handler;
mod process;
mod sftp;
mod spool;
mod stream;

use crate::state::State;
use crate::{Error, at};
use banger_wire::agent::{Identity, Reply};
use banger_wire::stream::{Reader, send_message as reply};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::{MethodKind, MethodSet, Preferred, cipher, compression, kex};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

pub(crate) use sftp::run as run_sftp;

/// The argument that makes this program serve one connection.
pub(crate) const SERVE: &str = "ssh";
/// The argument that makes this program serve files.
pub(crate) const SFTP: &str = "sftp";
/// How long a client may take to log in.
const LOGIN_GRACE: Duration = Duration::from_secs(30);
/// Connections over the network at once.
const MAX_CONNECTIONS: usize = 64;
/// Bytes that a client may send before it is told to go on.
const WINDOW: u32 = 2 << 20;

/// Serves the SSH stream that follows on a conversation with the host.
pub(crate) async fn relay<R, W>(state: &State, reader: Reader<R>, mut write: W) -> Result<(), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(identity) = state.identity().filter(|identity| identity.ssh.is_some()) else {
        let message = "the guest has no SSH keys yet".to_string();
        return Ok(reply(&mut write, &Reply::Failed { message }).await?);
    };
    let (ours, theirs) = tokio::net::UnixStream::pair()?;
    let mut server = at("starting the SSH server", start(theirs.into_std()?.into(), &identity))?;
    reply(&mut write, &Reply::Done).await?;
    let (mut read, early) = reader.into_parts();
    let (mut from_server, mut to_server) = ours.into_split();
    to_server.write_all(&early).await?;
    let inward = async {
        tokio::io::copy(&mut read, &mut to_server).await?;
        to_server.shutdown().await?;
        std::future::pending::<std::io::Result<()>>().await
    };
    let outward = async {
        tokio::io::copy(&mut from_server, &mut write).await?;
        write.shutdown().await
    };
    // As with forwarded ports, the end of what the server says is the end of all.
    let outcome = tokio::select! {
        broken = inward => broken,
        done = outward => done,
    };
    // Its sockets are closed: it ends by itself.
    tokio::spawn(async move { server.wait().await });
    Ok(outcome?)
}

/// Serves port 22 of every address, unless the image has a server of its own.
pub(crate) async fn listen(state: State) {
    let has_own = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/sbin/dropbear"]
        .iter()
        .any(|path| std::path::Path::new(path).exists());
    if has_own {
        return;
    }
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, 22)).await {
        Ok(listener) => listener,
        Err(error) => return eprintln!("banger-agent: port 22: {error}"),
    };
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (Some(identity), Ok(place)) = (state.identity(), places.clone().try_acquire_owned())
        else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        // A peer that is gone is noticed by the kernel; one that is only asleep is left alone.
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let started = stream.into_std().and_then(|stream| start(stream.into(), &identity));
        match started {
            Ok(mut server) => {
                tokio::spawn(async move {
                    let _ = server.wait().await;
                    drop(place);
                });
            }
            Err(error) => eprintln!("banger-agent: starting the SSH server: {error}"),
        }
    }
}

/// Starts the process for one connection. What it has to know comes over its standard output, before it says a word.
fn start(connection: OwnedFd, identity: &Identity) -> std::io::Result<Child> {
    let (ours, theirs) = tokio::net::UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    // What is run once is not its business.
    let told = Identity { provision: Vec::new(), command: Vec::new(), ..identity.clone() };
    let told = serde_json::to_vec(&told)?;
    let child = Command::new("/proc/self/exe")
        .arg(SERVE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(connection))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    tokio::spawn(async move {
        let mut ours = ours;
        // A process that ended meanwhile needs no telling.
        let _ = ours.write_all(&told).await;
        let _ = ours.shutdown().await;
    });
    Ok(child)
}

/// The process for one connection, on its standard input.
pub(crate) fn run() -> Result<(), Error> {
    let mut told = Vec::new();
    let mut from_agent = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    at("reading the identity", from_agent.read_to_end(&mut told))?;
    let identity: Identity = serde_json::from_slice(&told)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    // Nothing that is started from here has the connection or the agent's line.
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(socket, identity))
}

async fn serve(socket: OwnedFd, identity: Identity) -> Result<(), Error> {
    let keys = identity.ssh.clone().ok_or("there are no keys")?;
    let parse = |line: &String| PublicKey::from_openssh(line);
    let authorized = keys.authorized.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let id = format!("SSH-2.0-banger_{}", env!("CARGO_PKG_VERSION"));
    let config = russh::server::Config {
        server_id: russh::SshId::Standard(id.into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // Keys cannot be guessed: there is nothing to slow down. An agent may offer many.
        auth_rejection_time: Duration::ZERO,
        max_auth_attempts: 20,
        keys: vec![PrivateKey::from(Ed25519Keypair::from_seed(&seed(&keys.host_key)?))],
        inactivity_timeout: None,
        window_size: WINDOW,
        // Readers never wait ([`spool`]), so this is only what one turn of the loop can bring.
        channel_buffer_size: 4096,
        preferred: preferred(),
        ..russh::server::Config::default()
    };
    let (handler, shared) = handler::Server::new(authorized, identity);
    let grace = shared.clone();
    let work = async move {
        let stream = stream::Stream::new(socket)?;
        russh::server::run_stream(Arc::new(config), stream, handler).await?.await?;
        Ok::<(), Error>(())
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = grace.no_login_within(LOGIN_GRACE) => Ok(()),
    };
    shared.hang_up();
    // A client that breaks off is no news.
    drop(outcome);
    Ok(())
}

fn seed(hex: &str) -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = hex.get(index * 2..index * 2 + 2).ok_or("the host key is too short")?;
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(bytes)
}

/// What OpenSSH of this decade speaks, the quickest cipher first.
fn preferred() -> Preferred {
    Preferred {
        kex: vec![
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]
        .into(),
        cipher: vec![cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305].into(),
        compression: vec![compression::NONE].into(),
        ..Preferred::default()
    }
}
