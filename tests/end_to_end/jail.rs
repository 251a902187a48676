//! Machines in their jails: what one is made of, what its own processes may do to it, how it goes, and what becomes of it
//! when the helper dies.

use super::home::{Home, IMAGE, can_run, each, firecracker};
use super::owner::{Ground, Owner, assert_same, census};
use crate::helper::{Helper, start_for};
use banger_wire::helper::{Line, Reply, Request};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::machine::LOG;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat, symlinkat};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const OWNER: u32 = 60_103;
/// The users of jails.
const USERS: std::ops::Range<u32> = 0x7100_0000..0x7101_0000;
pub(super) const ONE: &str = "sandbox \"a\" { image \"base\"; memory \"256MiB\"; }\n";
const OTHER: &str = "sandbox \"b\" { image \"base\"; memory \"256MiB\"; }\n";

fn sandbox(n: u128) -> SandboxId {
    SandboxId::from_bits(n)
}

/// A home whose sandboxes run.
pub(super) fn home(sandboxes: &str) -> Home {
    let home = Home::new();
    home.write(&format!("{IMAGE}{sandboxes}"));
    home.ok(&["apply"]);
    home
}

/// A second helper for a home's installation, and the sandbox of its first jail.
pub(super) fn helper_of(home: &Home) -> (Helper, SandboxId) {
    let (jail, _) = home.jails().remove(0);
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let owner = name(jail.parent().expect("a parent"));
    let install = InstallId::new(owner.trim_start_matches("0-")).expect("an installation");
    let helper = start_for(0, &home.path().join("jails"), home.namespace(), &[]).expect("root");
    (helper.hello(&install), SandboxId::new(name(&jail)).expect("a sandbox"))
}

pub(super) fn open(helper: &Helper, sandbox: &SandboxId, what: Line) -> (Reply, Option<OwnedFd>) {
    let request = Request::VmOpen { sandbox: sandbox.clone(), what };
    helper.say(&serde_json::to_vec(&request).expect("encodes"), &[]).expect("an answer")
}

fn remove(helper: &Helper, sandbox: &SandboxId) -> Reply {
    helper.ask(&Request::VmRemove { sandbox: sandbox.clone() }, &[])
}

/// The processes whose root this is.
fn inside(root: &Path) -> Vec<PathBuf> {
    let same = |one: &fs::Metadata, other: &fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    let own = fs::metadata(root).expect("a root");
    let entries = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    entries
        .filter(|path| fs::metadata(path.join("root")).is_ok_and(|meta| same(&meta, &own)))
        .filter(|path| path.file_name().is_some_and(|name| name.as_bytes()[0].is_ascii_digit()))
        .collect()
}

fn field(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_default().split_whitespace().map(String::from).collect()
}

/// What one process of a jail is allowed. Returns whether the VMM it is.
fn look_at(process: &Path, uid: u32, jail: &Path, daemon: Pid) -> bool {
    let read = |name: &str| fs::read_to_string(process.join(name)).expect(name);
    let is_vmm = read("comm").starts_with("qemu");
    let user = uid.to_string();
    let tasks: Vec<_> = fs::read_dir(process.join("task")).expect("threads").flatten().collect();
    assert!(tasks.len() > usize::from(is_vmm), "{}", tasks.len());
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).expect("a status");
        for name in ["Uid", "Gid"] {
            assert!(field(&status, name).iter().all(|number| *number == user), "{status}");
        }
        assert!(field(&status, "Groups").is_empty(), "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), ["1"], "{status}");
        for name in ["CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, name), ["0000000000000000"], "{status}");
        }
        // The vsock device's program has no filter of its own.
        assert!(!is_vmm || field(&status, "Seccomp") == ["2"], "{status}");
    }
    let limits = read("limits");
    for (name, value) in [("Max core file size", "0"), ("Max open files", "1024")] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        assert_eq!(line.split_whitespace().next(), Some(value), "{limits}");
    }
    let environment = read("environ");
    let variables = environment.split('\0').filter(|variable| !variable.is_empty()).count();
    assert_eq!(variables, 1, "{environment:?}");
    if let Some(line) = read("cgroup").lines().find(|line| line.starts_with("0::")) {
        let id = jail.file_name().expect("a name").to_string_lossy();
        assert!(line.ends_with(&format!("/banger-0/{id}")), "{line}");
    }
    for (file, limit) in super::cgroup::limits(process) {
        match file {
            // One processor more than the guest's.
            "cpu.max" => assert_eq!(limit, "200000 100000"),
            "pids.max" => assert_eq!(limit, "128"),
            _ => assert!(limit.parse::<u64>().is_ok_and(|bytes| bytes >> 20 < 2048), "{limit}"),
        }
    }
    // Neither the host's network nor its memory that is shared by name.
    for kind in ["ns/net", "ns/ipc", "ns/mnt"] {
        let own = fs::read_link(process.join(kind)).expect(kind);
        let daemon = format!("/proc/{}/{kind}", daemon.as_raw());
        assert_ne!(own, fs::read_link(daemon).expect(kind), "{kind}");
    }
    for mount in read("mountinfo").lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (point, options) = (fields[4], fields[5].split(',').collect::<Vec<_>>());
        let has = |option| options.contains(&option);
        assert!(has("nosuid"), "{mount}");
        assert!(has("ro") || point == "/" || point.starts_with("/disk"), "{mount}");
        assert!(has("noexec") || has("ro"), "nothing that is written can be run: {mount}");
        assert!(has("nodev") || point == "/", "{mount}");
    }
    is_vmm
}

