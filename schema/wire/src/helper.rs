//! What the owner's daemon may ask of the root helper.
//!
//! **Architecture invariant:** no path, interface name, rule text, pid, uid, environment or argument
//! vector crosses here: ids, enums, bounded numbers and file descriptors only (security rules of section 3).

use crate::id::{Digest, InstallId, SandboxId};
use crate::machine::{Backend, BootKey, Machine, Version};
use crate::net::{Policy, Subnet};
use serde::{Deserialize, Serialize};

/// The version both sides must share for anything but reading.
pub const PROTOCOL: u32 = 3;
/// The largest message in bytes, before its descriptors.
pub const MAX_MESSAGE: usize = 64 << 10;

/// One request. Descriptors that belong to it travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who are you? Must come first.
    Hello {
        /// The caller's [`PROTOCOL`].
        version: u32,
        /// The caller's installation: the names of its bridge and its rules come from it.
        install: InstallId,
    },
    /// Facts about the host that need no privilege to act on.
    Probe {},
    /// Start a machine in a jail of its own, which must not be there yet. Its descriptors are the kernel, the initramfs and
    /// its disks in order. Firecracker then waits for its API to be used.
    VmStart {
        /// Whose.
        sandbox: SandboxId,
        /// What.
        machine: Box<Machine>,
    },
    /// The caller's jails and who lives in them, in the order of their ids, at most [`MAX_JAILS`] of those behind `after`.
    VmList {
        /// The last one of the answer before.
        after: Option<SandboxId>,
    },
    /// A way into a jail. Answered by [`Reply::Changed`] with one descriptor.
    VmOpen {
        /// Whose.
        sandbox: SandboxId,
        /// Which.
        what: Line,
    },
    /// End a machine's processes.
    VmEnd {
        /// Whose.
        sandbox: SandboxId,
        /// Whether they are killed, and are gone with the answer. Otherwise the VMM is asked.
        kill: bool,
    },
    /// Keep the memory and the state that Firecracker wrote down in a jail; take them out of the jail.
    MemoryKeep {
        /// Whose jail.
        sandbox: SandboxId,
        /// What it is known by.
        memory: BootKey,
        /// What it was made with.
        of: MemoryOf,
    },
    /// The memories that the caller has kept.
    MemoryList {},
    /// Drop one.
    MemoryDrop {
        /// Which.
        memory: BootKey,
    },
    /// Kill who is left in a jail and remove it, with its cgroup.
    VmRemove {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Make the installation's bridge, or make it as it should be.
    BridgeEnsure {
        /// Its subnet. Refused when a route of the host overlaps it.
        subnet: Subnet,
    },
    /// Remove the installation's bridge. Refused while it has ports.
    BridgeRemove {},
    /// Make a sandbox's tap, a closed and isolated port of the bridge; or make it as it should be.
    TapEnsure {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Open or close a sandbox's port. Opening is refused while no rules of ours are there.
    TapSet {
        /// Whose.
        sandbox: SandboxId,
        /// Whether frames pass.
        up: bool,
    },
    /// Remove a sandbox's tap.
    TapRemove {
        /// Whose.
        sandbox: SandboxId,
    },
    /// Replace the installation's rules in one step.
    RulesApply {
        /// The bridge's subnet.
        subnet: Subnet,
        /// What they enforce.
        policy: Policy,
    },
    /// Whether the rules are there and enforce just this.
    RulesCheck {
        /// The bridge's subnet.
        subnet: Subnet,
        /// What they should enforce.
        policy: Policy,
    },
    /// Remove the installation's rules.
    RulesRemove {},
    /// Let the host's resolver ask the caller's DNS server for names below `vm`. Ends with the bridge.
    DnsRoute {},
}

/// How an installation's rules are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// They are not there.
    Absent,
    /// They are not as the helper wrote them.
    Altered,
    /// They are as the helper wrote them, for something else.
    Older,
    /// They are as the helper wrote them, for just this.
    Current,
}

/// The most jails in one answer.
pub const MAX_JAILS: usize = 200;

