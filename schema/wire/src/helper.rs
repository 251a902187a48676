//! What the owner's daemon may ask of the root helper.
//!
//! **Architecture invariant:** no path, interface name, rule text, pid, uid, environment or argument
//! vector crosses here: ids, enums, bounded numbers and file descriptors only (security rules of section 3).

use crate::id::{InstallId, SandboxId};
use crate::net::{Policy, Subnet};
use serde::{Deserialize, Serialize};

/// The version both sides must share for anything but reading.
pub const PROTOCOL: u32 = 2;
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
    /// Put the process behind the one descriptor (a pidfd) into the sandbox's cgroup.
    CgroupJoin {
        /// Whose cgroup.
        sandbox: SandboxId,
        /// What it may use.
        limits: Limits,
    },
    /// End every process in the sandbox's cgroup and remove it.
    CgroupRemove {
        /// Whose cgroup.
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
    /// A descriptor of a sandbox's tap for its VMM. Answered by [`Reply::Changed`] with one descriptor.
    TapOpen {
        /// Whose.
        sandbox: SandboxId,
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

/// What a sandbox's processes may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory in MiB: 64 to 4,194,304.
    pub memory_mib: u32,
    /// Processes and threads: 8 to 4,096.
    pub pids: u16,
    /// Processor time in hundredths of one processor: 10 to 102,400.
    pub cpu_percent: u32,
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
    /// It already was so.
    Unchanged,
    /// It is so now.
    Changed,
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
        let text = serde_json::to_string(&Request::CgroupRemove { sandbox }).expect("encodes");
        assert_eq!(text, r#"{"op":"cgroup-remove","sandbox":"00000000000000000000000005"}"#);
        for hostile in [
            r#"{"op":"cgroup-remove","sandbox":"../../etc"}"#,
            r#"{"op":"cgroup-remove","sandbox":"00000000000000000000000005","path":"/"}"#,
            r#"{"op":"exec","argv":["sh"]}"#,
            r#"{"op":"cgroup-remove"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(hostile).is_err(), "{hostile}");
        }
    }
}
