//! The helper as root, over a socket of the test's own: its table and its refusals. What it does with machines is
//! in `end_to_end/jail.rs`.

use crate::namespace::Namespace;
use banger_wire::helper::{Line, PROTOCOL, Reply, Request};
use banger_wire::id::{InstallId, SandboxId};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Uid;
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
    let program = program()?;
    let command = match namespace {
        Some(namespace) => namespace.command(&program),
        None => Command::new(&program),
    };
    Some(spawn(command, 0))
}

/// The helper of a user's daemon, with jails in a folder of the test's own. The words in front are a program that runs it.
pub(crate) fn start_for(
    owner: u32,
    jails: &Path,
    namespace: &Namespace,
    front: &[&str],
) -> Option<Helper> {
    let program = program()?;
    let mut words = front.iter().map(PathBuf::from).chain([program]);
    let mut command = namespace.command(words.next().expect("a program"));
    let found = |name: &str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut files = std::env::split_paths(&folders).map(|folder| folder.join(name));
        files.find(|file| file.is_file()).expect("it was looked for")
    };
    command
        .args(words)
        .env_clear()
        .env("BANGER_JAILS", jails)
        .env("BANGER_QEMU", found("qemu-system-x86_64"))
        .env("BANGER_VSOCK", found("vhost-device-vsock"));
    Some(spawn(command, owner))
}

fn program() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug");
    let folder = std::env::var_os("BANGER_PROGRAMS").map_or(built, PathBuf::from);
    let program = folder.join("banger-helper");
    if program.is_file() && nix::unistd::geteuid().is_root() {
        return Some(program);
    }
    let what = format!("root and {} are needed", program.display());
    assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "{what}");
    eprintln!("SKIPPED: {what}");
    None
}

/// Two ends that this user made, as the kernel tells whoever asks.
fn pair(owner: u32) -> (OwnedFd, OwnedFd) {
    let make = move || {
        // Of this thread alone, which then ends.
        rustix::thread::set_thread_res_uid(None, Uid::from_raw(owner), None).expect("a user");
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
    };
    std::thread::spawn(make).join().expect("a thread").expect("a socket")
}

fn spawn(mut command: Command, owner: u32) -> Helper {
    let (socket, theirs) = pair(owner);
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(60))).expect("a limit");
    let child = command
        .env("PATH", "/usr/bin:/bin:/usr/sbin")
        .stdin(Stdio::from(theirs))
        .stderr(Stdio::null())
        .spawn();
    Helper { socket, child: child.expect("starts") }
}

impl Helper {
    fn raw(&self, bytes: &[u8], descriptors: &[&OwnedFd]) -> Option<Reply> {
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.say(bytes, &borrowed).map(|(reply, _)| reply)
    }

    /// Says something; the answer and what came with it. None when it hung up instead.
    pub(crate) fn say(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Option<(Reply, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .expect("it listens");
        let mut answer = vec![0; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut answer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let count = match recvmsg(&self.socket, &mut slices, &mut ancillary, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => panic!("no answer: {error}"),
        };
        let descriptors = ancillary.drain().filter_map(|part| {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                Some(descriptors)
            } else {
                None
            }
        });
        let descriptor = descriptors.flatten().next();
        (count > 0)
            .then(|| (serde_json::from_slice(&answer[..count]).expect("an answer"), descriptor))
    }

    pub(crate) fn ask(&self, request: &Request, descriptors: &[&OwnedFd]) -> Reply {
        self.raw(&serde_json::to_vec(request).expect("encodes"), descriptors).expect("an answer")
    }

    /// Hangs up and waits for its end.
    pub(crate) fn hang_up(mut self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).expect("hangs up");
        self.child.wait().expect("ends");
    }

    /// As an installation.
    pub(crate) fn hello(self, install: &InstallId) -> Self {
        let hello = Request::Hello { version: PROTOCOL, install: install.clone() };
        assert_eq!(self.ask(&hello, &[]), Reply::Hello { version: PROTOCOL });
        self
    }

    pub(crate) fn agreed(self) -> Self {
        self.hello(&install())
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

/// R-H7: what changes or is refused is in the journal, with how many entries it did not take; what only looks is not.
#[test]
fn operations_are_written_down_for_root() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    let journal = UnixDatagram::bind(&path).expect("a socket");
    journal.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let read = |journal: &UnixDatagram| -> BTreeMap<String, String> {
        let mut entry = [0; 4096];
        let count = journal.recv(&mut entry).expect("an entry");
        let text = std::str::from_utf8(&entry[..count]).expect("text");
        let fields = text.lines().map(|line| line.split_once('=').expect("a field"));
        fields.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let mut command = Command::new(program);
    command.env("BANGER_JOURNAL", &path).env("BANGER_JAILS", folder.path().join("jails"));
    let helper = spawn(command, 1234);
    let sandbox = own();
    let remove = Request::VmRemove { sandbox: sandbox.clone() };
    assert!(matches!(helper.ask(&remove, &[]), Reply::Refused { .. }));
    let refused = read(&journal);
    assert_eq!(refused["BANGER_OPERATION"], "vm-remove");
    assert_eq!(refused["BANGER_OUTCOME"], "refused, the versions were not agreed on");
    assert_eq!(refused["PRIORITY"], "4");
    let helper = helper.agreed();
    assert!(matches!(helper.ask(&Request::Probe {}, &[]), Reply::Facts(_)));
    assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
    let done = read(&journal);
    let expected = [
        ("BANGER_OPERATION", "vm-remove"),
        ("BANGER_SANDBOX", sandbox.as_str()),
        ("BANGER_UID", "1234"),
        ("BANGER_OUTCOME", "unchanged"),
        ("BANGER_MISSED", "0"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "banger-helper"),
    ];
    for (name, value) in expected {
        assert_eq!(done[name], value, "{done:?}");
    }
    assert!(done["BANGER_MICROS"].parse::<u64>().is_ok(), "{done:?}");
    assert_eq!(serde_json::from_str::<Request>(&done["BANGER_REQUEST"]).expect("JSON"), remove);
    assert!(done["MESSAGE"].starts_with("vm-remove of "), "{done:?}");

    // Nobody reads: the helper does not wait, and says later how many entries that cost.
    for _ in 0..2000 {
        assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
    }
    journal.set_nonblocking(true).expect("a mode");
    let mut taken = 0;
    while journal.recv(&mut [0; 4096]).is_ok() {
        taken += 1;
    }
    journal.set_nonblocking(false).expect("a mode");
    assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
    assert_eq!(read(&journal)["BANGER_MISSED"], (2000 - taken).to_string());
    assert!(taken > 0 && taken < 2000, "{taken}");
    // A journal that was started anew has the next entry.
    drop(journal);
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
    let journal = UnixDatagram::bind(&path).expect("a socket");
    journal.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    assert_eq!(helper.ask(&remove, &[]), Reply::Unchanged);
    assert_eq!(read(&journal)["BANGER_MISSED"], "1");
    // A way that is not there is nothing to write down; what is no request is.
    let open = Request::VmOpen { sandbox, what: Line::Agent };
    assert!(matches!(helper.ask(&open, &[]), Reply::Refused { .. } | Reply::Failed { .. }));
    assert!(matches!(helper.raw(b"{}", &[]), None | Some(Reply::Refused { .. })));
    assert_eq!(read(&journal)["BANGER_OUTCOME"], "refused, the message is not understood");
}
