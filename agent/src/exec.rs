//! Commands in the guest: pipes or a terminal, signals, exit status.

use crate::state::State;
use crate::sys::{self, Prepare};
use crate::{Error, users};
use banger_wire::agent::{Control, Exec, Identity, Phase, Reply, STDIN_WINDOW, Signal};
use banger_wire::frame::{Kind, MAX_CHUNK};
use banger_wire::stream::{Reader, send, send_message as reply};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{self, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, error::TrySendError};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long output may still trickle in after the command itself ended: a background child may hold the pipe.
const QUIET: Duration = Duration::from_millis(100);

/// The sandbox's service, as its user.
pub(crate) fn service(identity: &Identity) -> Result<Command, String> {
    let exec = Exec { argv: identity.command.clone(), ..Exec::default() };
    Ok(command(identity, &exec, &users::find(identity.user.as_deref())?, false))
}

/// A command as root with the sandbox's environment.
pub(crate) fn plain(identity: &Identity, argv: &[String]) -> Command {
    let exec = Exec { argv: argv.to_vec(), ..Exec::default() };
    let root = users::find(None).expect("root needs no entry");
    command(identity, &exec, &root, false)
}

/// The exit status as a shell gives it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Where a command starts: where it was asked to, or the sandbox's own folder, or its user's home.
pub(crate) fn folder<'a>(
    identity: &'a Identity,
    asked: Option<&'a str>,
    user: &'a users::User,
) -> &'a Path {
    let home = Some(user.home.as_str()).filter(|home| Path::new(home).is_dir()).unwrap_or("/");
    let own = identity.workdir.as_deref().filter(|folder| Path::new(folder).is_dir());
    Path::new(asked.or(own).unwrap_or(home))
}

pub(crate) fn command(identity: &Identity, exec: &Exec, user: &users::User, tty: bool) -> Command {
    let mut env: BTreeMap<&str, &str> = BTreeMap::from([
        ("PATH", PATH),
        ("HOME", user.home.as_str()),
        ("USER", user.name.as_str()),
        ("LOGNAME", user.name.as_str()),
        ("SHELL", user.shell.as_str()),
    ]);
    if let Some(tty) = &exec.tty {
        env.insert("TERM", &tty.term);
    }
    env.extend(
        identity.env.iter().chain(&exec.env).map(|(key, value)| (key.as_str(), value.as_str())),
    );
    let mut command = Command::new(&exec.argv[0]);
    command.args(&exec.argv[1..]).env_clear().envs(env).kill_on_drop(true);
    command.current_dir(folder(identity, exec.cwd.as_deref(), user));
    let (uid, gid, groups) = (user.uid, user.gid, user.groups.clone());
    sys::prepare(&mut command, Prepare { uid, gid, groups, tty });
    command
}

/// Serves one exec conversation.
pub(crate) async fn run<R, W>(
    exec: Exec,
    state: &State,
    reader: Reader<R>,
    mut write: W,
) -> Result<(), Error>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (child, streams) = match start(&exec, state) {
        Ok(started) => started,
        Err(message) => return Ok(reply(&mut write, &Reply::Failed { message }).await?),
    };
    reply(&mut write, &Reply::Started).await?;
    converse(child, streams, reader, write).await
}

/// A chunk of output and what it is.
type Output = (Kind, Vec<u8>);

/// The host's ends of a command's streams.
struct Streams {
    stdin: Option<Box<dyn AsyncWrite + Unpin + Send>>,
    outputs: Vec<(Kind, Box<dyn AsyncRead + Unpin + Send>)>,
    terminal: Option<std::fs::File>,
}

fn start(exec: &Exec, state: &State) -> Result<(Child, Streams), String> {
    let identity = state.identity().ok_or("the guest has no identity yet")?;
    if state.phase() == Phase::Leaving {
        return Err("the guest is shutting down".to_string());
    }
    if exec.argv.is_empty() || exec.argv.iter().any(|arg| arg.contains('\0')) {
        return Err("the command is empty or has a NUL character".to_string());
    }
    let user = users::find(exec.user.as_deref().or(identity.user.as_deref()))?;
    let mut command = command(&identity, exec, &user, exec.tty.is_some());
    let spawned = |command: &mut Command| {
        command.spawn().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let why =
                if missing { "not found in the guest".to_string() } else { error.to_string() };
            format!("{}: {why}", exec.argv[0])
        })
    };
    let Some(tty) = &exec.tty else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawned(&mut command)?;
        let stdin = child.stdin.take().map(|stdin| Box::new(stdin) as _);
        let stdout = Box::new(child.stdout.take().expect("piped")) as _;
        let stderr = Box::new(child.stderr.take().expect("piped")) as _;
        let outputs = vec![(Kind::Stdout, stdout), (Kind::Stderr, stderr)];
        return Ok((child, Streams { stdin, outputs, terminal: None }));
    };
    let (master, slave) = open_terminal(&user).map_err(|error| format!("no terminal: {error}"))?;
    sys::set_window(master.as_fd(), tty.rows, tty.cols).map_err(|error| error.to_string())?;
    let clone = |file: &std::fs::File| file.try_clone().map_err(|error| error.to_string());
    command.stdin(clone(&slave)?).stdout(clone(&slave)?).stderr(slave);
    let child = spawned(&mut command)?;
    // The command keeps the slave's descriptors; they close with it.
    drop(command);
    let stdin = Some(Box::new(tokio::fs::File::from_std(clone(&master)?)) as _);
    let output = Box::new(tokio::fs::File::from_std(clone(&master)?)) as _;
    Ok((child, Streams { stdin, outputs: vec![(Kind::Stdout, output)], terminal: Some(master) }))
}