/// Every descriptor leads to something of the jail's, or to nothing at all.
pub(super) fn look_at_descriptors(process: &Path, own: &BTreeSet<(u64, u64)>) -> usize {
    let entries: Vec<_> =
        fs::read_dir(process.join("fd")).expect("descriptors").flatten().collect();
    for entry in &entries {
        // One that was closed meanwhile.
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let (kind, text) = (meta.file_type(), link.to_string_lossy());
        let device = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        let good = kind.is_socket()
            || text.starts_with("anon_inode:")
            || text.starts_with("/memfd:")
            || own.contains(&(meta.dev(), meta.ino()))
            || (kind.is_fifo() && text.starts_with("pipe:"))
            || (kind.is_char_device() && [(1, 3), (10, 200), (10, 232)].contains(&device));
        assert!(good, "{} leads to {text}", entry.path().display());
    }
    entries.len()
}

#[test]
fn a_machine_lives_in_a_jail_of_its_own() {
    if !can_run() {
        return;
    }
    if firecracker() {
        eprintln!("NOT RUN: this is QEMU's jail; Firecracker's is in firecracker.rs");
        return;
    }
    let home = home(&format!("{ONE}{OTHER}"));
    let jails = home.jails();
    let daemon = home.daemon().expect("runs");
    assert_eq!(jails.len(), 2);
    assert_eq!(fs::metadata(home.path().join("jails")).expect("there").mode() & 0o777, 0o700);
    let (mut users, mut writable) = (BTreeSet::new(), Vec::new());
    for (jail, root) in &jails {
        let uid = fs::metadata(root).expect("a root").uid();
        assert!(USERS.contains(&uid) && users.insert(uid), "{uid}");
        let names = |folder: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(folder).expect("a folder").flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let set = |text: &str| text.split(' ').map(String::from).collect::<BTreeSet<_>>();
        assert_eq!(names(jail), set("record root"));
        assert_eq!(names(&root.join("dev")), set("null urandom"));
        let expected = "console.sock dev disk0 disk1 initramfs kernel lib lib64 log usr v.sock \
                        vhost-device-vsock vhost.sock";
        let mut found = names(root);
        // It is removed or left when both ends have met.
        found.insert("vhost.sock".into());
        assert_eq!(found, set(expected));
        assert!(names(&root.join("usr")).is_empty(), "a mount that only they see");
        for entry in ["", "dev"].iter().flat_map(|name| fs::read_dir(root.join(name))).flatten() {
            let entry = entry.expect("an entry");
            let meta = fs::symlink_metadata(entry.path()).expect("there");
            assert!(meta.is_symlink() || meta.mode() & 0o6022 == 0, "{}", entry.path().display());
        }

        let processes = inside(root);
        let vmms = processes.iter().filter(|process| look_at(process, uid, jail, daemon)).count();
        assert_eq!((processes.len(), vmms), (2, 1), "{processes:?}");
        for process in &processes {
            // As they see it, with their mounts.
            let seen = fs::read_dir(process.join("root")).expect("a root").flatten();
            let seen = seen.filter_map(|entry| fs::metadata(entry.path()).ok());
            let mut own: BTreeSet<_> = seen.map(|meta| (meta.dev(), meta.ino())).collect();
            own.extend(fs::metadata(root.join(LOG)).map(|meta| (meta.dev(), meta.ino())));
            let count = look_at_descriptors(process, &own);
            assert!(count > 3, "{count}");
            for mount in fs::read_to_string(process.join("mountinfo")).expect("mounts").lines() {
                let fields: Vec<&str> = mount.split(' ').collect();
                if fields[5].split(',').any(|option| option == "rw") {
                    let place = process.join("root").join(fields[4].trim_start_matches('/'));
                    let meta = fs::metadata(place).expect("there");
                    writable.push((uid, meta.dev(), meta.ino()));
                }
            }
        }
    }
    assert!(writable.len() >= 6, "roots and disks: {writable:?}");
    let shared = |one: &(u32, u64, u64), other: &(u32, u64, u64)| {
        one.0 != other.0 && (one.1, one.2) == (other.1, other.2)
    };
    for one in &writable {
        assert!(!writable.iter().any(|other| shared(one, other)), "{one:?} is in two jails");
    }
    for (pid, name) in home.processes() {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        for never in ["--no-seccomp", "--seccomp-filter", "--enable-pci", "-monitor", "-qmp"] {
            assert!(!words.split('\0').any(|word| word.starts_with(never)), "{name}: {words}");
        }
        assert!(!name.starts_with("qemu") || words.contains("-sandbox\0on,"), "{words}");
    }
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// The helper of a home's daemon, which starts it when it has something to ask.
fn helper_process(home: &Home) -> Pid {
    let find = |home: &Home| {
        let all = home.namespace().processes().into_iter();
        all.filter(|(_, name)| name == "banger-helper").map(|(pid, _)| Pid::from_raw(pid)).next()
    };
    home.wait("a helper", Duration::from_secs(20), |home| find(home).is_some());
    find(home).expect("it stays")
}

/// Begins to apply what is written, and kills the helper so many milliseconds after there are so many jails.
fn apply_and_kill(home: &Home, jails: usize, moment: u64) {
    let helper = helper_process(home);
    let mut client = home.command(&["apply", "--yes"]);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    while home.jails().len() != jails && client.try_wait().expect("asks").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(moment));
    kill(helper, Signal::SIGKILL).expect("kills");
    client.wait().expect("ends");
    home.ok(&["apply", "--yes"]);
}

