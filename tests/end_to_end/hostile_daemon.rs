//! A daemon that somebody took over asks the helper for everything that it must not have (R-H1). It gains nothing: no file, no
//! process, no interface, nothing of another owner's or another installation's.

use super::owner::{Ground, Lent, Owner, assert_same, census, machine};
use crate::helper::Helper;
use banger_wire::derive;
use banger_wire::helper::{Line, MemoryOf, PROTOCOL, Purpose, Reply, Request};
use banger_wire::id::{Digest, InstallId, SandboxId};
use banger_wire::machine::{Backend, BootKey, Card, Machine};
use banger_wire::net::{Egress, HostNumber, Policy, PolicyPort, Subnet};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, memfd_create, mknodat, open};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const ATTACKER: u32 = 60_101;
const VICTIM: u32 = 60_102;
const LINES: [Line; 7] =
    [Line::Agent, Line::Console, Line::Log, Line::Metrics, Line::Api, Line::Vmm, Line::Vsock];

fn sandbox(n: u128) -> SandboxId {
    SandboxId::from_bits(n)
}

fn key() -> BootKey {
    BootKey::try_from("0123456789abcdef".to_string()).expect("good")
}

/// Rules that let nobody do anything.
fn rules(subnet: u8) -> Request {
    let subnet = Subnet::new(subnet).expect("good");
    Request::RulesApply { subnet, policy: Policy { ports: Vec::new() } }
}

/// The attacker, and what it has tried.
struct Attack<'a> {
    owner: &'a Owner<'a>,
    helper: Option<Helper>,
    names: BTreeSet<String>,
}

impl Attack<'_> {
    /// One call that must give nothing: an answer that says so, or none.
    fn raw(&mut self, name: &str, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        assert!(self.names.insert(name.to_string()), "{name} was tried already");
        let helper = self.helper.take().unwrap_or_else(|| self.owner.helper());
        let Some((reply, descriptor)) = helper.say(bytes, descriptors) else { return };
        assert!(descriptor.is_none(), "{name}: a descriptor");
        let hangs_up = match &reply {
            Reply::Refused { rule } => rule == "the message is not understood",
            Reply::Failed { .. } | Reply::Ended { .. } | Reply::Unchanged => false,
            Reply::Jails { jails, .. } if jails.is_empty() => false,
            Reply::Memories { memories } if memories.is_empty() => false,
            Reply::Hello { .. }
            | Reply::Facts(_)
            | Reply::Rules { .. }
            | Reply::Jails { .. }
            | Reply::Memories { .. }
            | Reply::Changed => panic!("{name}: {reply:?}"),
        };
        // It says that much and ends.
        self.helper = (!hangs_up).then_some(helper);
    }

    fn ask(&mut self, name: &str, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        self.raw(name, &serde_json::to_vec(request).expect("encodes"), descriptors);
    }

    fn start(&mut self, name: &str, machine: Machine, descriptors: &[BorrowedFd<'_>]) {
        let request = Request::VmStart { sandbox: sandbox(1), machine: Box::new(machine) };
        self.ask(name, &request, descriptors);
    }

    /// A machine with nothing wrong but its id.
    fn start_as(&mut self, id: u128, name: &str) {
        let request = Request::VmStart { sandbox: sandbox(id), machine: Box::new(machine()) };
        let lent = self.owner.lent();
        self.ask(name, &request, &lent.borrowed());
    }

    /// Every way to touch a sandbox that is not there for them.
    fn touch(&mut self, whose: &str, sandbox: &SandboxId) {
        for what in LINES {
            let request = Request::VmOpen { sandbox: sandbox.clone(), what };
            self.ask(&format!("{whose}: open {what:?}"), &request, &[]);
        }
        for kill in [false, true] {
            let request = Request::VmEnd { sandbox: sandbox.clone(), kill };
            self.ask(&format!("{whose}: end, {kill}"), &request, &[]);
        }
        for purpose in [Purpose::Template, Purpose::Guest] {
            let digest = Digest::from_bytes(&[7; 32]);
            let (kernel, image, programs) = (digest.clone(), digest.clone(), digest);
            let of = MemoryOf { purpose, kernel, image, programs };
            let (sandbox, memory) = (sandbox.clone(), key());
            let request = Request::MemoryKeep { sandbox, memory, of };
            self.ask(&format!("{whose}: keep its memory, {purpose:?}"), &request, &[]);
        }
        self.ask(&format!("{whose}: list"), &Request::VmList { after: None }, &[]);
        self.ask(&format!("{whose}: remove"), &Request::VmRemove { sandbox: sandbox.clone() }, &[]);
    }
}

