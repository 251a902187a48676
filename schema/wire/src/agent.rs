//! What the host and the guest's agent say to each other, one connection per conversation.
//!
//! The host opens a vsock stream to [`PORT`] and sends one [`Request`] as a control frame. What follows
//! depends on it. Every byte from the guest is hostile: an answer is a claim about that one guest (R-G7).

use crate::id::{Generation, SandboxId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The vsock port that the agent listens on in the guest.
pub const PORT: u32 = 1024;

/// What the agent says on the guest's console when it listens there.
pub const LISTENS: &str = "banger-agent: ready for an identity";

/// The first frame of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered by [`Reply::State`] now and at every change, and every [`HEARTBEAT_SECS`] seconds.
    Watch,
    /// Become this sandbox. Idempotent per generation. Answered by `Done` or `Failed`.
    Identify(Box<Identity>),
    /// Run a command. Answered by `Started`, stream frames, then `Exit`; or by `Failed`.
    Exec(Exec),
    /// Carry raw bytes to a TCP port on the guest's loopback. Answered by `Done`, then unframed bytes.
    Forward {
        /// The port in the guest.
        port: u16,
    },
    /// Hand on what the guest's programs ask of its port 53. Answered by `Done`, then questions in `Stdout` frames, to
    /// each of which the host answers with a `Stdin` frame of the same [`NAMES_HEADER`] bytes. A newer line replaces it.
    Names,
    /// Serve SSH on this connection. Answered by `Done`, then unframed bytes.
    Ssh,
    /// Which ports the guest's programs listen on. Answered by `Ports`.
    Ports,
    /// Take files. Answered by `Into`; then the host sends a tree in `Stdin` frames, an empty one last. Answered by `Took`
    /// or `Failed`.
    Put(Put),
    /// Send files. Answered by `Done`, then a tree in `Stdout` frames, an empty one last; or by `Failed`.
    Get {
        /// What: an absolute path, or one from where commands start.
        path: String,
    },
    /// Take the workspace, or what changed of it. Answered by `Workspace`, whose revision is 0 when there is none; then the
    /// host sends a tree in `Stdin` frames, an empty one last. Answered by a tree of what was left alone because it changed
    /// in the guest, then `Workspace`; or `Failed`.
    Ship {
        /// The absolute folder of the workspace.
        at: String,
    },
    /// Send what changed in the workspace since it was shipped. Answered by `Workspace`, then a tree in `Stdout` frames, an
    /// empty one last; or by `Failed`.
    Survey,
    /// Write back what is held of the disks. Answered by `Done` when it is on them.
    Sync,
    /// Let nobody write to the sandbox's own disk. Answered by `Done`; it ends with an empty `Stdin` frame, answered by `Done`
    /// if nobody could all the time, else by `Failed`. It ends with the connection, too, and after [`HOLD_SECS`].
    Hold,
    /// Stop everything, sync, unmount, power off. Answered by `Done` when no write can be lost any more.
    Shutdown,
}

/// Bytes before a DNS message on the line of [`Request::Names`]: whether it came by TCP, and a number of the guest's.
pub const NAMES_HEADER: usize = 5;

/// How long a guest holds its disk still at most, in seconds.
pub const HOLD_SECS: u64 = 120;
/// Seconds between two states when nothing changes.
pub const HEARTBEAT_SECS: u64 = 5;

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// How the guest is.
    State(GuestState),
    /// The request was carried out.
    Done,
    /// The request was not carried out.
    Failed {
        /// What failed, for a person.
        message: String,
    },
    /// A command started.
    Started,
    /// One chunk of standard input was taken: the host may have [`STDIN_WINDOW`] under way.
    Taken,
    /// A command ended. A signal counts as 128 plus its number.
    Exit {
        /// 0 to 255.
        code: i32,
    },
    /// The ports that the guest's programs listen on. At most 1,024.
    Ports {
        /// By protocol and number.
        ports: Vec<ListeningPort>,
    },
    /// Files may come.
    Into {
        /// What the one thing that comes is to be called; its own name when it is not given.
        name: Option<String>,
    },
    /// Files came.
    Took {
        /// Files and links that were written.
        files: u64,
        /// Bytes of them.
        bytes: u64,
        /// Files and links that were there already, just so.
        same: u64,
    },
    /// The workspace's state.
    Workspace {
        /// Its folder.
        at: String,
        /// How often it was shipped, in whole or in part. Whoever ships knows which base that is.
        revision: u64,
    },
}

/// Where files are to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The folder that they go into, or the name of the one thing that comes: an absolute path, or one from where
    /// commands start.
    pub path: String,
    /// Whether what is there and different may be replaced.
    #[serde(default)]
    pub force: bool,
}

/// A port that a program in the guest listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListeningPort {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address that it listens on.
    pub address: std::net::IpAddr,
    /// The port.
    pub port: u16,
    /// The program, when it can be told.
    pub program: String,
}

/// What the guest's SSH server needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// The seed of the host key (Ed25519), in hex.
    pub host_key: String,
    /// Public keys that may log in, as OpenSSH writes them.
    pub authorized: Vec<String>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed is a secret, and logs are not.
        f.debug_struct("Ssh").field("authorized", &self.authorized).finish_non_exhaustive()
    }
}

/// How many chunks of standard input may be under way to a command, so that a control message is never stuck
/// behind input that the command does not read.
pub const STDIN_WINDOW: usize = 8;

/// What the host may send after an [`Request::Exec`], besides stdin frames.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Control {
    /// The terminal has a new size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Send a signal to the command's process group.
    Signal {
        /// Which.
        signal: Signal,
    },
}

