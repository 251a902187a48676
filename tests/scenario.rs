//! Transcripts on the simulated world, compared with `tests/golden`. `UPDATE_EXPECT=1` rewrites them.

use crate::lab::{Lab, name, spec};
use banger_wire::machine::Backend;
use std::path::Path;

/// One line of a script.
enum Do<'a> {
    Apply(&'a str),
    ApplyWithConsent(&'a str),
    Tick,
    Converge,
    KillVmm(&'a str),
    PowerOff(&'a str),
    Silence(&'a str),
    Pass(u64),
    FailOnce(&'a str),
    ClosePorts,
    FlushRules,
    AlterRules,
    DropTap(&'a str),
    NoNetwork(&'a str),
    Firecracker(bool),
    Moved,
    /// A command about snapshots.
    Command(&'a str),
}

async fn play(script: &[Do<'_>]) -> String {
    let mut lab = Lab::new();
    let mut out = String::new();
    for step in script {
        match step {
            Do::Apply(text) | Do::ApplyWithConsent(text) => {
                let consent = matches!(step, Do::ApplyWithConsent(_));
                lab.want("p", &spec(text), consent);
                out.push_str(&format!("=== apply{}\n", if consent { " with consent" } else { "" }));
                out.push_str(&Lab::show(&lab.plan().await));
            }
            Do::Command(words) => {
                lab.command("p", words);
                out.push_str(&format!("=== {words}\n"));
                out.push_str(&Lab::show(&lab.plan().await));
            }
            Do::Tick => {
                out.push_str("=== tick\n");
                out.push_str(&Lab::show(&lab.pass().await));
            }
            Do::Converge => {
                lab.converge().await;
                lab.census();
                out.push_str("=== converged\n");
            }
            Do::KillVmm(sandbox) => {
                let id = lab.id("p", sandbox);
                lab.sim.world().vmms.remove(&id);
                out.push_str(&format!("=== the VMM of {sandbox} is killed\n"));
            }
            Do::PowerOff(sandbox) => {
                let id = lab.id("p", sandbox);
                let mut world = lab.sim.world();
                world.vmms.remove(&id);
                world.runs.get_mut(&id).expect("ran").1 = true;
                drop(world);
                out.push_str(&format!("=== the guest of {sandbox} powers off\n"));
            }
            Do::Silence(sandbox) => {
                let id = lab.id("p", sandbox);
                let mut world = lab.sim.world();
                let vmm = world.vmms.get_mut(&id).expect("runs");
                (vmm.silent, vmm.guest) = (true, None);
                drop(world);
                out.push_str(&format!("=== the guest of {sandbox} falls silent\n"));
            }
            Do::Pass(seconds) => lab.sim.pass(*seconds),
            Do::FailOnce(call) => {
                lab.sim.world().fail_next = Some((*call).to_string());
                out.push_str(&format!("=== the next {call} fails\n"));
            }
            Do::FlushRules => {
                lab.sim.world().rules = None;
                out.push_str("=== somebody flushes all rules\n");
            }
            Do::AlterRules => {
                if let Some((_, altered)) = &mut lab.sim.world().rules {
                    *altered = true;
                }
                out.push_str("=== somebody changes a rule\n");
            }
            Do::DropTap(sandbox) => {
                let id = lab.id("p", sandbox);
                lab.sim.world().taps.remove(&id);
                out.push_str(&format!("=== the port of {sandbox} is removed\n"));
            }
            Do::NoNetwork(why) => {
                lab.sim.world().no_network = Some((*why).to_string());
                out.push_str(&format!("=== the host cannot: {why}\n"));
            }
            Do::Firecracker(there) => {
                let mut world = lab.sim.world();
                let why = "it is not there".to_string();
                world.backends.missing.clear();
                world.backends.default = Backend::Qemu;
                if *there {
                    world.backends.default = Backend::Firecracker;
                } else {
                    world.backends.missing.insert(Backend::Firecracker, why);
                }
                drop(world);
                let has = if *there { "has" } else { "has no" };
                out.push_str(&format!("=== the host {has} Firecracker\n"));
            }
            Do::Moved => {
                for fact in lab.sim.world().templates.values_mut() {
                    fact.current = false;
                }
                out.push_str("=== the agent is another\n");
            }
            Do::ClosePorts => {
                lab.sim.world().ports.clear();
                out.push_str("=== the ports are closed\n");
            }
        }
    }
    out
}

/// The one way to compare a transcript.
fn check(title: &str, script: &[Do<'_>]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let seen = runtime.block_on(play(script));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{title}.txt"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &seen).expect("writes");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        seen == expected,
        "{title} differs (UPDATE_EXPECT=1 rewrites it):\n{seen}\n--- expected\n{expected}"
    );
}

const WEB: &str = "sandbox \"web\" { image \"debian-bookworm\"; publish 8080 guest=80; }";

#[test]
fn create() {
    check(
        "create",
        &[
            Do::Apply(WEB),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Converge,
            Do::Apply(WEB),
        ],
    );
}

#[test]
fn dependencies() {
    let text = "sandbox \"web\" { image \"debian-bookworm\"; after \"db\"; }\nsandbox \"db\" { image \"debian-bookworm\"; volume \"data\" at=\"/data\"; }\nvolume \"data\" size=\"1GiB\"";
    check(
        "dependencies",
        &[Do::Apply(text), Do::Tick, Do::Tick, Do::Tick, Do::Tick, Do::Tick, Do::Converge],
    );
}

#[test]
fn changes_by_class() {
    let base = "sandbox \"web\" { image \"debian-bookworm\"; memory \"512MiB\"; }";
    let live = "sandbox \"web\" { image \"debian-bookworm\"; memory \"512MiB\"; env A=\"1\"; publish 8080; }";
    let restart = "sandbox \"web\" { image \"debian-bookworm\"; memory \"1GiB\"; cpus 2; disk \"20GiB\"; env A=\"1\"; publish 8080; }";
    let replace = "image \"other\" { debian { packages \"git\"; }; }\nsandbox \"web\" { image \"other\"; memory \"1GiB\"; cpus 2; disk \"20GiB\"; env A=\"1\"; publish 8080; }";
    check(
        "classes",
        &[
            Do::Apply(base),
            Do::Converge,
            Do::Apply(live),
            Do::Converge,
            Do::Apply(restart),
            Do::Converge,
            Do::Apply(replace),
            Do::Tick,
            Do::ApplyWithConsent(replace),
            Do::Converge,
        ],
    );
}

#[test]
fn drift_is_healed() {
    check(
        "drift",
        &[
            Do::Apply(WEB),
            Do::Converge,
            Do::KillVmm("web"),
            Do::Tick,
            Do::Converge,
            Do::ClosePorts,
            Do::Tick,
            Do::Converge,
            Do::Silence("web"),
            Do::Tick,
            Do::Pass(200),
            Do::Tick,
            Do::Converge,
        ],
    );
}

#[test]
fn drift_is_only_reported_where_the_file_says_so() {
    let text = "sandbox \"web\" { image \"debian-bookworm\"; drift \"report\"; }";
    check("drift-report", &[Do::Apply(text), Do::Converge, Do::KillVmm("web"), Do::Tick, Do::Tick]);
}

/// Rules that vanish close every port until they are back; a port that vanishes is a restart; a change of policy
/// is applied while sandboxes run.
#[test]
fn the_network_is_kept() {
    let file = |egress: &str, networks: &str| {
        format!(
            "network \"back\"\nsandbox \"a\" {{ image \"debian-bookworm\"; egress \"{egress}\"; {networks} }}\n\
             sandbox \"b\" {{ image \"debian-bookworm\"; network \"back\"; }}\n"
        )
    };
    check(
        "network",
        &[
            Do::Apply(&file("public", "")),
            Do::Converge,
            Do::FlushRules,
            Do::Tick,
            Do::Tick,
            Do::Converge,
            Do::AlterRules,
            Do::Tick,
            Do::Converge,
            Do::DropTap("a"),
            Do::Tick,
            Do::Converge,
            Do::Apply(&file("none", "network \"back\";")),
            Do::Tick,
            Do::Converge,
        ],
    );
}

/// Where rules cannot be enforced, what asks for them does not start; what asks for none does.
#[test]
fn a_host_that_cannot_enforce_rules_starts_nothing_that_needs_them() {
    check(
        "no-network",
        &[
            Do::NoNetwork("nft is not installed"),
            Do::Apply(
                "network \"n\"\nsandbox \"closed\" { image \"debian-bookworm\"; egress \"none\"; }\n\
                 sandbox \"free\" { image \"debian-bookworm\"; egress \"host\"; }\n\
                 sandbox \"group\" { image \"debian-bookworm\"; egress \"open\"; network \"n\"; }\n\
                 sandbox \"web\" { image \"debian-bookworm\"; }\n",
            ),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
        ],
    );
}

/// An address that was given back rests for a minute; then the lowest free one is taken again.
#[test]
fn addresses_stay_and_cool_down() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut lab = Lab::new();
        let with = |names: &[&str]| -> banger_schema::Spec {
            let line =
                |name: &&str| format!("sandbox \"{name}\" {{ image \"debian-bookworm\"; }}\n");
            spec(&names.iter().map(line).collect::<String>())
        };
        let host =
            |lab: &Lab, sandbox: &str| lab.desired.sandboxes[&lab.id("p", sandbox)].host.get();
        lab.want("p", &with(&["a", "b"]), false);
        lab.converge().await;
        assert_eq!((host(&lab, "a"), host(&lab, "b")), (2, 3));
        lab.want("p", &with(&["b"]), true);
        lab.converge().await;
        lab.want("p", &with(&["b", "c"]), false);
        assert_eq!((host(&lab, "b"), host(&lab, "c")), (3, 4), "2 rests");
        lab.converge().await;
        lab.now += 60;
        lab.want("p", &with(&["b", "c", "d"]), false);
        assert_eq!(host(&lab, "d"), 2, "and then is free");
    });
}

/// A restart by command is one more boot, also after a stop and a start, and also beside a file that counts from 0.
#[test]
fn a_restart_is_asked_for_by_counting() {
    use banger_plan::edit::edit;
    use banger_wire::api::Edit;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut lab = Lab::new();
        let file = spec(WEB);
        lab.want("p", &file, false);
        lab.converge().await;
        let id = lab.id("p", "web");
        let mut starts = 1;
        let by_command = |lab: &mut Lab, command: Edit<banger_schema::Spec>| {
            let now = lab.desired.projects[&name("p")].clone();
            lab.want("p", &edit(&now, &command, false).expect("fits"), false);
        };
        for round in 0..3 {
            by_command(&mut lab, Edit::Stop { name: name("web") });
            lab.converge().await;
            by_command(&mut lab, Edit::Start { name: name("web") });
            lab.converge().await;
            by_command(&mut lab, Edit::Restart { name: name("web") });
            lab.converge().await;
            starts += 2;
            assert_eq!(lab.starts()[&id], starts, "round {round}");
            lab.want("p", &file, false);
            lab.converge().await;
            assert_eq!(lab.starts()[&id], starts, "the file asks for nothing in round {round}");
        }
    });
}

#[test]
fn a_guest_that_powers_off_follows_its_restart_policy() {
    let policy = |policy: &str| {
        format!("sandbox \"web\" {{ image \"debian-bookworm\"; restart \"{policy}\"; }}")
    };
    let (always, failure, never) = (policy("always"), policy("on-failure"), policy("never"));
    check(
        "power-off-always",
        &[Do::Apply(&always), Do::Converge, Do::PowerOff("web"), Do::Tick, Do::Converge],
    );
    check(
        "power-off-on-failure",
        &[Do::Apply(&failure), Do::Converge, Do::PowerOff("web"), Do::Tick],
    );
    check("killed-never", &[Do::Apply(&never), Do::Converge, Do::KillVmm("web"), Do::Tick]);
}

#[test]
fn a_failed_start_is_tried_again() {
    check(
        "failed-start",
        &[
            Do::Apply(WEB),
            Do::Tick,
            Do::Tick,
            Do::FailOnce("start"),
            Do::Tick,
            Do::Tick,
            Do::Converge,
        ],
    );
}

/// A workspace is shipped once for each disk, before the sandbox counts as ready; one that does not arrive is sent again.
#[test]
fn a_workspace_is_shipped_once_for_each_disk() {
    let with = |image: &str| {
        format!("sandbox \"web\" {{ image \"{image}\"; workspace \".\" at=\"/src\"; }}")
    };
    check(
        "workspace",
        &[
            Do::Apply(&with("debian-bookworm")),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::FailOnce("ship"),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Converge,
            Do::KillVmm("web"),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::ApplyWithConsent(&with("debian-trixie")),
            Do::Converge,
        ],
    );
}

/// The first start of a kind keeps a template, others like it do not; it goes when the agent moves. A running sandbox
/// stays with its VMM when the host's choice changes, and one that insists waits with the reason.
#[test]
fn templates_and_backends() {
    let two = "sandbox \"web\" { image \"debian-bookworm\"; }\nsandbox \"db\" { image \"debian-bookworm\"; after \"web\"; }";
    let insists = "sandbox \"web\" { image \"debian-bookworm\"; vmm \"firecracker\"; }";
    let other = "sandbox \"web\" { image \"debian-bookworm\"; vmm \"qemu\"; }";
    check(
        "templates",
        &[
            Do::Firecracker(true),
            Do::Apply(two),
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Tick,
            Do::Converge,
            Do::Moved,
            Do::Tick,
            Do::Firecracker(false),
            Do::Tick,
            Do::KillVmm("db"),
            Do::Tick,
            Do::Converge,
            Do::ApplyWithConsent(insists),
            Do::Tick,
            Do::KillVmm("web"),
            Do::Tick,
            Do::ApplyWithConsent(other),
            Do::Tick,
            Do::Converge,
        ],
    );
}

/// A memory is gone on from when it fits, once; and is given up when it does not, or is not wanted.
#[test]
fn suspend_and_go_on() {
    let with = |rest: &str| format!("sandbox \"web\" {{ image \"debian-bookworm\"; {rest} }}");
    let (running, suspended) = (with(""), with("mode \"suspended\";"));
    let (larger, stopped) = (with("memory \"1GiB\";"), with("mode \"stopped\";"));
    check(
        "suspend",
        &[
            Do::Firecracker(true),
            Do::Apply(&running),
            Do::Converge,
            Do::Apply(&suspended),
            Do::Tick,
            Do::Converge,
            Do::Apply(&running),
            Do::Tick,
            Do::Tick,
            Do::Converge,
            Do::Apply(&suspended),
            Do::Converge,
            Do::Apply(&larger),
            Do::Tick,
            Do::Converge,
            Do::Apply(&suspended),
            Do::Converge,
            Do::Apply(&stopped),
            Do::Tick,
            Do::Converge,
            Do::Apply(&suspended),
            Do::Tick,
            Do::Firecracker(false),
            Do::ApplyWithConsent(&with("vmm \"qemu\";")),
            Do::Converge,
            Do::Apply(&with("vmm \"qemu\"; mode \"suspended\";")),
            Do::Tick,
        ],
    );
}

/// A snapshot is taken of what runs and of what does not; a disk goes back to it, or begins from it, and keeps to it.
#[test]
fn snapshots_and_forks() {
    let with = |rest: &str| format!("sandbox \"web\" {{ image \"debian-bookworm\"; {rest} }}");
    let (running, stopped) = (with("publish 8080;"), with("mode \"stopped\";"));
    let other =
        "image \"other\" { debian { packages \"git\"; }; }\nsandbox \"web\" { image \"other\"; }";
    check(
        "snapshots",
        &[
            Do::Firecracker(true),
            Do::Apply(&running),
            Do::Command("snapshot web early"),
            Do::Converge,
            Do::Command("snapshot web s1"),
            Do::Tick,
            Do::Converge,
            Do::Command("restore web s1"),
            Do::Tick,
            Do::Converge,
            Do::Command("fork s1 copy"),
            Do::Tick,
            Do::Converge,
            // A file that does not know of it takes it away, and leaves the snapshots.
            Do::ApplyWithConsent(&stopped),
            Do::Converge,
            Do::Command("snapshot web s2"),
            Do::Tick,
            Do::Converge,
            Do::Command("restore web s2"),
            Do::Tick,
            Do::Converge,
            // It stays until who begins from it has begun.
            Do::Command("restore web s1"),
            Do::Command("drop s1"),
            Do::Tick,
            Do::Converge,
            Do::ApplyWithConsent(&running),
            Do::Tick,
            Do::Converge,
            // What goes is kept before, whether its guest answers or not.
            Do::Silence("web"),
            Do::Command("snapshot web s4"),
            Do::Tick,
            Do::Command("restore web s2"),
            Do::Tick,
            Do::Converge,
            Do::Command("drop s4"),
            // Another image begins empty.
            Do::ApplyWithConsent(other),
            Do::Tick,
            Do::Converge,
            Do::ApplyWithConsent(""),
            Do::Converge,
            Do::Command("drop early"),
            Do::Command("drop s2"),
            Do::Tick,
            Do::Converge,
        ],
    );
}

#[test]
fn stop_and_remove() {
    let stopped =
        "sandbox \"web\" { image \"debian-bookworm\"; publish 8080 guest=80; mode \"stopped\"; }";
    check(
        "stop-and-remove",
        &[
            Do::Apply(WEB),
            Do::Converge,
            Do::Apply(stopped),
            Do::Tick,
            Do::Converge,
            Do::ApplyWithConsent(""),
            Do::Tick,
            Do::Converge,
        ],
    );
}

/// What one project does never plans a change in another.
#[test]
fn projects_do_not_touch_each_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut lab = Lab::new();
        lab.want("one", &spec(WEB), false);
        lab.converge().await;
        lab.want("two", &spec("sandbox \"web\" { image \"debian-bookworm\"; }"), false);
        assert!(lab.plan().await.of_project(&lab.desired, &name("one")).is_empty());
        lab.converge().await;
        lab.want("two", &banger_schema::Spec::default(), true);
        assert!(lab.plan().await.of_project(&lab.desired, &name("one")).is_empty());
        lab.converge().await;
        lab.census();
        assert_eq!(lab.sim.world().vmms.len(), 1);
    });
}
