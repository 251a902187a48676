//! What a guest says changes what is seen of that guest, and nothing else.

use super::guest::{Act, At, ready};
use super::world::World;
use super::{bounded, identity};
use banger_plan::desired::Key;
use banger_plan::plan::plan;
use banger_reconciler::drivers::Guest as _;
use banger_reconciler::observe::observe;
use banger_wire::frame::{Kind, encode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("small")
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A value that names others, the host, or nothing that there is.
fn value(numbers: &mut Numbers, others: &[String]) -> Value {
    let texts = [
        "",
        "ready",
        "good",
        "/etc/passwd",
        "../../good",
        "0.0.0.0:22",
        "\u{1b}]0;x\u{7}",
        "\u{202e}",
        "root",
    ];
    match numbers.below(8) {
        0 => json!(numbers.below(1 << 40)),
        1 => json!(-(numbers.below(1 << 40) as i64)),
        2 => json!(u64::MAX),
        3 => json!(numbers.of(&[true, false])),
        4 => json!(numbers.of(others)),
        5 => Value::Null,
        6 => json!({ numbers.of(others): numbers.of(&texts), "port": numbers.below(70_000) }),
        _ => json!(numbers.of(&texts)),
    }
}

/// An answer that may be due, with some of it changed.
fn answer(numbers: &mut Numbers, others: &[String]) -> Value {
    let phases = [
        "waiting",
        "identifying",
        "shipping",
        "provisioning",
        "probing",
        "ready",
        "failed",
        "leaving",
    ];
    let mut said = match numbers.below(8) {
        0..4 => json!({
            "is": "state", "version": numbers.of(others), "boot_id": numbers.of(others),
            "generation": numbers.below(4), "phase": numbers.of(&phases), "detail": numbers.of(others),
        }),
        4 => {
            json!({ "is": "ports", "ports": [{ "protocol": "tcp", "address": "0.0.0.0", "port": 22, "program": numbers.of(others) }] })
        }
        5 => json!({ "is": "failed", "message": numbers.of(others) }),
        6 => json!({ "is": "exit", "code": numbers.below(1000) }),
        _ => json!({ "is": numbers.of(&["done", "started", "taken"]) }),
    };
    if numbers.below(3) == 0 {
        let fields = said.as_object_mut().expect("an object");
        let names: Vec<String> = fields.keys().cloned().collect();
        let extra = ["sandbox", "id", "owner", "path", "published", "address"].map(String::from);
        let name = if numbers.below(4) == 0 { numbers.of(&extra) } else { numbers.of(&names) };
        fields.insert(name, value(numbers, others));
    }
    said
}

/// Every file of the installation but those of this sandbox's run.
fn files(world: &World) -> BTreeMap<PathBuf, u64> {
    let own = [world.folders.vm(&world.ids[0]), world.folders.sandbox(&world.ids[0])];
    let mut all = BTreeMap::new();
    let mut todo = vec![world.folder.path().to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).expect("a folder").flatten() {
            let meta = entry.metadata().expect("there");
            if meta.is_dir() && !own.contains(&entry.path()) {
                todo.push(entry.path());
            }
            all.insert(entry.path(), if meta.is_file() { meta.len() } else { 0 });
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_thousand_random_claims_change_their_own_guest_only() {
    let world = World::new().await;
    // Both run, and the loop stands still: what changes from now on, a guest changed.
    let snapshots = world.engine.snapshots();
    let up = || {
        let actual = snapshots.borrow().actual.clone();
        world
            .ids
            .iter()
            .all(|id| actual.sandboxes.get(id).is_some_and(|fact| fact.guest.present().is_some()))
    };
    while !up() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.stand_still();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let [bad, good] = &world.ids;
    let desired = world.engine.desired();
    let others = [
        good.to_string(),
        bad.to_string(),
        "good".into(),
        "p/good".into(),
        "v.sock".into(),
        "x".repeat(700),
    ];
    let look = || async {
        let actual = observe(&world.drivers, &desired).await;
        let mut lists = plan(&desired, &actual).lists;
        lists.retain(|key, _| *key != Key::Sandbox(bad.clone()));
        (actual, lists)
    };
    let before = look().await;
    let there = files(&world);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut heard, mut changed) = (0, 0);
    for round in 0..1000 {
        let said = answer(&mut numbers, &others);
        let asked = numbers.of(&["watch", "watch", "watch", "identify", "shutdown", "ports"]);
        let acts = [Act::Send(encode(Kind::Control, said.to_string().as_bytes())), Act::Silence];
        world.guests[0].behave(At::Asked(asked), &acts);
        // What comes of it is the guest's business: an error is as good as an answer.
        match asked {
            "identify" => {
                drop(world.line.identify(bad, identity(desired.sandboxes[bad].generation.0)).await)
            }
            "shutdown" => drop(world.line.shut_down(bad).await),
            "ports" => drop(
                world
                    .request(
                        "GET",
                        "/v1/projects/p/sandboxes/bad/ports",
                        None,
                        Duration::from_secs(20),
                    )
                    .await,
            ),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        let (mut actual, lists) = look().await;
        assert_eq!(lists, before.1, "round {round}: {said}");
        let own = actual.sandboxes.get_mut(bad).expect("there");
        if let Some(state) = own.guest.present() {
            heard += 1;
            bounded(state);
        }
        let known = &before.0.sandboxes[bad];
        changed += u32::from(own.guest != known.guest);
        (own.guest, own.silent_secs) = (known.guest.clone(), known.silent_secs);
        assert_eq!(actual, before.0, "round {round}: {said}");
        if round % 50 == 0 {
            assert_eq!(files(&world), there, "round {round}");
        }
    }
    eprintln!("{heard} claims were heard, {changed} were other than before");
    assert!(heard > 200 && changed > 200, "{heard} heard, {changed} changed");
    assert_eq!(world.heard().await[1], Some(ready(desired.sandboxes[good].generation.0)));
}
