//! Machines: started, found again, ended. They outlive the daemon.
//!
//! With the helper each lives in a jail of its own, run by Firecracker (`firecracker.rs`) or QEMU, and is found again by
//! that jail; without it, QEMU runs as the daemon's user (`direct.rs`) and is found by the mark in its environment. What is
//! the same for all is here.

mod backends;
mod direct;
mod facts;
pub mod firecracker;
mod make;
mod ring;
mod snapshot;
mod still;
pub(crate) mod suspend;
mod templates;
pub(crate) mod word;

use super::{Begin, Outcome, Vmm, VmmSeen, Wake};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::helper::Helper;
use crate::host::{self, Acceleration};
use crate::process::{self, Held, Marked};
use async_trait::async_trait;
use banger_plan::actual::Backends;
use banger_plan::boot::Boot;
use banger_plan::desired::Desired;
use banger_wire::derive::Role;
use banger_wire::helper::{Jailed, Line};
use banger_wire::id::{InstallId, SandboxId, SnapshotId};
use banger_wire::machine::{Backend, BootKey, Machine, Version};
use ring::Rings;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use still::{Hold, Still};
use templates::Templates;
use tokio::sync::mpsc;

/// The file in a run's folder that tells that the guest said goodbye.
pub const LEFT: &str = "left";
const RECORD: &str = "boot.json";
/// The file that tells that the processes came up.
const STARTED: &str = "started";
/// The file that tells that a guest was given an identity, or may have been. Its memory is somebody's from then on.
pub const NAMED: &str = "named";
/// The file that tells that a guest goes on from a memory, and was not told who it is since.
pub const WOKEN: &str = "woken";
/// The file that tells that a machine may be standing still.
pub const PAUSED: &str = "paused";
/// The largest machine that has a template, in MiB: all of its memory is written down while its guest stands still.
const LARGEST_TEMPLATE: u32 = 2048;
/// How long a guest that started from a template may say nothing until that is the template's fault, in seconds.
const TEMPLATE_PATIENCE: u64 = 60;
/// Words that a kernel wants on its command line, beside it.
pub const WORDS: &str = "cmdline";
/// How long processes may take to go after the guest was asked.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long they may take after TERM.
const TERM_PATIENCE: Duration = Duration::from_secs(5);

/// A machine to start, with its kernel, its initramfs and its disks, in this order.
struct Start<'a> {
    id: &'a SandboxId,
    machine: Machine,
    files: Vec<PathBuf>,
    run: &'a Path,
    /// Whether it is to stand still at first, because it goes on from a guest's memory.
    wakes: bool,
}

/// The real one.
pub struct Processes {
    folders: Folders,
    install: InstallId,
    agent: PathBuf,
    helper: Option<Helper>,
    acceleration: Acceleration,
    backends: Backends,
    version: Option<Version>,
    templates: Templates,
    still: Still,
    wakes: mpsc::UnboundedSender<Wake>,
    rings: Rings,
    watched: Arc<Mutex<BTreeSet<(SandboxId, u32)>>>,
}

impl Processes {
    /// Starts guests with this agent: in the helper's jails, or as our own user where there is no helper.
    ///
    /// # Errors
    /// When the environment insists on a VMM that banger does not know.
    pub fn new(
        folders: Folders,
        install: InstallId,
        agent: PathBuf,
        helper: Option<Helper>,
        wakes: mpsc::UnboundedSender<Wake>,
    ) -> Result<Self, Fault> {
        let acceleration = host::acceleration();
        let backends = backends::find(helper.as_ref(), acceleration)?;
        let facts = helper.as_ref().and_then(|helper| helper.probe().ok());
        let version = facts.and_then(|facts| facts.firecracker.ok());
        let templates = Templates::new(&agent, version);
        let (rings, watched) = (Rings::default(), Arc::default());
        let acceleration = acceleration.0;
        Ok(Self {
            folders,
            install,
            agent,
            helper,
            acceleration,
            backends,
            version,
            templates,
            still: Still::default(),
            wakes,
            rings,
            watched,
        })
    }