#[test]
fn a_killed_helper_is_no_harm_to_a_guest() {
    if !can_run() {
        return;
    }
    let home = home(ONE);
    let boot = home.boot_id("a");
    for _ in 0..3 {
        kill(helper_process(&home), Signal::SIGKILL).expect("kills");
        // One question finds nobody there; the next has a new helper.
        home.wait("a guest that answers", Duration::from_secs(20), |home| {
            home.banger(&["vm", "exec", "a", "--", "echo", "works"]).out == "works\n"
        });
        assert_eq!(home.boot_id("a"), boot);
    }
    assert_eq!(home.guests().len(), each(), "{:?}", home.guests());
    // While a second machine starts: its jail is there, then a process, then both. And while it goes.
    for moment in [0, 10, 25, 60] {
        home.write(&format!("{IMAGE}{ONE}{OTHER}"));
        apply_and_kill(&home, 2, moment);
        assert_eq!(home.guests().len(), 2 * each(), "{:?}", home.guests());
        assert_eq!((home.jails().len(), home.boot_id("a")), (2, boot.clone()));
        home.write(&format!("{IMAGE}{ONE}"));
        apply_and_kill(&home, 1, moment);
        assert_eq!(home.guests().len(), each(), "{:?}", home.guests());
        assert_eq!((home.jails().len(), home.boot_id("a")), (1, boot.clone()));
    }
    assert!(home.log().contains("the helper is gone"), "none was killed while it was asked");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// What is there of an owner: files in jails, processes, cgroups.
fn state(ground: &Ground, owner: &Owner<'_>) -> Vec<String> {
    let mut found = census(&ground.jails());
    // A FIFO's time is that of the last word in it.
    found.retain(|line| !line.contains("/root/log "));
    found.push(format!("{:?}", ground.processes()));
    found.extend(owner.cgroup().iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).map(|e| e.path().display().to_string())
    }));
    found
}

