//! A simulated world behind the same four traits: for crash points, properties and scenarios.
//!
//! It keeps the rules of the real one that matter: a disk cannot go while a VMM has it open, a VMM needs its
//! disk, a guest answers some time after its VMM started. It is deterministic and can fail or "crash" on demand.

mod vmm;

use super::{
    Disk, DiskFacts, DiskRemoval, DiskTarget, Drivers, Guest, GuestFacts, Net, NetChange, NetFacts,
    Outcome, Progress,
};
use crate::fault::Fault;
use async_trait::async_trait;
use banger_plan::actual::{
    ArtifactFact, Backends, BridgeFact, DiskFact, ImageConfig, NetworkFact, RulesFact, Seen,
    TapFact, TemplateFact, VolumeFact,
};
use banger_plan::boot::Boot;
use banger_plan::desired::Desired;
use banger_plan::policy::policy;
use banger_plan::recipe;
use banger_schema::spec::{ImageSource, KernelSource, WorkspaceSpec};
use banger_wire::agent::{GuestState, Identity, Phase};
use banger_wire::id::{Digest, Generation, SandboxId, SnapshotId, VolumeId};
use banger_wire::machine::BootKey;
use banger_wire::net::{Policy, Subnet};
use banger_wire::size::Mib;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// A running simulated VMM.
#[derive(Debug, Clone)]
pub struct SimVmm {
    /// What it was started with.
    pub boot: Boot,
    /// Seconds since then.
    pub uptime: u64,
    /// What its guest says, once it answers.
    pub guest: Option<GuestState>,
    /// The guest never answers.
    pub silent: bool,
    /// Seconds that this daemon has not heard it.
    pub unheard: u64,
    /// It stands still.
    pub paused: bool,
    /// It goes on from a memory, and was not told who it is since.
    pub woken: bool,
}

/// What a sandbox goes on from.
#[derive(Debug, Clone)]
pub struct SimRecord {
    memory: BootKey,
    boot: Boot,
    /// How often guests ran on its disk until then.
    runs: u32,
    own: bool,
}

/// Everything that exists in the simulated world.
#[derive(Debug, Default)]
pub struct World {
    /// Kernels by recipe.
    pub kernels: BTreeSet<Digest>,
    /// Images by recipe.
    pub images: BTreeSet<Digest>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, Mib>,
    /// Sandboxes' own disks.
    pub disks: BTreeMap<SandboxId, DiskFact>,
    /// Sandboxes on whose disks a workspace is.
    pub workspaces: BTreeSet<SandboxId>,
    /// Processes.
    pub vmms: BTreeMap<SandboxId, SimVmm>,
    /// Records of runs: what was started, and whether the guest said goodbye.
    pub runs: BTreeMap<SandboxId, (Boot, bool)>,
    /// The bridge.
    pub bridge: Option<Subnet>,
    /// The rules, and whether somebody changed them.
    pub rules: Option<(Policy, bool)>,
    /// Sandboxes' ports on the bridge: whether each is open.
    pub taps: BTreeMap<SandboxId, bool>,
    /// Why the host has no network for guests.
    pub no_network: Option<String>,
    /// Open ports.
    pub ports: BTreeMap<SandboxId, BTreeMap<u16, u16>>,
    /// How often each sandbox was started.
    pub starts: BTreeMap<SandboxId, u32>,
    /// Calls that changed something.
    pub effects: u64,
    /// The call after which everything fails until the crash is over, and whether it has its effect.
    pub crash_at: Option<(u64, bool)>,
    /// Everything fails: the daemon is gone.
    pub crashed: bool,
    /// The next call with a name that starts so fails once.
    pub fail_next: Option<String>,
    /// Facts that cannot be told.
    pub blind: bool,
    /// Seconds until a guest answers.
    pub boot_secs: u64,
    /// Sandboxes whose guests never answer.
    pub mute: BTreeSet<SandboxId>,
    /// What guests are run with.
    pub backends: Backends,
    /// Memories that machines can start from.
    pub templates: BTreeMap<BootKey, TemplateFact>,
    /// Memories of guests that were kept, and what each guest said.
    pub memories: BTreeMap<BootKey, GuestState>,
    /// What sandboxes go on from.
    pub suspended: BTreeMap<SandboxId, SimRecord>,
    /// Snapshots: the disk, and what ran when the memory was kept.
    pub snapshots: BTreeMap<SnapshotId, (DiskFact, Option<Boot>)>,
    /// How often a guest ran, or went on, with each sandbox's disk.
    pub disk_runs: BTreeMap<SandboxId, u32>,
}

