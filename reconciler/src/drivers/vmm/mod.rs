//! Machines: started, found again, ended. They outlive the daemon.
//!
//! With the helper each lives in a jail of its own, run by Firecracker (`firecracker.rs`) or QEMU, and is found again by
//! that jail; without it, QEMU runs as the daemon's user (`direct.rs`) and is found by the mark in its environment. What is
//! the same for all is here.

mod backends;
mod direct;
pub mod firecracker;
mod make;
mod ring;
mod templates;

use super::{Outcome, Vmm, VmmFacts, Wake};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::helper::Helper;
use crate::host::{self, Acceleration};
use crate::process::{self, Held, Marked};
use async_trait::async_trait;
use banger_plan::actual::{Backends, RunFact, Seen, TemplateFact, VmmFact};
use banger_plan::boot::Boot;
use banger_plan::desired::Desired;
use banger_wire::derive::Role;
use banger_wire::helper::{Jailed, Line};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::{Backend, BootKey, Machine, Version};
use ring::Rings;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use templates::Templates;
use tokio::sync::mpsc;

/// The file in a run's folder that tells that the guest said goodbye.
pub const LEFT: &str = "left";
const RECORD: &str = "boot.json";
/// The file that tells that the processes came up.
const STARTED: &str = "started";
/// The file that tells that a guest was given an identity, or may have been. Its memory is somebody's from then on.
pub const NAMED: &str = "named";
/// The file that tells that a machine may be standing still.
const PAUSED: &str = "paused";
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
    wakes: mpsc::UnboundedSender<Wake>,
    rings: Rings,
    watched: Arc<Mutex<BTreeSet<(SandboxId, u32)>>>,
}

impl Processes {
    /// Starts guests with this agent: in the helper's jails, or as our own user where there is no helper.
    pub fn new(
        folders: Folders,
        install: InstallId,
        agent: PathBuf,
        helper: Option<Helper>,
        wakes: mpsc::UnboundedSender<Wake>,
    ) -> Self {
        let acceleration = host::acceleration();
        let backends = backends::find(helper.as_ref(), acceleration);
        let facts = helper.as_ref().and_then(|helper| helper.probe().ok());
        let version = facts.and_then(|facts| facts.firecracker.ok());
        let templates = Templates::new(&agent, version);
        let (rings, watched) = (Rings::default(), Arc::default());
        let acceleration = acceleration.0;
        Self {
            folders,
            install,
            agent,
            helper,
            acceleration,
            backends,
            version,
            templates,
            wakes,
            rings,
            watched,
        }
    }

