use super::*;
use banger_wire::api::facts::Bridge;
use banger_wire::api::{Problem, ProblemKind};
use banger_wire::helper::NetworkSupport;
use banger_wire::machine::{Backend, Version as Release};
use banger_wire::net::Subnet;
use std::collections::BTreeMap;

const NAMES: [&str; 21] = [
    "daemon",
    "helper",
    "state-folder",
    "run-folder",
    "disk-space",
    "kvm",
    "vmm",
    "firecracker",
    "qemu",
    "cgroup",
    "jail-users",
    "mke2fs",
    "mmdebstrap",
    "depmod",
    "git",
    "ssh",
    "network",
    "subnet",
    "forwarding",
    "rules",
    "names",
];

fn all_controllers() -> BTreeSet<Controller> {
    [Controller::Cpu, Controller::Memory, Controller::Pids].into()
}

/// A host that has everything, and a daemon with sandboxes.
fn good() -> Gathered {
    let folder = |path: &str| Folder {
        path: path.into(),
        is: Seen::Present(Owned { uid: 0, mode: 0o40_700, is_folder: true }),
    };
    let helper = helper::Facts {
        cgroup2: true,
        controllers: all_controllers().into_iter().collect(),
        network: NetworkSupport::Full,
        firecracker: Ok(Release(1, 16, 1)),
        qemu: Ok(()),
    };
    let facts = Facts {
        vmm: Backend::Firecracker,
        why: "/dev/kvm works".into(),
        missing: BTreeMap::new(),
        helper: Some(Ok(helper)),
        lacks: BTreeSet::new(),
        subnet: Subnet::new(0).ok(),
        free: Some(Subnet::all().collect()),
        bridge: Some(Bridge { forwards: true, enforced: true, names_routed: Some(true) }),
    };
    Gathered {
        version: "0.1.0".into(),
        host: Host {
            uid: 0,
            user: Some("root".into()),
            kvm: Kvm::Works,
            cgroup: Some(Cgroup { path: "/sys/fs/cgroup".into(), controllers: all_controllers() }),
            tun: true,
            lacks: BTreeSet::new(),
            jail_users_taken: 0,
            folders: Some(Folders {
                state: folder("/var/lib/banger"),
                run: folder("/run/banger"),
                free_mib: Some(20 << 10),
            }),
        },
        daemon: Daemon::Tells { version: version("0.1.0"), facts: Box::new(facts) },
    }
}

fn version(text: &str) -> Version {
    Version { version: text.into(), pid: 12, vmm: "qemu".into() }
}

/// A good host with one change of what the daemon tells.
fn told(change: impl FnOnce(&mut Facts)) -> Gathered {
    let mut gathered = good();
    if let Daemon::Tells { facts, .. } = &mut gathered.daemon {
        change(facts);
    }
    gathered
}

/// A good host with one change of what its helper tells.
fn helped(change: impl FnOnce(&mut helper::Facts)) -> Gathered {
    told(|facts| {
        if let Some(Ok(helper)) = &mut facts.helper {
            change(helper);
        }
    })
}

/// A good host with one change of what we see ourselves.
fn seen(change: impl FnOnce(&mut Host)) -> Gathered {
    let mut gathered = good();
    change(&mut gathered.host);
    gathered
}

/// As [`seen`], where the daemon does not run.
fn alone(change: impl FnOnce(&mut Host)) -> Gathered {
    Gathered { daemon: Daemon::Gone { why: "gone".into(), hint: None }, ..seen(change) }
}

fn in_folders(change: impl FnOnce(&mut Folders)) -> Gathered {
    seen(|host| change(host.folders.as_mut().expect("there")))
}

fn run(owned: Owned) -> Gathered {
    in_folders(|folders| folders.run.is = Seen::Present(owned))
}

/// Every finding but those that are well, as lines.
#[track_caller]
fn assert_finds(gathered: &Gathered, expected: &[&str]) {
    let all = findings(gathered);
    let names: Vec<&str> = all.iter().map(|finding| finding.name).collect();
    let mut order = NAMES.iter();
    assert!(names.iter().all(|name| order.any(|next| next == name)), "{names:?}");
    for finding in &all {
        assert_eq!(finding.hint.is_none(), finding.status == Mark::Ok, "{finding:?}");
        assert!(!finding.found.is_empty() && !finding.found.contains('\n'), "{finding:?}");
    }
    let told = all.iter().filter(|finding| finding.status != Mark::Ok);
    let told: Vec<String> = told.map(|f| format!("{} {}: {}", f.status, f.name, f.found)).collect();
    let fits = |told: &String, expected: &str| {
        expected.strip_suffix("..").map_or(told == expected, |start| told.starts_with(start))
    };
    assert!(
        told.len() == expected.len() && told.iter().zip(expected).all(|(t, e)| fits(t, e)),
        "told: {told:#?}\nexpected: {expected:#?}"
    );
}

