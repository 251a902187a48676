//! Layers become an image in a process of its own, which has nothing but their descriptors (R-I6).
//!
//! Both ends are here. The daemon starts itself as `bangerd unpack`, sends one job with the descriptors over a
//! socket, and reads words until the last. The child gives up every right to open a file before it reads the first
//! byte of a layer, and ends with the daemon.

use crate::fault::{During, Fault};
use crate::process;
use banger_rootfs::{Error, Layer, Limits};
use banger_wire::api::ProblemKind;
use banger_wire::derive::MARK;
use banger_wire::id::Digest;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// The argument that makes the daemon's program the child.
pub const ARGUMENT: &str = "unpack";
/// The most layers of an image (R-N2).
pub const MAX_LAYERS: usize = 127;
/// Descriptors in one message: every layer, and the image.
const DESCRIPTORS: usize = MAX_LAYERS + 1;
const MAX_MESSAGE: usize = 64 << 10;
/// Bytes between two words of progress.
const STEP: u64 = 4 << 20;
/// The child's memory, in bytes, whatever a layer says.
const MEMORY: u64 = 1 << 30;

/// A layer to unpack.
pub struct Source {
    /// The file or pipe that it is read from.
    pub file: OwnedFd,
    /// Where in the file it is: first byte and length. All of it if not given.
    pub section: Option<(u64, u64)>,
    /// The digest of its archive.
    pub diff_id: Option<Digest>,
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    layers: Vec<JobLayer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct JobLayer {
    section: Option<(u64, u64)>,
    diff_id: Option<Digest>,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Progress(u64),
    Done(Unpacked),
    Failed { kind: ProblemKind, what: String, damaged: bool },
}

/// What was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unpacked {
    /// The digest of the image.
    pub content: Digest,
    /// Entries of all archives.
    pub entries: u64,
    /// Bytes of all archives.
    pub unpacked: u64,
    /// Devices that were left out.
    pub devices: u64,
    /// Extended attributes that were left out.
    pub xattrs: u64,
    /// The most memory that the child had, in KiB.
    pub peak_kib: u64,
}

/// Why nothing was made.
pub struct Failure {
    /// For people.
    pub fault: Fault,
    /// Whether a layer's bytes are not what they should be, so that what was stored may be damaged.
    pub damaged: bool,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, damaged: false }
    }
}

/// Writes layers into an empty file. Blocks. `progress` is told the bytes of layers that were read.
///
/// # Errors
/// When a layer is broken, hostile or too large, or the child cannot be started or ends early.
pub fn unpack(
    layers: Vec<Source>,
    out: &File,
    mark: &str,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Unpacked, Failure> {
    if layers.len() > MAX_LAYERS {
        let what = format!("the image has {} layers, at most {MAX_LAYERS} are taken", layers.len());
        return Err(Fault::user(what).into());
    }
    let fail = |error: rustix::io::Errno| Fault::io("talking to the unpacker", error.into());
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(fail)?;
    let mut child = Command::new(process::itself())
        .arg(ARGUMENT)
        .env(MARK, mark)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .during(|| "starting the unpacker".into())?;
    let said = send_job(&ours, &layers, out).map_err(fail).map(|()| {
        drop(layers);
        listen(&ours, progress)
    });
    drop(ours);
    let status = child.wait().during(|| "waiting for the unpacker".into())?;
    match said? {
        Some(Word::Done(unpacked)) => {
            let Unpacked { unpacked: bytes, peak_kib, .. } = &unpacked;
            tracing::info!("unpacked {bytes} bytes with {peak_kib} KiB of memory");
            Ok(unpacked)
        }
        Some(Word::Failed { kind, what, damaged }) => {
            Err(Failure { fault: Fault { kind, ..Fault::host(what) }, damaged })
        }
        Some(Word::Progress(_)) | None => {
            Err(Fault::host(format!("the unpacker ended early, {status}")).into())
        }
    }
}

fn send_job(socket: &OwnedFd, layers: &[Source], out: &File) -> rustix::io::Result<()> {
    let describe =
        |layer: &Source| JobLayer { section: layer.section, diff_id: layer.diff_id.clone() };
    let job = Job { layers: layers.iter().map(describe).collect() };
    let bytes = serde_json::to_vec(&job).expect("plain values encode");
    let fds: Vec<_> =
        std::iter::once(out.as_fd()).chain(layers.iter().map(|l| l.file.as_fd())).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// The child's last word.
fn listen(socket: &OwnedFd, progress: &(dyn Fn(u64) + Send + Sync)) -> Option<Word> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let count = match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => return None,
            Ok((count, _)) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        };
        match serde_json::from_slice(&buffer[..count]).ok()? {
            Word::Progress(read) => progress(read),
            last @ (Word::Done(_) | Word::Failed { .. }) => return Some(last),
        }
    }
}

