//! The real line to guests, loop and API, over simulated disks, processes and network.

use super::guest::{Guest, ready};
use crate::lab::{Fixed, name, spec};
use banger_plan::admit::Capacity;
use banger_reconciler::api;
use banger_reconciler::drivers::guest::VsockGuest;
use banger_reconciler::drivers::sim::Sim;
use banger_reconciler::drivers::{Drivers, Guest as _};
use banger_reconciler::engine::{Consent, Engine, Terms};
use banger_reconciler::folders::Folders;
use banger_reconciler::keys::Keys;
use banger_reconciler::registry::Registry;
use banger_reconciler::store::Store;
use banger_schema::spec::WorkspaceSpec;
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::AGENT;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) folders: Folders,
    pub(super) line: Arc<VsockGuest>,
    pub(super) drivers: Drivers,
    pub(super) engine: Arc<Engine>,
    /// The one that is hostile, and the one that is not.
    pub(super) ids: [SandboxId; 2],
    pub(super) guests: [Guest; 2],
    pub(super) workspace: WorkspaceSpec,
    stop: watch::Sender<bool>,
}

fn repository(folder: &Path) -> PathBuf {
    let path = folder.join("repository");
    std::fs::create_dir(&path).expect("a folder");
    std::fs::write(path.join("file"), "text\n").expect("writes");
    for line in ["init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m first"] {
        let status = Command::new("git")
            .current_dir(&path)
            .args(line.split(' '))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .status();
        assert!(status.expect("git runs").success());
    }
    path
}

impl World {
    /// Two sandboxes that run, whose guests answer.
    pub(super) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bg").tempdir_in("/tmp").expect("a folder");
        let folders =
            Folders::at(folder.path().join("state"), folder.path().join("run")).expect("folders");
        let (wakes, woken) = mpsc::unbounded_channel();
        let line = Arc::new(VsockGuest::new(folders.clone(), None, wakes.clone()));
        let sim = Sim::new();
        let drivers = Drivers { guest: line.clone(), ..sim.drivers() };
        let store = Store::open(&folders.database(), || InstallId::from_bits(1)).expect("a store");
        let capacity = Capacity { memory_mib: 64 << 10, cpus: 8 };
        let engine =
            Engine::new(drivers.clone(), store, capacity, Box::new(Fixed), wakes, |_| true).await;
        let engine = engine.expect("an engine");
        let wanted = spec(
            "image \"base\" { debian { packages \"busybox-static\"; }; }\n\
             sandbox \"bad\" { image \"base\"; memory \"256MiB\"; }\nsandbox \"good\" { image \"base\"; memory \"256MiB\"; }",
        );
        let terms = Terms { dry_run: false, consent: Consent::No, ephemeral: false, also: None };
        let project = name("p");
        let proposed = engine.propose(&project, terms, |_| Ok(wanted));
        assert!(proposed.await.expect("proposes").accepted);
        let desired = engine.desired();
        let ids = ["bad", "good"]
            .map(|own| desired.sandbox(&project, &name(own)).expect("there").id.clone());
        let guests = ids.clone().map(|id| {
            std::fs::create_dir_all(folders.vm(&id)).expect("a folder");
            let guest = Guest::at(&folders.vm(&id).join(AGENT));
            guest.state.send_replace(ready(desired.sandboxes[&id].generation.0));
            guest
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(engine.clone().run(woken, stopped));
        tokio::spawn(banger_reconciler::names::serve_guests(engine.clone(), line.clone()));
        let context = api::Context {
            engine: engine.clone(),
            guest: line.clone(),
            folders: folders.clone(),
            keys: Keys::open(&folders).expect("keys"),
            registry: Registry::open(folders.state()).expect("a registry"),
            agent: PathBuf::from("/nowhere"),
            helper: None,
            active: Arc::new(AtomicUsize::new(0)),
        };
        let listener = api::listen(&folders.socket()).expect("listens");
        tokio::spawn(async move { axum::serve(listener, api::router(context)).await });
        let text = repository(folder.path()).display().to_string();
        let workspace =
            WorkspaceSpec { folder: text, at: "/work".into(), include: Vec::new(), depth: None };
        Self { folder, folders, line, drivers, engine, ids, guests, workspace, stop }
    }

    /// The loop looks and does no more.
    pub(super) fn stand_still(&self) {
        let _ = self.stop.send(true);
    }

    /// What is said of both guests, now.
    pub(super) async fn heard(&self) -> [Option<banger_wire::agent::GuestState>; 2] {
        let facts = self.line.observe(&self.ids).await;
        assert_eq!(facts.len(), 2, "facts of these two and nobody else");
        self.ids.clone().map(|id| facts[&id].state.present().cloned())
    }

    /// A request to the API about the hostile guest. Its status, and what followed, so many bytes at most.
    pub(super) async fn request(
        &self,
        method: &str,
        path: &str,
        upgrade: Option<&[u8]>,
        patience: Duration,
    ) -> (u16, Vec<u8>) {
        const MOST: u64 = 256 << 10;
        let mut stream = UnixStream::connect(self.folders.socket()).await.expect("connects");
        let how = if upgrade.is_some() {
            "connection: upgrade\r\nupgrade: banger"
        } else {
            "connection: close"
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: banger\r\ncontent-length: 0\r\n{how}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("asks");
        stream.write_all(upgrade.unwrap_or_default()).await.expect("goes on");
        let mut said = Vec::new();
        // A connection that breaks has said what it said.
        let _ =
            tokio::time::timeout(patience, (&mut stream).take(MOST).read_to_end(&mut said)).await;
        let status = said.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let end =
            said.windows(4).position(|four| four == b"\r\n\r\n").map_or(said.len(), |at| at + 4);
        (status.unwrap_or(0), said.split_off(end))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}
