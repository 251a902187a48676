//! Processes of sandboxes: started with a mark, found again by it, ended by pidfd.
//!
//! What is the same for every VMM is here; how one is started is one file each (`qemu.rs`). Processes outlive the
//! daemon: a new one finds them by their marks and watches on.

mod console;
mod qemu;

use super::{Outcome, Vmm, VmmFacts, Wake, disk};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::helper::Helper;
use crate::host::{self, Acceleration};
use crate::process::{self, Held, Marked};
use async_trait::async_trait;
use banger_plan::actual::{RunFact, Seen, VmmFact};
use banger_plan::boot::{Boot, Nic};
use banger_plan::desired::Desired;
use banger_wire::derive::Role;
use banger_wire::helper::Limits;
use banger_wire::id::{Cid, Digest, InstallId, SandboxId};
use banger_wire::size::Mib;
use console::Consoles;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// The socket in a run's folder that leads to the guest.
pub const VSOCK: &str = "vsock.sock";
/// The file that tells that the guest said goodbye.
pub const LEFT: &str = "left";
const CONSOLE: &str = "console.sock";
const RECORD: &str = "boot.json";
/// The file that tells that the processes came up.
const STARTED: &str = "started";
/// How long processes may take to go after the guest was asked.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long they may take after TERM.
const TERM_PATIENCE: Duration = Duration::from_secs(5);

/// One disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Its file, raw.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// Everything that a VMM needs to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Whose processes they are.
    pub id: SandboxId,
    /// What marks this start.
    pub boot: String,
    /// The content of the kernel.
    pub kernel: Digest,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory: Mib,
    /// Its vsock address.
    pub cid: Cid,
    /// Its disks, in the order that the guest sees.
    pub drives: Vec<Drive>,
    /// How it is connected.
    pub nic: Nic,
}

/// Starts and ends the processes of machines.
pub struct Launcher {
    folders: Folders,
    install: InstallId,
    agent: PathBuf,
    helper: Option<Helper>,
    acceleration: Acceleration,
    wakes: mpsc::UnboundedSender<Wake>,
    consoles: Consoles,
    watched: Arc<Mutex<BTreeSet<Marked>>>,
}

impl Launcher {
    /// Starts guests with this agent; without a helper they have no cgroup.
    pub fn new(
        folders: Folders,
        install: InstallId,
        agent: PathBuf,
        helper: Option<Helper>,
        wakes: mpsc::UnboundedSender<Wake>,
    ) -> Self {
        let acceleration = host::acceleration().0;
        let (consoles, watched) = (Consoles::default(), Arc::default());
        Self { folders, install, agent, helper, acceleration, wakes, consoles, watched }
    }

    /// Starts a machine's processes. When it fails, none is left.
    ///
    /// # Errors
    /// When a program is missing or ends at once; with what it said.
    pub async fn start(&self, machine: &Machine, console: &Path) -> Result<(), Fault> {
        let run = self.folders.vm(&machine.id);
        folders::make(&run)?;
        for socket in [VSOCK, qemu::VHOST, CONSOLE, LEFT, STARTED] {
            folders::remove(&run.join(socket))?;
        }
        let folders = self.folders.clone();
        let (kernel, agent) = (machine.kernel.clone(), self.agent.clone());
        let initramfs =
            tokio::task::spawn_blocking(move || disk::ensure_initramfs(&folders, &kernel, &agent))
                .await
                .map_err(|error| Fault::host(format!("file work: {error}")))??;
        let plan = qemu::Start {
            machine,
            install: &self.install,
            run: &run,
            kernel: &self.folders.kernel(&machine.kernel).join("vmlinuz"),
            initramfs: &initramfs,
            acceleration: self.acceleration,
            tsc_khz: host::tsc_khz(),
        };
        let outcome = async {
            let tap = match (machine.nic, &self.helper) {
                (Nic::Tap, Some(helper)) => Some(helper.open_tap(&machine.id)?),
                (Nic::Tap, None) => return Err(Fault::host("a port needs the root helper")),
                (Nic::None | Nic::User, _) => None,
            };
            qemu::start(&plan, tap, &self.wakes).await?;
            std::fs::write(run.join(STARTED), b"").during(|| "recording the start".into())?;
            self.consoles.follow(&machine.id, &run.join(CONSOLE), console);
            self.confine(machine)
        }
        .await;
        if outcome.is_err() {
            self.end(&machine.id, Duration::ZERO).await?;
        }
        outcome
    }