#[test]
fn each_operation_done_again_changes_nothing() {
    let Some(ground) = Ground::new() else { return };
    let (owner, id) = (ground.owner(OWNER, 1), sandbox(1));
    let helper = owner.helper();
    // QEMU's, whoever runs the other tests' guests.
    assert_eq!(owner.start(&helper, &id), Reply::Changed);
    // The socket between the two goes when they have met, by most releases of the device.
    let met = || !owner.jail(&id).1.join("vhost.sock").exists();
    for _ in (0..100).take_while(|_| !met()) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let begun = state(&ground, &owner);
    let again = |what: &str, expected: &[String], work: &dyn Fn(&Helper)| {
        // Of the same helper, and of one that knows nothing yet.
        let other = owner.helper();
        for helper in [&helper, &other] {
            work(helper);
            assert_same(expected, &state(&ground, &owner));
        }
        other.hang_up();
        eprintln!("{what}: three times the same");
    };
    again("start", &begun, &|helper| {
        let there = matches!(owner.start(helper, &id), Reply::Refused { .. });
        assert!(there, "it is there already");
    });
    let list = |helper: &Helper| {
        let reply = helper.ask(&Request::VmList { after: None }, &[]);
        let Reply::Jails { mut jails, more: false } = reply else { panic!("{reply:?}") };
        let living = jails.iter_mut().flat_map(|jail| &mut jail.living);
        living.for_each(|process| process.secs = 0);
        jails
    };
    let listed = list(&helper);
    assert_eq!((listed.len(), listed[0].living.len()), (1, 2), "{listed:?}");
    again("list", &begun, &|helper| assert_eq!(list(helper), listed));
    for line in [Line::Agent, Line::Log, Line::Vmm, Line::Vsock] {
        again("open", &begun, &|helper| {
            let (reply, descriptor) = open(helper, &id, line);
            assert_eq!((reply, descriptor.is_some()), (Reply::Changed, true), "{line:?}");
        });
    }
    for line in [Line::Api, Line::Metrics] {
        again("open", &begun, &|helper| assert!(open(helper, &id, line).1.is_none()));
    }
    let end =
        |helper: &Helper, kill| helper.ask(&Request::VmEnd { sandbox: id.clone(), kill }, &[]);
    assert_eq!(end(&helper, false), Reply::Changed, "it is asked");
    assert_eq!(end(&helper, true), Reply::Changed, "it is gone");
    let ended = state(&ground, &owner);
    assert_eq!(inside(&owner.jail(&id).1), Vec::<PathBuf>::new());
    for kill in [true, false] {
        again("end", &ended, &|helper| assert_eq!(end(helper, kill), Reply::Unchanged));
    }
    assert_eq!(remove(&helper, &id), Reply::Changed);
    let removed = state(&ground, &owner);
    again("remove", &removed, &|helper| assert_eq!(remove(helper, &id), Reply::Unchanged));
    helper.hang_up();
    ground.assert_empty();
    assert!(owner.cgroup().is_none_or(|folder| !folder.exists()));
    let left = fs::read_dir(ground.jails()).expect("there").flatten().map(|e| e.file_name());
    assert_eq!(left.collect::<BTreeSet<_>>(), ["lock", "next"].map(Into::into).into());
}

/// Fills a jail as whoever lived there could have.
fn fill(root: &Path, outside: &Path) {
    let many = root.join("many");
    fs::create_dir(&many).expect("a folder");
    for n in 0..12_000 {
        fs::write(many.join(n.to_string()), "").expect("writes");
    }
    let mut folder: OwnedFd = fs::File::open(root).expect("opens").into();
    for _ in 0..1_000 {
        mkdirat(&folder, "deep0", Mode::RWXU).expect("a folder");
        symlinkat(outside, &folder, "out").expect("links");
        folder = openat(&folder, "deep0", OFlags::DIRECTORY, Mode::empty()).expect("opens");
    }
    symlink(outside.join("file"), root.join("file")).expect("links");
    symlink("loop", root.join("loop")).expect("links");
    drop(UnixListener::bind(root.join("socket")).expect("binds"));
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::empty(), 0).expect("a FIFO");
    let long = vec![b'x'; 255];
    let names: [&[u8]; 10] =
        [b"...", b" ", b"-rf", b"\n", b"\x1b[2J", b"\xff\xfe", b"*", b"record", b"deep1", &long];
    for name in names {
        fs::create_dir(root.join(OsStr::from_bytes(name))).expect("a folder");
        let inner = root.join(OsStr::from_bytes(name)).join("..x");
        fs::write(&inner, "x").expect("writes");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o6000)).expect("sets");
    }
    fs::set_permissions(root.join("record"), fs::Permissions::from_mode(0o0)).expect("sets");
    fs::set_permissions(root, fs::Permissions::from_mode(0o1555)).expect("sets");
}

