//! Workspaces, as conversations with guests: what goes there and what comes back. What is read, kept and checked on the
//! host's side is `banger-workspace`'s; this carries it, and asks the guest's git for its commits.

mod ask;

use crate::drivers::Progress;
use crate::fault::Fault;
use crate::vsock::{self, Conversation};
use crate::way::Way;
use ask::Said;
use banger_schema::spec::WorkspaceSpec;
use banger_tree::name;
use banger_tree::stream::{Entry, Limits, Receiver, Sender};
use banger_wire::agent::{Reply, Request};
use banger_wire::api::ProblemKind;
use banger_wire::api::workspace::{Pushed, Returned};
use banger_wire::frame::Kind;
use banger_wire::json::from_guest;
use banger_wire::pipe::{self, Out};
use banger_workspace::back::{self, Changes};
use banger_workspace::kept::Kept;
use banger_workspace::ship::{self, What};
use banger_workspace::{WorkspaceError, kept};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// How long a guest may take to begin.
const BEGIN: Duration = Duration::from_secs(60);
/// How long a guest may take nothing of what it is sent.
const SILENCE: Duration = Duration::from_secs(120);
/// How long it may take to have it all, once it was sent.
const AFTER: Duration = Duration::from_secs(600);
/// How long a shipment may take.
const SHIP: Duration = Duration::from_secs(3600);
/// How long what comes back may take (R-P6).
const BACK: Duration = Duration::from_secs(300);

/// Where a guest is reached, and where what belongs to its workspace is kept.
#[derive(Debug, Clone)]
pub struct Place {
    /// The guest.
    pub way: Way,
    /// The folder.
    pub kept: PathBuf,
}

fn fault(error: &WorkspaceError) -> Fault {
    let user = match error {
        WorkspaceError::NoRepository(_) => Some("git init makes one"),
        WorkspaceError::NotTop { .. } => Some("a workspace is a whole repository: name its folder"),
        WorkspaceError::Include { .. } => {
            Some("banger vm workspace status lists what is not shipped")
        }
        WorkspaceError::NoGit(_) => Some("install git on this host"),
        WorkspaceError::Git { .. }
        | WorkspaceError::Io(..)
        | WorkspaceError::Stream(_)
        | WorkspaceError::Stage(_)
        | WorkspaceError::Refused(_) => None,
    };
    let fault = Fault::user(error.whole());
    match user {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

fn broke(error: io::Error) -> Fault {
    Fault::io("the connection to the guest broke", error)
}

/// Runs in a thread that may wait.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| fault(&error)),
        Err(error) => Err(Fault { kind: ProblemKind::Internal, ..Fault::host(error.to_string()) }),
    }
}

