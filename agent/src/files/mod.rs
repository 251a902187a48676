//! Files that come and go: copies of anything, and the workspace. One conversation each.
//!
//! Trees are read and written by threads; this carries them between those and the connection.

mod ship;
mod survey;
#[cfg(test)]
mod tests;

use crate::exec;
use crate::state::State;
use crate::{Error, users};
use banger_tree::beneath::Beneath;
use banger_tree::manifest::{self, Manifest};
use banger_tree::stream::{Limits, Receiver, Sender};
use banger_tree::take::{self, Rules};
use banger_tree::walk;
use banger_wire::agent::{Phase, Put, Reply};
use banger_wire::frame::Kind;
use banger_wire::pipe::{self, Out};
use banger_wire::stream::{Reader, send_message as reply};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;

/// Whether a workspace was shipped to this folder of this disk.
pub(crate) fn has_workspace(hidden: &File, at: &str) -> bool {
    shipped(hidden)
        .is_ok_and(|found| found.is_some_and(|found| found.at == at && found.revision > 0))
}

/// How long the host may take nothing.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the manifest is called.
const MANIFEST: &str = "workspace";

/// The folder is not below our root; its descriptor still leads there.
fn hidden_path(hidden: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", hidden.as_raw_fd()))
}

fn shipped(hidden: &File) -> io::Result<Option<Manifest>> {
    manifest::load(&hidden_path(hidden).join(MANIFEST))
}

/// An absolute path: from where commands start, when it is none.
fn absolute(state: &State, path: &str) -> Result<PathBuf, String> {
    let identity = state.identity().ok_or("the guest has no identity yet")?;
    if state.phase() == Phase::Leaving {
        return Err("the guest is shutting down".to_string());
    }
    if path.is_empty() || path.contains('\0') {
        return Err("the path is empty or has a NUL character".to_string());
    }
    let user = users::find(identity.user.as_deref())?;
    Ok(exec::folder(&identity, None, &user).join(path))
}

/// Who owns what comes.
fn owner(state: &State) -> Result<(u32, u32), String> {
    let identity = state.identity().ok_or("the guest has no identity yet")?;
    let user = users::find(identity.user.as_deref())?;
    Ok((user.uid, user.gid))
}

/// An error with what it was caused by.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Runs in a thread of its own.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// Where a tree goes: the folder, and what its first part is to be called when it is not to keep its name.
fn destination(path: &Path) -> Result<(PathBuf, Option<String>), String> {
    let shown = path.display();
    if path.is_dir() {
        return Ok((path.to_path_buf(), None));
    }
    let text = path.as_os_str().as_bytes();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{shown} is no place for a file"));
    };
    if text.ends_with(b"/") || !parent.is_dir() {
        return Err(format!(
            "there is no folder {}",
            if text.ends_with(b"/") { path } else { parent }.display()
        ));
    }
    let name = name.to_str().ok_or_else(|| format!("{shown} is not UTF-8"))?;
    Ok((parent.to_path_buf(), Some(name.to_string())))
}

pub(crate) async fn put<R, W>(
    put: Put,
    state: &State,
    mut reader: Reader<R>,
    mut write: W,
) -> Result<(), Error>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let path = absolute(state, &put.path);
    let found = path.and_then(|path| Ok((destination(&path)?, owner(state)?)));
    let ((folder, name), owner) = match found {
        Ok(found) => found,
        Err(message) => return Ok(reply(&mut write, &Reply::Failed { message }).await?),
    };
    reply(&mut write, &Reply::Into { name }).await?;
    let (to, from) = pipe::inward();
    let rules = Rules { links: true, force: put.force, hostile: false };
    let work = tokio::spawn(apart(move || {
        let root =
            Beneath::open(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut receiver = Receiver::new(from, Limits::NONE);
        take::take(&mut receiver, &root, rules, Some(owner), None, None)
            .map_err(|error| words(&error))
    }));
    pipe::carry_in(&mut reader, Kind::Stdin, to, true).await?;
    let answer = match work.await? {
        Ok(taken) => Reply::Took { files: taken.files, bytes: taken.bytes, same: taken.same },
        Err(message) => Reply::Failed { message },
    };
    Ok(reply(&mut write, &answer).await?)
}

pub(crate) async fn get<W>(path: String, state: &State, mut write: W) -> Result<(), Error>
where
    W: AsyncWrite + Unpin + Send + 'static,
{
    let found = absolute(state, &path).and_then(|path| {
        let whole =
            std::fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = whole.file_name().map(OsStr::to_os_string);
        let shown = path.file_name().map(OsStr::to_os_string).or_else(|| name.clone());
        Ok((whole.parent().map(Path::to_path_buf), name.zip(shown)))
    });
    let (folder, name, shown) = match found {
        Ok((Some(folder), Some((name, shown)))) => (folder, name, shown),
        Ok(_) => {
            let message = format!("{path} is the whole filesystem");
            return Ok(reply(&mut write, &Reply::Failed { message }).await?);
        }
        Err(message) => return Ok(reply(&mut write, &Reply::Failed { message }).await?),
    };
    reply(&mut write, &Reply::Done).await?;
    give(&mut write, move |out| {
        let root = Beneath::open(&folder).map_err(|error| error.to_string())?;
        let mut sender = Sender::without_digests(out);
        let sent = walk::send(&mut sender, &root, name.as_bytes(), shown.as_bytes());
        sent.map_err(|error| format!("{path}: {error}"))?;
        sender.end().map_err(|error| error.to_string())
    })
    .await
}

