//! `vm cp`: files into a sandbox, and out of it with the care that a stranger's files need.

use super::vm::find;
use crate::arguments::Global;
use crate::arguments::workspace::Copy;
use crate::client::Client;
use crate::failure::{FAILED, Failure, USAGE};
use crate::show;
use anyhow::{Result, bail};
use banger_tree::beneath::Beneath;
use banger_tree::stage;
use banger_tree::stream::{Limits, Receiver, Sender};
use banger_tree::take::{self, Rules, Taken};
use banger_tree::walk;
use banger_wire::agent::{Put, Reply, Request};
use banger_wire::frame::Kind;
use banger_wire::id::Name;
use banger_wire::json::from_guest;
use banger_wire::pipe;
use banger_wire::stream::{Reader, send_message};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long the guest may take nothing.
const PATIENCE: Duration = Duration::from_secs(600);

/// One end of a copy.
enum End {
    Here(PathBuf),
    There(Name, String),
}

/// `NAME:PATH` is in a sandbox; a path with a slash before the colon is one of this host.
fn end(text: &str) -> End {
    match text.split_once(':') {
        Some((name, path)) => match Name::new(name) {
            Ok(name) => End::There(name, path.to_string()),
            Err(_) => End::Here(text.into()),
        },
        None => End::Here(text.into()),
    }
}

pub(super) async fn run(global: &Global, copy: &Copy) -> Result<ExitCode> {
    let taken = match (end(&copy.from), end(&copy.to)) {
        (End::Here(from), End::There(name, to)) => {
            into(global, &from, &name, to, copy.force).await?
        }
        (End::There(name, from), End::Here(to)) => out_of(global, &name, from, &to, copy).await?,
        _ => {
            let failure = Failure::new(
                USAGE,
                "one of the two is in a sandbox, as NAME:PATH, and the other is not",
            );
            return Err(failure.hint("a path here with a colon in it begins with ./").into());
        }
    };
    if global.json {
        show::json(
            &json!({ "files": taken.files, "bytes": taken.bytes, "same": taken.same, "left_out": taken.left_out }),
        )?;
    } else {
        let same =
            if taken.same == 0 { String::new() } else { format!(", {} already so", taken.same) };
        let plural = if taken.files == 1 { "" } else { "s" };
        eprintln!("copied {} file{plural} ({}){same}", taken.files, show::bytes(taken.bytes));
        if taken.left_out > 0 {
            eprintln!("left out {} that are no files, folders or links", taken.left_out);
        }
    }
    Ok(ExitCode::SUCCESS)
}

type Stream = hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>;

async fn open(
    global: &Global,
    name: &Name,
    request: &Request,
) -> Result<(Reader<tokio::io::ReadHalf<Stream>>, tokio::io::WriteHalf<Stream>)> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    let path = format!("/v1/projects/{}/sandboxes/{name}/files", found.project);
    let (read, mut write) = tokio::io::split(client.upgrade(&path).await?);
    send_message(&mut write, request).await?;
    Ok((Reader::new(read), write))
}

async fn answer(reader: &mut Reader<tokio::io::ReadHalf<Stream>>) -> Result<Reply> {
    let Some(frame) = reader.next().await? else { bail!("the connection to the guest broke") };
    reply(&frame.payload)
}

/// What the guest answered, when it did not fail.
fn reply(payload: &[u8]) -> Result<Reply> {
    let reply: Reply = from_guest(payload)?;
    let Reply::Failed { message } = reply else { return Ok(reply) };
    let mut failure = Failure::new(FAILED, message);
    if failure.message.ends_with("and different") {
        failure = failure.hint("--force replaces it");
    }
    Err(failure.into())
}