/// Two hundred calls, and then a look at everything.
#[test]
fn a_hostile_daemon_gains_nothing() {
    let Some(ground) = Ground::new() else { return };
    let (victim, attacker) = (ground.owner(VICTIM, 7), ground.owner(ATTACKER, 1));
    let other = ground.owner(ATTACKER, 2);
    // Somebody else's machine and network are there, and a machine of another installation of the attacker's.
    let helpers = [(&victim, sandbox(7)), (&other, sandbox(8))].map(|(owner, id)| {
        let helper = owner.helper();
        assert_eq!(owner.start(&helper, &id), Reply::Changed);
        helper
    });
    assert_eq!(helpers[0].ask(&rules(9), &[]), Reply::Changed);
    let own = derive::bridge(&attacker.install);
    for line in [
        format!("link add {own} type bridge"),
        format!("link set {own} alias another"),
        "link add near type veth peer name far".into(),
        // Addresses of their own would come later.
        "link set near addrgenmode none".into(),
        "link set far addrgenmode none".into(),
        "addr add 10.213.0.9/30 dev near".into(),
        "link set near up".into(),
        "link set far up".into(),
    ] {
        ground.namespace.run("ip", &line.split(' ').collect::<Vec<_>>());
    }
    plant(&ground, &attacker);
    let linked = attacker.folder.join("linked");
    fs::hard_link(victim.folder.join("disk"), &linked).expect("links");
    let before = look(&ground, &victim);

    let mut attack = Attack { owner: &attacker, helper: None, names: BTreeSet::new() };
    messages(&mut attack);
    machines(&mut attack);
    counts(&mut attack);
    kinds(&mut attack, &ground, &victim);
    attack.touch("nobody's", &sandbox(99));
    attack.touch("another owner's", &sandbox(7));
    attack.touch("another installation's", &sandbox(8));
    if attacker.cgroup().is_some() {
        // They would share one cgroup.
        attack.start_as(8, "start another installation's");
    }
    // A memory that the victim has kept: it is told of to nobody else, and nobody else drops it.
    let kept = ground.jails().join(format!("{VICTIM}-{}-memories", victim.install));
    let kept = kept.join(key().as_str());
    fs::create_dir_all(&kept).expect("a folder");
    for name in ["record", "state", "memory"] {
        fs::write(kept.join(name), "{}").expect("writes");
    }
    attack.ask("list another owner's memories", &Request::MemoryList {}, &[]);
    attack.ask("drop another owner's memory", &Request::MemoryDrop { memory: key() }, &[]);
    assert!(fs::read_dir(&kept).expect("reads").count() == 3, "it is still there");
    fs::remove_dir_all(kept.parent().expect("above")).expect("removes");
    planted(&mut attack, &ground);
    network(&mut attack);
    strangers(&mut attack);
    let tried = attack.names.len() + at_the_door(&ground, &attacker, &victim);
    assert!(tried >= 80, "{tried} calls");
    eprintln!("{tried} hostile calls");
    drop(attack);

    assert_same(&before, &look(&ground, &victim));
    let jails = ground.jails().join(format!("{ATTACKER}-{}", attacker.install));
    let left = fs::read_dir(jails).expect("what was planted").count();
    assert_eq!(left, 3, "no jail was made, and none that was planted is gone");

    // The same call with nothing wrong in it is carried out: it was not the place that refused.
    let good = attacker.helper();
    assert_eq!(attacker.start(&good, &sandbox(1)), Reply::Changed);
    ground.namespace.run("ip", &["link", "delete", &own]);
    assert_eq!(good.ask(&rules(4), &[]), Reply::Changed);
    for helper in [&good, &helpers[0]] {
        assert_eq!(helper.ask(&Request::RulesRemove {}, &[]), Reply::Changed);
    }
    let remove = |n| Request::VmRemove { sandbox: sandbox(n) };
    assert_eq!(good.ask(&remove(1), &[]), Reply::Changed);
    for (helper, id) in helpers.into_iter().zip([7, 8]) {
        assert_eq!(helper.ask(&remove(id), &[]), Reply::Changed, "it was still theirs");
        helper.hang_up();
    }
    good.hang_up();
    ground.assert_empty();
    for owner in [&victim, &attacker] {
        assert!(owner.cgroup().is_none_or(|folder| !folder.exists()));
    }
}