/// The simulated world, shared by its four drivers.
#[derive(Clone, Default)]
pub struct Sim(Arc<Mutex<World>>);

impl Sim {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    /// The four drivers.
    pub fn drivers(&self) -> Drivers {
        let me = Arc::new(self.clone());
        Drivers { disk: me.clone(), vmm: me.clone(), guest: me.clone(), net: me }
    }

    /// The world, to look at or to break.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no holder panics")
    }

    /// Lets time pass: guests come up.
    pub fn pass(&self, seconds: u64) {
        let mut world = self.world();
        let needed = world.boot_secs;
        for (id, vmm) in &mut world.vmms {
            vmm.uptime += seconds;
            vmm.unheard = if vmm.guest.is_some() { 0 } else { vmm.unheard + seconds };
            if vmm.guest.is_none() && !vmm.silent && vmm.uptime >= needed {
                vmm.guest = Some(waiting(id));
            }
        }
    }

    /// One effect: counts it, and fails or crashes where that was asked for.
    fn effect(
        &self,
        name: &str,
        change: impl FnOnce(&mut World) -> Result<Outcome, Fault>,
    ) -> Result<Outcome, Fault> {
        let mut world = self.world();
        if world.crashed {
            return Err(Fault::host("the daemon is gone"));
        }
        if world.fail_next.as_ref().is_some_and(|prefix| name.starts_with(prefix.as_str())) {
            world.fail_next = None;
            return Err(Fault::host(format!("{name} was told to fail")));
        }
        world.effects += 1;
        if let Some((at, after)) = world.crash_at
            && world.effects >= at
        {
            world.crashed = true;
            world.crash_at = None;
            if after {
                let _ = change(&mut world);
            }
            return Err(Fault::host("the daemon is gone"));
        }
        change(&mut world)
    }
}

fn waiting(id: &SandboxId) -> GuestState {
    GuestState {
        version: "sim".into(),
        boot_id: format!("boot-of-{id}"),
        generation: Generation(0),
        phase: Phase::Waiting,
        detail: String::new(),
    }
}

fn changed(changed: bool) -> Result<Outcome, Fault> {
    Ok(if changed { Outcome::Changed } else { Outcome::Unchanged })
}

fn content(recipe: &Digest) -> Digest {
    recipe::digest(&("content", recipe))
}

#[async_trait]
impl Disk for Sim {
    async fn observe(&self, desired: &Desired) -> DiskFacts {
        let world = self.world();
        let blind = world.blind;
        fn seen<T>(blind: bool, fact: Option<T>) -> Seen<T> {
            match (blind, fact) {
                (true, _) => Seen::Unknown("the simulation is blind".into()),
                (false, Some(fact)) => Seen::Present(fact),
                (false, None) => Seen::Absent,
            }
        }
        let built = |there: &BTreeSet<Digest>, recipe: &Digest| {
            let fact = ArtifactFact {
                content: content(recipe),
                bytes: 1,
                details: Vec::new(),
                config: ImageConfig::default(),
            };
            (recipe.clone(), seen(blind, there.contains(recipe).then_some(fact)))
        };
        let known_disk = |id: &&SandboxId| !desired.sandboxes.contains_key(*id);
        DiskFacts {
            kernels: desired.kernels.keys().map(|recipe| built(&world.kernels, recipe)).collect(),
            images: desired.images.keys().map(|recipe| built(&world.images, recipe)).collect(),
            volumes: desired
                .volumes
                .keys()
                .map(|id| {
                    let fact = world.volumes.get(id).map(|size| VolumeFact { size: *size });
                    (id.clone(), seen(blind, fact))
                })
                .collect(),
            disks: desired
                .sandboxes
                .keys()
                .map(|id| (id.clone(), seen(blind, world.disks.get(id).cloned())))
                .collect(),
            folders: world.disks.keys().cloned().collect(),
            foreign: world
                .disks
                .keys()
                .filter(known_disk)
                .map(|id| format!("disk of {id}"))
                .collect(),
        }
    }

    async fn build_kernel(
        &self,
        recipe: &Digest,
        _: &KernelSource,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        progress(1, 1);
        self.effect("build_kernel", |world| changed(world.kernels.insert(recipe.clone())))
    }

