//! What the owner's daemon may ask of the root helper.
//!
//! **Architecture invariant:** no path, interface name, rule text, pid, uid, environment or argument
//! vector crosses here: ids, enums, bounded numbers and file descriptors only (security rules of section 3).

use crate::id::SandboxId;
use serde::{Deserialize, Serialize};

/// The version both sides must share for anything but reading.
pub const PROTOCOL: u32 = 1;
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
