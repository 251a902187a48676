//! A simulated world with the real core around it: assign, observe, plan, apply, without the loop's clock.

use banger_plan::assign::{assign, choose_subnet, forget, thaw};
use banger_plan::desired::{Desired, Key};
use banger_plan::plan::{Plan, plan};
use banger_plan::snapshot;
use banger_reconciler::apply::{Moment, apply};
use banger_reconciler::drivers::Drivers;
use banger_reconciler::drivers::sim::Sim;
use banger_reconciler::observe::observe;
use banger_schema::{Language, Spec, parse};
use banger_wire::api::Edit;
use banger_wire::id::{InstallId, Name, SandboxId};
use banger_wire::machine::Backend;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The same moment every time.
pub(crate) struct Fixed;

impl Moment for Fixed {
    fn clock_ns(&self) -> u64 {
        1
    }
    fn entropy(&self) -> String {
        "00".repeat(32)
    }
    fn ssh(&self, _: &SandboxId) -> Option<banger_wire::agent::Ssh> {
        None
    }
}

pub(crate) struct Lab {
    pub(crate) sim: Sim,
    pub(crate) desired: Desired,
    pub(crate) drivers: Drivers,
    /// The wall clock, in seconds.
    pub(crate) now: u64,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

pub(crate) fn spec(text: &str) -> Spec {
    parse("Bangerfile", text, Language::Kdl)
        .unwrap_or_else(|report| panic!("{}", report.render(false)))
}

impl Lab {
    pub(crate) fn new() -> Self {
        let sim = Sim::new();
        let drivers = sim.drivers();
        let mut desired = Desired::empty(InstallId::from_bits(1));
        choose_subnet(&mut desired, |_| true);
        Self { sim, drivers, desired, now: 1_000_000 }
    }

    /// As [`Lab::new`], on a host where machines are run by Firecracker and so have templates.
    pub(crate) fn with_firecracker() -> Self {
        let lab = Self::new();
        lab.sim.world().backends.default = Backend::Firecracker;
        lab
    }

    pub(crate) fn want(&mut self, project: &str, spec: &Spec, consent: bool) {
        thaw(&mut self.desired, self.now);
        self.desired = assign(&self.desired, &name(project), spec, consent);
    }

    /// A command about snapshots: `snapshot SANDBOX NAME`, `restore SANDBOX NAME`, `fork NAME SANDBOX`, `drop NAME`.
    pub(crate) fn command(&mut self, project: &str, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let command = match words[..] {
            ["snapshot", sandbox, snapshot] => {
                let (sandbox, snapshot) = (name(sandbox), name(snapshot));
                Edit::Snapshot { name: sandbox, snapshot, disk_only: false }
            }
            ["restore", sandbox, snapshot] => {
                Edit::Restore { name: name(sandbox), snapshot: name(snapshot) }
            }
            ["fork", snapshot, sandbox] => {
                Edit::Fork { snapshot: name(snapshot), name: name(sandbox) }
            }
            ["drop", snapshot] => Edit::DropSnapshot { snapshot: name(snapshot) },
            _ => panic!("{words:?}"),
        };
        let project = name(project);
        let spec = self.desired.projects.get(&project).cloned().unwrap_or_default();
        let next = snapshot::edit(&self.desired, &project, &spec, &command).expect("it fits");
        thaw(&mut self.desired, self.now);
        self.desired = assign(&self.desired, &project, &next.expect("about snapshots"), false);
        snapshot::carry_out(&mut self.desired, &project, &command);
    }

    pub(crate) async fn plan(&self) -> Plan {
        plan(&self.desired, &observe(&self.drivers, &self.desired).await)
    }

    /// One pass: every list that may be carried out, one after the other. Errors are left to the next pass.
    pub(crate) async fn pass(&mut self) -> Plan {
        let actual = observe(&self.drivers, &self.desired).await;
        if let Some(next) =
            forget(&self.desired, &self.desired, &actual, &BTreeSet::new(), self.now)
        {
            self.desired = next;
        }
        let plan = plan(&self.desired, &actual);
        for list in plan.lists.values().filter(|list| list.waits.is_empty()) {
            for step in &list.steps {
                let progress = Arc::new(|_, _| {});
                if apply(&step.action, &self.desired, &self.drivers, &Fixed, progress)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        self.sim.pass(1);
        self.now += 1;
        plan
    }

    /// Passes until nothing is to be done. Panics when that never comes.
    pub(crate) async fn converge(&mut self) {
        for _ in 0..60 {
            if self.pass().await.is_empty() {
                return;
            }
        }
        panic!("it does not converge:\n{}{:#?}", self.plan().await, self.plan().await);
    }

    /// The daemon is killed and a new one starts: its open ports are gone, everything else is as it was.
    pub(crate) fn restart_daemon(&mut self) {
        let mut world = self.sim.world();
        world.crashed = false;
        world.crash_at = None;
        world.ports.clear();
    }

    pub(crate) fn id(&self, project: &str, sandbox: &str) -> SandboxId {
        self.desired.sandbox(&name(project), &name(sandbox)).expect("wanted").id.clone()
    }

    pub(crate) fn starts(&self) -> BTreeMap<SandboxId, u32> {
        self.sim.world().starts.clone()
    }

    /// What exists is exactly what is desired, and nothing else.
    pub(crate) fn census(&self) {
        let world = self.sim.world();
        let running: Vec<&SandboxId> =
            self.desired.sandboxes.values().filter(|s| s.runs()).map(|s| &s.id).collect();
        assert_eq!(world.vmms.keys().collect::<Vec<_>>(), running, "processes");
        assert_eq!(world.runs.keys().collect::<Vec<_>>(), running, "runs");
        let taps: BTreeMap<&SandboxId, bool> = running.iter().map(|id| (*id, true)).collect();
        let open: BTreeMap<&SandboxId, bool> =
            world.taps.iter().map(|(id, up)| (id, *up)).collect();
        assert_eq!(open, taps, "an open port for each that runs");
        assert_eq!(world.bridge.is_some(), !running.is_empty(), "a bridge while it is needed");
        assert_eq!(world.rules.is_some(), !running.is_empty(), "and rules");
        let all: Vec<&SandboxId> = self.desired.sandboxes.keys().collect();
        assert!(world.disks.keys().all(|id| all.contains(&id)), "disks");
        assert!(running.iter().all(|id| world.disks.contains_key(id)), "every runner has its disk");
        assert_eq!(
            world.volumes.keys().collect::<Vec<_>>(),
            self.desired.volumes.keys().collect::<Vec<_>>()
        );
        for sandbox in self.desired.sandboxes.values().filter(|s| s.runs()) {
            let guest = world.vmms[&sandbox.id].guest.as_ref().expect("answers");
            assert_eq!(guest.generation, sandbox.generation);
            let open = world.ports.get(&sandbox.id).cloned().unwrap_or_default();
            let wanted: BTreeMap<u16, u16> =
                sandbox.spec.publish.iter().map(|p| (p.host, p.guest)).collect();
            assert_eq!(open, wanted);
        }
    }

    /// The text of a plan, with the waits.
    pub(crate) fn show(plan: &Plan) -> String {
        let mut text = plan.to_string();
        for (key, list) in &plan.lists {
            if let (Key::Sandbox(_) | Key::Image(_), waits @ [_, ..]) = (key, list.waits.as_slice())
            {
                let waits: Vec<String> = waits.iter().map(ToString::to_string).collect();
                text.push_str(&format!("  {}: {}\n", list.title, waits.join(", ")));
            }
        }
        if text.is_empty() { "nothing to do\n".to_string() } else { text }
    }
}