    /// Starts a machine. When it fails, nothing of it runs.
    async fn launch(&self, start: &Start<'_>) -> Result<(), Fault> {
        let outcome = match &self.helper {
            None => direct::start(start, &self.install, &self.wakes).await,
            Some(helper) => self.jail(helper, start).await,
        };
        let outcome = outcome.and_then(|()| {
            // With what: a memory that older programs made is no template of these.
            let programs = self.templates.programs();
            std::fs::write(start.run.join(STARTED), programs.as_str())
                .during(|| "recording the start".into())
        });
        match outcome {
            Ok(()) => {
                let measures = start.machine.backend == Backend::Firecracker;
                self.listen(start.id, self.helper.is_some(), measures);
                Ok(())
            }
            Err(fault) => {
                let cleared = async {
                    self.end(start.id, Duration::ZERO).await?;
                    self.helper.as_ref().map_or(Ok(Outcome::Unchanged), |h| h.remove_jail(start.id))
                };
                if let Err(other) = cleared.await {
                    tracing::warn!(
                        "{}: clearing a failed start: {}",
                        start.id,
                        other.problem().message
                    );
                }
                Err(fault)
            }
        }
    }

    async fn jail(&self, helper: &Helper, start: &Start<'_>) -> Result<(), Fault> {
        let mut files = Vec::new();
        for (index, path) in start.files.iter().enumerate() {
            let writable = index >= 2 && !start.machine.is_read_only((index - 2) as u8);
            let file = File::options().read(true).write(writable).open(path);
            files.push(OwnedFd::from(file.during(|| format!("opening {}", path.display()))?));
        }
        helper.start_machine(start.id, start.machine.clone(), &files)?;
        match (start.machine.backend, self.version) {
            (Backend::Firecracker, Some(version)) => {
                firecracker::configure(start, &self.install, helper, version).await
            }
            (Backend::Firecracker, None) => {
                Err(Fault::host("Firecracker's version is not known")
                    .hint("start the daemon again"))
            }
            (Backend::Qemu, _) => Ok(()),
        }
    }

    /// Keeps what a machine's console and its VMM say.
    fn listen(&self, id: &SandboxId, jailed: bool, measures: bool) {
        let (folder, run) = (self.folders.sandbox(id), self.folders.vm(id));
        match &self.helper {
            Some(helper) if jailed => {
                let all = [
                    (Line::Console, ring::CONSOLE),
                    (Line::Log, ring::LOG),
                    (Line::Metrics, ring::METRICS),
                ];
                // Only Firecracker measures.
                for (line, file) in all.into_iter().take(if measures { 3 } else { 2 }) {
                    let (helper, sandbox) = (helper.clone(), id.clone());
                    let open = move || helper.open(&sandbox, line);
                    self.rings.follow_jail(id, file, open, folder.join(file), &run);
                }
            }
            Some(_) | None => {
                let socket = run.join(banger_wire::machine::CONSOLE_SOCKET);
                self.rings.follow_socket(id, &socket, folder.join(ring::CONSOLE), &run);
                let log = run.join(banger_wire::machine::LOG);
                self.rings.follow_fifo(id, ring::LOG, &log, folder.join(ring::LOG));
            }
        }
    }

    /// Processes that were started without a helper.
    fn marked(&self, id: &SandboxId) -> Result<Vec<Marked>, Fault> {
        let all = process::marked(&self.install).during(|| "looking for processes".into())?;
        Ok(all.into_iter().filter(|process| process.sandbox == *id).collect())
    }

    fn jailed(&self, id: &SandboxId) -> Result<Option<Jailed>, Fault> {
        let Some(helper) = &self.helper else { return Ok(None) };
        Ok(helper.jails()?.into_iter().find(|jail| jail.sandbox == *id))
    }

