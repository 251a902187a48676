//! Guests, over vsock. A task per running sandbox watches what its agent says.

use super::{Guest, GuestFacts, Outcome, Progress, Wake};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::helper::Helper;
use crate::vsock::{self, Conversation};
use crate::way::Way;
use crate::workspace;
use async_trait::async_trait;
use banger_plan::Seen;
use banger_schema::spec::WorkspaceSpec;
use banger_wire::agent::{GuestState, HEARTBEAT_SECS, Identity, Phase, Reply, Request};
use banger_wire::id::{Generation, SandboxId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long a guest may be silent until it counts as not answering.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECS);
/// How long a guest may take for its identity: it mounts its disks meanwhile, and grows them.
const IDENTIFY: Duration = Duration::from_secs(180);
/// How long a guest may take to end its services. Stopping its processes waits after that.
const SHUT_DOWN: Duration = Duration::from_secs(10);
/// How long a guest may take to write back what it holds.
const SYNC: Duration = Duration::from_secs(60);
/// How long what a guest took on may take to be seen.
const SEEN: Duration = Duration::from_secs(2);
/// Between two tries to reach a guest that boots.
const RETRY: Duration = Duration::from_millis(10);
/// Between two tries to reach one that should have booted long ago.
const SLOW_RETRY: Duration = Duration::from_millis(500);
/// How long somebody waits for a guest whose memory is being kept.
const STILL: Duration = Duration::from_secs(120);
/// How many states of one guest are taken in a second.
const MAX_STATES_A_SECOND: u32 = 20;
/// The longest text that is kept of what a guest says about itself.
const MAX_TEXT: usize = 512;

/// The vsock side of every run.
pub struct VsockGuest {
    folders: Folders,
    helper: Option<Helper>,
    wakes: mpsc::UnboundedSender<Wake>,
    watchers: Mutex<BTreeMap<SandboxId, Watcher>>,
}

struct Watcher {
    state: watch::Receiver<Option<GuestState>>,
    /// When it was last seen to answer, or first listened to.
    heard: Instant,
    task: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl VsockGuest {
    /// Watches runs in these folders, or in the helper's jails, and wakes the loop when a guest says something new.
    pub fn new(
        folders: Folders,
        helper: Option<Helper>,
        wakes: mpsc::UnboundedSender<Wake>,
    ) -> Self {
        Self { folders, helper, wakes, watchers: Mutex::default() }
    }

    /// The way to a guest.
    pub fn way(&self, sandbox: &SandboxId) -> Way {
        Way::to(&self.folders, self.helper.as_ref(), sandbox)
    }

    /// What a guest says from now on, while somebody listens to it.
    fn said(&self, sandbox: &SandboxId) -> Option<watch::Receiver<Option<GuestState>>> {
        let watchers = self.watchers.lock().expect("no holder panics");
        let mut said = watchers.get(sandbox).map(|watcher| watcher.state.clone())?;
        said.mark_unchanged();
        Some(said)
    }

    /// Waits a moment for a guest to say so: the next observation must see it, or it would be planned again.
    async fn until(&self, sandbox: &SandboxId, so: impl Fn(&GuestState) -> bool) {
        let watcher =
            self.watchers.lock().expect("no holder panics").get(sandbox).map(|w| w.state.clone());
        if let Some(mut state) = watcher {
            let says = |said: &Option<GuestState>| said.as_ref().is_some_and(&so);
            let _ = tokio::time::timeout(SEEN, state.wait_for(says)).await;
        }
    }

    /// Starts a conversation with a guest.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask(&self, sandbox: &SandboxId, request: &Request) -> Result<Conversation, Fault> {
        // One that stands still while its memory is kept would forget who asks.
        let paused = self.folders.vm(sandbox).join(super::vmm::PAUSED);
        let begun = Instant::now();
        while paused.exists() && begun.elapsed() < STILL {
            tokio::time::sleep(SLOW_RETRY).await;
        }
        let fail = |error| Fault::io("the guest does not answer", error);
        vsock::ask(&self.way(sandbox), request).await.map_err(fail)
    }
}

#[async_trait]
impl Guest for VsockGuest {
    async fn observe(&self, running: &[SandboxId]) -> BTreeMap<SandboxId, GuestFacts> {
        let mut watchers = self.watchers.lock().expect("no holder panics");
        watchers.retain(|id, _| running.contains(id));
        let mut facts = BTreeMap::new();
        for id in running {
            let watcher = watchers.entry(id.clone()).or_insert_with(|| {
                let (sender, state) = watch::channel(None);
                let run = self.folders.vm(id);
                let task = watch_guest(id.clone(), self.way(id), run, sender, self.wakes.clone());
                let heard = Instant::now();
                Watcher { state, heard, task: tokio::spawn(task).abort_handle() }
            });
            let state = watcher.state.borrow().clone();
            // One that has to stand still cannot be heard.
            let stands_still = self.folders.vm(id).join(super::vmm::PAUSED).exists();
            if state.is_some() || stands_still {
                watcher.heard = Instant::now();
            }
            let silent_secs = watcher.heard.elapsed().as_secs();
            let woken = self.folders.vm(id).join(super::vmm::WOKEN).exists();
            let state = state.map_or(Seen::Absent, |mut said| {
                if woken {
                    // Whoever it remembers to be, it was not told since it goes on.
                    said.generation = Generation(0);
                }
                Seen::Present(said)
            });
            facts.insert(id.clone(), GuestFacts { state, silent_secs });
        }
        facts
    }