    async fn build_image(
        &self,
        recipe: &Digest,
        _: &ImageSource,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        progress(1, 1);
        self.effect("build_image", |world| changed(world.images.insert(recipe.clone())))
    }

    async fn ensure_disk(&self, target: &DiskTarget, size: Mib) -> Result<Outcome, Fault> {
        self.effect("ensure_disk", |world| match target {
            DiskTarget::Volume(id) => {
                let old = world.volumes.insert(id.clone(), size);
                assert!(old.is_none_or(|old| old <= size), "a volume never shrinks");
                changed(old != Some(size))
            }
            DiskTarget::Sandbox { sandbox, recipe, content, origin } => {
                assert!(!world.vmms.contains_key(sandbox), "no VMM has the disk open");
                let from = origin.as_ref().filter(|_| !world.disks.contains_key(sandbox));
                if let Some(origin) = from {
                    world.begin(sandbox, origin);
                }
                let (recipe, origin) = (recipe.clone(), origin.clone());
                let fact = DiskFact { size, recipe, content: content.clone(), origin };
                let old = world.disks.insert(sandbox.clone(), fact.clone());
                assert!(
                    old.as_ref().is_none_or(|old| {
                        let same = old.content == fact.content && old.origin == fact.origin;
                        same && old.size <= size
                    }),
                    "data is kept"
                );
                changed(old != Some(fact))
            }
        })
    }

    async fn remove(&self, what: &DiskRemoval) -> Result<Outcome, Fault> {
        self.effect("remove", |world| match what {
            DiskRemoval::Kernel(recipe) => changed(world.kernels.remove(recipe)),
            DiskRemoval::Image(recipe) => changed(world.images.remove(recipe)),
            DiskRemoval::Volume(id) => {
                let open = |vmm: &SimVmm| vmm.boot.volumes.iter().any(|(volume, _)| volume == id);
                assert!(!world.vmms.values().any(open), "no VMM has the volume open");
                changed(world.volumes.remove(id).is_some())
            }
            DiskRemoval::Snapshot(id) => changed(world.snapshots.remove(id).is_some()),
            DiskRemoval::Sandbox(id) => {
                assert!(!world.vmms.contains_key(id), "no VMM has the disk open");
                world.workspaces.remove(id);
                world.suspended.remove(id);
                changed(world.disks.remove(id).is_some())
            }
        })
    }
}

#[async_trait]
impl Guest for Sim {
    async fn observe(&self, running: &[SandboxId]) -> BTreeMap<SandboxId, GuestFacts> {
        let world = self.world();
        let fact = |id: &SandboxId| {
            let vmm = world.vmms.get(id);
            let state = vmm.filter(|vmm| !vmm.paused).and_then(|vmm| {
                let generation = if vmm.woken { Some(Generation(0)) } else { None };
                let said = vmm.guest.clone()?;
                Some(GuestState { generation: generation.unwrap_or(said.generation), ..said })
            });
            let silent_secs = vmm.map_or(0, |vmm| vmm.unheard);
            GuestFacts { state: state.map_or(Seen::Absent, Seen::Present), silent_secs }
        };
        running.iter().map(|id| (id.clone(), fact(id))).collect()
    }

    async fn identify(&self, sandbox: &SandboxId, identity: Identity) -> Result<Outcome, Fault> {
        self.effect("identify", |world| {
            let vmm = world.vmms.get_mut(sandbox).filter(|vmm| !vmm.paused);
            let Some(vmm) = vmm else { return Err(Fault::host("it does not run")) };
            vmm.woken = false;
            let guest = vmm.guest.as_mut();
            let Some(guest) = guest else { return Err(Fault::host("the guest does not answer")) };
            let before = guest.clone();
            guest.generation = identity.generation;
            let shipped = world.workspaces.contains(sandbox) || identity.workspace.is_none();
            guest.phase = if shipped { Phase::Ready } else { Phase::Shipping };
            changed(before != *guest)
        })
    }

    async fn ship(
        &self,
        sandbox: &SandboxId,
        _: &WorkspaceSpec,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        progress(1, 1);
        self.effect("ship", |world| {
            let guest = world.vmms.get_mut(sandbox).and_then(|vmm| vmm.guest.as_mut());
            let Some(guest) = guest else { return Err(Fault::host("the guest does not answer")) };
            assert_eq!(guest.phase, Phase::Shipping, "a guest that waits for it");
            guest.phase = Phase::Ready;
            changed(world.workspaces.insert(sandbox.clone()))
        })
    }