/// The finding of one check, if it says anything.
fn of(gathered: &Gathered, name: &str) -> Option<Finding> {
    findings(gathered).into_iter().find(|finding| finding.name == name)
}

fn hint(gathered: &Gathered, name: &str) -> String {
    of(gathered, name).and_then(|finding| finding.hint).expect("a hint")
}

#[test]
fn a_good_host_is_told_so_by_every_check() {
    let all = findings(&good());
    assert_eq!(all.iter().map(|finding| finding.name).collect::<Vec<_>>(), NAMES);
    assert_finds(&good(), &[]);
}

#[test]
fn a_finding_is_four_words_of_json() {
    let text = |finding: &Finding| serde_json::to_string(finding).expect("encodes");
    assert_eq!(
        text(&findings(&good())[0]),
        r#"{"name":"daemon","status":"ok","found":"bangerd 0.1.0 (process 12)","hint":null}"#
    );
    let lacking = told(|facts| facts.lacks = ["mke2fs".to_string()].into());
    assert_eq!(
        text(&of(&lacking, "mke2fs").expect("said")),
        r#"{"name":"mke2fs","status":"fail","found":"it is not there: no sandbox gets a disk","hint":"apt install e2fsprogs"}"#
    );
}

#[test]
fn the_daemon_and_its_helper() {
    let gone = |hint: Option<&str>| Gathered {
        daemon: Daemon::Gone { why: "it did not start".into(), hint: hint.map(String::from) },
        ..good()
    };
    assert_finds(&gone(None), &["fail daemon: it did not start"]);
    assert_eq!(hint(&gone(Some("set HOME")), "daemon"), "set HOME");
    let silent = Gathered {
        daemon: Daemon::Silent { version: version("0.0.9"), why: "404".into() },
        ..good()
    };
    assert_finds(
        &silent,
        &["warn daemon: bangerd 0.0.9 (process 12) does not say what it sees: 404"],
    );
    for unknown in ["vmm", "firecracker", "qemu", "helper", "subnet", "rules", "names"] {
        assert_eq!(of(&silent, unknown), None, "nobody can tell");
    }
    let other = Gathered { version: "0.2.0".into(), ..good() };
    assert_finds(&other, &["warn daemon: bangerd 0.1.0 (process 12), and this is banger 0.2.0"]);
    assert!(hint(&other, "daemon").starts_with("kill 12:"));

    let message = "the helper speaks another version: Hello { version: 9 }".to_string();
    let hints = vec!["install both from the same release".to_string()];
    let problem = Problem { kind: ProblemKind::Host, message, hints };
    let mute = told(|facts| facts.helper = Some(Err(problem)));
    assert_finds(&mute, &["fail helper: the helper speaks another version: .."]);
    assert_eq!(hint(&mute, "helper"), "install both from the same release");
    for unknown in ["qemu", "cgroup", "network"] {
        assert_eq!(of(&mute, unknown), None, "it does not say");
    }
    let none = told(|facts| (facts.helper, facts.vmm) = (None, Backend::Qemu));
    assert_finds(&none, &["warn helper: there is none, as the daemon is not root's: .."]);
    for not_needed in ["firecracker", "cgroup", "jail-users", "network", "subnet"] {
        assert_eq!(of(&none, not_needed), None, "only the helper needs it");
    }
}

#[test]
fn folders() {
    let good = Owned { uid: 0, mode: 0o40_700, is_folder: true };
    assert_finds(
        &run(Owned { mode: 0o40_755, ..good }),
        &["fail run-folder: /run/banger has mode 755: it is for its owner, and nobody else"],
    );
    assert_finds(
        &run(Owned { uid: 7, ..good }),
        &["fail run-folder: /run/banger belongs to user 7, and we are 0"],
    );
    assert_finds(
        &run(Owned { is_folder: false, ..good }),
        &["fail run-folder: /run/banger is no folder"],
    );
    let unknown = in_folders(|folders| folders.state.is = Seen::Unknown("denied".into()));
    assert_finds(&unknown, &["fail state-folder: /var/lib/banger: denied"]);
    assert_finds(&in_folders(|folders| folders.run.is = Seen::Absent), &[]);
    let long = in_folders(|folders| folders.run.path = "/x".repeat(40).into());
    assert_finds(&long, &["fail run-folder: the path /x/x.."]);
    assert_eq!(hint(&long, "run-folder"), "set BANGER_HOME to a shorter path");
    assert_eq!(of(&seen(|host| host.folders = None), "run-folder"), None);
}

