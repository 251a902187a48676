//! A command in a guest, seen from a terminal or a pipe.

use anyhow::{Result, bail};
use banger_wire::agent::{Control, Reply, STDIN_WINDOW, Signal, Tty};
use banger_wire::frame::{Kind, MAX_CHUNK};
use banger_wire::json::from_guest;
use banger_wire::stream::{Reader, send, send_message};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

type Stream = TokioIo<Upgraded>;

/// The terminal that a command gets: none unless both ends are one.
pub(crate) fn wanted(no_tty: bool) -> Option<Tty> {
    if no_tty || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return None;
    }
    let (rows, cols) = size();
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_string());
    Some(Tty { rows, cols, term })
}

fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(rustix::stdio::stdout())
        .map_or((24, 80), |size| (size.ws_row.max(1), size.ws_col.max(1)))
}

/// Puts the terminal back when it goes.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Asks for a secret without showing it. `None` without a terminal.
pub(crate) fn secret(question: &str) -> Result<Option<String>> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let quiet = Raw(tcgetattr(std::io::stdin())?);
    let mut silent = quiet.0.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(std::io::stdin(), SetArg::TCSANOW, &silent)?;
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut text = String::new();
    std::io::stdin().read_line(&mut text)?;
    drop(quiet);
    eprintln!();
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_string()))
}

/// What goes to the guest besides its input.
enum ToGuest {
    Input(Vec<u8>),
    Control(Control),
}

/// Carries a command's streams until it ends; its exit status.
pub(crate) async fn carry(
    mut reader: Reader<ReadHalf<Stream>>,
    mut write: WriteHalf<Stream>,
    tty: bool,
) -> Result<u8> {
    let raw = if tty { Some(Raw::enter()?) } else { None };
    let (sender, mut outgoing) = mpsc::channel(8);
    let window = Arc::new(Semaphore::new(STDIN_WINDOW));
    tokio::spawn(input(sender.clone(), window.clone()));
    tokio::spawn(signals(sender, tty));
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            let sent = match message {
                ToGuest::Input(bytes) => send(&mut write, Kind::Stdin, &bytes).await,
                ToGuest::Control(control) => send_message(&mut write, &control).await,
            };
            if sent.is_err() {
                break;
            }
        }
        // Keeps the connection open until the command has ended.
        std::future::pending::<()>().await;
    });
    let mut out = Cleaner::new(!tty && std::io::stdout().is_terminal());
    let mut err = Cleaner::new(!tty && std::io::stderr().is_terminal());
    let code = loop {
        let Some(frame) = reader.next().await? else { bail!("the connection to the guest broke") };
        match frame.kind {
            Kind::Stdout => print(&mut std::io::stdout(), &out.pass(&frame.payload)),
            Kind::Stderr => print(&mut std::io::stderr(), &err.pass(&frame.payload)),
            Kind::Stdin => {}
            Kind::Control => match from_guest(&frame.payload)? {
                Reply::Taken => window.add_permits(1),
                Reply::Started
                | Reply::State(_)
                | Reply::Done
                | Reply::Into { .. }
                | Reply::Took { .. }
                | Reply::Workspace { .. }
                | Reply::Ports { .. } => {}
                Reply::Exit { code } => break code,
                Reply::Failed { message } => bail!("{message}"),
            },
        }
    };
    writer.abort();
    drop(raw);
    Ok(u8::try_from(code.clamp(0, 255)).unwrap_or(255))
}

/// A reader that went away is no reason to break the command.
fn print(to: &mut impl Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

/// At most a window of chunks is under way: signals go past input that the command does not read.
async fn input(to: mpsc::Sender<ToGuest>, window: Arc<Semaphore>) {
    let mut stdin = tokio::io::stdin();
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        let Ok(permit) = window.acquire().await else { return };
        permit.forget();
        let count = stdin.read(&mut chunk).await.unwrap_or(0);
        if to.send(ToGuest::Input(chunk[..count].to_vec())).await.is_err() || count == 0 {
            return;
        }
    }
}

/// Passes signals on. On a terminal of its own the command gets its keys as bytes, and only the size as a signal.
async fn signals(to: mpsc::Sender<ToGuest>, tty: bool) {
    let listen = |kind| signal(kind).ok();
    let (Some(mut window), Some(mut int), Some(mut term), Some(mut hup), Some(mut quit)) = (
        listen(SignalKind::window_change()),
        listen(SignalKind::interrupt()),
        listen(SignalKind::terminate()),
        listen(SignalKind::hangup()),
        listen(SignalKind::quit()),
    ) else {
        return;
    };
    loop {
        let control = tokio::select! {
            _ = window.recv() => {
                if !tty { continue; }
                let (rows, cols) = size();
                Control::Resize { rows, cols }
            }
            _ = int.recv() => Control::Signal { signal: Signal::Int },
            _ = term.recv() => Control::Signal { signal: Signal::Term },
            _ = hup.recv() => Control::Signal { signal: Signal::Hup },
            _ = quit.recv() => Control::Signal { signal: Signal::Quit },
        };
        if to.send(ToGuest::Control(control)).await.is_err() {
            return;
        }
    }
}

/// Cleans what a guest writes to a terminal that it was not given (R-G11). Pipes get every byte.
pub(crate) struct Cleaner {
    active: bool,
    rest: Vec<u8>,
}

impl Cleaner {
    pub(crate) fn new(active: bool) -> Self {
        Self { active, rest: Vec::new() }
    }

    /// The next bytes, as they may be shown. A character that is cut waits for its end.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.active {
            return bytes.to_vec();
        }
        self.rest.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(&self.rest) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => self.rest.len(),
        };
        let tail = self.rest.split_off(cut);
        let text = String::from_utf8_lossy(&self.rest).replace("\r\n", "\n");
        self.rest = tail;
        banger_wire::text::clean(&text).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_escapes_and_a_pipe_gets_every_byte() {
        let hostile = b"a\x1b[2Jb\xc3";
        assert_eq!(Cleaner::new(false).pass(hostile), hostile);
        let mut cleaner = Cleaner::new(true);
        assert_eq!(cleaner.pass(hostile), "a\u{fffd}[2Jb".as_bytes());
        assert_eq!(
            cleaner.pass(b"\xa9\r\n"),
            "\u{e9}\n".as_bytes(),
            "a cut character is put together"
        );
    }
}