#[test]
fn whatever_is_in_a_jail_goes_with_it_and_nothing_else() {
    let Some(ground) = Ground::new() else { return };
    let (owner, id) = (ground.owner(OWNER, 1), sandbox(1));
    let helper = owner.helper();
    assert_eq!(owner.start(&helper, &id), Reply::Changed);
    let (_, root) = owner.jail(&id);
    let outside = ground.path().join("outside");
    fs::create_dir_all(outside.join("folder/inner")).expect("folders");
    fs::write(outside.join("file"), "kept").expect("writes");
    let before = census(&outside);
    fill(&root, &outside);

    // A mount that is there, by whomever, is not crossed.
    fs::create_dir(root.join("mounted")).expect("a folder");
    let line = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
    let (from, to) = (outside.display().to_string(), root.join("mounted").display().to_string());
    let front = ["unshare", "-m", "sh", "-c", line, &from, &to];
    let careful = owner.stranger(&front).hello(&owner.install);
    let mut said = remove(&careful, &id);
    for _ in 0..5 {
        if matches!(said, Reply::Failed { .. }) {
            break;
        }
        assert!(matches!(said, Reply::Refused { .. }), "{said:?}");
        said = remove(&careful, &id);
    }
    assert!(matches!(said, Reply::Failed { .. }), "{said:?}");
    assert_eq!(census(&outside), before);
    careful.hang_up();

    // What is there again is removed in turns.
    if !root.exists() {
        fs::create_dir(&root).expect("a folder");
    }
    for n in 0..12_000 {
        fs::write(root.join(format!("again{n}")), "").expect("writes");
    }
    let mut turns = 1;
    let several = "so much is in its jail that it takes several turns".to_string();
    let several = Reply::Refused { rule: several };
    loop {
        let said = remove(&helper, &id);
        if said == Reply::Changed {
            break;
        }
        assert_eq!(said, several, "turn {turns}");
        assert!(matches!(owner.start(&helper, &id), Reply::Refused { .. }), "it is there");
        turns += 1;
    }
    assert!((2..6).contains(&turns), "{turns} turns");
    assert!(!owner.jail(&id).0.exists());
    assert_eq!(remove(&helper, &id), Reply::Unchanged);
    assert_eq!(census(&outside), before, "nothing outside was touched");
    assert_eq!(owner.start(&helper, &id), Reply::Changed, "it can be there again");
    assert_eq!(remove(&helper, &id), Reply::Changed);
    helper.hang_up();
    ground.assert_empty();
}

/// What the helper opens, and whoever it becomes on the way into a jail, is never below a folder of the owner's (R-H4).
#[test]
fn the_helper_opens_no_path_of_the_owner() {
    let Some(ground) = Ground::new() else { return };
    let (owner, id) = (ground.owner(OWNER, 1), sandbox(1));
    let trace = ground.path().join("trace");
    let file = trace.display().to_string();
    let opens = "trace=open,openat,openat2";
    let helper =
        owner.stranger(&["strace", "-f", "-qq", "-y", "-s", "4096", "-e", opens, "-o", &file]);
    let helper = helper.hello(&owner.install);
    let list = || helper.ask(&Request::VmList { after: None }, &[]);
    list();
    assert_eq!(owner.start(&helper, &id), Reply::Changed);
    list();
    for line in [Line::Agent, Line::Console, Line::Log, Line::Vmm, Line::Vsock] {
        assert!(open(&helper, &id, line).1.is_some(), "{line:?}");
    }
    // It is not ended before it has opened what it was lent.
    let traced = || fs::read_to_string(&trace).expect("a trace").contains("\"disk0\"");
    for _ in (0..400).take_while(|_| !traced()) {
        std::thread::sleep(Duration::from_millis(50));
    }
    for kill in [false, true] {
        helper.ask(&Request::VmEnd { sandbox: id.clone(), kill }, &[]);
    }
    assert_eq!(remove(&helper, &id), Reply::Changed);
    helper.hang_up();
    let text = fs::read_to_string(&trace).expect("a trace");
    let (folder, mut jails, mut beneath) = (owner.folder.display().to_string(), 0, 0);
    for line in text.lines() {
        // What was asked for, without what came of it.
        let asked = line.rsplit_once(") = ").map_or(line, |(asked, _)| asked);
        assert!(!asked.contains(&folder), "{line}");
        jails += usize::from(asked.contains(&ground.jails().display().to_string()));
        beneath += usize::from(asked.contains("RESOLVE_BENEATH"));
    }
    assert!(
        jails > 10 && beneath >= 4,
        "{jails} below the jails, {beneath} of them beneath a descriptor"
    );
    // What they were lent came by descriptors.
    assert!(text.contains("\"disk0\"") && text.contains("\"kernel\""), "the VMM was not traced");
    ground.assert_empty();
}