#[test]
fn space_against_the_limit_that_is_used() {
    let free = |mib| in_folders(|folders| folders.free_mib = Some(mib));
    assert_finds(
        &free(2047),
        &[
            "fail disk-space: only 2047 MiB are free at /var/lib/banger, and nothing is made below 2048",
        ],
    );
    assert_finds(&free(2048), &["warn disk-space: 2048 MiB are free at .."]);
    assert_finds(&free(10 << 10), &[]);
    assert_eq!(of(&in_folders(|folders| folders.free_mib = None), "disk-space"), None);
}

#[test]
fn kvm_and_who_is_chosen() {
    let kvm = |kvm, uid| {
        seen(|host| {
            (host.kvm, host.uid, host.folders, host.user) = (kvm, uid, None, Some("me".into()))
        })
    };
    let absent = |module| kvm(Kvm::Absent { module }, 7);
    let slower = "what is chosen is software emulation, which is slower";
    assert_finds(&absent(None), &[&format!("warn kvm: there is no /dev/kvm; {slower}")]);
    assert_eq!(hint(&absent(Some("kvm_amd")), "kvm"), "modprobe kvm_amd");
    assert_finds(&kvm(Kvm::Refused, 7), &["warn kvm: /dev/kvm cannot be opened by this user; .."]);
    assert_eq!(hint(&kvm(Kvm::Refused, 7), "kvm"), "usermod -aG kvm me, and log in again");
    assert_eq!(hint(&kvm(Kvm::Refused, 0), "kvm"), "let this container have /dev/kvm");
    assert_finds(&kvm(Kvm::NoKernels, 7), &["warn kvm: /dev/kvm is there, but the processor .."]);

    let old = "Firecracker 1.14.0 is older than 1.14.4 (CVE-2026-1386, CVE-2026-5747)";
    let lacks = |facts: &mut Facts, backend, why: &str| {
        facts.missing.insert(backend, why.to_string());
    };
    assert_finds(
        &told(|facts| lacks(facts, Backend::Firecracker, old)),
        &[
            &format!("fail vmm: firecracker is chosen (/dev/kvm works), but: {old}"),
            &format!("warn firecracker: {old}"),
        ],
    );
    let by_qemu = |facts: &mut Facts| (facts.vmm, facts.why) = (Backend::Qemu, "because".into());
    let with_qemu = told(|facts| {
        by_qemu(facts);
        lacks(facts, Backend::Firecracker, "/usr/local/bin/jailer is not there");
    });
    assert_finds(&with_qemu, &["warn firecracker: /usr/local/bin/jailer is not there"]);
    let emulated = Gathered { host: kvm(Kvm::NoKernels, 7).host, ..with_qemu };
    assert_finds(&emulated, &["warn kvm: .."]);
    let no_qemu = "/usr/local/bin/vhost-device-vsock is not there";
    assert_finds(
        &told(|facts| lacks(facts, Backend::Qemu, no_qemu)),
        &[&format!("warn qemu: {no_qemu}")],
    );
    assert_finds(
        &told(|facts| {
            by_qemu(facts);
            lacks(facts, Backend::Qemu, no_qemu);
        }),
        &[
            &format!("fail vmm: qemu is chosen (because), but: {no_qemu}"),
            &format!("warn qemu: {no_qemu}"),
        ],
    );
    let unhelped = told(|facts| {
        by_qemu(facts);
        (facts.helper, facts.lacks) = (None, [VSOCK.to_string()].into());
    });
    assert_finds(
        &unhelped,
        &[
            "warn helper: ..",
            "fail vmm: qemu is chosen (because), but: vhost-device-vsock is not there",
            "warn qemu: vhost-device-vsock is not there",
        ],
    );
}

