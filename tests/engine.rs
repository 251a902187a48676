//! The real loop over a simulated world, by a clock of its own: only so many guests boot at once, nobody waits for ever, and what failed
//! is over when it is.

use crate::lab::{Fixed, name, spec};
use banger_plan::admit::Capacity;
use banger_plan::desired::Desired;
use banger_reconciler::drivers::sim::{Sim, SimVmm, World};
use banger_reconciler::engine::{Consent, Engine, Terms};
use banger_reconciler::store::Store;
use banger_wire::agent::Phase as GuestPhase;
use banger_wire::api::{Edit, Phase, SandboxStatus};
use banger_wire::id::{Generation, InstallId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const TERMS: Terms = Terms { dry_run: false, consent: Consent::No, ephemeral: false, also: None };

/// So many sandboxes of one project, on a host with two processors.
async fn begin(sim: &Sim, sandboxes: usize) -> (Arc<Engine>, watch::Sender<bool>) {
    let line = |n| format!("sandbox \"s{n}\" {{ image \"base\"; memory \"128MiB\"; }}\n");
    begin_with(sim, &(0..sandboxes).map(line).collect::<String>()).await
}

async fn begin_with(sim: &Sim, all: &str) -> (Arc<Engine>, watch::Sender<bool>) {
    let (wakes, woken) = mpsc::unbounded_channel();
    let store = Store::open(":memory:".as_ref(), || InstallId::from_bits(1)).expect("a store");
    let capacity = Capacity { memory_mib: 64 << 10, cpus: 2 };
    let engine = Engine::new(sim.drivers(), store, capacity, Box::new(Fixed), wakes, |_| true);
    let engine = engine.await.expect("an engine");
    let text = format!("image \"base\" {{ debian {{ packages \"busybox-static\"; }}; }}\n{all}");
    let wanted = spec(&text);
    let project = name("p");
    assert!(engine.propose(&project, TERMS, |_| Ok(wanted)).await.expect("proposes").accepted);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(engine.clone().run(woken, stopped));
    (engine, stop)
}

fn booting(world: &World) -> usize {
    let known =
        |vmm: &&SimVmm| vmm.guest.as_ref().is_none_or(|guest| guest.generation == Generation(0));
    world.vmms.values().filter(known).count()
}

/// Lets seconds pass until all but `silent` sandboxes are ready. The most guests that booted at once, and what was
/// said of those that waited.
async fn watch_boots(sim: &Sim, engine: &Arc<Engine>, silent: usize) -> (usize, Vec<String>) {
    let (mut most, mut said) = (0, Vec::new());
    for _ in 0..2000 {
        sim.pass(1);
        engine.wake();
        tokio::time::sleep(Duration::from_millis(5)).await;
        most = most.max(booting(&sim.world()));
        let status = engine.snapshots().borrow().status.clone();
        let ready = status.sandboxes.iter().filter(|s| s.phase == Phase::Ready).count();
        if ready + silent == status.sandboxes.len() {
            return (most, said);
        }
        said.extend(status.sandboxes.into_iter().map(|sandbox| sandbox.reason));
    }
    panic!("they do not come: {:?}", engine.snapshots().borrow().status);
}

#[tokio::test(start_paused = true)]
async fn so_many_guests_boot_at_once_as_there_are_processors() {
    let sim = Sim::new();
    sim.world().boot_secs = 3;
    let (engine, _stop) = begin(&sim, 20).await;
    let (most, said) = watch_boots(&sim, &engine, 0).await;
    assert_eq!(most, 2);
    assert!(said.iter().any(|reason| reason == "waiting for its turn: 2 guests boot"), "{said:?}");
    assert!(sim.world().starts.values().all(|count| *count == 1), "each was started once");
}

/// What failed and yet had its effect is done, and nobody is in trouble for it.
#[tokio::test(start_paused = true)]
async fn a_failure_is_over_when_nothing_is_left_to_do() {
    let sim = Sim::new();
    let (engine, _stop) = begin(&sim, 1).await;
    watch_boots(&sim, &engine, 0).await;
    let wait = async |what: fn(&SandboxStatus) -> bool| {
        for _ in 0..1000 {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
            if what(&engine.snapshots().borrow().status.sandboxes[0]) {
                return;
            }
        }
        panic!("{:?}", engine.snapshots().borrow().status);
    };
    sim.world().fail_next = Some("snapshot".into());
    let command = Edit::Snapshot { name: name("s0"), snapshot: name("kept"), disk_only: false };
    let terms = Terms { also: Some(command), ..TERMS };
    let same = |desired: &Desired| Ok(desired.projects[&name("p")].clone());
    assert!(engine.propose(&name("p"), terms, same).await.expect("proposes").accepted);
    wait(|sandbox| sandbox.failures == 1).await;
    let (id, snapshot) = engine.desired().snapshots.clone().pop_first().expect("wanted");
    let disk = sim.world().disks[&snapshot.sandbox].clone();
    sim.world().snapshots.insert(id, (disk, None));
    wait(|sandbox| sandbox.phase == Phase::Ready && sandbox.failures == 0).await;
}

/// Guests that never answer, more than there are turns, and VMMs that cannot start, keep nobody from booting.
#[tokio::test(start_paused = true)]
async fn who_never_boots_gives_the_turn_up() {
    let sim = Sim::new();
    let (engine, _stop) = begin(&sim, 8).await;
    // The first ones in every order that goes by id.
    let mute: Vec<_> = engine.desired().sandboxes.keys().take(5).cloned().collect();
    sim.world().mute.extend(mute.iter().cloned());
    sim.world().fail_next = Some("start".into());
    watch_boots(&sim, &engine, 5).await;
    let world = sim.world();
    let answers = world.vmms.iter().filter(|(_, vmm)| vmm.guest.is_some());
    assert!(answers.map(|(id, _)| id).all(|id| !mute.contains(id)));
}

/// What ends as soon as it is ready, again and again, is started again after longer and longer pauses; and then it is well.
#[tokio::test(start_paused = true)]
async fn who_ends_again_and_again_waits_longer_each_time() {
    let sim = Sim::new();
    // Its port is published each time that it is ready, which is nothing that ended.
    let text = "sandbox \"s\" { image \"base\"; memory \"128MiB\"; publish 18080 guest=80; }";
    let (engine, _stop) = begin_with(&sim, text).await;
    let id = engine.desired().sandboxes.keys().next().cloned().expect("one");
    let begun = Instant::now();
    let mut starts = Vec::new();
    while begun.elapsed() < Duration::from_secs(4) {
        watch_boots(&sim, &engine, 0).await;
        starts.push(begun.elapsed().as_millis());
        while !sim.world().ports.contains_key(&id) {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sim.world().vmms.remove(&id);
        let gone = |engine: &Engine| engine.snapshots().borrow().status.sandboxes[0].phase;
        while gone(&engine) == Phase::Ready {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // The pauses double: 0.4, 0.8, 1.6 seconds.
    assert!((3..=5).contains(&starts.len()), "{starts:?}");
    let pauses: Vec<u128> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2), "{pauses:?}");
}

/// A guest that goes by itself, in order, and is to be there always, is no failure however often it does so.
#[tokio::test(start_paused = true)]
async fn who_goes_in_order_is_started_again_at_once() {
    let sim = Sim::new();
    let text = "sandbox \"s\" { image \"base\"; memory \"128MiB\"; restart \"always\"; }";
    let (engine, _stop) = begin_with(&sim, text).await;
    let id = engine.desired().sandboxes.keys().next().cloned().expect("one");
    let begun = Instant::now();
    for starts in 1..=8 {
        watch_boots(&sim, &engine, 0).await;
        assert_eq!(engine.snapshots().borrow().status.sandboxes[0].failures, 0);
        let leave = |world: &mut World| {
            assert_eq!(world.starts[&id], starts);
            world.vmms.remove(&id);
            world.runs.get_mut(&id).expect("it ran").1 = true;
        };
        leave(&mut sim.world());
        while engine.snapshots().borrow().status.sandboxes[0].phase == Phase::Ready {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// What became of a sandbox in the end is shown, not what went before.
#[tokio::test(start_paused = true)]
async fn a_guest_that_gives_up_after_a_crash_is_shown_as_that() {
    let sim = Sim::new();
    let (engine, _stop) = begin(&sim, 1).await;
    watch_boots(&sim, &engine, 0).await;
    let id = engine.desired().sandboxes.keys().next().cloned().expect("one");
    sim.world().vmms.remove(&id);
    for _ in 0..1000 {
        sim.pass(1);
        engine.wake();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let give_up = |world: &mut World| {
            let again = world.starts[&id] == 2;
            let guest = world.vmms.get_mut(&id).and_then(|vmm| vmm.guest.as_mut());
            if let Some(guest) = guest.filter(|guest| again && guest.generation > Generation(0)) {
                guest.phase = GuestPhase::Failed;
                guest.detail = "its probe never came".into();
            }
        };
        give_up(&mut sim.world());
        let status = engine.snapshots().borrow().status.sandboxes[0].clone();
        if status.phase == Phase::Degraded {
            assert_eq!((status.reason.as_str(), status.failures), ("its probe never came", 0));
            return;
        }
    }
    panic!("{:?}", engine.snapshots().borrow().status);
}