/// The signals that can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// Hang-up.
    Hup,
    /// Interrupt.
    Int,
    /// Quit.
    Quit,
    /// Terminate.
    Term,
    /// Kill.
    Kill,
    /// User signal 1.
    Usr1,
    /// User signal 2.
    Usr2,
}

impl Signal {
    /// By name, as `SIGTERM` or `TERM`, or by number.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.strip_prefix("SIG").unwrap_or(text) {
            "HUP" | "1" => Signal::Hup,
            "INT" | "2" => Signal::Int,
            "QUIT" | "3" => Signal::Quit,
            "TERM" | "15" => Signal::Term,
            "KILL" | "9" => Signal::Kill,
            "USR1" | "10" => Signal::Usr1,
            "USR2" | "12" => Signal::Usr2,
            _ => return None,
        })
    }
}

/// Everything that makes a waiting guest a particular sandbox. Secrets belong here and nowhere else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The generation of desired state that this is.
    pub generation: Generation,
    /// Whose. A disk that another had before is this one's from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// The guest's host name.
    pub hostname: String,
    /// The environment of every command in the sandbox.
    pub env: BTreeMap<String, String>,
    /// Where the volumes go. The first volume is the third disk.
    pub volumes: Vec<String>,
    /// Shell lines that run once per disk, in order, before the sandbox counts as ready.
    pub provision: Vec<String>,
    /// A digest of `provision`, which marks a disk as provisioned.
    pub provision_digest: String,
    /// The command that runs as the sandbox's service when the image has no init.
    pub command: Vec<String>,
    /// Whether that command is the image's own: such a service may end well and is then not started again.
    #[serde(default)]
    pub image_service: bool,
    /// The user of the service and of commands that name none: a name or number, maybe with a group after a colon.
    #[serde(default)]
    pub user: Option<String>,
    /// The folder where they start. It is made when it is not there.
    #[serde(default)]
    pub workdir: Option<String>,
    /// What asks the service to end.
    #[serde(default = "term")]
    pub stop_signal: Signal,
    /// How the network card is set up. `None` leaves it alone.
    #[serde(default)]
    pub network: Option<Network>,
    /// The keys of its SSH server.
    #[serde(default)]
    pub ssh: Option<Ssh>,
    /// The folder of its workspace. Until one was shipped there, it is not provisioned.
    #[serde(default)]
    pub workspace: Option<String>,
    /// What must succeed before the sandbox counts as ready.
    pub ready: Option<ReadyProbe>,
    /// Whether the guest goes on from a memory that was kept: then its card and its names are set up anew, whichever
    /// generation it remembers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub woken: bool,
    /// The host's clock, in nanoseconds since 1970.
    pub clock_ns: u64,
    /// 32 random bytes in hex for the guest's entropy pool.
    pub entropy: String,
}

fn term() -> Signal {
    Signal::Term
}

/// How a guest's network card is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which card, by its hardware address; the only one when it is not given.
    pub mac: Option<[u8; 6]>,
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix, 1 to 32.
    pub prefix: u8,
    /// Where everything else goes. It is reached directly, whatever the prefix.
    pub gateway: Ipv4Addr,
}

/// A command that tells whether a sandbox is ready. It is repeated until it succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyProbe {
    /// The command and its arguments.
    pub exec: Vec<String>,
    /// Seconds until the sandbox counts as failed.
    pub timeout_secs: u32,
}

/// A command to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The command and its arguments. Not empty.
    pub argv: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working folder; the user's home when it is not given.
    #[serde(default)]
    pub cwd: Option<String>,
    /// A user name or number; root when it is not given.
    #[serde(default)]
    pub user: Option<String>,
    /// A terminal of this size instead of pipes.
    #[serde(default)]
    pub tty: Option<Tty>,
}

/// A terminal for a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tty {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// The value of `TERM`.
    pub term: String,
}

/// How a guest says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestState {
    /// The agent's version.
    pub version: String,
    /// The kernel's boot id: another one means another boot. Empty while it waits for an identity.
    pub boot_id: String,
    /// The generation of the identity it has. 0 while it waits for one.
    pub generation: Generation,
    /// Where it stands.
    pub phase: Phase,
    /// Why, when the phase needs a reason.
    pub detail: String,
}

/// Where a guest stands between its boot and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for its identity.
    Waiting,
    /// It takes on its identity.
    Identifying,
    /// It waits for its workspace.
    Shipping,
    /// Its provision commands run.
    Provisioning,
    /// Its ready probe has not succeeded yet.
    Probing,
    /// It is ready.
    Ready,
    /// Something that it was told to do failed; `detail` says what.
    Failed,
    /// It is shutting down.
    Leaving,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old bytes must still decode: both sides may be one patch version apart.
    #[test]
    fn golden_messages() {
        let exec = Request::Exec(Exec { argv: vec!["true".into()], ..Exec::default() });
        let text = serde_json::to_string(&exec).expect("encodes");
        assert_eq!(
            text,
            r#"{"do":"exec","argv":["true"],"env":{},"cwd":null,"user":null,"tty":null}"#
        );
        let old = r#"{"do":"exec","argv":["true"]}"#;
        assert_eq!(serde_json::from_str::<Request>(old).expect("decodes"), exec);
        let state = r#"{"is":"state","version":"0.1.0","boot_id":"b","generation":3,"phase":"ready","detail":""}"#;
        let reply: Reply = serde_json::from_str(state).expect("decodes");
        assert_eq!(serde_json::to_string(&reply).expect("encodes"), state);
        assert!(serde_json::from_str::<Request>(r#"{"do":"exec","argv":[],"path":"/"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"do":"format-host"}"#).is_err());
    }
}