#[test]
fn limits_and_users() {
    let all = "processor time, memory, the number of processes";
    let none = |host: &mut Host| host.cgroup = None;
    let unmounted =
        format!("fail cgroup: cgroup v2 is not mounted; of sandboxes this is not limited: {all}");
    assert_finds(&alone(none), &["fail daemon: gone", &unmounted]);
    let mut both = helped(|helper| (helper.cgroup2, helper.controllers) = (false, Vec::new()));
    let closed = "fail cgroup: cgroup v2 at /sys/fs/cgroup cannot be written; \
        of sandboxes this is not limited: ";
    assert_finds(&both, &[&format!("{closed}{all}")]);
    none(&mut both.host);
    assert_finds(&both, &[&unmounted]);
    let not_limited = "of sandboxes this is not limited: ";
    let lacking =
        format!("fail cgroup: cgroup v2 at /sys/fs/cgroup lacks controllers; {not_limited}");
    let kept =
        format!("fail cgroup: cgroup v2 at /sys/fs/cgroup hands not all down; {not_limited}");
    for (left_out, what) in [
        (Controller::Cpu, "processor time"),
        (Controller::Memory, "memory"),
        (Controller::Pids, "the number of processes"),
    ] {
        let found = format!("{lacking}{what}");
        let mut both = helped(|helper| helper.controllers.retain(|own| *own != left_out));
        assert_finds(&both, &[&format!("{kept}{what}")]);
        both.host.cgroup.as_mut().expect("there").controllers.remove(&left_out);
        assert_finds(&both, &[&found]);
        let unasked = alone(|host| {
            host.cgroup.as_mut().expect("there").controllers.remove(&left_out);
        });
        assert_finds(&unasked, &["fail daemon: gone", &found]);
    }
    let users = |taken| seen(|host| host.jail_users_taken = taken);
    assert_finds(
        &users(1),
        &["warn jail-users: 1 of the 65536 users of jails are others' too, .."],
    );
    assert_finds(&users(65_536), &["fail jail-users: 65536 of the 65536 .."]);
}

#[test]
fn programs() {
    for (program, expected) in [
        ("mke2fs", "fail mke2fs: it is not there: .."),
        ("mmdebstrap", "warn mmdebstrap: it is not there: .."),
        ("depmod", "warn depmod: it is not there: .."),
    ] {
        let lacks: BTreeSet<String> = [program.to_string()].into();
        assert_finds(&told(|facts| facts.lacks = lacks.clone()), &[expected]);
        assert_finds(&seen(|host| host.lacks = lacks.clone()), &[]);
        assert_finds(&alone(|host| host.lacks = lacks), &["fail daemon: gone", expected]);
    }
    for (program, expected) in
        [("git", "warn git: it is not there: .."), ("ssh", "warn ssh: it is not there: ..")]
    {
        let lacks: BTreeSet<String> = [program.to_string()].into();
        assert_finds(&seen(|host| host.lacks = lacks), &[expected]);
    }
    let known: BTreeSet<&str> = PROGRAMS.into();
    let said = CHECKS.iter().filter(|(name, _)| known.contains(name)).count();
    assert_eq!(said + 3, PROGRAMS.len(), "nft and QEMU's two are told by other checks");
}

#[test]
fn the_network() {
    for (support, found) in [
        (NetworkSupport::NoNft, "fail network: nft is not there: .."),
        (NetworkSupport::NoTun, "fail network: /dev/net/tun is not there, or not for us: .."),
        (NetworkSupport::NoRight, "fail network: the helper may not change the network: .."),
    ] {
        assert_finds(&helped(|helper| helper.network = support), &[found]);
    }
    assert_finds(
        &alone(|host| host.tun = false),
        &["fail daemon: gone", "fail network: /dev/net/tun .."],
    );
    assert_finds(
        &alone(|host| host.lacks = ["nft".to_string()].into()),
        &["fail daemon: gone", "fail network: nft .."],
    );
    assert_finds(
        &told(|facts| facts.free = Some(Subnet::all().skip(1).collect())),
        &["fail subnet: 10.213.0.0/20 overlaps a route of the host: .."],
    );
    assert_finds(
        &told(|facts| facts.subnet = None),
        &["fail subnet: every subnet that banger may use overlapped .."],
    );
    assert_eq!(of(&told(|facts| facts.free = None), "subnet"), None, "nobody can tell");
    let bridge = |forwards, enforced, names_routed| {
        told(|facts| facts.bridge = Some(Bridge { forwards, enforced, names_routed }))
    };
    let routed = Some(true);
    assert_finds(&bridge(false, true, routed), &["fail forwarding: net.ipv4.ip_forward is 0: .."]);
    assert_finds(
        &bridge(true, false, routed),
        &["fail rules: they are not as they were written: .."],
    );
    assert_finds(&bridge(true, true, None), &["warn names: the host has no systemd-resolved .."]);
    assert_finds(
        &bridge(true, true, Some(false)),
        &["warn names: the host's resolver does not ask us .."],
    );
    for without in ["forwarding", "rules", "names"] {
        assert_eq!(of(&told(|facts| facts.bridge = None), without), None, "there is no bridge");
    }
}
