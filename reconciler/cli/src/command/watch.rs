//! Follows a repository and ships what changes, until interrupted.

use super::workspace::{failed, push_once};
use crate::client::Client;
use anyhow::Result;
use banger_schema::spec::WorkspaceSpec;
use banger_wire::api::SandboxStatus;
use banger_workspace::listing::{self, Repository};
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long things have to be quiet before they are looked at: an editor saves in several steps.
const SETTLE: Duration = Duration::from_millis(200);
/// How often it is looked where the system cannot tell what changes.
const POLL: Duration = Duration::from_secs(2);

/// Tells when something in some folders changes.
pub(super) struct Folders {
    watcher: Option<notify::RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<()>,
    watched: BTreeSet<PathBuf>,
    _sender: mpsc::UnboundedSender<()>,
}

impl Folders {
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let told = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // What is only looked at has not changed.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = told.send(());
            }
        });
        Self { watcher: watcher.ok(), events, watched: BTreeSet::new(), _sender: sender }
    }

    /// Watches these and no others. Where the system does not allow it, it is looked at from time to time.
    pub(super) fn set(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in self.watched.difference(&folders) {
            let _ = watcher.unwatch(folder);
        }
        for folder in folders.difference(&self.watched) {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
                && folder.is_dir()
            {
                let why = banger_wire::text::clean_line(&error.to_string());
                eprintln!("changes cannot be followed ({why}); looking every {} s", POLL.as_secs());
                self.watcher = None;
                return;
            }
        }
        self.watched = folders;
    }

    /// Waits until something changed and then nothing for a moment.
    pub(super) async fn changed(&mut self) {
        if self.watcher.is_none() {
            return tokio::time::sleep(POLL).await;
        }
        self.events.recv().await;
        while tokio::time::timeout(SETTLE, self.events.recv()).await.is_ok() {}
    }
}

/// The folders whose changes matter to a workspace: those of what is shipped, and git's own, where its index is.
pub(super) async fn folders_of(workspace: &WorkspaceSpec) -> Result<BTreeSet<PathBuf>> {
    let workspace = workspace.clone();
    tokio::task::spawn_blocking(move || find_folders(&workspace)).await?
}

fn find_folders(workspace: &WorkspaceSpec) -> Result<BTreeSet<PathBuf>> {
    let folder = Path::new(&workspace.folder);
    let scratch = tempfile::tempdir()?;
    let listed = listing::list(folder, &workspace.include, false, &scratch.path().join("listing"))
        .map_err(failed)?;
    let Repository { top, git_dir, .. } = &listed.repository;
    let mut folders = BTreeSet::from([top.clone(), git_dir.clone()]);
    for item in &listed.items {
        let path = top.join(OsStr::from_bytes(&item.name));
        folders.extend(path.parent().map(Path::to_path_buf));
    }
    Ok(folders)
}

/// Ships every change until interrupted.
pub(super) async fn push(
    client: &Client,
    found: &SandboxStatus,
    workspace: &WorkspaceSpec,
) -> Result<ExitCode> {
    let mut folders = Folders::new();
    until_interrupted(async {
        loop {
            folders.set(folders_of(workspace).await?);
            // Also the first time: something may have changed before anybody watched. One that cannot be shipped now may be
            // mended by the next change.
            if let Err(error) = push_once(client, found, true).await {
                crate::failure::show(&error);
            }
            folders.changed().await;
        }
    })
    .await
}

/// Does what never ends by itself until it is interrupted, whatever it is at then: whoever is asked goes on or gives up alone.
pub(super) async fn until_interrupted(
    work: impl Future<Output = Result<Infallible>>,
) -> Result<ExitCode> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = work => match ended? {},
        _ = interrupted.recv() => Ok(ExitCode::SUCCESS),
    }
}