    async fn sync(&self, _: &SandboxId) -> Result<Outcome, Fault> {
        self.effect("sync", |_| changed(false))
    }

    async fn shut_down(&self, sandbox: &SandboxId) -> Result<Outcome, Fault> {
        self.effect("shut_down", |world| {
            let vmm = world.vmms.remove(sandbox);
            if let Some(run) = world.runs.get_mut(sandbox) {
                run.1 = vmm.is_some();
            }
            changed(vmm.is_some())
        })
    }
}

#[async_trait]
impl Net for Sim {
    async fn observe(&self, desired: &Desired) -> NetFacts {
        let world = self.world();
        let ports = world.ports.clone();
        if world.blind {
            let why = "the simulation is blind".to_string();
            return NetFacts { network: Seen::Unknown(why.clone()), taps: Err(why), ports };
        }
        let rules = match &world.rules {
            None => RulesFact::Absent,
            Some((_, true)) => RulesFact::Altered,
            Some((enforced, false)) if *enforced == policy(desired) => RulesFact::Current,
            Some(_) => RulesFact::Older,
        };
        let bridge = match world.bridge {
            None => BridgeFact::Absent,
            there if there == desired.subnet => BridgeFact::Right,
            Some(_) => BridgeFact::Different,
        };
        let missing = world.no_network.clone();
        let strange = world.taps.iter().filter(|(id, _)| !desired.sandboxes.contains_key(id));
        let right = world.bridge.is_some();
        let strangers = strange.map(|(id, up)| (id.clone(), TapFact { up: *up, right })).collect();
        let network = NetworkFact { missing, bridge, rules, strangers, names_routed: None };
        let tap = |up: bool| TapFact { up, right: world.bridge.is_some() };
        let taps = world.taps.iter().map(|(id, up)| (id.clone(), tap(*up))).collect();
        NetFacts { network: Seen::Present(network), taps: Ok(taps), ports }
    }

    async fn change(&self, change: NetChange) -> Result<Outcome, Fault> {
        let name = format!("{change:?}");
        self.effect(&name, |world| match change {
            NetChange::EnsureBridge(subnet) => {
                changed(world.bridge.replace(subnet) != Some(subnet))
            }
            NetChange::RemoveBridge => {
                assert!(world.taps.is_empty(), "a bridge with ports stays");
                changed(world.bridge.take().is_some())
            }
            NetChange::ApplyRules(_, policy) => {
                let rules = Some((policy, false));
                let before = std::mem::replace(&mut world.rules, rules);
                changed(before != world.rules)
            }
            NetChange::RemoveRules => {
                assert!(world.taps.is_empty(), "no port without rules");
                changed(world.rules.take().is_some())
            }
            NetChange::RouteNames => changed(false),
            NetChange::EnsureTap(sandbox) => {
                assert!(world.bridge.is_some(), "a port needs its bridge");
                changed(world.taps.insert(sandbox, false).is_none())
            }
            NetChange::SetTap(sandbox, up) => {
                let enforced = world.rules.as_ref().is_some_and(|(policy, altered)| {
                    !altered && policy.ports.iter().any(|port| port.0 == sandbox)
                });
                assert!(!up || enforced, "a port opens behind its rules only");
                let Some(tap) = world.taps.get_mut(&sandbox) else {
                    return Err(Fault::host("there is no tap"));
                };
                changed(std::mem::replace(tap, up) != up)
            }
            NetChange::RemoveTap(sandbox) => {
                assert!(!world.vmms.contains_key(&sandbox), "no VMM has the port open");
                changed(world.taps.remove(&sandbox).is_some())
            }
        })
    }

    async fn publish(&self, sandbox: &SandboxId, host: u16, guest: u16) -> Result<Outcome, Fault> {
        self.effect("publish", |world| {
            let open = world.ports.entry(sandbox.clone()).or_default();
            changed(open.insert(host, guest) != Some(guest))
        })
    }

    async fn unpublish(&self, sandbox: &SandboxId, host: u16) -> Result<Outcome, Fault> {
        self.effect("unpublish", |world| {
            let open = world.ports.entry(sandbox.clone()).or_default();
            let closed = open.remove(&host).is_some();
            world.ports.retain(|_, open| !open.is_empty());
            changed(closed)
        })
    }
}
