//! A guest whose every byte is hostile, against the code that talks to guests (R-G6), and what it can change by that (R-G7,
//! R-G12). Time is virtual: it passes only while nobody has anything to do, so that minutes of patience cost nothing.

mod claims;
mod corpus;
mod guest;
mod world;

use banger_reconciler::drivers::{Guest as _, Outcome};
use banger_reconciler::workspace;
use banger_wire::agent::{GuestState, Identity};
use banger_wire::text::clean_line;
use corpus::{Call, Case, Want, cases};
use guest::At;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use world::World;

/// By how much the process may grow over all of it.
const MEMORY: u64 = 32 << 20;
/// How long it may take until a guest that is well-behaved is heard, by the real clock.
const HEARD: Duration = Duration::from_millis(200);
/// How long a client of the API waits for what has no end.
const CLIENT: Duration = Duration::from_secs(30);

/// How long a call may take at most: what its code says, and a little.
fn limit(call: Call) -> Duration {
    Duration::from_secs(match call {
        Call::Observe | Call::Names | Call::Exec | Call::Copy => 45,
        Call::ShutDown | Call::Ports => 30,
        Call::Ssh => 75,
        Call::Identify => 210,
        Call::Fetch => 330,
        Call::Ship => 750,
    })
}

pub(super) fn identity(generation: u64) -> Identity {
    let text = format!(
        r#"{{"generation":{generation},"hostname":"bad","env":{{}},"volumes":[],"provision":[],"provision_digest":"","command":[],"ready":null,"clock_ns":1,"entropy":""}}"#
    );
    serde_json::from_str(&text).expect("an identity")
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("figures");
    let pages: u64 = text.split(' ').nth(1).expect("pages").parse().expect("a number");
    pages * 4096
}

/// What is looked at while a case goes on.
struct Watch {
    said: u64,
    since: Instant,
    /// How long it took until the well-behaved guest was heard.
    heard: Vec<Duration>,
    memory: u64,
}

impl Watch {
    async fn look(&mut self, world: &World) {
        self.memory = self.memory.max(resident());
        let [bad, good] = world.heard().await;
        if let Some(said) = bad {
            bounded(&said);
        }
        if good.is_some_and(|said| said.boot_id == self.said.to_string()) {
            self.heard.push(self.since.elapsed());
            self.said += 1;
            let said = self.said.to_string();
            world.guests[1].state.send_modify(|state| state.boot_id = said);
            self.since = Instant::now();
        }
    }
}

/// However long and strange, what is kept of a claim is one clean line.
pub(super) fn bounded(said: &GuestState) {
    for text in [&said.version, &said.boot_id, &said.detail] {
        assert!(text.chars().count() <= 512 && *text == clean_line(text), "{said:?}");
    }
}

/// A moment of the real clock. Virtual time does not pass by itself meanwhile.
async fn moment() {
    let slept = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1)));
    slept.await.expect("sleeps");
}

/// Lets virtual time pass until this is done. What came of it, and how long it took.
async fn drive<T>(
    world: &World,
    watch: &mut Watch,
    call: Call,
    work: impl Future<Output = T>,
) -> (T, Duration) {
    let start = tokio::time::Instant::now();
    tokio::pin!(work);
    // Programs of the host's work by the real clock: they get more of it.
    let busy = matches!(call, Call::Fetch | Call::Ship);
    for round in 0.. {
        tokio::select! {
            biased;
            done = &mut work => return (done, start.elapsed()),
            () = moment() => {}
        }
        let step = if busy && round < 200 { 200 } else { 1000 };
        tokio::time::advance(Duration::from_millis(step)).await;
        watch.look(world).await;
    }
    unreachable!("it is left when it is done")
}

/// What the host does. An error is one that it would show.
async fn carry_out(world: &World, call: Call) -> Result<String, String> {
    let bad = &world.ids[0];
    let api = |method, path: &'static str, first: Option<Vec<u8>>| async move {
        let asked = world.request(method, path, first.as_deref(), CLIENT);
        match asked.await {
            (200 | 101, said) => Ok(String::from_utf8_lossy(&said).into_owned()),
            (status, said) => Err(format!("{status}: {}", String::from_utf8_lossy(&said))),
        }
    };
    let framed =
        |text: &str| banger_wire::frame::encode(banger_wire::frame::Kind::Control, text.as_bytes());
    let shown = |fault: banger_reconciler::fault::Fault| fault.problem().message;
    match call {
        Call::Observe => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            world.heard().await[0]
                .as_ref()
                .map(|said| format!("{said:?}"))
                .ok_or("not heard".into())
        }
        Call::Names => {
            tokio::time::sleep(CLIENT).await;
            Ok(String::new())
        }
        Call::Identify => {
            let generation = world.engine.desired().sandboxes[bad].generation.0;
            let done = world.line.identify(bad, identity(generation)).await;
            done.map(|outcome| format!("{outcome:?}")).map_err(shown)
        }
        Call::ShutDown => match world.line.shut_down(bad).await.map_err(shown)? {
            Outcome::Changed => Ok(String::new()),
            Outcome::Unchanged => Err("not shut down".into()),
        },
        Call::Ship => {
            let done = world.line.ship(bad, &world.workspace, Arc::new(|_, _| {})).await;
            done.map(|outcome| format!("{outcome:?}")).map_err(shown)
        }
        Call::Fetch => {
            let place = workspace::place(world.line.way(bad), &world.folders.workspace(bad));
            workspace::fetch(&place).await.map(|returned| format!("{returned:?}")).map_err(shown)
        }
        Call::Ports => api("GET", "/v1/projects/p/sandboxes/bad/ports", None).await,
        Call::Ssh => api("POST", "/v1/ssh/bad.p", Some(Vec::new())).await,
        Call::Exec => {
            let first = framed(r#"{"argv":["true"]}"#);
            api("POST", "/v1/projects/p/sandboxes/bad/exec", Some(first)).await
        }
        Call::Copy => {
            let first = framed(r#"{"do":"get","path":"/x"}"#);
            api("POST", "/v1/projects/p/sandboxes/bad/files", Some(first)).await
        }
    }
}