/// The child's whole life.
pub fn child() -> ExitCode {
    let socket = io::stdin();
    let outcome = prepare().and_then(|()| {
        let (job, mut files) = receive_job(socket.as_fd())?;
        Ok((job, files.remove(0), files))
    });
    let word = match outcome {
        Ok((job, out, layers)) => work(&socket, job, out, layers),
        Err(error) => {
            let what = format!("the unpacker: {error}");
            Word::Failed { kind: ProblemKind::Host, what, damaged: false }
        }
    };
    match say(&socket, &word) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Gives up what the work does not need. Where the kernel knows no Landlock, the rest still holds.
fn prepare() -> io::Result<()> {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, Scope};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Data, limit(MEMORY))?;
    setrlimit(Resource::Core, limit(0))?;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    rules.map(drop).map_err(io::Error::other)
}

fn receive_job(socket: impl AsFd) -> io::Result<(Job, Vec<File>)> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let count = recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            files.extend(fds.map(File::from));
        }
    }
    let job: Job = serde_json::from_slice(&buffer[..count])?;
    if files.len() != job.layers.len() + 1 {
        return Err(io::Error::other("descriptors are missing"));
    }
    Ok((job, files))
}

fn work(socket: &io::Stdin, job: Job, out: File, layers: Vec<File>) -> Word {
    let layers = job.layers.into_iter().zip(layers).map(|(layer, file)| {
        let read: Box<dyn Read + Send> = match layer.section {
            Some((at, length)) => Box::new(Section { file, at, end: at.saturating_add(length) }),
            None => Box::new(file),
        };
        Layer { read, diff_id: layer.diff_id.as_ref().map(Digest::bytes) }
    });
    let told = AtomicU64::new(0);
    let progress = |read: u64| {
        if read >= told.load(Ordering::Relaxed) + STEP {
            told.store(read, Ordering::Relaxed);
            // When the daemon is gone, so are we.
            let _ = say(socket, &Word::Progress(read));
        }
    };
    let image = out.try_clone().map_err(Error::Write);
    let built = image
        .and_then(|image| {
            banger_rootfs::build(layers.collect(), image, &Limits::default(), &progress)
        })
        .and_then(|built| Ok((built, banger_rootfs::digest(&out).map_err(Error::Write)?)));
    match built {
        Ok((built, digest)) => Word::Done(Unpacked {
            content: Digest::from_bytes(&digest),
            entries: built.counts.entries,
            unpacked: built.unpacked,
            devices: built.counts.devices,
            xattrs: built.counts.xattrs,
            peak_kib: peak_kib(),
        }),
        Err(error) => failed(&error),
    }
}

fn peak_kib() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).map(|usage| usage.max_rss());
    usage.ok().and_then(|kib| u64::try_from(kib).ok()).unwrap_or(0)
}

fn failed(error: &Error) -> Word {
    let (kind, damaged) = match error {
        Error::Refused { .. } => (ProblemKind::User, true),
        Error::DiffId { .. } => (ProblemKind::User, true),
        Error::Budget { .. } => (ProblemKind::User, false),
        Error::Read { .. } | Error::Write(_) => (ProblemKind::Host, false),
    };
    let mut what = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        what.push_str(&format!(": {cause}"));
    }
    Word::Failed { kind, what, damaged }
}

fn say(socket: &io::Stdin, word: &Word) -> io::Result<()> {
    let bytes = serde_json::to_vec(word).expect("plain values encode");
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A part of a file.
struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