    /// Ends a machine's processes: at once, or after they had time to go by themselves and were asked.
    async fn end(&self, id: &SandboxId, patience: Duration) -> Result<bool, Fault> {
        let term = if patience.is_zero() { Duration::ZERO } else { TERM_PATIENCE };
        let (main, rest): (Vec<_>, Vec<_>) =
            self.marked(id)?.into_iter().partition(|process| process.role == Role::Vmm);
        let any = !main.is_empty() || !rest.is_empty();
        // The VMM first: the others serve it.
        process::end(&main, patience, term).await.map_err(Fault::host)?;
        process::end(&rest, Duration::ZERO, TERM_PATIENCE).await.map_err(Fault::host)?;
        let jail = self.jailed(id)?.filter(|jail| !jail.living.is_empty());
        let (Some(_), Some(helper)) = (jail, &self.helper) else { return Ok(any) };
        for (time, ask) in [(patience, true), (term, false)] {
            if gone(helper, id, time).await? {
                break;
            }
            if ask && !term.is_zero() {
                helper.end(id, false)?;
            }
        }
        helper.end(id, true)?;
        Ok(true)
    }

    /// Wakes the loop when a process ends, once per process. What it is taken hold of by is opened first.
    /// Whether it is new to this daemon.
    fn watch(&self, id: &SandboxId, pid: u32, hold: impl FnOnce() -> Option<Held>) -> bool {
        let key = (id.clone(), pid);
        if !self.watched.lock().expect("no holder panics").insert(key.clone()) {
            return false;
        }
        let held = hold();
        let (wakes, watched) = (self.wakes.clone(), self.watched.clone());
        tokio::spawn(async move {
            let ended = match held {
                Some(held) => held.ended().await,
                None => Err(std::io::ErrorKind::NotFound.into()),
            };
            watched.lock().expect("no holder panics").remove(&key);
            if ended.is_err() {
                // It is looked at again at the next tick; waking the loop now would only repeat this.
                return;
            }
            let _ = wakes.send(Wake::Vmm(key.0));
        });
        true
    }

    /// What a sandbox's run was started with.
    fn recorded(&self, id: &SandboxId) -> Option<Boot> {
        recorded_in(&self.folders.vm(id))
    }

    /// Says that a machine stands still, until the answer is dropped or somebody removes the file.
    fn stand_still(&self, id: &SandboxId) -> Result<Hold, Fault> {
        let hold = self.still.clone().by(id);
        let hold = hold.ok_or_else(|| Fault::host("it is about to go on"))?;
        // Written first: whoever comes after this daemon lets it go on.
        let paused = self.folders.vm(id).join(PAUSED);
        std::fs::write(paused, b"").during(|| "recording a pause".into())?;
        Ok(hold)
    }

    /// Starts a machine from a guest's memory, gives that up, and lets it go on.
    async fn wake(&self, start: &Start<'_>) -> Result<Outcome, Fault> {
        let helper = self.helper.as_ref().ok_or_else(|| Fault::host("there is no helper"))?;
        let _still = self.stand_still(start.id)?;
        std::fs::write(start.run.join(WOKEN), b"").during(|| "recording a start".into())?;
        let hint = "to boot it without its memory: banger vm stop, then banger vm start";
        self.launch(start).await.map_err(|fault| fault.hint(hint))?;
        self.forget_record(start.id)?;
        firecracker::go_on(helper, start.id, firecracker::GO_ON).await?;
        folders::remove(&start.run.join(PAUSED))?;
        Ok(Outcome::Changed)
    }

