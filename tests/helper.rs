//! The helper as root, over a socket of the test's own: its table and its refusals. What it does with machines is
//! in `end_to_end/jail.rs`.

use crate::namespace::Namespace;
use banger_wire::helper::{PROTOCOL, Reply, Request};
use banger_wire::id::{InstallId, SandboxId};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
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

fn own() -> SandboxId {
    SandboxId::from_bits(u128::from(std::process::id()) << 64 | 0xbeef)
}

#[test]
fn nothing_changes_before_the_versions_are_agreed_on() {
    let Some(helper) = start() else { return };
    let refused = |reply: Reply| matches!(reply, Reply::Refused { .. });
    assert!(matches!(helper.ask(&Request::Probe {}, &[]), Reply::Facts(_)), "reading is allowed");
    assert!(refused(helper.ask(&Request::VmRemove { sandbox: own() }, &[])));
    assert!(matches!(
        helper.ask(&Request::Hello { version: PROTOCOL + 1, install: install() }, &[]),
        Reply::Hello { .. }
    ));
    assert!(refused(helper.ask(&Request::VmRemove { sandbox: own() }, &[])));
}

/// Each of these is refused or ends the connection; none has an effect.
#[test]
fn hostile_messages_gain_nothing() {
    let hostile: [&[u8]; 12] = [
        b"",
        b"{}",
        b"{\"op\":\"exec\",\"argv\":[\"sh\"]}",
        b"{\"op\":\"vm-remove\",\"sandbox\":\"../../../etc\"}",
        b"{\"op\":\"vm-remove\",\"sandbox\":\"00000000000000000000000005\",\"path\":\"/\"}",
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
fn descriptors_are_counted() {
    let Some(helper) = start() else { return };
    let helper = helper.agreed();
    let file = OwnedFd::from(std::fs::File::open("/etc/passwd").expect("opens"));
    let refused = |reply: Reply| matches!(reply, Reply::Refused { .. });
    assert!(refused(helper.ask(&Request::Probe {}, &[&file])));
    assert!(refused(helper.ask(&Request::VmRemove { sandbox: own() }, &[&file, &file])));
    assert!(matches!(helper.ask(&Request::Probe {}, &[]), Reply::Facts(_)), "it goes on");
}