    /// Puts a machine's processes into a cgroup of their own.
    fn confine(&self, machine: &Machine) -> Result<(), Fault> {
        let Some(helper) = &self.helper else { return Ok(()) };
        if !helper.probe()?.cgroup2 {
            return Ok(());
        }
        let limits = qemu::limits(machine, self.acceleration);
        for process in self.processes(&machine.id)? {
            let held = Held::new(&process).during(|| "holding a process".into())?;
            if let Some(held) = held {
                helper.cgroup_join(&machine.id, limits, &held)?;
            }
        }
        Ok(())
    }

    fn processes(&self, id: &SandboxId) -> Result<Vec<Marked>, Fault> {
        let all = process::marked(&self.install).during(|| "looking for processes".into())?;
        Ok(all.into_iter().filter(|process| process.sandbox == *id).collect())
    }

    /// Ends a machine's processes, at once or after they had time to go by themselves.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn stop(&self, id: &SandboxId, kill: bool) -> Result<bool, Fault> {
        let patience = if kill { Duration::ZERO } else { STOP_PATIENCE };
        self.end(id, patience).await
    }

    async fn end(&self, id: &SandboxId, patience: Duration) -> Result<bool, Fault> {
        let (main, rest): (Vec<_>, Vec<_>) =
            self.processes(id)?.into_iter().partition(|process| process.role == Role::Vmm);
        let any = !main.is_empty() || !rest.is_empty();
        let term = if patience.is_zero() { Duration::ZERO } else { TERM_PATIENCE };
        // The VMM first: the others serve it.
        process::end(&main, patience, term).await.map_err(Fault::host)?;
        process::end(&rest, Duration::ZERO, TERM_PATIENCE).await.map_err(Fault::host)?;
        Ok(any)
    }

    /// Removes the folder of a run, and the cgroup.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn forget(&self, id: &SandboxId) -> Result<bool, Fault> {
        if let Some(helper) = &self.helper
            && helper.probe()?.cgroup2
        {
            helper.cgroup_remove(id)?;
        }
        self.consoles.drop(id);
        folders::remove_tree(&self.folders.vm(id))
    }

    /// Wakes the loop when a process ends, once per process.
    fn watch(&self, process: &Marked) {
        if !self.watched.lock().expect("no holder panics").insert(process.clone()) {
            return;
        }
        let (wakes, watched, process) = (self.wakes.clone(), self.watched.clone(), process.clone());
        tokio::spawn(async move {
            let ended = match Held::new(&process) {
                Ok(Some(held)) => held.ended().await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            watched.lock().expect("no holder panics").remove(&process);
            if ended.is_err() {
                // It is looked at again at the next tick; waking the loop now would only repeat this.
                return;
            }
            let _ = wakes.send(Wake::Vmm(process.sandbox));
        });
    }
}

/// The real one.
pub struct Processes {
    folders: Folders,
    launcher: Arc<Launcher>,
}