    /// For people.
    fn describe(&self, backend: Backend, kvm: bool) -> String {
        match (backend, self.version, kvm) {
            (Backend::Firecracker, Some(version), _) => format!("firecracker {version}"),
            (Backend::Firecracker, None, _) => "firecracker".to_string(),
            (Backend::Qemu, _, true) => "qemu with KVM".to_string(),
            (Backend::Qemu, _, false) => "qemu by software emulation".to_string(),
        }
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
        let folder = self.folders.sandbox(id);
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
                    self.rings.follow_jail(id, file, open, folder.join(file));
                }
            }
            Some(_) | None => {
                let socket = self.folders.vm(id).join(banger_wire::machine::CONSOLE_SOCKET);
                self.rings.follow_socket(id, &socket, folder.join(ring::CONSOLE));
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

    /// Lets a Firecracker go on that a daemon before this one left standing still, while it was written down.
    fn go_on(&self, jail: &Jailed) {
        let paused = self.folders.vm(&jail.sandbox).join(PAUSED);
        let (true, Some(helper)) = (paused.exists(), self.helper.clone()) else { return };
        let id = jail.sandbox.clone();
        tokio::spawn(async move {
            if firecracker::go_on(&helper, &id).await.is_ok() {
                let _ = folders::remove(&paused);
            }
        });
    }

    fn run_fact(&self, id: &SandboxId) -> Seen<RunFact> {
        let run = self.folders.vm(id);
        if !run.exists() {
            return Seen::Absent;
        }
        let record = std::fs::read(run.join(RECORD)).ok();
        // A record of what never came up is no run: whoever plans next starts it.
        let record = record.filter(|_| run.join(STARTED).exists());
        let boot = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Seen::Present(RunFact { boot, left: run.join(LEFT).exists() })
    }

    /// Processes without a jail.
    fn direct_fact(&self, processes: &[&Marked]) -> Seen<VmmFact> {
        // Without its VMM a machine has ended, whatever still serves it.
        let vmms = processes.iter().filter(|process| process.role == Role::Vmm);
        let Some(first) = vmms.min_by_key(|process| process.started) else {
            return Seen::Absent;
        };
        let Ok(boot) = BootKey::try_from(first.boot.clone()) else {
            return Seen::Unknown("a process of it has a strange mark".to_string());
        };
        let has = |role| processes.iter().any(|process| process.role == role);
        let same = processes.iter().all(|process| process.boot == first.boot);
        Seen::Present(VmmFact {
            boot,
            uptime_secs: process::uptime(first),
            whole: has(Role::Vmm) && has(Role::Vsock) && same && processes.len() == 2,
            backend: self.describe(Backend::Qemu, self.acceleration == Acceleration::Kvm),
            lacks_template: false,
        })
    }

    /// Processes in a jail. One that was never finished, or never told what it is, is not whole.
    fn jail_fact(&self, jail: &Jailed, kept: &BTreeMap<BootKey, TemplateFact>) -> Seen<VmmFact> {
        let vmms = jail.living.iter().filter(|process| !process.vsock);
        let Some(first) = vmms.max_by_key(|process| process.secs) else { return Seen::Absent };
        let count = |vsock| jail.living.iter().filter(|process| process.vsock == vsock).count();
        let Some(started) = &jail.started else {
            return Seen::Unknown("its jail has no record".to_string());
        };
        let needed = if started.backend == Backend::Qemu { 1 } else { 0 };
        let run = self.folders.vm(&jail.sandbox);
        // A folder that somebody emptied says nothing about who lives in the jail.
        let was_started = !run.exists() || run.join(STARTED).exists();
        Seen::Present(VmmFact {
            boot: started.boot.clone(),
            uptime_secs: first.secs,
            whole: was_started && count(false) == 1 && count(true) == needed,
            backend: format!("{}, jailed", self.describe(started.backend, started.kvm)),
            lacks_template: was_started
                && started.backend == Backend::Firecracker
                && started.template.is_none()
                && self.lacks_template(&jail.sandbox, kept),
        })
    }

    /// What a sandbox's run was started with.
    fn recorded(&self, id: &SandboxId) -> Option<Boot> {
        let record = std::fs::read(self.folders.vm(id).join(RECORD)).ok()?;
        serde_json::from_slice(&record).ok()
    }

    /// Drops the template of a machine whose guest never said a word: the next start boots.
    async fn doubt_template(&self, id: &SandboxId) -> Result<(), Fault> {
        let Some(jail) = self.jailed(id)? else { return Ok(()) };
        let silent = jail.living.iter().any(|process| process.secs >= TEMPLATE_PATIENCE)
            && !self.folders.vm(id).join(NAMED).exists();
        match jail.started.and_then(|started| started.template) {
            Some(template) if silent => {
                tracing::warn!("{id} did not come up from its template, which is dropped");
                self.drop_template(&template).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a machine's memory is nobody's yet, and was made by the programs of now.
    fn is_nobody(&self, id: &SandboxId) -> bool {
        let run = self.folders.vm(id);
        let programs = std::fs::read_to_string(run.join(STARTED)).unwrap_or_default();
        programs == self.templates.programs().as_str() && !run.join(NAMED).exists()
    }

    fn lacks_template(&self, id: &SandboxId, kept: &BTreeMap<BootKey, TemplateFact>) -> bool {
        if !self.is_nobody(id) {
            return false;
        }
        let of = self.recorded(id).and_then(|boot| self.template_of(&boot).ok());
        let small = |boot: &Boot| boot.memory.get() <= u64::from(LARGEST_TEMPLATE);
        self.recorded(id).is_some_and(|boot| small(&boot))
            && of
                .is_some_and(|(key, _)| !kept.contains_key(&key) && !self.templates.was_tried(&key))
    }
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
    async fn observe(&self, desired: &Desired) -> (BTreeMap<SandboxId, VmmFacts>, Vec<String>) {
        let cgroups = host::cgroups();
        let marked = process::marked(&self.install);
        let jails = self.helper.as_ref().map_or(Ok(Vec::new()), Helper::jails);
        let mut direct: BTreeMap<&SandboxId, Vec<&Marked>> = BTreeMap::new();
        let of_machines = |process: &&Marked| process.role != Role::Build;
        for process in marked.as_deref().unwrap_or_default().iter().filter(of_machines) {
            direct.entry(&process.sandbox).or_default().push(process);
            let pid = process.pid.unsigned_abs();
            self.watch(&process.sandbox, pid, || Held::new(process).ok().flatten());
        }
        let jails: Result<BTreeMap<&SandboxId, &Jailed>, String> = match &jails {
            Ok(jails) => Ok(jails.iter().map(|jail| (&jail.sandbox, jail)).collect()),
            Err(fault) => Err(fault.problem().message),
        };
        for jail in jails.iter().flat_map(BTreeMap::values) {
            for process in &jail.living {
                let line = if process.vsock { Line::Vsock } else { Line::Vmm };
                let open = || self.helper.as_ref()?.open(&jail.sandbox, line).ok().map(Held::by);
                if self.watch(&jail.sandbox, process.pid, open) {
                    self.go_on(jail);
                }
            }
        }
        let kept = self.templates().await;
        let mut facts = BTreeMap::new();
        for id in desired.sandboxes.keys() {
            let jail = jails.as_ref().ok().and_then(|jails| jails.get(id));
            let own = direct.get(id).map(Vec::as_slice);
            let vmm = match (&marked, &jails, own) {
                (Err(error), ..) => Seen::Unknown(error.to_string()),
                (_, Err(why), _) => Seen::Unknown(why.clone()),
                (_, _, Some(_)) if jail.is_some_and(|jail| !jail.living.is_empty()) => {
                    Seen::Unknown("it runs twice".to_string())
                }
                (_, _, Some(own)) => self.direct_fact(own),
                (_, _, None) => jail.map_or(Seen::Absent, |jail| self.jail_fact(jail, &kept)),
            };
            if vmm.present().is_some() {
                let measures = jail.and_then(|jail| jail.started.as_ref());
                let measures = measures.is_some_and(|s| s.backend == Backend::Firecracker);
                self.listen(id, own.is_none(), measures);
            }
            let has_jail = jail.is_some() || cgroups.contains(id);
            facts.insert(id.clone(), VmmFacts { vmm, run: self.run_fact(id), jail: has_jail });
        }
        let known = |id: &SandboxId| desired.sandboxes.contains_key(id);
        let mut strange: BTreeSet<&SandboxId> = direct.keys().copied().collect();
        strange.extend(jails.iter().flat_map(BTreeMap::keys));
        strange.retain(|id| !known(id));
        let strange =
            strange.into_iter().map(|id| format!("processes of the unknown sandbox {id}"));
        (facts, strange.collect())
    }

    fn backends(&self) -> Backends {
        self.backends.clone()
    }

    async fn templates(&self) -> BTreeMap<BootKey, TemplateFact> {
        self.templates.list(self.helper.as_ref())
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
            // Written first: whoever comes after this daemon lets it go on.
            let paused = self.folders.vm(sandbox).join(PAUSED);
            std::fs::write(&paused, b"").during(|| "recording a pause".into())?;
            let written = firecracker::write_down(helper, sandbox).await;
            firecracker::go_on(helper, sandbox).await?;
            folders::remove(&paused)?;
            written?;
            helper.keep_template(sandbox, key, of)
        };
        Ok(kept.await.unwrap_or_else(|fault| {
            tracing::warn!("{sandbox}: no template was kept: {}", fault.problem().message);
            Outcome::Unchanged
        }))
    }

    async fn drop_template(&self, template: &BootKey) -> Result<Outcome, Fault> {
        match &self.helper {
            Some(helper) => helper.drop_template(template.clone()),
            None => Ok(Outcome::Unchanged),
        }
    }

    async fn start(&self, boot: &Boot, cold: bool) -> Result<Outcome, Fault> {
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
        if boot.backend == Backend::Firecracker && !cold {
            let (key, _) = self.template_of(boot)?;
            machine.template = self.templates().await.contains_key(&key).then_some(key);
        }
        let run = self.folders.vm(id);
        folders::make(&run)?;
        for old in [LEFT, STARTED, NAMED, PAUSED] {
            folders::remove(&run.join(old))?;
        }
        // Written first: whoever finds the processes finds what they were started with.
        folders::write_whole(
            &run.join(RECORD),
            &serde_json::to_vec(boot).expect("plain values encode"),
        )?;
        let mut start = Start { id, machine, files, run: &run };
        let launched = self.launch(&start).await;
        if let (Err(fault), Some(key)) = (&launched, start.machine.template.take()) {
            // A template is only ever a short cut.
            tracing::warn!("{id} does not start from its template: {}", fault.problem().message);
            self.drop_template(&key).await?;
            self.launch(&start).await?;
            return Ok(Outcome::Changed);
        }
        launched?;
        Ok(Outcome::Changed)
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
        let tail = files.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        let lines: Vec<&str> = tail.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect();
        banger_wire::text::clean_line(&lines[lines.len().saturating_sub(3)..].join(" | "))
    }
}

/// The end of a file, at most so many bytes, as text.
fn end_of(file: &Path, most: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(most)..]).into_owned();
    banger_wire::text::clean(text.trim())
}

/// The file of a sandbox's console, and where its older half is.
pub fn console_files(folders: &Folders, sandbox: &SandboxId) -> [PathBuf; 2] {
    let file = folders.sandbox(sandbox).join(ring::CONSOLE);
    [ring::older(&file), file]
}