/// Says how much went.
struct Counted {
    to: Out,
    sent: u64,
    said: u64,
    progress: Option<Progress>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.sent += count as u64;
        if let Some(progress) = self.progress.as_ref().filter(|_| self.sent - self.said >= 1 << 20)
        {
            progress(self.sent, 0);
            self.said = self.sent;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Ships what the guest lacks: everything, if it has nothing.
///
/// # Errors
/// When the folder is no repository, something cannot be read, or the guest does not take it.
pub async fn ship(
    place: &Place,
    sandbox: &str,
    workspace: &WorkspaceSpec,
    progress: Option<Progress>,
) -> Result<Pushed, Fault> {
    let what = What {
        folder: PathBuf::from(&workspace.folder),
        at: workspace.at.clone(),
        include: workspace.include.clone(),
        depth: workspace.depth,
        mark: format!("{sandbox}\n"),
    };
    let folder = place.kept.clone();
    // Held until it is known what became of it: nobody else ships or takes meanwhile.
    let kept = apart(move || Kept::open(&folder)).await?;
    let request = Request::Ship { at: workspace.at.clone() };
    let guest = vsock::ask(&place.way, &request).await;
    let mut guest = guest.map_err(|error| Fault::io("the guest does not answer", error))?;
    let revision = revision(&mut guest).await?;
    timeout(SHIP, carry(kept, what, revision, guest, progress))
        .await
        .map_err(|_| Fault::host("the guest did not take its workspace in time"))?
}

/// Why the guest did not do it.
fn said(reply: &Reply) -> Fault {
    match reply {
        Reply::Failed { message } => Fault::host(banger_wire::text::clean_line(message)),
        Reply::State(_)
        | Reply::Done
        | Reply::Started
        | Reply::Taken
        | Reply::Exit { .. }
        | Reply::Ports { .. }
        | Reply::Into { .. }
        | Reply::Took { .. }
        | Reply::Workspace { .. } => Fault::host("the guest answered something else than was due"),
    }
}

/// The guest's first answer.
async fn revision(guest: &mut Conversation) -> Result<u64, Fault> {
    let reply = guest.reply(BEGIN).await.map_err(broke)?;
    if let Reply::Workspace { revision, .. } = reply {
        return Ok(revision);
    }
    Err(said(&reply))
}

async fn carry(
    kept: Kept,
    what: What,
    revision: u64,
    mut guest: Conversation,
    progress: Option<Progress>,
) -> Result<Pushed, Fault> {
    let (out, from) = pipe::outward();
    let sending = apart(move || {
        let counted = Counted { to: out, sent: 0, said: 0, progress };
        let (sent, counted) = ship::send(&kept, &what, revision, Sender::new(counted))?;
        let finished = counted.to.finish();
        finished.map_err(|error| WorkspaceError::Io(PathBuf::from(&what.at), error))?;
        Ok((kept, sent))
    });
    let (to, left) = pipe::inward();
    let reading = apart(move || left_alone(Receiver::new(left, Limits::RETURN)));
    // What is left alone comes while the rest still goes.
    let there = async {
        let whole = pipe::carry_out(from, Kind::Stdin, &mut guest.writer, SILENCE).await;
        // A stream that broke off on our side ends the conversation: the guest waits for no more.
        if !matches!(whole, Ok(true)) {
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut guest.writer).await;
            return Err(whole.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
        }
        tokio::time::sleep(AFTER).await;
        Err::<(), io::Error>(io::ErrorKind::TimedOut.into())
    };
    let back = pipe::carry_in(&mut guest.reader, Kind::Stdout, to, false);
    let sending = tokio::spawn(sending);
    let reading = tokio::spawn(reading);
    let (there, early) = tokio::select! {
        biased;
        // The guest ends it early only to say why.
        early = back => (Ok(()), early),
        Err(error) = there => (Err(error), Ok(None)),
    };
    let broken = there.is_err();
    if !broken && let Some(payload) = early.map_err(broke)? {
        let reply = from_guest(&payload).map_err(broke)?;
        return Err(said(&reply));
    }
    let (kept, sent) = sending.await.map_err(|error| Fault::host(error.to_string()))??;
    there.map_err(broke)?;
    let left = reading.await.map_err(|error| Fault::host(error.to_string()))??;
    let revision = self::revision(&mut guest).await?;
    let show = |(name, why): &(Vec<u8>, String)| format!("{}: {why}", name::shown(name));
    let pushed = Pushed {
        files: sent.files,
        bytes: sent.bytes,
        removed: sent.removed,
        conflicts: left.iter().map(show).collect(),
        left_out: sent.left_out.iter().map(show).collect(),
    };
    apart(move || {
        let names: Vec<Vec<u8>> = left.into_iter().map(|(name, _)| name).collect();
        ship::settle(&kept, sent, revision, &names)
    })
    .await?;
    Ok(pushed)
}

/// What the guest says that it left alone, and why.
fn left_alone(mut receiver: Receiver<pipe::In>) -> Result<Vec<(Vec<u8>, String)>, WorkspaceError> {
    let mut all = Vec::new();
    while let Some(entry) = receiver.next_entry()? {
        match entry {
            Entry::LeftOut { name, why } => {
                all.push((name, banger_wire::text::clean_line(&why)));
            }
            Entry::Folder { .. }
            | Entry::File { .. }
            | Entry::Link { .. }
            | Entry::Removed { .. } => {
                return Err(WorkspaceError::Refused(
                    "the guest sent files where none were due".into(),
                ));
            }
        }
    }
    Ok(all)
}

/// Takes what the guest did since it was shipped to.
///
/// # Errors
/// When it does not tell, or what comes may not.
pub async fn fetch(place: &Place) -> Result<Returned, Fault> {
    let folder = place.kept.clone();
    let kept = apart(move || Kept::open(&folder)).await?;
    let taken = timeout(BACK, take(place, kept)).await;
    taken.map_err(|_| Fault::host("the guest did not tell what changed in time"))?
}

async fn take(place: &Place, kept: Kept) -> Result<Returned, Fault> {
    let guest = vsock::ask(&place.way, &Request::Survey).await;
    let mut guest = guest.map_err(|error| Fault::io("the guest does not answer", error))?;
    let revision = revision(&mut guest).await?;
    let (to, from) = pipe::inward();
    let reading = tokio::spawn(apart(move || {
        let changes = back::changes(&kept, &mut Receiver::new(from, Limits::RETURN));
        changes.map(|changes| (kept, changes))
    }));
    let early = pipe::carry_in(&mut guest.reader, Kind::Stdout, to, false).await.map_err(broke)?;
    if let Some(payload) = early {
        let reply = from_guest(&payload).map_err(broke)?;
        return Err(said(&reply));
    }
    let (kept, changes) = reading.await.map_err(|error| Fault::host(error.to_string()))??;
    commits(place, kept, revision, changes).await
}

/// The guest's commits on top of its files.
async fn commits(
    place: &Place,
    kept: Kept,
    revision: u64,
    changes: Changes,
) -> Result<Returned, Fault> {
    let (kept, manifest, origin) = apart(move || {
        let (manifest, origin) = (kept.shipped(revision)?, kept.origin()?);
        Ok((kept, manifest, origin))
    })
    .await?;
    let shipped = origin.and_then(|kept::Origin { head, .. }| head);
    let mut notes = Vec::new();
    let bundle = place.kept.join("guest.bundle");
    let said = ask::commits(&place.way, &manifest.at, shipped.as_deref(), &bundle).await;
    let mut cannot = None;
    let (has, branch) = match said {
        Ok(Said::Commits { branch }) => (true, branch),
        Ok(Said::Nothing { branch }) => (false, branch),
        Ok(Said::None(why)) => {
            notes.push(why);
            (false, None)
        }
        Ok(Said::Failed(why)) => {
            cannot = Some(why);
            (false, None)
        }
        Err(error) => {
            cannot = Some(error.to_string());
            (false, None)
        }
    };
    let returned = apart(move || {
        back::forget(&kept)?;
        let mut refused = Vec::new();
        let mut failed = None;
        if has {
            let taken = back::commits(&kept, &bundle);
            let removed = std::fs::remove_file(&bundle);
            // Its files come all the same.
            match taken {
                Ok(names) => refused = names,
                Err(error) => failed = Some(error.whole()),
            }
            removed.map_err(|error| WorkspaceError::Io(bundle, error))?;
        }
        let mut returned = back::returned(&kept, &manifest, &changes, branch)?;
        returned.left_out.append(&mut refused);
        returned.notes.append(&mut notes);
        returned.failed = failed.or(cannot);
        Ok(returned)
    });
    returned.await
}

/// Where a sandbox's workspace is kept, and its guest.
pub fn place(way: Way, kept: &Path) -> Place {
    Place { way, kept: kept.to_path_buf() }
}
