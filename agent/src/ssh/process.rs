//! Commands, shells and the file server of a session, and their streams.

use super::SFTP;
use super::forward::CHUNK;
use super::spool::Spool;
use super::stream::Stream;
use crate::{exec, sys, users};
use banger_wire::agent::{Exec, Identity, Tty};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Child;

/// How long a terminal's last words may take to arrive once its shell has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The end of input, typed at a terminal.
const END_OF_INPUT: u8 = 4;

/// What a session is for.
pub(super) enum What {
    /// The user's shell.
    Shell,
    /// A line for that shell.
    Line(String),
    /// Files.
    Files,
}

/// A terminal that was asked for.
#[derive(Clone)]
pub(super) struct Terminal {
    pub(super) term: String,
    pub(super) columns: u32,
    pub(super) rows: u32,
}

/// What is kept to reach a running process.
pub(super) struct Process {
    group: Pid,
    terminal: Option<Stream>,
}

impl Process {
    pub(super) fn signal(&self, signal: Signal) {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    pub(super) fn resize(&self, columns: u32, rows: u32) {
        if let Some(terminal) = &self.terminal {
            let _ = sys::set_window(terminal.descriptor().as_fd(), clamp(rows), clamp(columns));
        }
    }
}

fn clamp(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// A started process whose streams are still to be carried.
pub(super) struct Running {
    child: Child,
    terminal: Option<Stream>,
}

/// Starts what a session is for, as this user.
///
/// # Errors
/// When there is no such user, or the program does not start.
pub(super) fn start(
    identity: &Identity,
    user: &str,
    what: What,
    env: BTreeMap<String, String>,
    terminal: Option<Terminal>,
) -> Result<(Process, Running), String> {
    let user = users::find(Some(user))?;
    let argv = match what {
        What::Shell => vec![user.shell.clone(), "-l".to_string()],
        What::Line(line) => vec![user.shell.clone(), "-c".to_string(), line],
        What::Files => vec!["/proc/self/exe".to_string(), SFTP.to_string()],
    };
    let tty = terminal.map(|t| Tty { rows: clamp(t.rows), cols: clamp(t.columns), term: t.term });
    let request = Exec { argv, env, tty, ..Exec::default() };
    let mut command = exec::command(identity, &request, &user, request.tty.is_some());
    let mut terminal = None;
    if let Some(tty) = &request.tty {
        let (master, slave) = exec::open_terminal(&user).map_err(|error| error.to_string())?;
        sys::set_window(master.as_fd(), tty.rows, tty.cols).map_err(|error| error.to_string())?;
        let clone = || slave.try_clone().map_err(|error| error.to_string());
        command.stdin(clone()?).stdout(clone()?).stderr(slave);
        terminal = Some(Stream::new(OwnedFd::from(master)).map_err(|error| error.to_string())?);
    } else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    // A session that is left gets a hang-up, as from a terminal, and may take its time: it is not killed.
    command.kill_on_drop(false);
    let child = command.spawn().map_err(|error| format!("{}: {error}", request.argv[0]))?;
    // The command keeps the terminal's other end; it closes with it.
    drop(command);
    let number = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = number.ok_or("it ended at once")?;
    Ok((Process { group, terminal: terminal.clone() }, Running { child, terminal }))
}

impl Running {
    /// Carries its streams until it and its output have ended.
    pub(super) async fn serve(mut self, channel: Channel<Msg>, session: Handle) {
        let (reader, writer) = channel.split();
        let status = match self.terminal.take() {
            Some(terminal) => on_terminal(&mut self.child, terminal, reader, &writer).await,
            None => on_pipes(&mut self.child, reader, &writer).await,
        };
        match status {
            Ok(status) => report(status, &writer, &session).await,
            // Without a status the client says that it failed, which is so.
            Err(error) => {
                let words = format!("banger: the command's input could not be kept: {error}\r\n");
                let _ = writer.extended_data(1, words.as_bytes()).await;
            }
        }
        let _ = writer.eof().await;
        let _ = writer.close().await;
    }
}

/// The task that feeds a command, which goes with whoever waits for the command.
struct Feed(Option<tokio::task::JoinHandle<io::Result<()>>>);

impl Feed {
    fn start(
        reader: ChannelReadHalf,
        to: impl AsyncWrite + Unpin + Send + 'static,
        terminal: bool,
    ) -> Self {
        Self(Some(tokio::spawn(feed(reader, to, terminal))))
    }

    /// Returns only to say that input was lost.
    async fn lost(&mut self) -> io::Error {
        if let Some(task) = &mut self.0 {
            let outcome = task.await;
            // It is asked once only: a task that is done has nothing more to say.
            self.0 = None;
            if let Ok(Err(error)) = outcome {
                return error;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Ends a command that must not go on with half of its input.
async fn give_up(child: &mut Child, error: io::Error) -> io::Result<ExitStatus> {
    let number = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = number {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    child.wait().await?;
    Err(error)
}

async fn on_pipes(
    child: &mut Child,
    reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
) -> io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut input = Feed::start(reader, stdin, false);
    let lost = tokio::select! {
        (_, _, status) = async {
            tokio::join!(drain(stdout, writer, None), drain(stderr, writer, Some(1)), child.wait())
        } => return status,
        lost = input.lost() => lost,
    };
    give_up(child, lost).await
}

async fn on_terminal(
    child: &mut Child,
    mut terminal: Stream,
    reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
) -> io::Result<ExitStatus> {
    let mut input = Feed::start(reader, terminal.clone(), true);
    let mut chunk = vec![0; CHUNK];
    let mut ended = None;
    loop {
        // The output ends when nobody has the terminal open any more; a child in the background may keep it. Only
        // silence is limited: a client may take what is there as slowly as it likes.
        let silence = if ended.is_some() { LAST_WORDS } else { Duration::MAX };
        tokio::select! {
            status = child.wait(), if ended.is_none() => ended = Some(status?),
            read = tokio::time::timeout(silence, terminal.read(&mut chunk)) => match read {
                Ok(Ok(count @ 1..)) => {
                    if writer.data(&chunk[..count]).await.is_err() {
                        break;
                    }
                }
                Ok(Ok(0) | Err(_)) | Err(_) => break,
            },
            lost = input.lost() => return give_up(child, lost).await,
        }
    }
    match ended {
        Some(status) => Ok(status),
        None => child.wait().await,
    }
}

/// From the client to the process, until the end of input. The client is never made to wait.
async fn feed(
    mut reader: ChannelReadHalf,
    mut to: impl AsyncWrite + Unpin,
    terminal: bool,
) -> io::Result<()> {
    let spool = Spool::default();
    let fill = async {
        while let Some(message) = reader.wait().await {
            if let ChannelMsg::Data { data } = &message
                && spool.push(data).is_err()
            {
                return;
            }
            if matches!(message, ChannelMsg::Eof | ChannelMsg::Close) {
                break;
            }
        }
        spool.end();
    };
    let empty = async {
        let mut open = true;
        while let Some(bytes) = spool.pop().await? {
            // What a command does not want any more is taken all the same.
            open = open && to.write_all(&bytes).await.is_ok() && to.flush().await.is_ok();
        }
        if terminal {
            let _ = to.write_all(&[END_OF_INPUT]).await;
        }
        drop(to);
        Ok(())
    };
    tokio::join!(fill, empty).1
}

/// From the process to the client, as fast as its window allows.
async fn drain(
    mut from: impl AsyncRead + Unpin,
    writer: &ChannelWriteHalf<Msg>,
    extended: Option<u32>,
) {
    let mut chunk = vec![0; CHUNK];
    // A terminal whose last user is gone reads as an error: that is its end.
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let sent = match extended {
            None => writer.data(&chunk[..count]).await,
            Some(kind) => writer.extended_data(kind, &chunk[..count]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn report(status: ExitStatus, writer: &ChannelWriteHalf<Msg>, session: &Handle) {
    match status.signal() {
        None => {
            let code = u32::try_from(status.code().unwrap_or(255)).unwrap_or(255);
            let _ = writer.exit_status(code).await;
        }
        Some(number) => {
            let (name, core) = (name(number), status.core_dumped());
            let none = String::new;
            let _ = session.exit_signal_request(writer.id(), name, core, none(), none()).await;
        }
    }
}

const SIGNALS: [(Sig, Signal); 12] = [
    (Sig::ABRT, Signal::ABORT),
    (Sig::ALRM, Signal::ALARM),
    (Sig::FPE, Signal::FPE),
    (Sig::HUP, Signal::HUP),
    (Sig::ILL, Signal::ILL),
    (Sig::INT, Signal::INT),
    (Sig::KILL, Signal::KILL),
    (Sig::PIPE, Signal::PIPE),
    (Sig::QUIT, Signal::QUIT),
    (Sig::SEGV, Signal::SEGV),
    (Sig::TERM, Signal::TERM),
    (Sig::USR1, Signal::USR1),
];

/// The signal that a client names.
pub(super) fn signal(name: &Sig) -> Option<Signal> {
    if matches!(name, Sig::Custom(text) if text == "USR2") {
        return Some(Signal::USR2);
    }
    let same = |sig: &Sig| std::mem::discriminant(sig) == std::mem::discriminant(name);
    SIGNALS.iter().find(|(sig, _)| same(sig)).map(|(_, signal)| *signal)
}

fn name(number: i32) -> Sig {
    let found = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    match found {
        Some((sig, _)) => sig.clone(),
        None if number == Signal::USR2.as_raw() => Sig::Custom("USR2".into()),
        None => Sig::Custom(format!("SIG{number}@banger")),
    }
}