/// Sends what a thread writes, and why it stopped if it did not come to its end.
async fn give<W: AsyncWrite + Unpin>(
    write: &mut W,
    work: impl FnOnce(Out) -> Result<Out, String> + Send + 'static,
) -> Result<(), Error> {
    let (out, from) = pipe::outward();
    let work = tokio::spawn(apart(move || work(out)?.finish().map_err(|error| error.to_string())));
    pipe::carry_out(from, Kind::Stdout, write, PATIENCE).await?;
    if let Err(message) = work.await? {
        reply(write, &Reply::Failed { message }).await?;
    }
    Ok(())
}

/// Takes the workspace, or what changed of it. Whether it did.
pub(crate) async fn ship<R, W>(
    at: String,
    state: &State,
    hidden: Option<Arc<File>>,
    mut reader: Reader<R>,
    mut write: W,
) -> Result<bool, Error>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let found = absolute(state, &at)
        .and_then(|_| Ok((owner(state)?, hidden.ok_or("the guest has no disk yet")?)));
    let (owner, hidden) = match found {
        Ok(found) => found,
        Err(message) => {
            reply(&mut write, &Reply::Failed { message }).await?;
            return Ok(false);
        }
    };
    let before = apart({
        let (hidden, at) = (hidden.clone(), at.clone());
        move || {
            let found =
                shipped(&hidden).map_err(|error| format!("what was shipped before: {error}"))?;
            Ok(found.filter(|found| found.at == at).map_or(0, |found| found.revision))
        }
    });
    let revision = match before.await {
        Ok(revision) => revision,
        Err(message) => {
            reply(&mut write, &Reply::Failed { message }).await?;
            return Ok(false);
        }
    };
    reply(&mut write, &Reply::Workspace { at: at.clone(), revision }).await?;
    let (to, from) = pipe::inward();
    let (out, refused) = pipe::outward();
    let work = tokio::spawn(apart(move || {
        let mut receiver = Receiver::new(from, Limits::NONE);
        let mut sender = Sender::new(out);
        let shipped = ship::run(&mut receiver, &mut sender, &hidden, &at, owner)?;
        sender.end().and_then(Out::finish).map_err(|error| error.to_string())?;
        Ok((at, shipped))
    }));
    // What is left alone is told while the rest still comes.
    let coming = pipe::carry_in(&mut reader, Kind::Stdin, to, true);
    let (came, told) =
        tokio::join!(coming, pipe::carry_out(refused, Kind::Stdout, &mut write, PATIENCE));
    let shipped = work.await?;
    came?;
    told?;
    let answer = match &shipped {
        Ok((at, revision)) => Reply::Workspace { at: at.clone(), revision: *revision },
        Err(message) => Reply::Failed { message: message.clone() },
    };
    reply(&mut write, &answer).await?;
    Ok(shipped.is_ok())
}

/// Sends what changed in the workspace.
pub(crate) async fn survey<W>(
    state: &State,
    hidden: Option<Arc<File>>,
    mut write: W,
) -> Result<(), Error>
where
    W: AsyncWrite + Unpin + Send + 'static,
{
    let at = state.identity().and_then(|identity| identity.workspace);
    let found = match (at, hidden) {
        (Some(at), Some(hidden)) => {
            apart(move || shipped(&hidden).map_err(|error| error.to_string()))
                .await
                .map(|found| found.filter(|found| found.at == at && found.revision > 0))
        }
        (None, _) | (_, None) => Ok(None),
    };
    let manifest = match found {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            let message = "it has no workspace yet".to_string();
            return Ok(reply(&mut write, &Reply::Failed { message }).await?);
        }
        Err(message) => return Ok(reply(&mut write, &Reply::Failed { message }).await?),
    };
    reply(&mut write, &Reply::Workspace { at: manifest.at.clone(), revision: manifest.revision })
        .await?;
    give(&mut write, move |out| {
        let root = Beneath::open(Path::new(&manifest.at))
            .map_err(|error| format!("{}: {error}", manifest.at))?;
        let mut sender = Sender::without_digests(out);
        survey::run(&mut sender, &root, &manifest)
            .map_err(|error| format!("{}: {error}", manifest.at))?;
        sender.end().map_err(|error| error.to_string())
    })
    .await
}

/// Reads all of a small file; `None` when it is not there, is none, or is too large.
fn small(root: &Beneath, name: &[u8]) -> Option<Vec<u8>> {
    const LARGEST: u64 = 1 << 20;
    let (file, stat) = root.read(name).ok()?;
    if u64::try_from(stat.st_size).is_ok_and(|size| size > LARGEST) {
        return None;
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LARGEST), &mut bytes).ok()?;
    Some(bytes)
}