    async fn identify(&self, sandbox: &SandboxId, identity: Identity) -> Result<Outcome, Fault> {
        let generation = identity.generation;
        let woken = self.folders.vm(sandbox).join(super::vmm::WOKEN);
        let mut said = self.said(sandbox);
        let told = said.as_ref().and_then(|said| said.borrow().clone());
        let live = !woken.exists() && told.is_some_and(|said| said.generation.0 > 0);
        // A live change tells a guest nothing that an older agent would not understand.
        let whose = identity.sandbox.clone().filter(|_| !live);
        let identity = Identity { woken: woken.exists(), sandbox: whose, ..identity };
        // Written first: a memory that may have been told who it is, is nobody else's.
        let named = self.folders.vm(sandbox).join(super::vmm::NAMED);
        std::fs::write(&named, b"").during(|| format!("writing {}", named.display()))?;
        let mut guest = self.ask(sandbox, &Request::Identify(Box::new(identity))).await?;
        let done = guest.done(IDENTIFY).await;
        done.map_err(|error| Fault::io("the guest did not take its identity", error))?;
        if woken.exists() {
            // What it said last may be what it remembered.
            if let Some(said) = &mut said {
                let _ = tokio::time::timeout(SEEN, said.changed()).await;
            }
            folders::remove(&woken)?;
        }
        self.until(sandbox, |said| said.generation == generation).await;
        Ok(Outcome::Changed)
    }

    async fn ship(
        &self,
        sandbox: &SandboxId,
        workspace: &WorkspaceSpec,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        let place = workspace::place(self.way(sandbox), &self.folders.workspace(sandbox));
        workspace::ship(&place, sandbox.as_str(), workspace, Some(progress)).await?;
        self.until(sandbox, |said| said.phase != Phase::Shipping).await;
        Ok(Outcome::Changed)
    }

    async fn sync(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let asked = async {
            self.ask(sandbox, &Request::Sync).await?.done(SYNC).await.during(|| "sync".into())
        };
        if let Err(fault) = asked.await {
            tracing::info!("{sandbox} did not sync its disks: {}", fault.problem().message);
        }
        Ok(Outcome::Unchanged)
    }

    async fn shut_down(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let asked = async {
            self.ask(sandbox, &Request::Shutdown)
                .await?
                .reply(SHUT_DOWN)
                .await
                .map_err(|e| Fault::io("shutdown", e))
        };
        match asked.await {
            Ok(_) => Ok(Outcome::Changed),
            Err(fault) => {
                tracing::info!(
                    "{sandbox} was not shut down by its guest: {}",
                    fault.problem().message
                );
                Ok(Outcome::Unchanged)
            }
        }
    }
}

/// Follows one guest for as long as its VMM runs.
async fn watch_guest(
    id: SandboxId,
    way: Way,
    run: PathBuf,
    state: watch::Sender<Option<GuestState>>,
    wakes: mpsc::UnboundedSender<Wake>,
) {
    let began = Instant::now();
    // It is the guest's, not the connection's: hanging up does not make it say more.
    let mut pace = Pace { window: began, said: 0 };
    loop {
        if !run.join(super::vmm::PAUSED).exists() {
            let ended = follow(&id, &way, &run, &state, &wakes, &mut pace).await;
            tracing::trace!("{id}: {ended:?}");
        }
        // One that has to stand still says nothing, and is what it was.
        let stands_still = run.join(super::vmm::PAUSED).exists();
        if !stands_still && state.send_replace(None).is_some() {
            // The loop ends with the daemon.
            let _ = wakes.send(Wake::Guest(id.clone()));
        }
        // A guest that goes on from a template is there at once; one that boots takes its time.
        let pause = match began.elapsed().as_secs() {
            0..2 => RETRY,
            2..30 => RETRY * 5,
            _ => SLOW_RETRY,
        };
        tokio::time::sleep(pause).await;
    }
}

/// How often a guest said something lately.
struct Pace {
    window: Instant,
    said: u32,
}

impl Pace {
    /// Counts one state. However often it changes its mind, the loop looks at most so often.
    async fn keep(&mut self) {
        if self.window.elapsed() >= Duration::from_secs(1) {
            (self.window, self.said) = (Instant::now(), 0);
        }
        self.said += 1;
        if self.said > MAX_STATES_A_SECOND {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// One connection: every state until it breaks.
async fn follow(
    id: &SandboxId,
    way: &Way,
    run: &Path,
    state: &watch::Sender<Option<GuestState>>,
    wakes: &mpsc::UnboundedSender<Wake>,
    pace: &mut Pace,
) -> std::io::Result<()> {
    let mut guest = vsock::ask(way, &Request::Watch).await?;
    loop {
        let Reply::State(said) = guest.reply(SILENCE).await? else {
            return Err(std::io::ErrorKind::InvalidData.into());
        };
        let said = bounded(said);
        if said.phase == Phase::Leaving {
            // It goes by itself: whoever plans next must know that it was in order.
            let _ = std::fs::write(run.join(super::vmm::LEFT), b"");
        }
        pace.keep().await;
        let before = state.send_replace(Some(said.clone()));
        if before.as_ref() != Some(&said) {
            let _ = wakes.send(Wake::Guest(id.clone()));
        }
    }
}

/// A guest may claim what it likes, but not at any length.
fn bounded(mut said: GuestState) -> GuestState {
    for text in [&mut said.version, &mut said.boot_id, &mut said.detail] {
        *text = banger_wire::text::clean_line(text).chars().take(MAX_TEXT).collect();
    }
    said
}