    /// Drops the template of a machine whose guest never said a word: the next start boots.
    async fn doubt_template(&self, id: &SandboxId) -> Result<(), Fault> {
        let Some(jail) = self.jailed(id)? else { return Ok(()) };
        let silent = jail.living.iter().any(|process| process.secs >= TEMPLATE_PATIENCE)
            && !self.folders.vm(id).join(NAMED).exists();
        let woken = self.folders.vm(id).join(WOKEN).exists();
        match jail.started.and_then(|started| started.from).filter(|_| !woken) {
            Some(template) if silent => {
                tracing::warn!("{id} did not come up from its template, which is dropped");
                if let Err(fault) = self.drop_memory(&template).await {
                    tracing::warn!("{id}: {}", fault.problem().message);
                }
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What the run in a folder was started with.
pub(crate) fn recorded_in(run: &Path) -> Option<Boot> {
    serde_json::from_slice(&std::fs::read(run.join(RECORD)).ok()?).ok()
}

/// Waits for a jail's VMM to end. Whether it has.
async fn gone(helper: &Helper, id: &SandboxId, time: Duration) -> Result<bool, Fault> {
    let pidfd = match helper.open(id, Line::Vmm) {
        Ok(pidfd) => pidfd,
        Err(fault) => {
            // It may have ended meanwhile; that it cannot be told is no reason to kill it.
            let jail = helper.jails()?.into_iter().find(|jail| jail.sandbox == *id);
            let lives = jail.is_some_and(|jail| jail.living.iter().any(|process| !process.vsock));
            return if lives { Err(fault) } else { Ok(true) };
        }
    };
    match tokio::time::timeout(time, Held::by(pidfd).ended()).await {
        Ok(ended) => ended.during(|| "waiting for a VMM to end".into()).map(|()| true),
        Err(_) => Ok(false),
    }
}

#[async_trait]
impl Vmm for Processes {
    async fn observe(&self, desired: &Desired) -> VmmSeen {
        self.look(desired)
    }

    fn backends(&self) -> Backends {
        self.backends.clone()
    }

    async fn keep_template(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let kept = async {
            let helper = self.helper.as_ref().ok_or_else(|| Fault::host("there is no helper"))?;
            let boot = self.recorded(sandbox).ok_or_else(|| Fault::host("there is no run"))?;
            let (key, of) = self.template_of(&boot)?;
            if !self.is_nobody(sandbox) {
                return Err(Fault::host("its memory is somebody's"));
            }
            // Once per kind: what failed is not tried again at every start.
            self.templates.tried(&key);
            let _still = self.stand_still(sandbox)?;
            let written = self.write_down(helper, sandbox, &boot).await;
            self.go_on(helper, sandbox, written.is_ok()).await?;
            written?;
            helper.keep_memory(sandbox, key, of)
        };
        Ok(kept.await.unwrap_or_else(|fault| {
            tracing::warn!("{sandbox}: no template was kept: {}", fault.problem().message);
            Outcome::Unchanged
        }))
    }

    async fn drop_memory(&self, memory: &BootKey) -> Result<Outcome, Fault> {
        match &self.helper {
            Some(helper) => helper.drop_memory(memory.clone()),
            None => Ok(Outcome::Unchanged),
        }
    }

    async fn start(&self, boot: &Boot, begin: Begin) -> Result<Outcome, Fault> {
        let id = &boot.sandbox;
        let jailed = self.jailed(id)?;
        let has_vmm = |jail: &Jailed| jail.living.iter().any(|process| !process.vsock);
        let marked = self.marked(id)?;
        if marked.iter().any(|process| process.role == Role::Vmm)
            || jailed.as_ref().is_some_and(has_vmm)
        {
            return Err(Fault::host("its processes are there already"));
        }
        // What is left of the last run.
        self.end(id, Duration::ZERO).await?;
        if let (Some(_), Some(helper)) = (jailed, &self.helper) {
            helper.remove_jail(id)?;
        }
        let (mut machine, files) = self.machine(boot).await?;
        machine.from = match begin {
            Begin::Memory => Some(self.memory_of(id)?),
            Begin::Template if boot.backend == Backend::Firecracker => {
                let (key, _) = self.template_of(boot)?;
                self.templates.list(self.helper.as_ref()).contains_key(&key).then_some(key)
            }
            Begin::Template | Begin::Boot => None,
        };
        let run = self.folders.vm(id);
        folders::make(&run)?;
        for old in [LEFT, STARTED, NAMED, PAUSED, WOKEN, word::SAID] {
            folders::remove(&run.join(old))?;
        }
        // Written first: whoever finds the processes finds what they were started with.
        folders::write_whole(
            &run.join(RECORD),
            &serde_json::to_vec(boot).expect("plain values encode"),
        )?;
        let wakes = begin == Begin::Memory;
        if !wakes {
            // Whoever boots is past every memory.
            self.forget_record(id)?;
        }
        let mut start = Start { id, machine, files, run: &run, wakes };
        if wakes {
            return self.wake(&start).await;
        }
        let launched = self.launch(&start).await;
        if let (Err(fault), Some(key)) = (&launched, start.machine.from.take()) {
            // A template is only ever a short cut. What starts without it tells that it was to blame.
            tracing::warn!("{id} does not start from its template: {}", fault.problem().message);
            self.launch(&start).await?;
            if let Err(fault) = self.drop_memory(&key).await {
                tracing::warn!("{id}: {}", fault.problem().message);
            }
            return Ok(Outcome::Changed);
        }
        launched?;
        Ok(Outcome::Changed)
    }

    async fn suspend(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let _still = self.stand_still(sandbox)?;
        let kept = self.keep(sandbox).await;
        if let (Err(_), Some(helper)) = (&kept, &self.helper) {
            // It goes on as if nobody had asked.
            self.forget_record(sandbox)?;
            self.go_on(helper, sandbox, false).await?;
        }
        kept.map(|()| Outcome::Changed)
    }

    async fn take_snapshot(
        &self,
        snapshot: &SnapshotId,
        sandbox: &SandboxId,
        memory: bool,
    ) -> Result<Outcome, Fault> {
        self.take(snapshot, sandbox, memory).await
    }

    async fn forget_memory(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        Ok(if self.forget_record(sandbox)? { Outcome::Changed } else { Outcome::Unchanged })
    }

    async fn stop(&self, sandbox: &SandboxId, kill: bool) -> Result<Outcome, Fault> {
        let patience = if kill { Duration::ZERO } else { STOP_PATIENCE };
        self.doubt_template(sandbox).await?;
        let any = self.end(sandbox, patience).await?;
        Ok(if any { Outcome::Changed } else { Outcome::Unchanged })
    }

    async fn remove_run(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let jail = match &self.helper {
            Some(helper) => helper.remove_jail(sandbox)?,
            None => Outcome::Unchanged,
        };
        self.rings.drop(sandbox);
        let any = folders::remove_tree(&self.folders.vm(sandbox))?;
        Ok(if any { Outcome::Changed } else { jail })
    }

    async fn last_words(&self, sandbox: &SandboxId) -> String {
        let folder = self.folders.sandbox(sandbox);
        // A VMM that ends by itself says why; a guest that panics does so on its console.
        let files = [ring::CONSOLE, ring::LOG].map(|name| end_of(&folder.join(name), 4096));
        let lines = files.iter().map(|text| telling(text)).find(|lines| !lines.is_empty());
        let lines = lines.unwrap_or_default();
        banger_wire::text::clean_line(&lines[lines.len().saturating_sub(3)..].join(" | "))
    }
}

/// The end of a file, at most so many bytes, as text.
fn end_of(file: &Path, most: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(most)..]);
    banger_wire::text::clean(text.replace('\r', "").trim())
}

/// The lines that may say why something ended. That an agent listened does not.
fn telling(text: &str) -> Vec<&str> {
    let lines = text.split('\n').map(str::trim);
    lines.filter(|line| !line.is_empty() && *line != banger_wire::agent::LISTENS).collect()
}

/// The file of a sandbox's console, and where its older half is.
pub fn console_files(folders: &Folders, sandbox: &SandboxId) -> [PathBuf; 2] {
    let file = folders.sandbox(sandbox).join(ring::CONSOLE);
    [ring::older(&file), file]
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_wire::agent::LISTENS;

    #[test]
    fn that_agents_listened_says_nothing_of_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = folder.path().join(ring::CONSOLE);
        let told = |text: &str| {
            std::fs::write(&console, text).expect("writes");
            telling(&end_of(&console, 4096)).join("|")
        };
        assert_eq!(told(&format!("{LISTENS}\r\n{LISTENS}\r\n")), "");
        assert_eq!(told(&format!("{LISTENS}\r\n\r\nKernel panic\r\n")), "Kernel panic");
        assert_eq!(told("a\u{1b}[2J\r\n"), "a\u{fffd}[2J");
    }
}
