//! The helper as root, over a socket of the test's own: its table, its refusals, its cgroups.

use crate::namespace::Namespace;
use banger_wire::helper::{Facts, Limits, PROTOCOL, Reply, Request};
use banger_wire::id::{InstallId, SandboxId};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) struct Helper {
    socket: OwnedFd,
    child: Child,
}

/// The helper, where we are root and it is built; elsewhere the reason is printed, and fails where all must run.
fn start() -> Option<Helper> {
    start_in(None)
}

/// The installation that the tests are.
pub(crate) fn install() -> InstallId {
    InstallId::from_bits(0x7e57)
}

/// As [`start`], in a network namespace.
pub(crate) fn start_in(namespace: Option<&Namespace>) -> Option<Helper> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug");
    let folder = std::env::var_os("BANGER_PROGRAMS").map_or(built, PathBuf::from);
    let program = folder.join("banger-helper");
    if !program.is_file() || !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("BANGER_REQUIRE_ALL").is_none(),
            "root and {} are needed",
            program.display()
        );
        eprintln!("SKIPPED: root and {} are needed", program.display());
        return None;
    }
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (socket, theirs) = pair.expect("a socket");
    let mut command = match namespace {
        Some(namespace) => namespace.command(&program),
        None => Command::new(&program),
    };
    let child = command
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::from(theirs))
        .stderr(Stdio::null())
        .spawn();
    Some(Helper { socket, child: child.expect("starts") })
}

impl Helper {
    fn raw(&self, bytes: &[u8], descriptors: &[&OwnedFd]) -> Option<Reply> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        if !borrowed.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).ok()?;
        let mut answer = vec![0; 64 << 10];
        let (_, count) = recv(&self.socket, &mut answer[..], RecvFlags::empty()).ok()?;
        serde_json::from_slice(&answer[..count]).ok()
    }

    pub(crate) fn ask(&self, request: &Request, descriptors: &[&OwnedFd]) -> Reply {
        self.raw(&serde_json::to_vec(request).expect("encodes"), descriptors).expect("an answer")
    }

    pub(crate) fn agreed(self) -> Self {
        assert_eq!(
            self.ask(&Request::Hello { version: PROTOCOL, install: install() }, &[]),
            Reply::Hello { version: PROTOCOL }
        );
        self
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sleeper() -> (Child, OwnedFd) {
    let child = Command::new("sleep").arg("100").spawn().expect("starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd");
    (child, pidfd)
}

const LIMITS: Limits = Limits { memory_mib: 512, pids: 64, cpu_percent: 100 };

fn own() -> SandboxId {
    SandboxId::from_bits(u128::from(std::process::id()) << 64 | 0xbeef)
}

#[test]
fn nothing_changes_before_the_versions_are_agreed_on() {
    let Some(helper) = start() else { return };
    let refused = |reply: Reply| matches!(reply, Reply::Refused { .. });
    assert!(matches!(helper.ask(&Request::Probe {}, &[]), Reply::Facts(_)), "reading is allowed");
    assert!(refused(helper.ask(&Request::CgroupRemove { sandbox: own() }, &[])));
    assert!(matches!(
        helper.ask(&Request::Hello { version: PROTOCOL + 1, install: install() }, &[]),
        Reply::Hello { .. }
    ));
    assert!(refused(helper.ask(&Request::CgroupRemove { sandbox: own() }, &[])));
}

/// Each of these is refused or ends the connection; none has an effect.
#[test]
fn hostile_messages_gain_nothing() {
    let hostile: [&[u8]; 12] = [
        b"",
        b"{}",
        b"{\"op\":\"exec\",\"argv\":[\"sh\"]}",
        b"{\"op\":\"cgroup-remove\",\"sandbox\":\"../../../etc\"}",
        b"{\"op\":\"cgroup-remove\",\"sandbox\":\"00000000000000000000000005\",\"path\":\"/\"}",
        b"{\"op\":\"probe\",\"x\":1}",
        b"{\"op\":\"hello\",\"version\":-1}",
        b"{\"op\":\"hello\",\"version\":1}trailing",
        b"{\"op\":\"hello\",\"version\":1,\"version\":1}",
        b"\xff\xfe",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"null",
    ];
    for message in hostile {
        let Some(helper) = start() else { return };
        let helper = helper.agreed();
        let answer = helper.raw(message, &[]);
        assert!(matches!(answer, None | Some(Reply::Refused { .. })), "{message:?}: {answer:?}");
    }
    let Some(helper) = start() else { return };
    let helper = helper.agreed();
    assert!(helper.raw(&vec![b' '; 100_000], &[]).is_none(), "too long");
}

#[test]
fn descriptors_are_counted_and_must_be_pidfds_of_the_caller() {
    let Some(helper) = start() else { return };
    let helper = helper.agreed();
    let (mut child, pidfd) = sleeper();
    let join = Request::CgroupJoin { sandbox: own(), limits: LIMITS };
    let refused = |reply: Reply| matches!(reply, Reply::Refused { .. });
    assert!(refused(helper.ask(&join, &[])));
    assert!(refused(helper.ask(&join, &[&pidfd, &pidfd])));
    assert!(refused(helper.ask(&Request::Probe {}, &[&pidfd])));
    let file = OwnedFd::from(std::fs::File::open("/etc/passwd").expect("opens"));
    assert!(refused(helper.ask(&join, &[&file])));
    for limits in [
        Limits { memory_mib: 0, ..LIMITS },
        Limits { pids: u16::MAX, ..LIMITS },
        Limits { cpu_percent: u32::MAX, ..LIMITS },
    ] {
        assert!(refused(helper.ask(&Request::CgroupJoin { sandbox: own(), limits }, &[&pidfd])));
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert!(refused(helper.ask(&join, &[&pidfd])), "it ended");
}

#[test]
fn a_cgroup_is_joined_once_and_removed_with_all_in_it() {
    let Some(helper) = start() else { return };
    let helper = helper.agreed();
    let Reply::Facts(Facts { cgroup2, .. }) = helper.ask(&Request::Probe {}, &[]) else {
        panic!("no facts")
    };
    if !cgroup2 {
        assert!(
            std::env::var_os("BANGER_REQUIRE_ALL").is_none(),
            "there is no cgroup v2 hierarchy"
        );
        return eprintln!("SKIPPED: there is no cgroup v2 hierarchy");
    }
    let (mut child, pidfd) = sleeper();
    let join = Request::CgroupJoin { sandbox: own(), limits: LIMITS };
    assert_eq!(helper.ask(&join, &[&pidfd]), Reply::Changed);
    assert_eq!(helper.ask(&join, &[&pidfd]), Reply::Unchanged, "a second time changes nothing");
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("reads");
    assert!(cgroup.contains(own().as_str()), "{cgroup}");
    let remove = Request::CgroupRemove { sandbox: own() };
    assert_eq!(helper.ask(&remove, &[]), Reply::Changed);
    assert!(!child.wait().expect("ends").success(), "it was killed with its cgroup");
    assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
}
