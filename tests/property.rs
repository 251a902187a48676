//! Properties on a simulated world that is not reset between cases.

use crate::lab::{Lab, spec};
use banger_schema::Spec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// A random Bangerfile: up to four sandboxes that may share volumes over time, depend and publish.
fn bangerfile() -> impl Strategy<Value = String> {
    let sandbox = |index: usize| {
        (any::<bool>(), 0..3usize, 0..2usize, any::<bool>(), any::<bool>(), any::<bool>(), 0..3u8)
            .prop_map(move |(there, memory, image, stopped, publish, volume, env)| {
                if !there {
                    return String::new();
                }
                let memory = [256, 512, 1024][memory];
                let image = ["debian-bookworm", "other"][image];
                let mut text = format!(
                    "sandbox \"s{index}\" {{\n image \"{image}\"\n memory \"{memory}MiB\"\n"
                );
                if stopped {
                    text.push_str(" mode \"stopped\"\n");
                }
                if publish {
                    text.push_str(&format!(" publish {} guest=80\n", 8000 + index));
                }
                if volume {
                    text.push_str(&format!(" volume \"v{index}\" at=\"/data\"\n"));
                }
                if env == 1 {
                    text.push_str(" workspace \".\"\n");
                }
                text.push_str(&format!(
                    " env A=\"{env}\"\n}}\nvolume \"v{index}\" size=\"1GiB\"\n"
                ));
                text
            })
    };
    let sandboxes = (sandbox(0), sandbox(1), sandbox(2), sandbox(3));
    sandboxes.prop_map(|(a, b, c, d)| {
        let mut text = "image \"other\" { debian { packages \"git\"; }; }\n".to_string();
        text.push_str(&[a, b, c, d].concat());
        // s3 waits for s0 where both run.
        let runs = |name: &str| {
            let block = text.split("sandbox ").find(|block| block.starts_with(name));
            block.is_some_and(|block| !block.split('}').next().unwrap_or("").contains("stopped"))
        };
        if runs("\"s0\"") && runs("\"s3\"") {
            text = text.replace("sandbox \"s3\" {\n", "sandbox \"s3\" {\n after \"s0\"\n");
        }
        text
    })
}

/// Which sandboxes must not be restarted by a change: they run before and after with the same machine.
fn untouched(lab: &Lab, before: &Spec, after: &Spec) -> Vec<String> {
    let same = |name: &banger_wire::id::Name| {
        let (Some(old), Some(new)) = (before.sandboxes.get(name), after.sandboxes.get(name)) else {
            return false;
        };
        let live = |spec: &banger_schema::spec::SandboxSpec| {
            let mut spec = spec.clone();
            spec.env = BTreeMap::new();
            spec.publish = Vec::new();
            spec.after.clear();
            spec.workspace = None;
            spec
        };
        live(old) == live(new)
    };
    let running = lab.sim.world().vmms.len();
    let names = before.sandboxes.keys().filter(|name| same(name)).map(ToString::to_string);
    if running == 0 { Vec::new() } else { names.collect() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Apply, then plan is empty; twice is once; what a change does not concern is not restarted.
    #[test]
    fn it_converges_and_then_has_nothing_to_do(files in prop::collection::vec(bangerfile(), 1..6)) {
        let runtime = runtime();
        let mut lab = Lab::with_firecracker();
        let mut before = Spec::default();
        for text in &files {
            let now = spec(text);
            let keep = untouched(&lab, &before, &now);
            let ids: Vec<_> = keep.iter().map(|name| lab.id("p", name)).collect();
            let starts = lab.starts();
            lab.want("p", &now, true);
            runtime.block_on(lab.converge());
            lab.census();
            let effects = lab.sim.world().effects;
            prop_assert!(runtime.block_on(lab.pass()).is_empty());
            prop_assert_eq!(lab.sim.world().effects, effects, "an empty plan has no effect");
            for id in ids {
                let now = lab.starts().get(&id).copied();
                prop_assert_eq!(now, starts.get(&id).copied(), "restarted for nothing");
            }
            before = now;
        }
        lab.want("p", &Spec::default(), true);
        runtime.block_on(lab.converge());
        lab.census();
        let world = lab.sim.world();
        prop_assert!(world.disks.is_empty() && world.vmms.is_empty() && world.volumes.is_empty());
    }

    /// The same desired and actual state give the same bytes.
    #[test]
    fn planning_is_deterministic(text in bangerfile()) {
        let runtime = runtime();
        let mut lab = Lab::with_firecracker();
        lab.want("p", &spec(&text), false);
        let first = Lab::show(&runtime.block_on(lab.plan()));
        prop_assert_eq!(first, Lab::show(&runtime.block_on(lab.plan())));
        prop_assert_eq!(lab.sim.world().effects, 0, "planning has no effect");
    }
}

const STEPS: [&str; 21] = [
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; }",
    "! snapshot b s1",
    "! fork s1 c",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; mode \"suspended\"; }",
    "! snapshot b s2",
    "! restore b s1",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; }",
    "! restore b s2",
    "! drop s1",
    "! restore b s2",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; mode \"suspended\"; }",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; memory \"1GiB\"; }",
    "volume \"v\" size=\"2GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; memory \"1GiB\"; disk \"20GiB\"; publish 8001; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; }",
    "image \"other\" { debian { packages \"git\"; }; }\nsandbox \"a\" { image \"other\"; memory \"1GiB\"; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; mode \"stopped\"; }",
    "! snapshot b s3",
    "! restore b s3",
    "! drop s3",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; }",
    "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; publish 8000; workspace \".\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; mode \"suspended\"; }",
    // It goes while it is suspended.
    "",
    "! drop s2",
];