impl Processes {
    /// Runs sandboxes with this launcher.
    pub fn new(folders: Folders, launcher: Arc<Launcher>) -> Self {
        Self { folders, launcher }
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

    fn vmm_fact(&self, processes: &[&Marked]) -> Seen<VmmFact> {
        let Some(first) = processes.iter().min_by_key(|process| process.started) else {
            return Seen::Absent;
        };
        let has = |role| processes.iter().any(|process| process.role == role);
        let same = processes.iter().all(|process| process.boot == first.boot);
        Seen::Present(VmmFact {
            boot: first.boot.clone(),
            uptime_secs: process::uptime(first),
            whole: has(Role::Vmm) && has(Role::Vsock) && same && processes.len() == 2,
            backend: qemu::describe(self.launcher.acceleration).to_string(),
        })
    }

    fn cgroups(&self) -> BTreeSet<SandboxId> {
        crate::host::cgroups()
    }
}

#[async_trait]
impl Vmm for Processes {
    async fn observe(&self, desired: &Desired) -> (BTreeMap<SandboxId, VmmFacts>, Vec<String>) {
        let cgroups = self.cgroups();
        let all = process::marked(&desired.install);
        let mut facts = BTreeMap::new();
        let mut by_sandbox: BTreeMap<&SandboxId, Vec<&Marked>> = BTreeMap::new();
        for process in all.as_deref().unwrap_or_default() {
            by_sandbox.entry(&process.sandbox).or_default().push(process);
            self.launcher.watch(process);
        }
        for id in desired.sandboxes.keys() {
            let vmm = match &all {
                Ok(_) => self.vmm_fact(by_sandbox.get(id).map_or(&[][..], Vec::as_slice)),
                Err(error) => Seen::Unknown(error.to_string()),
            };
            if vmm.present().is_some() {
                let console = self.folders.sandbox(id).join(console::FILE);
                self.launcher.consoles.follow(id, &self.folders.vm(id).join(CONSOLE), &console);
            }
            let (run, cgroup) = (self.run_fact(id), cgroups.contains(id));
            facts.insert(id.clone(), VmmFacts { vmm, run, cgroup });
        }
        let strange = by_sandbox.iter().filter(|(id, processes)| {
            !desired.sandboxes.contains_key(id)
                && !processes.iter().all(|p| p.boot.starts_with("build-"))
        });
        (facts, strange.map(|(id, _)| format!("processes of the unknown sandbox {id}")).collect())
    }

    async fn start(&self, boot: &Boot) -> Result<Outcome, Fault> {
        let id = &boot.sandbox;
        if !self.launcher.processes(id)?.is_empty() {
            return Err(Fault::host("its processes are there already"));
        }
        let folder = self.folders.sandbox(id);
        let own = std::fs::read_dir(&folder).during(|| format!("reading {}", folder.display()))?;
        let disk = own.flatten().map(|entry| entry.path()).find(|path| {
            path.extension().is_some_and(|extension| extension == "ext4")
                && path.to_string_lossy().contains(boot.image.as_str())
        });
        let disk = disk.ok_or_else(|| Fault::host("its disk is not there"))?;
        let writable = |path| Drive { path, read_only: false };
        let mut drives =
            vec![Drive { path: self.folders.image(&boot.image), read_only: true }, writable(disk)];
        drives.extend(boot.volumes.iter().map(|(volume, _)| writable(self.folders.volume(volume))));
        let run = self.folders.vm(id);
        folders::make(&run)?;
        // Written first: whoever finds the processes finds what they were started with.
        folders::write_whole(
            &run.join(RECORD),
            &serde_json::to_vec(boot).expect("plain values encode"),
        )?;
        let machine = Machine {
            id: id.clone(),
            boot: boot.key(),
            kernel: boot.kernel.clone(),
            cpus: boot.cpus,
            memory: boot.memory,
            cid: boot.cid,
            drives,
            nic: boot.nic,
        };
        self.launcher.start(&machine, &folder.join(console::FILE)).await?;
        Ok(Outcome::Changed)
    }

    async fn stop(&self, sandbox: &SandboxId, kill: bool) -> Result<Outcome, Fault> {
        let any = self.launcher.stop(sandbox, kill).await?;
        Ok(if any { Outcome::Changed } else { Outcome::Unchanged })
    }

    async fn remove_run(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        let any = self.launcher.forget(sandbox)?;
        Ok(if any { Outcome::Changed } else { Outcome::Unchanged })
    }

    async fn last_words(&self, sandbox: &SandboxId) -> String {
        let console =
            std::fs::read(self.folders.sandbox(sandbox).join(console::FILE)).unwrap_or_default();
        let text = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(3)..];
        banger_wire::text::clean_line(&tail.join(" | "))
    }
}

/// The file of a sandbox's console, and where its older half is.
pub fn console_files(folders: &Folders, sandbox: &SandboxId) -> [PathBuf; 2] {
    let file = folders.sandbox(sandbox).join(console::FILE);
    [console::older(&file), file]
}

/// The limits of a machine that has none of its own.
pub const fn limits(memory_mib: u32, pids: u16, cpu_percent: u32) -> Limits {
    Limits { memory_mib, pids, cpu_percent }
}
