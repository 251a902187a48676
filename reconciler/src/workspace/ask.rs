//! Asks the guest's own git for its commits. What it says is the guest's word, and is only carried here.

use crate::vsock::{self, Conversation};
use crate::way::Way;
use banger_wire::agent::{Exec, Reply, Request};
use banger_wire::frame::Kind;
use banger_wire::json::from_guest;
use banger_wire::stream::send;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long a guest may be silent.
const SILENCE: Duration = Duration::from_secs(120);
/// The most bytes of a short answer.
const SHORT: usize = 1 << 20;
/// The most bytes of a bundle (R-P6).
const LONG: u64 = 2 << 30;

/// What a guest says of its commits.
#[derive(Debug)]
pub(super) enum Said {
    /// There are some; they are in the file.
    Commits {
        /// The branch that it is on.
        branch: Option<String>,
    },
    /// There are none that it was not given.
    Nothing {
        /// The branch that it is on.
        branch: Option<String>,
    },
    /// There can be none, and why.
    None(String),
    /// It cannot tell, and why.
    Failed(String),
}

/// Its commits on top of the one that it was given, into this file.
///
/// # Errors
/// When the conversation or the file breaks.
pub(super) async fn commits(
    way: &Way,
    at: &str,
    shipped: Option<&str>,
    bundle: &Path,
) -> io::Result<Said> {
    let git = |arguments: &[&str]| {
        let base = [
            "git",
            "-C",
            at,
            "-c",
            "safe.directory=*",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
        ];
        base.iter().chain(arguments).map(ToString::to_string).collect::<Vec<String>>()
    };
    let tips =
        match short(way, git(&["for-each-ref", "--format=%(objectname)", "refs/heads"])).await? {
            Answer::Said(text) => text,
            Answer::Failed => {
                return Ok(Said::None(
                    "there is no repository in the sandbox's workspace any more".into(),
                ));
            }
            Answer::Missing => {
                return Ok(Said::None(
                "there is no git in the sandbox: its files come back, and commits it can have none"
                    .into(),
            ));
            }
        };
    let line = |answer: Answer| match answer {
        Answer::Said(text) => {
            text.lines().next().map(|line| line.trim().to_string()).filter(|line| !line.is_empty())
        }
        Answer::Failed | Answer::Missing => None,
    };
    let head = line(short(way, git(&["rev-parse", "--verify", "-q", "HEAD^{commit}"])).await?);
    let branch = line(short(way, git(&["symbolic-ref", "-q", "--short", "HEAD"])).await?);
    let news = tips.lines().map(str::trim).chain(head.as_deref()).any(|tip| Some(tip) != shipped);
    if !news {
        return Ok(Said::Nothing { branch });
    }
    let not = shipped.map(|shipped| format!("^{shipped}"));
    let mut arguments = vec!["bundle", "create", "-q", "-", "--branches"];
    arguments.extend(head.as_ref().map(|_| "HEAD"));
    arguments.extend(not.as_deref());
    let mut file = tokio::fs::File::create(bundle).await?;
    match run(way, git(&arguments), &mut Sink::File(&mut file)).await? {
        Ended::With(0, _) => {
            file.flush().await?;
            Ok(Said::Commits { branch })
        }
        // Its branches are older than what it was given.
        Ended::With(_, said) if said.contains("empty bundle") => Ok(Said::Nothing { branch }),
        Ended::With(_, said) => {
            Ok(Said::Failed(format!("the sandbox's commits cannot be read: {said}")))
        }
        Ended::NotStarted => Ok(Said::Failed("git in the sandbox does not start".into())),
    }
}

/// What a command wrote, when it is short.
enum Answer {
    Said(String),
    Failed,
    Missing,
}

async fn short(way: &Way, argv: Vec<String>) -> io::Result<Answer> {
    let mut out = Vec::new();
    Ok(match run(way, argv, &mut Sink::Memory(&mut out)).await? {
        Ended::With(0, _) => Answer::Said(String::from_utf8_lossy(&out).into_owned()),
        Ended::With(..) => Answer::Failed,
        Ended::NotStarted => Answer::Missing,
    })
}

/// Where a command's output goes.
enum Sink<'a> {
    Memory(&'a mut Vec<u8>),
    File(&'a mut tokio::fs::File),
}

/// How a command ended: its status and the end of what it complained about.
enum Ended {
    With(i32, String),
    NotStarted,
}

async fn run(way: &Way, argv: Vec<String>, out: &mut Sink<'_>) -> io::Result<Ended> {
    let exec = Exec { argv, ..Exec::default() };
    let mut guest: Conversation = vsock::ask(way, &Request::Exec(exec)).await?;
    let Reply::Started = guest.reply(SILENCE).await? else { return Ok(Ended::NotStarted) };
    send(&mut guest.writer, Kind::Stdin, &[]).await?;
    let (mut complaints, mut count) = (Vec::new(), 0u64);
    loop {
        let frame = tokio::time::timeout(SILENCE, guest.reader.next()).await??;
        let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)?;
        match frame.kind {
            Kind::Stdout => {
                count += frame.payload.len() as u64;
                match out {
                    Sink::Memory(text) if text.len() + frame.payload.len() <= SHORT => {
                        text.extend(frame.payload)
                    }
                    Sink::File(file) if count <= LONG => file.write_all(&frame.payload).await?,
                    Sink::Memory(_) | Sink::File(_) => {
                        return Err(io::Error::new(
                            io::ErrorKind::FileTooLarge,
                            "git in the guest says too much",
                        ));
                    }
                }
            }
            Kind::Stderr if complaints.len() < SHORT => complaints.extend(frame.payload),
            Kind::Stderr | Kind::Stdin => {}
            Kind::Control => {
                let reply: Reply = from_guest(&frame.payload)?;
                if let Reply::Exit { code } = reply {
                    let said = String::from_utf8_lossy(&complaints);
                    return Ok(Ended::With(code, banger_wire::text::clean_line(said.trim())));
                }
                if reply != Reply::Taken {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}