/// What the host is, outside of the jails' folder.
fn look(ground: &Ground, victim: &Owner<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let folders = ["/etc", "/usr/bin", "/usr/sbin", "/usr/local", "/root/.ssh"];
    for folder in folders.iter().map(Path::new).chain([victim.folder.as_path()]) {
        found.extend(census(folder));
    }
    found.extend(census(&victim.jail(&sandbox(7)).0));
    found.extend(census(&ground.path().join("outside")));
    found.push(ground.namespace.census());
    let settings = "cd /proc/sys/net; grep -rs . ipv4/conf ipv4/ip_forward ipv6/conf | sort";
    found.push(ground.namespace.run("sh", &["-c", &format!("{settings} || true")]));
    found.push(fs::read_to_string("/proc/self/mountinfo").expect("mounts"));
    found.push(format!("{:?}", ground.processes()));
    found
}

fn messages(attack: &mut Attack<'_>) {
    let id = "00000000000000000000000005";
    let remove = |id: &str| format!(r#"{{"op":"vm-remove","sandbox":"{id}"}}"#);
    let good = serde_json::to_string(&Request::VmStart {
        sandbox: sandbox(1),
        machine: Box::new(machine()),
    });
    let good = good.expect("encodes");
    let mut texts: Vec<String> = [
        "",
        "{}",
        "null",
        "[]",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        r#"{"op":"exec","argv":["sh"]}"#,
        r#"{"op":"VmList","after":null}"#,
        r#"{"op":"vm-list","after":null}{"op":"vm-list","after":null}"#,
        r#"{"op":"vm-list","after":null,"op":"vm-list"}"#,
        r#"{"op":"vm-list\u0000","after":null}"#,
        r#"{"op":["vm-list"],"after":null}"#,
        r#"{"op":"hello","version":-1,"install":"00000000000000000000000001"}"#,
        r#"{"op":"hello","version":3,"install":"../../../../etc"}"#,
        r#"{"op":"bridge-ensure","subnet":16}"#,
        r#"{"op":"tap-set","sandbox":"00000000000000000000000005","up":"yes"}"#,
        r#"{"op":"vm-open","sandbox":"00000000000000000000000005","what":"/etc/shadow"}"#,
        r#"{"op":"vm-end","sandbox":"00000000000000000000000005","kill":1}"#,
        r#"{"op":"vm-remove"}"#,
        r#"{"op":"memory-drop","memory":"../../../../etc"}"#,
        r#"{"op":"memory-drop","memory":"0123456789abcde/"}"#,
        r#"{"op":"memory-list","uid":0}"#,
        "\u{feff}{\"op\":\"vm-list\",\"after\":null}",
        "// {\"op\":\"vm-list\"}",
    ]
    .map(String::from)
    .to_vec();
    texts.extend(
        ["../../../../../../../../etc", "0000000000000000000000000", "", "..", "/etc"].map(remove),
    );
    texts.extend([
        remove(&format!("{id}0")),
        remove(&id.replace('5', "u")),
        remove(&id.replace("05", "\\u0000")),
        remove(&id.replace("05", "5\\n")),
        remove(id).replace('}', r#","path":"/etc"}"#),
        remove(id).replace('}', r#","uid":0}"#),
        remove(id).replace(&format!("\"{id}\""), "5"),
    ]);
    for (from, to) in [
        ("0123456789abcdef", "../../../../etc/"),
        ("quiet panic=0", "a\\\" -chardev x"),
        ("quiet panic=0", "a,b;$(sh)"),
        ("quiet panic=0", "a\\nb"),
        ("\"qemu\"", "\"sh\""),
        ("\"none\"", "\"bridge\""),
        ("\"cpus\":1", "\"cpus\":256"),
        ("\"cpus\":1", "\"cpus\":-1"),
        ("\"cpus\":1", "\"cpus\":1e0"),
        ("\"memory_mib\":128", "\"memory_mib\":4294967296"),
        ("\"disks\":1", "\"disks\":256"),
        ("\"kvm\":false", "\"kvm\":\"no\""),
        ("\"kvm\":false", "\"kvm\":false,\"argv\":[\"-monitor\",\"stdio\"]"),
        ("\"kvm\":false", "\"kvm\":false,\"kernel\":\"/etc/shadow\""),
        ("\"kvm\":false", "\"kvm\":false,\"uid\":0"),
        ("\"op\":", "\"environment\":[\"LD_PRELOAD=/tmp/x\"],\"op\":"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        texts.push(text);
    }
    let lent = attack.owner.lent();
    for (index, text) in texts.iter().enumerate() {
        let own = if text.contains("vm-start") { lent.borrowed() } else { Vec::new() };
        attack.raw(&format!("message {index}: {text}"), text.as_bytes(), &own);
    }
    attack.raw("not text", b"\xff\xfe\x00{", &[]);
    for length in [64 << 10, (64 << 10) + 1, 100_000] {
        attack.raw(&format!("{length} spaces"), &vec![b' '; length], &[]);
    }
}

fn machines(attack: &mut Attack<'_>) {
    let bad = [
        Machine { cpus: 0, ..machine() },
        Machine { cpus: 33, ..machine() },
        Machine { memory_mib: 0, ..machine() },
        Machine { memory_mib: 63, ..machine() },
        Machine { memory_mib: (4 << 20) + 1, ..machine() },
        // Within all bounds, but more than a host that runs this has.
        Machine { memory_mib: 4 << 20, ..machine() },
        Machine { cid: 0, ..machine() },
        Machine { cid: 2, ..machine() },
        Machine { cid: u32::MAX, ..machine() },
        Machine { read_only: 2, ..machine() },
        Machine { read_only: u16::MAX, ..machine() },
        Machine { backend: Backend::Firecracker, ..machine() },
        Machine { backend: Backend::Firecracker, kvm: true, card: Card::User, ..machine() },
        Machine { from: Some(key()), ..machine() },
        Machine { card: Card::Tap, ..machine() },
    ];
    for (index, machine) in bad.into_iter().enumerate() {
        let lent = attack.owner.lent();
        attack.start(&format!("machine {index}: {machine:?}"), machine, &lent.borrowed());
    }
    for disks in [0, 17, 255] {
        let lent = attack.owner.lent();
        let files = lent.borrowed();
        let count = (2 + usize::from(disks)).min(40);
        let files: Vec<_> = files.iter().cycle().take(count).copied().collect();
        attack.start(&format!("{disks} disks"), Machine { disks, ..machine() }, &files);
    }
}

fn counts(attack: &mut Attack<'_>) {
    let lent = attack.owner.lent();
    let files = lent.borrowed();
    for count in [0, 1, 2, 4, 18, 24, 25, 40] {
        let files: Vec<_> = files.iter().cycle().take(count).copied().collect();
        attack.start(&format!("{count} descriptors"), machine(), &files);
    }
    let id = sandbox(1);
    let subnet = Subnet::new(0).expect("good");
    for request in [
        Request::Probe {},
        Request::VmList { after: None },
        Request::VmOpen { sandbox: id.clone(), what: Line::Agent },
        Request::VmEnd { sandbox: id.clone(), kill: true },
        Request::VmRemove { sandbox: id.clone() },
        Request::TapEnsure { sandbox: id },
        Request::BridgeEnsure { subnet },
        rules(0),
        Request::RulesRemove {},
        Request::DnsRoute {},
    ] {
        attack.ask(&format!("one descriptor with {request:?}"), &request, &files[..1]);
    }
}

/// Every kind of descriptor that is not a file of the caller's, in the place of a kernel and of a disk.
fn kinds(attack: &mut Attack<'_>, ground: &Ground, victim: &Owner<'_>) {
    let own = &attack.owner.folder;
    let path = |name: &str| own.join(name);
    let file = |path: &Path| OwnedFd::from(File::open(path).expect("opens"));
    let both = |path: &Path| -> OwnedFd {
        File::options().read(true).write(true).open(path).expect("opens").into()
    };
    mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    chown(path("fifo"), Some(ATTACKER), Some(ATTACKER)).expect("theirs");
    let memfd = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&memfd, 1 << 20).expect("grows");
    rustix::fs::fchown(&memfd, Some(rustix::fs::Uid::from_raw(ATTACKER)), None).expect("theirs");
    let (pipe, end) = rustix::pipe::pipe().expect("a pipe");
    let mut sleeper =
        Command::new("sleep").arg("600").uid(ATTACKER).spawn().expect("a process of theirs");
    let process = Path::new("/proc").join(sleeper.id().to_string());
    let write_only = File::options().write(true).open(path("disk")).expect("opens");
    let things: Vec<(&str, OwnedFd)> = vec![
        ("a folder", file(own)),
        ("the root folder", file(Path::new("/"))),
        ("/dev/null", both(Path::new("/dev/null"))),
        ("/dev/zero, read", file(Path::new("/dev/zero"))),
        ("/dev/net/tun", both(Path::new("/dev/net/tun"))),
        ("a socket", UnixStream::pair().expect("a pair").0.into()),
        ("a listener", UnixListener::bind(path("sock")).expect("binds").into()),
        ("a pipe to read", pipe),
        ("a pipe to write", end),
        ("a FIFO", both(&path("fifo"))),
        ("memory", memfd),
        ("an event", rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("one")),
        ("a place", open(path("disk"), OFlags::PATH, Mode::empty()).expect("opens")),
        ("a place elsewhere", open("/etc/shadow", OFlags::PATH, Mode::empty()).expect("opens")),
        ("their process", file(&process.join("status"))),
        ("their process's memory", both(&process.join("mem"))),
        ("a namespace", file(&process.join("ns/net"))),
        ("a setting", both(Path::new("/proc/sys/kernel/core_pattern"))),
        ("sysfs", file(Path::new("/sys/kernel/uevent_seqnum"))),
        ("/etc/passwd", file(Path::new("/etc/passwd"))),
        ("/etc/shadow", file(Path::new("/etc/shadow"))),
        ("/etc/passwd to write", both(Path::new("/etc/passwd"))),
        ("another's disk", both(&victim.folder.join("disk"))),
        ("another's disk to read", file(&victim.folder.join("disk"))),
        ("a link to another's disk", both(&path("linked"))),
        ("a link to another's disk to read", file(&path("linked"))),
        ("another's record", file(&victim.jail(&sandbox(7)).0.join("record"))),
        ("jails' lock", both(&ground.jails().join("lock"))),
        ("write only", write_only.into()),
    ];
    for (name, thing) in &things {
        for place in 0..3 {
            let lent = attack.owner.lent();
            let mut files = lent.borrowed();
            files[place] = thing.as_fd();
            attack.start(&format!("{name} at {place}"), machine(), &files);
        }
    }
    let Lent(mut files) = attack.owner.lent();
    files[0] = attack.owner.open("kernel", true);
    attack.start("a kernel to write", machine(), &Lent(files).borrowed());
    let Lent(mut files) = attack.owner.lent();
    files[2] = attack.owner.open("disk", false);
    attack.start("a disk to read", machine(), &Lent(files).borrowed());
    let lent = attack.owner.lent();
    let machine = Machine { read_only: 1, ..machine() };
    attack.start("a disk to write that is only read", machine, &lent.borrowed());
    sleeper.kill().and_then(|()| sleeper.wait()).expect("ends");
}

/// Things in the place of jails. Only root could put them there.
fn plant(ground: &Ground, attacker: &Owner<'_>) {
    let outside = ground.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("record"), "{}").expect("writes");
    let (folder, _) = attacker.jail(&sandbox(101));
    fs::create_dir_all(&folder).expect("a folder");
    symlink(&outside, attacker.jail(&sandbox(102)).0).expect("links");
    fs::write(attacker.jail(&sandbox(103)).0, "").expect("writes");
    let owner = folder.parent().expect("a parent");
    fs::set_permissions(owner, fs::Permissions::from_mode(0o700)).expect("closed");
}

fn planted(attack: &mut Attack<'_>, ground: &Ground) {
    for n in [101, 102, 103] {
        attack.start_as(n, &format!("start over {n}"));
    }
    for n in [102, 103] {
        for what in LINES {
            let request = Request::VmOpen { sandbox: sandbox(n), what };
            attack.ask(&format!("open {what:?} of {n}"), &request, &[]);
        }
        let request = Request::VmEnd { sandbox: sandbox(n), kill: true };
        attack.ask(&format!("end {n}"), &request, &[]);
        attack.ask(&format!("remove {n}"), &Request::VmRemove { sandbox: sandbox(n) }, &[]);
    }
    assert!(ground.path().join("outside/record").exists());
}

/// The bridge of their name has another's alias, and the first subnet overlaps a route.
fn network(attack: &mut Attack<'_>) {
    let id = sandbox(1);
    let subnet = |n| Subnet::new(n).expect("good");
    let port = |n, groups| {
        PolicyPort(sandbox(9), HostNumber::new(n).expect("good"), Egress::Public, groups)
    };
    let policy = |ports| Request::RulesApply { subnet: subnet(1), policy: Policy { ports } };
    for request in [
        Request::BridgeEnsure { subnet: subnet(0) },
        Request::BridgeEnsure { subnet: subnet(1) },
        Request::BridgeRemove {},
        Request::TapEnsure { sandbox: id.clone() },
        Request::TapSet { sandbox: id.clone(), up: true },
        Request::TapRemove { sandbox: id.clone() },
        Request::TapRemove { sandbox: sandbox(7) },
        Request::RulesRemove {},
        Request::DnsRoute {},
        policy(vec![port(2, vec![]), port(2, vec![])]),
        policy(vec![port(2, vec![u16::MAX])]),
        policy(vec![port(2, vec![0; 100])]),
    ] {
        attack.ask(&format!("{request:?}"), &request, &[]);
    }
}

/// Callers who did not say who they are, or speak another version.
fn strangers(attack: &mut Attack<'_>) {
    let (id, subnet) = (sandbox(1), Subnet::new(1).expect("good"));
    let requests = [
        Request::VmStart { sandbox: id.clone(), machine: Box::new(machine()) },
        Request::VmEnd { sandbox: id.clone(), kill: true },
        Request::VmRemove { sandbox: id.clone() },
        Request::BridgeEnsure { subnet },
        Request::BridgeRemove {},
        Request::TapEnsure { sandbox: id.clone() },
        Request::TapSet { sandbox: id.clone(), up: true },
        Request::TapRemove { sandbox: id.clone() },
        rules(1),
        Request::RulesRemove {},
        Request::DnsRoute {},
        Request::VmList { after: None },
        Request::VmOpen { sandbox: id, what: Line::Agent },
    ];
    for version in [None, Some(0), Some(PROTOCOL + 1)] {
        for request in &requests {
            let helper = attack.owner.stranger(&[]);
            if let Some(version) = version {
                let install = attack.owner.install.clone();
                let reply = helper.ask(&Request::Hello { version, install }, &[]);
                assert_eq!(reply, Reply::Hello { version: PROTOCOL });
            }
            attack.helper = Some(helper);
            let lent = attack.owner.lent();
            let is_start = matches!(request, Request::VmStart { .. });
            let files = if is_start { lent.borrowed() } else { Vec::new() };
            attack.ask(&format!("as {version:?}: {request:?}"), request, &files);
        }
    }
    attack.helper = None;
    for install in [7, 2] {
        let install = InstallId::from_bits(install);
        attack.ask(&format!("be {install}"), &Request::Hello { version: PROTOCOL, install }, &[]);
    }
    // Under the name of another owner's installation there is still nothing of that owner's.
    let victim = InstallId::from_bits(7);
    attack.helper = Some(attack.owner.stranger(&[]).hello(&victim));
    attack.touch("by the name of another's installation", &sandbox(7));
    networks(attack, "another's installation");
    let alike = InstallId::from_bits(victim.bits() | 1 << 100);
    attack.helper = Some(attack.owner.stranger(&[]).hello(&alike));
    networks(attack, "an installation like another's");
    attack.helper = None;
}

/// What would have effects on the ports of whoever has these names, or names of the same letters.
fn networks(attack: &mut Attack<'_>, whose: &str) {
    for request in [
        rules(3),
        Request::BridgeEnsure { subnet: Subnet::new(3).expect("good") },
        Request::TapEnsure { sandbox: sandbox(7) },
        Request::TapSet { sandbox: sandbox(7), up: false },
        Request::BridgeRemove {},
        Request::RulesRemove {},
    ] {
        attack.ask(&format!("{whose}: {request:?}"), &request, &[]);
    }
}

/// The program itself, as the attacker may start it. How often it was tried.
fn at_the_door(ground: &Ground, attacker: &Owner<'_>, victim: &Owner<'_>) -> usize {
    let program = super::home::programs().join("banger-helper");
    let (stream, _far) = UnixStream::pair().expect("a pair");
    let inputs: [(&str, Stdio); 3] = [
        ("a stream", OwnedFd::from(stream).into()),
        ("a file", File::open("/etc/passwd").expect("opens").into()),
        ("nothing", Stdio::null()),
    ];
    let tried = inputs.len() + 1;
    for (name, input) in inputs {
        let mut command = ground.namespace.command(&program);
        let output = command.stdin(input).output().expect("runs");
        assert!(!output.status.success() && output.stdout.is_empty(), "{name}");
    }
    // The way into a jail is no way up: it needs root to begin with.
    let plan = serde_json::json!({
        "root": victim.folder, "mounts": [], "system": [], "cgroup": null, "program": "/bin/sh",
        "arguments": ["-c", "id -u; touch /etc/was-here"], "user": 0, "largest": 1 << 20, "mark": null,
    });
    let output = Command::new(&program)
        .args(["launch", &plan.to_string()])
        .uid(ATTACKER)
        .gid(ATTACKER)
        .current_dir(&attacker.folder)
        .output()
        .expect("runs");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    tried
}

/// The limit of jails is an owner's, whatever it calls its installations (R-H10).
#[test]
fn an_owner_has_so_many_jails_under_all_names_together() {
    let Some(ground) = Ground::new() else { return };
    let owner = ground.owner(ATTACKER, 1);
    let other = ground.jails().join(format!("{ATTACKER}-{}", InstallId::from_bits(2)));
    // Another owner's do not count.
    let foreign = ground.jails().join(format!("{ATTACKER}0-{}", InstallId::from_bits(2)));
    for n in 0..100 {
        for folder in [&other, &foreign] {
            fs::create_dir_all(folder.join(sandbox(n).as_str())).expect("a folder");
        }
    }
    // Nor do memories.
    let memories = ground.jails().join(format!("{ATTACKER}-{}-memories", InstallId::from_bits(2)));
    for n in 0..5 {
        fs::create_dir_all(memories.join(format!("{n:016x}"))).expect("a folder");
    }
    fs::set_permissions(ground.jails(), fs::Permissions::from_mode(0o700)).expect("closed");
    let helper = owner.helper();
    let full = Reply::Refused { rule: "there are too many jails".into() };
    assert_eq!(owner.start(&helper, &sandbox(1)), full);
    fs::remove_dir(other.join(sandbox(0).as_str())).expect("removes");
    assert_eq!(owner.start(&helper, &sandbox(1)), Reply::Changed);
    assert_eq!(owner.start(&helper, &sandbox(2)), full);
    assert_eq!(helper.ask(&Request::VmRemove { sandbox: sandbox(1) }, &[]), Reply::Changed);
    helper.hang_up();
    ground.assert_empty();
}