/// The most that any answer may be.
const LARGEST: usize = 1 << 20;

async fn run(world: &World, watch: &mut Watch, case: &Case) -> Result<(), String> {
    world.guests[0].behave(case.at, &case.acts);
    let (done, took) = drive(world, watch, case.call, carry_out(world, case.call)).await;
    let size = done.as_ref().map_or_else(String::len, String::len);
    let as_wanted = match case.want {
        Want::Error => done.is_err(),
        Want::Value => done.is_ok(),
        Want::Either => true,
    };
    let shown = format!("{done:.300?}");
    if !as_wanted || took > limit(case.call) || size > LARGEST {
        return Err(format!("{:?} {}: after {took:?} {shown:.300}", case.call, case.name));
    }
    world.guests[0].behave(At::Nowhere, &[]);
    Ok(())
}

/// Waits until both guests run and what is heard of them is new: what a flood left in a socket is read first.
async fn settle(world: &World, watch: &mut Watch) {
    let settled = async {
        loop {
            let snapshot = world.engine.snapshots().borrow().clone();
            let runs = |id| {
                snapshot.actual.sandboxes.get(id).is_some_and(|fact| fact.vmm.present().is_some())
            };
            let [bad, good] = world.heard().await;
            let fresh = bad.is_some_and(|said| said.boot_id == "boot") && good.is_some();
            if fresh && world.ids.iter().all(runs) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let patience = Duration::from_secs(4000);
    let (settled, _) =
        drive(world, watch, Call::Fetch, tokio::time::timeout(patience, settled)).await;
    settled.expect("both guests run again");
}

#[tokio::test(start_paused = true)]
async fn whatever_it_says_the_host_goes_on() {
    let all = cases();
    let distinct: BTreeSet<(&str, String)> =
        all.iter().map(|case| (case.name.as_str(), format!("{:?}", case.at))).collect();
    let names: BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
    assert!(names.len() >= 60, "{} behaviours", names.len());
    eprintln!(
        "{} cases, {} behaviours, {} of them at a place of their own",
        all.len(),
        names.len(),
        distinct.len()
    );
    // A panic in a task or thread of the host's is one, whoever catches it.
    let (panics, told) = (Arc::new(AtomicUsize::new(0)), std::panic::take_hook());
    let counted = panics.clone();
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        told(info);
    }));
    let world = World::new().await;
    let mut watch = Watch { said: 0, since: Instant::now(), heard: Vec::new(), memory: 0 };
    world.guests[1].state.send_modify(|state| state.boot_id = "0".into());
    settle(&world, &mut watch).await;
    // Everything is done once in order: what was shipped is there for what comes back.
    for call in [Call::Identify, Call::Ship, Call::Fetch, Call::Ports, Call::Ssh, Call::ShutDown] {
        let (done, _) = drive(&world, &mut watch, call, carry_out(&world, call)).await;
        done.unwrap_or_else(|error| panic!("{call:?} in order: {error}"));
    }
    let (own, good) = (world.folders.workspace(&world.ids[0]), world.folder.path().join("shipped"));
    copy(&own, &good);
    let before = resident();
    (watch.memory, watch.heard) = (0, Vec::new());
    let mut failed = Vec::new();
    let mut longest: BTreeMap<Call, Duration> = BTreeMap::new();
    for case in &all {
        if matches!(case.call, Call::Ship | Call::Fetch) {
            // What the case before began may still be at its end.
            while own.exists() && std::fs::remove_dir_all(&own).is_err() {
                moment().await;
            }
            copy(&good, &own);
            // Nobody is heard while this test itself waits for its files.
            watch.since = Instant::now();
        }
        settle(&world, &mut watch).await;
        let start = Instant::now();
        failed.extend(run(&world, &mut watch, case).await.err());
        let longest = longest.entry(case.call).or_default();
        *longest = (*longest).max(start.elapsed());
    }
    let grown = watch.memory.saturating_sub(before);
    watch.heard.sort();
    let worst = watch.heard.last().copied().unwrap_or_default();
    eprintln!(
        "{} KiB more; heard {} times, {worst:?} at worst; real time {longest:?}",
        grown >> 10,
        watch.heard.len()
    );
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), all.len(), failed.join("\n"));
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked");
    assert!(grown <= MEMORY, "{grown} bytes more");
    assert!(watch.heard.len() > all.len(), "the other guest is heard all the time");
    // This machine has others to serve, too: one in a thousand may have waited for them.
    let late = watch.heard.iter().filter(|took| **took > HEARD).count();
    assert!(late * 1000 <= watch.heard.len(), "another guest was heard late {late} times");
    assert!(worst <= 50 * HEARD, "{worst:?} until another guest is heard");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp").success());
}