/// A crash before and after each effect of a whole life, then a new daemon: it converges to the same, and no
/// sandbox is started more often than without the crash, except the one whose start was cut.
#[test]
fn a_crash_at_every_effect_is_survived() {
    let runtime = runtime();
    let life = |crash: Option<(u64, bool)>| {
        let mut lab = Lab::with_firecracker();
        lab.sim.world().crash_at = crash;
        let mut crashed = false;
        for text in STEPS {
            match text.strip_prefix("! ") {
                Some(words) => lab.command("p", words),
                None => lab.want("p", &spec(text), true),
            }
            for _ in 0..200 {
                let empty = runtime.block_on(lab.pass()).is_empty();
                if lab.sim.world().crashed {
                    lab.restart_daemon();
                    crashed = true;
                } else if empty {
                    break;
                }
            }
            assert!(
                runtime.block_on(lab.plan()).is_empty(),
                "crash at {crash:?}: {}",
                runtime.block_on(lab.plan())
            );
            lab.census();
        }
        let world = lab.sim.world();
        assert!(
            world.disks.is_empty()
                && world.vmms.is_empty()
                && world.volumes.is_empty()
                && world.runs.is_empty()
                && world.snapshots.is_empty()
                && world.suspended.is_empty()
                && world.memories.is_empty()
        );
        let starts: u32 = world.starts.values().sum();
        (world.effects, starts, crashed)
    };
    let (effects, starts, _) = life(None);
    assert!(effects > 25, "{effects} effects are too few to mean anything");
    let mut points = 0;
    for at in 1..=effects {
        for after in [false, true] {
            let (_, with_crash, crashed) = life(Some((at, after)));
            assert!(crashed, "no crash at {at}");
            assert!(
                with_crash <= starts + 1,
                "crash at {at}: {with_crash} starts instead of {starts}"
            );
            points += 1;
        }
    }
    println!("{points} of {points} crash points");
}

/// One injected failure hurts one sandbox, and the next pass mends it.
#[test]
fn one_failure_hurts_one_sandbox() {
    let runtime = runtime();
    for call in ["ensure_disk", "start", "identify", "publish"] {
        let mut lab = Lab::with_firecracker();
        lab.want("p", &spec("sandbox \"a\" { image \"debian-bookworm\"; publish 8000; }\nsandbox \"b\" { image \"debian-bookworm\"; publish 8001; }"), false);
        for _ in 0..3 {
            runtime.block_on(lab.pass());
            lab.sim.world().fail_next.get_or_insert_with(|| call.to_string());
        }
        lab.sim.world().fail_next = None;
        runtime.block_on(lab.converge());
        lab.census();
    }
}

/// A new daemon has heard no guest yet: that is no reason to restart one that runs for long.
#[test]
fn a_new_daemon_does_not_restart_old_guests() {
    let runtime = runtime();
    let mut lab = Lab::with_firecracker();
    lab.want("p", &spec(STEPS[0]), false);
    runtime.block_on(lab.converge());
    lab.sim.pass(100_000);
    let starts = lab.starts();
    lab.restart_daemon();
    for vmm in lab.sim.world().vmms.values_mut() {
        vmm.guest = None;
        vmm.silent = true;
        vmm.unheard = 0;
    }
    for _ in 0..5 {
        runtime.block_on(lab.pass());
    }
    assert_eq!(lab.sim.world().vmms.len(), 2);
    assert_eq!(lab.starts(), starts, "no guest is restarted before it had time to be heard");
}

/// Nothing is made or destroyed on what cannot be told.
#[test]
fn the_unknown_is_left_alone() {
    let runtime = runtime();
    let mut lab = Lab::with_firecracker();
    lab.want("p", &spec(STEPS[0]), false);
    runtime.block_on(lab.converge());
    lab.want("p", &Spec::default(), true);
    lab.sim.world().blind = true;
    let effects = lab.sim.world().effects;
    for _ in 0..5 {
        runtime.block_on(lab.pass());
    }
    // Closing our own listeners is always possible: they are ours by construction.
    assert!(lab.sim.world().effects <= effects + 1);
    assert_eq!(lab.sim.world().vmms.len(), 2);
    lab.sim.world().blind = false;
    runtime.block_on(lab.converge());
    assert!(lab.sim.world().disks.is_empty());
}

/// A look-alike that is not ours by the ledger survives everything.
#[test]
fn what_is_foreign_is_reported_and_left_alone() {
    let runtime = runtime();
    let mut other = Lab::with_firecracker();
    other.want("p", &spec(STEPS[0]), false);
    runtime.block_on(other.converge());
    let (subnet, other_id) = (other.desired.subnet, banger_wire::id::InstallId::from_bits(2));
    let desired = banger_plan::Desired { subnet, ..banger_plan::Desired::empty(other_id) };
    let mut lab = Lab { desired, ..other };
    lab.want("q", &spec("sandbox \"c\" { image \"debian-bookworm\"; }"), true);
    runtime.block_on(lab.converge());
    lab.want("q", &Spec::default(), true);
    runtime.block_on(lab.converge());
    assert_eq!(lab.sim.world().vmms.len(), 2, "the other installation's");
    assert_eq!(lab.sim.world().volumes.len(), 1);
    assert_eq!(lab.sim.world().taps.len(), 2);
}
