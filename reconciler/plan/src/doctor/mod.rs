//! What is told of a host and an installation: gathered facts in, findings out. `CHECKS` is the whole list.
//!
//! A check *fails* when sandboxes cannot run as they should or a promise about their walls is not kept, and *warns* when
//! something is slower, or cannot be had. One that cannot be told from what was gathered is not in the list.
//! `banger doctor` gathers and shows.

mod installation;
mod network;
mod runs;

use crate::actual::Seen;
use crate::host::Kvm;
use banger_wire::api::Version;
use banger_wire::api::facts::Facts;
use banger_wire::helper::{self, Controller};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Everything that was gathered.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The version of the program that asks.
    pub version: String,
    /// What it saw itself.
    pub host: Host,
    /// What the daemon said.
    pub daemon: Daemon,
}

/// What needs no privilege to be seen.
#[derive(Debug, Clone)]
pub struct Host {
    /// Our user's number.
    pub uid: u32,
    /// Our user's name, when it has one.
    pub user: Option<String>,
    /// KVM.
    pub kvm: Kvm,
    /// The v2 hierarchy of cgroups, where it is mounted.
    pub cgroup: Option<Cgroup>,
    /// Whether `/dev/net/tun` is there.
    pub tun: bool,
    /// The programs of [`PROGRAMS`] that we do not find.
    pub lacks: BTreeSet<String>,
    /// How many of the users of jails somebody else has.
    pub jail_users_taken: u32,
    /// The folders of this installation. None when there is no home.
    pub folders: Option<Folders>,
}

/// The v2 hierarchy of cgroups.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What it offers of what we set limits with.
    pub controllers: BTreeSet<Controller>,
}

/// The folders of an installation.
#[derive(Debug, Clone)]
pub struct Folders {
    /// What survives a reboot.
    pub state: Folder,
    /// Sockets.
    pub run: Folder,
    /// Room for state. None when it cannot be told.
    pub free_mib: Option<u64>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is and who may use it.
    pub is: Seen<Owned>,
}

/// Whose something is.
#[derive(Debug, Clone, Copy)]
pub struct Owned {
    /// Its owner.
    pub uid: u32,
    /// Its mode.
    pub mode: u32,
    /// Whether it is a folder at all.
    pub is_folder: bool,
}

/// What the daemon said.
#[derive(Debug, Clone)]
pub enum Daemon {
    /// It does not run and cannot be started, or does not answer.
    Gone {
        /// Why.
        why: String,
        /// What it said to do.
        hint: Option<String>,
    },
    /// It runs and tells nothing else: one of another release, or one that waits for its helper.
    Silent {
        /// Who it is.
        version: Version,
        /// Why.
        why: String,
    },
    /// It told everything.
    Tells {
        /// Who it is.
        version: Version,
        /// What it sees.
        facts: Box<Facts>,
    },
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Something is slower, or cannot be had.
    Warn,
    /// Sandboxes cannot run as they should.
    Fail,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Mark::Ok => "ok",
            Mark::Warn => "warn",
            Mark::Fail => "fail",
        })
    }
}

/// What one check found. This is what `banger doctor --json` lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub name: &'static str,
    /// How it ended.
    pub status: Mark,
    /// What was found.
    pub found: String,
    /// What to do. None when all is well.
    pub hint: Option<String>,
}

/// What a check says.
struct Said {
    mark: Mark,
    found: String,
    hint: Option<String>,
}

impl Said {
    fn ok(found: impl Into<String>) -> Option<Self> {
        Some(Self { mark: Mark::Ok, found: found.into(), hint: None })
    }

    fn warn(found: impl Into<String>, hint: impl Into<String>) -> Option<Self> {
        Some(Self { mark: Mark::Warn, found: found.into(), hint: Some(hint.into()) })
    }

    fn fail(found: impl Into<String>, hint: impl Into<String>) -> Option<Self> {
        Some(Self { mark: Mark::Fail, found: found.into(), hint: Some(hint.into()) })
    }
}

/// What a check may say: nothing when it cannot be told, or when nobody needs it.
type Check = fn(&Gathered) -> Option<Said>;

/// Every check, in the order in which they are shown. Names are never changed: programs know them.
const CHECKS: [(&str, Check); 21] = [
    ("daemon", installation::daemon),
    ("helper", installation::helper),
    ("state-folder", installation::state_folder),
    ("run-folder", installation::run_folder),
    ("disk-space", installation::disk_space),
    ("kvm", runs::kvm),
    ("vmm", runs::vmm),
    ("firecracker", runs::firecracker),
    ("qemu", runs::qemu),
    ("cgroup", runs::cgroup),
    ("jail-users", runs::jail_users),
    ("mke2fs", |gathered| installation::program(gathered, "mke2fs")),
    ("mmdebstrap", |gathered| installation::program(gathered, "mmdebstrap")),
    ("depmod", |gathered| installation::program(gathered, "depmod")),
    ("git", |gathered| installation::program(gathered, "git")),
    ("ssh", |gathered| installation::program(gathered, "ssh")),
    ("network", network::support),
    ("subnet", network::subnet),
    ("forwarding", network::forwarding),
    ("rules", network::rules),
    ("names", network::names),
];

/// The programs that are looked for: by the daemon, or by us where it does not tell.
pub const PROGRAMS: [&str; 8] =
    ["mke2fs", "mmdebstrap", "depmod", "git", "ssh", "nft", QEMU, VSOCK];
const QEMU: &str = "qemu-system-x86_64";
const VSOCK: &str = "vhost-device-vsock";
/// Those that the client starts itself.
const CLIENTS: [&str; 2] = ["git", "ssh"];

/// What all checks say.
pub fn findings(gathered: &Gathered) -> Vec<Finding> {
    let say = |(name, check): (&'static str, Check)| {
        let Said { mark, found, hint } = check(gathered)?;
        Some(Finding { name, status: mark, found, hint })
    };
    CHECKS.into_iter().filter_map(say).collect()
}

/// Who helps the daemon, as far as it says.
enum Helper<'a> {
    /// Nobody: the daemon is not root's.
    None,
    /// One that does not say what it sees.
    Mute,
    /// One that does.
    Sees(&'a helper::Facts),
    /// The daemon tells nothing.
    Unknown,
}

impl Gathered {
    fn facts(&self) -> Option<&Facts> {
        match &self.daemon {
            Daemon::Tells { facts, .. } => Some(facts),
            Daemon::Silent { .. } | Daemon::Gone { .. } => None,
        }
    }

    fn helper(&self) -> Helper<'_> {
        match self.facts().map(|facts| &facts.helper) {
            None => Helper::Unknown,
            Some(None) => Helper::None,
            Some(Some(Err(_))) => Helper::Mute,
            Some(Some(Ok(facts))) => Helper::Sees(facts),
        }
    }

    /// Whether whoever starts a program does not find it.
    fn lacks(&self, program: &str) -> bool {
        match self.facts() {
            Some(facts) if !CLIENTS.contains(&program) => facts.lacks.contains(program),
            Some(_) | None => self.host.lacks.contains(program),
        }
    }
}

#[cfg(test)]
mod tests;