async fn into(global: &Global, from: &Path, name: &Name, to: String, force: bool) -> Result<Taken> {
    let whole = crate::arguments::workspace::whole(from)?;
    let (Some(folder), Some(last)) = (whole.parent().map(Path::to_path_buf), whole.file_name())
    else {
        return Err(
            Failure::new(USAGE, format!("{} is the whole filesystem", from.display())).into()
        );
    };
    let last = last.as_bytes().to_vec();
    let path = if to.is_empty() { ".".to_string() } else { to };
    let (mut reader, mut write) = open(global, name, &Request::Put(Put { path, force })).await?;
    let Reply::Into { name: other } = answer(&mut reader).await? else {
        bail!("the guest answered something else than was due")
    };
    let shown = other.map_or_else(|| last.clone(), String::into_bytes);
    let (out, chunks) = pipe::outward();
    let sending = tokio::task::spawn_blocking(move || {
        let root = Beneath::open(&folder)?;
        let mut sender = Sender::new(out);
        walk::send(&mut sender, &root, &last, &shown)?;
        sender.end()?.finish()
    });
    // What the guest has against it, it says before the end: that is worth more than a broken pipe.
    let (sent, said) = tokio::join!(
        async {
            let sent = pipe::carry_out(chunks, Kind::Stdin, &mut write, PATIENCE).await;
            let done = sending.await;
            if !matches!(sent, Ok(true)) {
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            }
            (sent, done)
        },
        answer(&mut reader)
    );
    if let (Ok(_), Ok(Err(error))) = &sent
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        bail!("{}: {error}", from.display());
    }
    let Reply::Took { files, bytes, same } = said? else {
        bail!("the guest answered something else than was due")
    };
    Ok(Taken { files, bytes, same, left_out: 0 })
}

/// Where it goes here: the folder, and the name that it gets there.
fn destination(to: &Path, own: &[u8]) -> Result<(PathBuf, Vec<u8>)> {
    if to.is_dir() {
        return Ok((to.to_path_buf(), own.to_vec()));
    }
    let parent = match to.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    let slash = to.as_os_str().as_bytes().ends_with(b"/");
    match to.file_name() {
        Some(name) if parent.is_dir() && !slash => {
            Ok((parent.to_path_buf(), name.as_bytes().to_vec()))
        }
        _ => {
            let missing = if slash { to } else { parent };
            Err(Failure::new(FAILED, format!("there is no folder {}", missing.display())).into())
        }
    }
}

/// Where it is written down while files come into a folder.
fn record(folder: &Path) -> Result<PathBuf> {
    let is_root = nix::unistd::geteuid().is_root();
    let roots = banger_wire::derive::roots(|name| std::env::var_os(name), is_root);
    let (state, _) = roots.ok_or_else(|| Failure::new(FAILED, "HOME is not set"))?;
    let whole = std::fs::canonicalize(folder)?;
    let hash = Sha256::digest(whole.as_os_str().as_bytes());
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(state.join(format!("copy-{hex}")))
}

async fn out_of(
    global: &Global,
    name: &Name,
    from: String,
    to: &Path,
    copy: &Copy,
) -> Result<Taken> {
    let own = Path::new(&from)
        .file_name()
        .map_or_else(|| name.as_str().as_bytes().to_vec(), |n| OsStr::as_bytes(n).to_vec());
    let (folder, called) = destination(to, &own)?;
    let (mut reader, _write) = open(global, name, &Request::Get { path: from }).await?;
    let Reply::Done = answer(&mut reader).await? else {
        bail!("the guest answered something else than was due")
    };
    let (to, chunks) = pipe::inward();
    let rules = Rules { links: copy.symlinks, force: copy.force, hostile: true };
    let record = record(&folder)?;
    let taking = tokio::task::spawn_blocking(move || {
        let root = Beneath::open(&folder)
            .map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?;
        let mut receiver = Receiver::new(chunks, Limits::RETURN);
        let taken = take::take(&mut receiver, &root, rules, None, Some(&called), Some(&record));
        taken.map_err(|error| {
            let hint = match &error {
                stage::StageError::Conflict(_) => Some("--force replaces what is there"),
                stage::StageError::Refused(_) if !rules.links => {
                    Some("--symlinks brings links that stay beneath")
                }
                stage::StageError::Stream(_)
                | stage::StageError::Refused(_)
                | stage::StageError::Busy
                | stage::StageError::Edited { .. }
                | stage::StageError::Io(..) => None,
            };
            let mut failure = Failure::new(FAILED, format!("{error}; nothing was copied"));
            failure.hints.extend(hint.map(String::from));
            failure.into()
        })
    });
    let early = pipe::carry_in(&mut reader, Kind::Stdout, to, false).await?;
    if let Some(payload) = early {
        reply(&payload)?;
        bail!("the guest broke off");
    }
    taking.await?
}
