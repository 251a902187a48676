//! The loop: observe, plan, apply, and again. Level-triggered: a wake-up says when to look, never what changed.
//!
//! An error never leaves the loop: it becomes data in the status, with the time of the next try.

mod carry;
mod trouble;
mod turns;

use crate::apply::Moment;
use crate::drivers::{Drivers, Wake};
use crate::fault::Fault;
use crate::observe::observe;
use crate::store::Store;
use banger_plan::actual::Actual;
use banger_plan::admit::{Capacity, admit};
use banger_plan::assign;
use banger_plan::desired::{Desired, Key, Life};
use banger_plan::plan::{List, Plan, plan};
use banger_plan::snapshot;
use banger_plan::status::{Failures, status};
use banger_schema::Spec;
use banger_wire::api::{Edit, Event, Phase, Problem, ProblemKind, Status};
use banger_wire::id::{Name, SandboxId};
use banger_wire::net::Subnet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, mpsc, watch};
use trouble::Troubles;
use turns::Turns;

/// How long the loop sleeps when nothing wakes it.
const TICK: Duration = Duration::from_secs(5);

/// The last pass: everything that anybody may want to know about it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What was desired.
    pub desired: Arc<Desired>,
    /// What was seen.
    pub actual: Arc<Actual>,
    /// What was planned.
    pub plan: Plan,
    /// What failed.
    pub failures: Failures,
    /// How everything is.
    pub status: Status,
    /// The last change of desired state that this pass knew of.
    pub change: u64,
}

/// What was asked of [`Engine::propose`], before and after.
#[derive(Debug)]
pub struct Proposal {
    /// What would be done.
    pub plan: Plan,
    /// Whether it is desired now.
    pub accepted: bool,
    /// The things whose data it destroys.
    pub destroys: Vec<String>,
    /// The number of this change: a snapshot with at least this number knows of it.
    pub change: u64,
}

/// What data a proposal may destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// None: it is not accepted when it would.
    No,
    /// All that it destroys.
    Yes,
    /// That of this sandbox, which a command removes by name. Others keep theirs, whatever changed about them.
    Only(Option<Name>),
}

/// How a proposal is to be taken.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Only plan.
    pub dry_run: bool,
    /// What data may be destroyed.
    pub consent: Consent,
    /// Whether the new sandboxes live only as long as a connection.
    pub ephemeral: bool,
    /// A command about snapshots, which is more than a change of the spec.
    pub also: Option<Edit<Spec>>,
}

/// The loop and the desired state that it makes true.
pub struct Engine {
    drivers: Drivers,
    moment: Box<dyn Moment>,
    store: Store,
    capacity: Capacity,
    desired: Mutex<Arc<Desired>>,
    /// The same value, for those who must not wait.
    current: watch::Sender<Arc<Desired>>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    events: broadcast::Sender<(Key, Event)>,
    wakes: mpsc::UnboundedSender<Wake>,
    forgive: std::sync::Mutex<BTreeSet<Name>>,
    changes: AtomicU64,
    busy: AtomicUsize,
}