/// Both ends of a new terminal: ours and the command's, which is its user's.
pub(crate) fn open_terminal(user: &users::User) -> nix::Result<(std::fs::File, std::fs::File)> {
    use nix::fcntl::OFlag;
    let master: PtyMaster = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    let slave = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(0)))?;
    // The user's to open again, as `screen` and others do.
    nix::unistd::fchown(&slave, Some(user.uid.into()), Some(user.gid.into()))?;
    Ok((std::fs::File::from(std::os::fd::OwnedFd::from(master)), slave))
}

async fn converse<R, W>(
    mut child: Child,
    streams: Streams,
    mut reader: Reader<R>,
    mut write: W,
) -> Result<(), Error>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let group = Pid::from_raw(i32::try_from(child.id().unwrap_or(0)).unwrap_or(0));
    let (sender, mut output) = mpsc::channel::<Output>(8);
    for (kind, stream) in streams.outputs {
        tokio::spawn(pump(kind, stream, sender.clone()));
    }
    // Not among the outputs: they are at their end when the command's own streams are.
    let (taken_sender, mut taken) = mpsc::channel::<()>(STDIN_WINDOW);
    drop(sender);
    let (stdin_sender, stdin_receiver) = mpsc::channel::<Vec<u8>>(STDIN_WINDOW);
    if let Some(stdin) = streams.stdin {
        tokio::spawn(feed(stdin, stdin_receiver, taken_sender));
    }
    let mut stdin_sender = Some(stdin_sender);
    let mut ended = None;
    loop {
        tokio::select! {
            chunk = output.recv() => match chunk {
                Some((kind, bytes)) => send(&mut write, kind, &bytes).await?,
                None => break,
            },
            Some(()) = taken.recv() => reply(&mut write, &Reply::Taken).await?,
            status = child.wait(), if ended.is_none() => ended = Some(status?),
            () = tokio::time::sleep(QUIET), if ended.is_some() => break,
            frame = reader.next(), if ended.is_none() => match frame {
                Ok(Some(frame)) if frame.kind == Kind::Stdin && frame.payload.is_empty() => stdin_sender = None,
                Ok(Some(frame)) if frame.kind == Kind::Stdin => {
                    if let Some(stdin) = &stdin_sender {
                        match stdin.try_send(frame.payload) {
                            // A command that closed its input is no error of the sender's.
                            Ok(()) | Err(TrySendError::Closed(_)) => {}
                            Err(TrySendError::Full(_)) => {
                                return Err("more input was sent than may be under way".into());
                            }
                        }
                    }
                }
                Ok(Some(frame)) => control(&frame.payload, group, streams.terminal.as_ref())?,
                Ok(None) | Err(_) => return hang_up(child, group).await,
            },
        }
    }
    let status = match ended {
        Some(status) => status,
        None => child.wait().await?,
    };
    Ok(reply(&mut write, &Reply::Exit { code: code(status) }).await?)
}

/// The host is gone: so is the command, politely first.
async fn hang_up(mut child: Child, group: Pid) -> Result<(), Error> {
    let _ = killpg(group, signal::Signal::SIGHUP);
    if tokio::time::timeout(Duration::from_secs(2), child.wait()).await.is_err() {
        let _ = killpg(group, signal::Signal::SIGKILL);
        child.wait().await?;
    }
    Ok(())
}

fn control(payload: &[u8], group: Pid, terminal: Option<&std::fs::File>) -> Result<(), Error> {
    match serde_json::from_slice(payload)? {
        Control::Resize { rows, cols } => {
            if let Some(terminal) = terminal {
                sys::set_window(terminal.as_fd(), rows, cols)?;
            }
        }
        Control::Signal { signal } => {
            // It may have ended meanwhile.
            let _ = killpg(group, to_signal(signal));
        }
    }
    Ok(())
}

/// A signal as the kernel knows it.
pub(crate) fn to_signal(signal: Signal) -> signal::Signal {
    match signal {
        Signal::Hup => signal::Signal::SIGHUP,
        Signal::Int => signal::Signal::SIGINT,
        Signal::Quit => signal::Signal::SIGQUIT,
        Signal::Term => signal::Signal::SIGTERM,
        Signal::Kill => signal::Signal::SIGKILL,
        Signal::Usr1 => signal::Signal::SIGUSR1,
        Signal::Usr2 => signal::Signal::SIGUSR2,
    }
}

/// From the command to the host. A terminal whose last user is gone reads as an error: that is its end.
async fn pump(kind: Kind, mut from: Box<dyn AsyncRead + Unpin + Send>, to: mpsc::Sender<Output>) {
    let mut chunk = vec![0; MAX_CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if to.send((kind, chunk[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

/// From the host to the command. Dropping the stream is the end of its input.
async fn feed(
    mut to: Box<dyn AsyncWrite + Unpin + Send>,
    mut from: mpsc::Receiver<Vec<u8>>,
    taken: mpsc::Sender<()>,
) {
    let mut open = true;
    while let Some(chunk) = from.recv().await {
        // What a command does not want any more is taken all the same.
        open = open && to.write_all(&chunk).await.is_ok() && to.flush().await.is_ok();
        if taken.send(()).await.is_err() {
            return;
        }
    }
}
