//! What a virtual machine is made of, as the daemon asks for it and the helper starts it, and the names of its files.
//!
//! A machine's folder holds everything under fixed names, whether it is the root of a jail or a run's folder, so no path
//! is ever part of a message or of an argument.

use crate::derive::hex_digits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The kernel.
pub const KERNEL: &str = "kernel";
/// The archive that the guest boots from.
pub const INITRAMFS: &str = "initramfs";
/// The socket that leads to the guest's agent.
pub const AGENT: &str = "v.sock";
/// The console: QEMU listens here; Firecracker's is the FIFO [`CONSOLE`].
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The FIFO of Firecracker's console.
pub const CONSOLE: &str = "console";
/// The FIFO of what the VMM says.
pub const LOG: &str = "log";
/// The FIFO of what Firecracker measures.
pub const METRICS: &str = "metrics";
/// Firecracker's API.
pub const API: &str = "api.sock";
/// The socket between QEMU and its vsock device.
pub const VHOST: &str = "vhost.sock";
/// The state of the machine that this one goes on from.
pub const STATE: &str = "state";
/// Its memory.
pub const MEMORY: &str = "memory";
/// The state of this machine, when it is written down.
pub const WRITTEN_STATE: &str = "written.state";
/// Its memory.
pub const WRITTEN_MEMORY: &str = "written.memory";

/// The file of a disk, by its place.
pub fn disk(index: usize) -> String {
    format!("disk{index}")
}

/// Which program runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Firecracker, with KVM.
    Firecracker,
    /// QEMU's `microvm`, with KVM or by software emulation.
    Qemu,
}

impl Backend {
    /// As the file names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Backend::Firecracker => "firecracker",
            Backend::Qemu => "qemu",
        }
    }

    /// The backend of a name.
    pub fn parse(text: &str) -> Option<Self> {
        [Backend::Firecracker, Backend::Qemu].into_iter().find(|backend| backend.as_str() == text)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a guest is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Card {
    /// It has no network card.
    None,
    /// A port on the host's bridge.
    Tap,
    /// QEMU's own network stack.
    User,
}

/// What marks one start of a machine: 16 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootKey(String);

impl BootKey {
    /// Letters in a key.
    pub const LENGTH: usize = 16;

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BootKey {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() == Self::LENGTH && hex_digits(&text) {
            Ok(Self(text))
        } else {
            Err("a boot key is 16 lower-case hex digits")
        }
    }
}

impl From<BootKey> for String {
    fn from(key: BootKey) -> String {
        key.0
    }
}

/// Words for a kernel's command line: at most 2,000 bytes of letters, digits, spaces and `._,:=/-+@`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelWords(String);

impl KernelWords {
    /// The most bytes. Kernels take 2,048.
    pub const MAX: usize = 2000;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KernelWords {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b" ._,:=/-+@".contains(&byte);
        if text.len() > Self::MAX {
            Err("a kernel's command line has at most 2,000 bytes")
        } else if !text.bytes().all(good) {
            Err("a kernel's command line has letters, digits, spaces and ._,:=/-+@ only")
        } else {
            Ok(Self(text))
        }
    }
}

impl From<KernelWords> for String {
    fn from(words: KernelWords) -> String {
        words.0
    }
}

/// A machine to start. Its kernel, initramfs and disks are descriptors beside it, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What marks this start.
    pub boot: BootKey,
    /// What runs it.
    pub backend: Backend,
    /// Whether the processor runs the guest's code. Firecracker cannot do without.
    pub kvm: bool,
    /// Processors: 1 to 32.
    pub cpus: u8,
    /// Memory in MiB: 64 to 4,194,304.
    pub memory_mib: u32,
    /// Its vsock address: 3 or more.
    pub cid: u32,
    /// How it is connected.
    pub card: Card,
    /// How many disks it has, 1 to 16, and which of them the guest may only read: bit 0 is the first.
    pub disks: u8,
    /// See `disks`.
    pub read_only: u16,
    /// The kernel's command line. Firecracker is told later, by its API.
    pub words: KernelWords,
    /// What it may read and write of each disk in a second, in MiB; 0 is no limit.
    #[serde(default)]
    pub disk_rate_mib: u32,
    /// What its card may receive in a second, and what it may send, in MiB; 0 is no limit. Firecracker only.
    #[serde(default)]
    pub net_rate_mib: u32,
    /// The memory that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<BootKey>,
}

impl Machine {
    /// The most disks.
    pub const MAX_DISKS: u8 = 16;
    /// The highest rate, in MiB in a second.
    pub const MAX_RATE_MIB: u32 = 1 << 20;