/// A way into a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A connection to the guest's vsock device.
    Agent,
    /// The console: a connection to QEMU's, the end to read of Firecracker's.
    Console,
    /// The end to read of what the VMM says.
    Log,
    /// The end to read of what Firecracker measures.
    Metrics,
    /// A connection to Firecracker's API. It reaches what is in the jail, and nothing else.
    Api,
    /// A pidfd of the VMM.
    Vmm,
    /// A pidfd of the vsock device's process.
    Vsock,
}

/// The most memories that one owner keeps.
pub const MAX_MEMORIES: usize = 64;

/// What a kept memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A guest that waits for an identity: many may begin from it.
    Template,
    /// Somebody's: a sandbox goes on from it.
    Guest,
}

/// What a kept memory was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryOf {
    /// What it is for.
    pub purpose: Purpose,
    /// The content of the kernel.
    pub kernel: Digest,
    /// The content of the image.
    pub image: Digest,
    /// The programs: the agent and the VMM.
    pub programs: Digest,
}

/// A memory that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What it is known by.
    pub memory: BootKey,
    /// What it was made with.
    pub of: MemoryOf,
    /// Seconds since it was made or last used.
    pub idle_secs: u64,
}

/// A jail and who lives in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jailed {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// What was started in it. None in a jail that was never finished.
    pub started: Option<Started>,
    /// Its living processes.
    pub living: Vec<Living>,
}

/// A living process of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Living {
    /// Whether it is the vsock device's, and not the VMM's.
    pub vsock: bool,
    /// Its number, to read how much it uses. Nothing is done by it.
    pub pid: u32,
    /// Seconds since it started.
    pub secs: u64,
}

/// What was started in a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// What marks the start.
    pub boot: BootKey,
    /// Which program.
    pub backend: Backend,
    /// Whether the processor runs the guest's code.
    pub kvm: bool,
    /// The memory that it went on from.
    #[serde(default)]
    pub from: Option<BootKey>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// The helper's [`PROTOCOL`].
        version: u32,
    },
    /// To `Probe`.
    Facts(Facts),
    /// To `RulesCheck`.
    Rules {
        /// How they are.
        rules: Rules,
        /// Whether the host's resolver asks for names below `vm` by the bridge. None where there is no such resolver, or
        /// no bridge.
        names_routed: Option<bool>,
    },
    /// To `VmList`.
    Jails {
        /// By id.
        jails: Vec<Jailed>,
        /// Whether there are more behind them.
        more: bool,
    },
    /// To `MemoryList`.
    Memories {
        /// All of them.
        memories: Vec<Memory>,
    },
    /// It already was so.
    Unchanged,
    /// It is so now.
    Changed,
    /// A program that should have stayed ended at once, or did not open its socket.
    Ended {
        /// The end of what it said.
        said: String,
    },
    /// The request is not allowed; nothing was done.
    Refused {
        /// Which rule.
        rule: String,
    },
    /// The system refused.
    Failed {
        /// The system's error number.
        errno: i32,
        /// At which step.
        at: String,
    },
}

/// What the helper sees of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Whether a cgroup v2 hierarchy is mounted and writable.
    pub cgroup2: bool,
    /// The controllers that it offers.
    pub controllers: Vec<Controller>,
    /// Whether guests can have a network whose rules are enforced: nft and tap devices are there.
    pub network: NetworkSupport,
    /// Firecracker with its jailer, or why it cannot be had.
    pub firecracker: Result<Version, String>,
    /// Whether QEMU with its vsock device can be had, or why not.
    pub qemu: Result<(), String>,
}

/// What the host lacks for a network of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkSupport {
    /// Nothing.
    Full,
    /// The program that sets rules.
    NoNft,
    /// `/dev/net/tun`.
    NoTun,
    /// The right to change the network.
    NoRight,
}

/// A cgroup v2 controller that banger sets limits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_messages() {
        let sandbox = SandboxId::from_bits(5);
        let text = serde_json::to_string(&Request::VmRemove { sandbox }).expect("encodes");
        assert_eq!(text, r#"{"op":"vm-remove","sandbox":"00000000000000000000000005"}"#);
        for hostile in [
            r#"{"op":"vm-remove","sandbox":"../../etc"}"#,
            r#"{"op":"vm-remove","sandbox":"00000000000000000000000005","path":"/"}"#,
            r#"{"op":"exec","argv":["sh"]}"#,
            r#"{"op":"vm-remove"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(hostile).is_err(), "{hostile}");
        }
    }
}