impl Engine {
    /// An engine for what the store says, without what only a lost connection wanted. The subnet is chosen here.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn new(
        drivers: Drivers,
        store: Store,
        capacity: Capacity,
        moment: Box<dyn Moment>,
        wakes: mpsc::UnboundedSender<Wake>,
        free_subnet: impl Fn(Subnet) -> bool,
    ) -> Result<Arc<Self>, Fault> {
        let stored = store.load()?;
        let mut desired = assign::drop_ephemeral(&stored).unwrap_or_else(|| stored.clone());
        assign::choose_subnet(&mut desired, free_subnet);
        if desired != stored {
            store.save(&stored, &desired)?;
        }
        let actual = observe(&drivers, &desired).await;
        let plan = plan(&desired, &actual);
        let failures = Failures::new();
        let status = status(&desired, &actual, &plan, &failures);
        let desired = Arc::new(desired);
        let actual = Arc::new(actual);
        let snapshot =
            Snapshot { desired: desired.clone(), actual, plan, failures, status, change: 0 };
        Ok(Arc::new(Self {
            drivers,
            moment,
            store,
            capacity,
            current: watch::channel(desired.clone()).0,
            desired: Mutex::new(desired),
            snapshot: watch::channel(Arc::new(snapshot)).0,
            events: broadcast::channel(1024).0,
            wakes,
            forgive: std::sync::Mutex::default(),
            changes: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        }))
    }

    /// What is desired now.
    pub fn desired(&self) -> Arc<Desired> {
        self.current.borrow().clone()
    }

    /// The last pass, and every one after it.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<(Key, Event)> {
        self.events.subscribe()
    }

    /// Looks again soon.
    pub fn wake(&self) {
        // Nobody listens any more when the daemon ends.
        let _ = self.wakes.send(Wake::Desired);
    }

    /// Gives a project a spec: plans it against what is there, and makes it desired unless that would destroy
    /// data without consent, or it is a dry run. One proposal at a time; `spec_of` sees the project's present spec.
    ///
    /// # Errors
    /// When it is refused; then nothing changed.
    pub async fn propose(
        &self,
        project: &Name,
        terms: Terms,
        spec_of: impl FnOnce(&Desired) -> Result<Spec, Problem>,
    ) -> Result<Proposal, Problem> {
        let mut desired = self.desired.lock().await;
        let spec = spec_of(&desired)?;
        let faults = banger_schema::check::check(&spec, banger_schema::catalog::embedded());
        if let Some(fault) = faults.into_iter().next() {
            let hints = fault.help.iter().cloned().collect();
            let message = fault.to_string();
            return Err(Problem { kind: ProblemKind::User, message, hints });
        }
        let now = self.now_secs();
        let assigned = |consent| {
            let mut before = Desired::clone(&desired);
            assign::thaw(&mut before, now);
            let mut next = assign::assign(&before, project, &spec, consent);
            if terms.ephemeral {
                for name in spec.sandboxes.keys() {
                    if desired.sandbox(project, name).is_none() {
                        assign::mark_ephemeral(&mut next, project, name);
                    }
                }
            }
            if let Some(command) = &terms.also {
                snapshot::carry_out(&mut next, project, command);
            }
            next
        };
        // Planned as if agreed to, so that what would be destroyed is shown before anybody agrees.
        let next = assigned(!matches!(terms.consent, Consent::Only(_)));
        admit(&desired, &next, project, &spec, self.capacity).map_err(|refusal| Problem {
            kind: ProblemKind::Refused,
            hints: vec![refusal.hint()],
            message: refusal.to_string(),
        })?;
        let actual = observe(&self.drivers, &next).await;
        let plan = plan(&next, &actual).of_project(&next, project);
        let lost = assign::destroyed(&desired, &next, &actual);
        let agreed = |key: &Key| match (&terms.consent, key) {
            (Consent::Yes, _) => true,
            (Consent::No, _) => false,
            (Consent::Only(name), Key::Sandbox(id)) => {
                let sandbox = &next.sandboxes[id];
                // Another image without consent is blocked, not carried out.
                sandbox.life == Life::Wanted || Some(&sandbox.name) == name.as_ref()
            }
            (
                Consent::Only(_),
                Key::Network
                | Key::Memories
                | Key::Volume(_)
                | Key::Snapshot(_)
                | Key::Image(_)
                | Key::Kernel(_),
            ) => false,
        };
        let accepted = !terms.dry_run && lost.iter().all(agreed);
        let destroys = lost.iter().map(|key| next.title(key)).collect();
        if accepted {
            self.forgive.lock().expect("no holder panics").insert(project.clone());
            self.commit(&mut desired, next).map_err(|fault| fault.problem())?;
        }
        let change = self.changes.load(Ordering::SeqCst);
        Ok(Proposal { plan, accepted, destroys, change })
    }

    /// Changes desired state in a way that needs no plan shown.
    ///
    /// # Errors
    /// When the change is refused or cannot be stored; then nothing changed.
    pub async fn change(
        &self,
        change: impl FnOnce(&Desired) -> Result<Desired, Problem>,
    ) -> Result<(), Problem> {
        let mut desired = self.desired.lock().await;
        let next = change(&desired)?;
        self.commit(&mut desired, next).map_err(|fault| fault.problem())
    }

    /// The wall clock, in seconds: for what has to outlive this process.
    fn now_secs(&self) -> u64 {
        self.moment.clock_ns() / 1_000_000_000
    }

    /// Stores first, then believes.
    fn commit(&self, desired: &mut Arc<Desired>, next: Desired) -> Result<(), Fault> {
        if next != **desired {
            self.store.save(desired, &next)?;
            *desired = Arc::new(next);
            self.current.send_replace(desired.clone());
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.wake();
        Ok(())
    }

    /// Whether there is nothing to do, and nothing under way.
    pub fn is_idle(&self) -> bool {
        self.desired().is_idle() && self.busy.load(Ordering::SeqCst) == 0
    }

    /// Runs until `stop`. Lists that are under way then are left where they are: the next daemon goes on.
    pub async fn run(
        self: Arc<Self>,
        mut wakes: mpsc::UnboundedReceiver<Wake>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut troubles = Troubles::default();
        let (done_sender, mut done) = mpsc::unbounded_channel();
        let mut busy: BTreeSet<Key> = BTreeSet::new();
        let mut turns = Turns::new(self.capacity.cpus);
        loop {
            self.pass(&mut busy, &mut troubles, &mut turns, &done_sender).await;
            self.busy.store(busy.len(), Ordering::SeqCst);
            let pause = troubles.next_try().unwrap_or(TICK).min(TICK);
            tokio::select! {
                _ = wakes.recv() => while wakes.try_recv().is_ok() {},
                Some(ended) = done.recv() => {
                    self.list_done(ended, &mut busy, &mut troubles, &mut turns);
                }
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => break,
            }
            while let Ok(ended) = done.try_recv() {
                self.list_done(ended, &mut busy, &mut troubles, &mut turns);
            }
        }
    }

    /// One pass: look, drop what is gone, plan, and start the lists that may start.
    async fn pass(
        self: &Arc<Self>,
        busy: &mut BTreeSet<Key>,
        troubles: &mut Troubles,
        turns: &mut Turns,
        done: &mpsc::UnboundedSender<carry::Ended>,
    ) {
        // Read first: whatever changes from here on belongs to a later pass.
        let change = self.changes.load(Ordering::SeqCst);
        let mut desired = self.desired();
        let mut actual = observe(&self.drivers, &desired).await;
        let time = self.now_secs();
        if assign::forget(&desired, &desired, &actual, busy, time).is_some() {
            let left = |now: &Desired| assign::forget(now, &desired, &actual, busy, time);
            let forgotten = self.change(|now| Ok(left(now).unwrap_or_else(|| now.clone()))).await;
            if let Err(problem) = forgotten {
                tracing::warn!("dropping what is gone: {}", problem.message);
            }
            // Somebody may have changed more meanwhile: what is planned must be what was looked at.
            desired = self.desired();
            actual = observe(&self.drivers, &desired).await;
        }
        let mut plan = plan(&desired, &actual);
        for project in std::mem::take(&mut *self.forgive.lock().expect("no holder panics")) {
            troubles.forgive(|key| desired.belongs(key, &project));
        }
        troubles.settle(&desired, &actual, &plan, busy);
        turns.settle(&actual);
        let mut lists: Vec<(&Key, &mut List)> = plan.lists.iter_mut().collect();
        lists.sort_by_key(|(key, _)| {
            turns.place(key, troubles.tries(key), is_ephemeral(key, &desired))
        });
        for (key, list) in lists {
            if busy.contains(key) || !list.waits.is_empty() || list.steps.is_empty() {
                continue;
            }
            if !troubles.ended_in_order(key, list, &actual)
                && let Some(failed) = troubles.failed_attempt(key, list, &desired)
            {
                let words = match key {
                    Key::Sandbox(id) => self.drivers.vmm.last_words(id).await,
                    Key::Network
                    | Key::Memories
                    | Key::Kernel(_)
                    | Key::Image(_)
                    | Key::Snapshot(_)
                    | Key::Volume(_) => String::new(),
                };
                troubles.attempt_failed(key, &failed, &words);
            }
            if !troubles.may_try(key) || !turns.take(key, list, &desired, &actual) {
                continue;
            }
            busy.insert(key.clone());
            troubles.begin(key, list, &desired);
            let (engine, key, list) = (self.clone(), key.clone(), list.clone());
            let (desired, done) = (desired.clone(), done.clone());
            tokio::spawn(async move {
                let outcome = engine.carry_out(&key, &list, &desired).await;
                // The loop has ended when nobody takes it.
                let _ = done.send(carry::Ended { key, outcome });
            });
        }
        self.publish(desired, actual, plan, troubles.failures(), change);
    }

    fn list_done(
        &self,
        ended: carry::Ended,
        busy: &mut BTreeSet<Key>,
        troubles: &mut Troubles,
        turns: &mut Turns,
    ) {
        busy.remove(&ended.key);
        turns.list_done(&ended.key);
        match ended.outcome {
            Ok(()) => troubles.list_succeeded(&ended.key),
            Err(problem) => troubles.list_failed(&ended.key, problem, &self.desired()),
        }
    }

    fn publish(
        &self,
        desired: Arc<Desired>,
        actual: Actual,
        plan: Plan,
        failures: Failures,
        change: u64,
    ) {
        let status = status(&desired, &actual, &plan, &failures);
        let before: BTreeMap<SandboxId, (Phase, String)> = phases(&self.snapshot.borrow().status);
        for (id, (phase, reason)) in phases(&status) {
            if before.get(&id) != Some(&(phase, reason.clone())) {
                let key = Key::Sandbox(id);
                let resource = desired.title(&key);
                self.tell(&key, Event::Phase { resource, phase, reason });
            }
        }
        let actual = Arc::new(actual);
        self.snapshot.send_replace(Arc::new(Snapshot {
            desired,
            actual,
            plan,
            failures,
            status,
            change,
        }));
    }

    fn tell(&self, key: &Key, event: Event) {
        // Without a listener nobody is told.
        let _ = self.events.send((key.clone(), event));
    }
}

fn is_ephemeral(key: &Key, desired: &Desired) -> bool {
    let sandbox = key.sandbox().and_then(|id| desired.sandboxes.get(id));
    sandbox.is_some_and(|sandbox| sandbox.ephemeral)
}

fn phases(status: &Status) -> BTreeMap<SandboxId, (Phase, String)> {
    status.sandboxes.iter().map(|s| (s.id.clone(), (s.phase, s.reason.clone()))).collect()
}