    /// What is out of bounds, if anything.
    ///
    /// # Errors
    /// With the rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if !(1..=32).contains(&self.cpus) {
            Err("a machine has 1 to 32 processors")
        } else if !(64..=4 << 20).contains(&self.memory_mib) {
            Err("a machine has 64 to 4,194,304 MiB of memory")
        } else if self.cid < 3 || self.cid == u32::MAX {
            Err("a guest's vsock address is 3 or more")
        } else if !(1..=Self::MAX_DISKS).contains(&self.disks) {
            Err("a machine has 1 to 16 disks")
        } else if u32::from(self.read_only) >> self.disks != 0 {
            Err("there are fewer disks")
        } else if self.backend == Backend::Firecracker && !self.kvm {
            Err("Firecracker needs KVM")
        } else if self.backend == Backend::Firecracker && self.card == Card::User {
            Err("Firecracker has no network stack of its own")
        } else if self.disk_rate_mib.max(self.net_rate_mib) > Self::MAX_RATE_MIB {
            Err("a rate is at most 1 TiB in a second")
        } else if self.backend == Backend::Qemu && self.net_rate_mib > 0 {
            Err("QEMU holds no card to a rate")
        } else if self.backend == Backend::Qemu && self.from.is_some() {
            Err("QEMU goes on from no memory")
        } else {
            Ok(())
        }
    }

    /// Whether the guest may only read a disk.
    pub fn is_read_only(&self, disk: u8) -> bool {
        self.read_only >> disk & 1 == 1
    }
}

/// A version of Firecracker: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// The oldest that is used: before it, its jailer follows planted links (CVE-2026-1386).
    pub const OLDEST: Version = Version(1, 14, 4);

    /// The version in what `firecracker --version` prints, as `Firecracker v1.16.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let word =
            text.lines().next()?.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        // A build between versions says so behind a dash.
        let number = word.split_once('-').map_or(word, |(number, _)| number);
        let mut parts = number.splitn(3, '.').map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    }

    /// Why a version is not used, if it is not.
    pub fn refusal(self) -> Option<String> {
        if self < Self::OLDEST {
            let oldest = Self::OLDEST;
            return Some(format!(
                "Firecracker {self} is older than {oldest} (CVE-2026-1386, CVE-2026-5747)"
            ));
        }
        (self == Version(1, 15, 0)).then(|| format!("Firecracker {self} has CVE-2026-5747"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            boot: BootKey::try_from("0123456789abcdef".to_string()).expect("good"),
            backend: Backend::Qemu,
            kvm: false,
            cpus: 1,
            memory_mib: 512,
            cid: 3,
            card: Card::Tap,
            disks: 2,
            read_only: 1,
            words: KernelWords::try_from("console=ttyS0".to_string()).expect("good"),
            disk_rate_mib: 0,
            net_rate_mib: 0,
            from: None,
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        assert_eq!(machine().check(), Ok(()));
        let bad = [
            Machine { cpus: 0, ..machine() },
            Machine { cpus: 33, ..machine() },
            Machine { memory_mib: 63, ..machine() },
            Machine { memory_mib: u32::MAX, ..machine() },
            Machine { cid: 2, ..machine() },
            Machine { cid: u32::MAX, ..machine() },
            Machine { disks: 0, read_only: 0, ..machine() },
            Machine { disks: 17, ..machine() },
            Machine { read_only: 4, ..machine() },
            Machine { backend: Backend::Firecracker, ..machine() },
            Machine { backend: Backend::Firecracker, kvm: true, card: Card::User, ..machine() },
            Machine { from: Some(machine().boot), ..machine() },
        ];
        for machine in bad {
            assert!(machine.check().is_err(), "{machine:?}");
        }
        for words in ["a\"b", "a;b", "$(x)", "a\nb", &"x".repeat(2001), "ü", "a,b'"] {
            assert!(KernelWords::try_from(words.to_string()).is_err(), "{words}");
        }
        for key in ["", "0123456789ABCDEF", "0123456789abcde", "../../../../etc0"] {
            assert!(BootKey::try_from(key.to_string()).is_err(), "{key}");
        }
    }

    #[test]
    fn versions_with_known_holes_are_refused() {
        let parse = |text| Version::parse(text).expect("a version");
        assert_eq!(parse("Firecracker v1.16.1\n\nmore"), Version(1, 16, 1));
        assert_eq!(parse("Firecracker v1.17.0-dev"), Version(1, 17, 0));
        assert_eq!(Version::parse("Firecracker"), None);
        assert_eq!(Version::parse(""), None);
        for (version, good) in [
            ((1, 9, 1), false),
            ((1, 13, 1), false),
            ((1, 14, 0), false),
            ((1, 14, 3), false),
            ((1, 14, 4), true),
            ((1, 15, 0), false),
            ((1, 15, 1), true),
            ((1, 16, 1), true),
            ((2, 0, 0), true),
        ] {
            let version = Version(version.0, version.1, version.2);
            assert_eq!(version.refusal().is_none(), good, "{version}");
        }
    }
}
