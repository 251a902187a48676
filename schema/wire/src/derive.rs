//! Names derived from ids, so that an object on the host can be owned without a database (R-R2).

use crate::id::{InstallId, SandboxId};
use std::path::{Path, PathBuf};

/// Where state and run folders are: below `BANGER_HOME` if that is set, else the system's folders for root, and
/// the user's own for others. `None` when there is no home either.
pub fn roots(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    is_root: bool,
) -> Option<(PathBuf, PathBuf)> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = variable("BANGER_HOME") {
        return Some((home.join("state"), home.join("run")));
    }
    if is_root {
        return Some((PathBuf::from("/var/lib/banger"), PathBuf::from("/run/banger")));
    }
    let home = variable("HOME")?;
    let state = variable("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
    let state = state.join("banger");
    let run = variable("XDG_RUNTIME_DIR").map(|run| run.join("banger"));
    let run = run.unwrap_or_else(|| state.join("run"));
    Some((state, run))
}

/// The longest path that a Unix socket may have, with its terminator.
const SUN_PATH: usize = 108;
/// The longest name of a socket in the folder of a sandbox's run.
const LONGEST_SOCKET: &str = "console.sock";

/// Whether the sockets below a run folder have paths that are short enough.
pub fn sockets_fit(run: &Path) -> bool {
    let longest = run.join("vm").join("0".repeat(26)).join(LONGEST_SOCKET);
    longest.as_os_str().len() < SUN_PATH
}

/// The first user of jails. From 0x70000000 on nobody has claims (systemd's "Users, Groups, UIDs and GIDs").
pub const FIRST_JAIL_USER: u32 = 0x7100_0000;
/// How many users of jails there are.
pub const JAIL_USERS: u32 = 1 << 16;

/// The daemon's socket in the run folder.
pub const SOCKET: &str = "bangerd.sock";
/// The daemon's log in the state folder, when nobody else takes it.
pub const LOG: &str = "bangerd.log";

/// The folder of SSH keys in the state folder, and the files that `ssh` reads there.
pub const SSH_FOLDER: &str = "ssh";
/// The client's private key.
pub const SSH_KEY: &str = "id_ed25519";
/// The configuration for every sandbox.
pub const SSH_CONFIG: &str = "config";

/// The port of the daemon's DNS server on the host's loopback.
pub const DNS_PORT: u16 = 42069;

/// The project of sandboxes that were made by command.
pub const DEFAULT_PROJECT: &str = "default";
/// The project of sandboxes that live only as long as a connection.
pub const RUN_PROJECT: &str = "run";

/// The environment variable that marks every process we start for a sandbox.
pub const MARK: &str = "BANGER_PROCESS";

/// What a process of a sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The virtual machine monitor itself.
    Vmm,
    /// The vsock device process beside it.
    Vsock,
    /// A program that builds an image or fetches a kernel.
    Build,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Vmm => "vmm",
            Role::Vsock => "vsock",
            Role::Build => "build",
        }
    }
}

/// The value of [`MARK`] for one process: `<install>.<sandbox>.<role>.<boot>`.
pub fn process_mark(install: &InstallId, sandbox: &SandboxId, role: Role, boot: &str) -> String {
    format!("{install}.{sandbox}.{}.{boot}", role.as_str())
}

/// Reads a mark back. `None` when it is not ours.
pub fn parse_process_mark(install: &InstallId, mark: &str) -> Option<(SandboxId, Role, String)> {
    let mut parts = mark.splitn(4, '.');
    if parts.next()? != install.as_str() {
        return None;
    }
    let sandbox = SandboxId::new(parts.next()?).ok()?;
    let role = match parts.next()? {
        "vmm" => Role::Vmm,
        "vsock" => Role::Vsock,
        "build" => Role::Build,
        _ => return None,
    };
    Some((sandbox, role, parts.next()?.to_string()))
}

/// The most letters that an interface's name has.
pub const IFNAMSIZ: usize = 15;

/// The last letters of an id, five of its bits each: ids are digests, so they differ there too.
fn tail(id: &str, letters: usize) -> String {
    id[id.len() - letters..].to_lowercase()
}

/// What the names of all bridges begin with.
pub const BRIDGE: &str = "bgb";
/// What the names of all taps begin with.
pub const TAP: &str = "bgr";

/// The bridge of an installation.
pub fn bridge(install: &InstallId) -> String {
    format!("{BRIDGE}{}", tail(install.as_str(), 12))
}

/// What the names of all taps of an installation begin with, and nobody else's.
pub fn tap_prefix(install: &InstallId) -> String {
    format!("{TAP}{}", tail(install.as_str(), 4))
}

/// The tap of a sandbox.
pub fn tap(install: &InstallId, sandbox: &SandboxId) -> String {
    format!("{}{}", tap_prefix(install), tail(sandbox.as_str(), 8))
}

/// The firewall tables of an installation: what is routed, and what enters its bridge.
pub fn table(uid: u32, install: &InstallId) -> String {
    format!("banger_{uid}_{}", tail(install.as_str(), 12))
}

/// The alias of a bridge (no sandbox) or a tap: without it an interface of that name is not ours.
pub fn alias(uid: u32, install: &InstallId, sandbox: Option<&SandboxId>) -> String {
    let sandbox = sandbox.map(|sandbox| format!(":{sandbox}")).unwrap_or_default();
    format!("banger:{uid}:{install}{sandbox}")
}

/// The sandbox of a tap's alias. `None` when it is not a tap of this user and installation.
pub fn parse_tap_alias(uid: u32, install: &InstallId, text: &str) -> Option<SandboxId> {
    let rest = text.strip_prefix(&alias(uid, install, None))?;
    SandboxId::new(rest.strip_prefix(':')?).ok()
}

/// The hardware address of a sandbox's network card: locally administered, and the same at every start.
pub fn mac(sandbox: &SandboxId) -> [u8; 6] {
    let [.., a, b, c, d, e] = sandbox.bits().to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// The hardware address of a bridge: that of its lowest port would change with its ports.
pub fn bridge_mac(install: &InstallId) -> [u8; 6] {
    let [.., a, b, c, d, e] = install.bits().to_be_bytes();
    [0x06, a, b, c, d, e]
}

/// A hardware address as people write it.
pub fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether a text has lower-case hex digits only.
pub(crate) fn hex_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The cgroup that holds all sandboxes of one owner, below the root of the v2 hierarchy.
pub fn owner_cgroup(uid: u32) -> String {
    format!("banger-{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_names_fit_and_lead_back() {
        let (install, sandbox) = (InstallId::from_bits(u128::MAX), SandboxId::from_bits(0xabcdef));
        assert_eq!(tap(&install, &sandbox), "bgrzzzz000aqkff");
        assert!(bridge(&install).len() <= IFNAMSIZ && tap(&install, &sandbox).len() <= IFNAMSIZ);
        assert_eq!(show_mac(mac(&sandbox)), "02:00:00:ab:cd:ef");
        let text = alias(7, &install, Some(&sandbox));
        assert_eq!(parse_tap_alias(7, &install, &text), Some(sandbox));
        assert_eq!(parse_tap_alias(8, &install, &text), None);
        assert_eq!(parse_tap_alias(7, &InstallId::from_bits(1), &text), None);
        assert_eq!(parse_tap_alias(7, &install, &alias(7, &install, None)), None);
    }

    #[test]
    fn sockets_have_short_paths() {
        assert!(sockets_fit(&PathBuf::from("/run/banger")));
        let longest = "/".to_string() + &"x".repeat(63);
        assert!(sockets_fit(&PathBuf::from(&longest)));
        assert!(!sockets_fit(&PathBuf::from(longest + "x")));
    }

    #[test]
    fn marks_round_trip_and_foreign_ones_do_not() {
        let (install, other) = (InstallId::from_bits(1), InstallId::from_bits(2));
        let sandbox = SandboxId::from_bits(7);
        let mark = process_mark(&install, &sandbox, Role::Vsock, "abc");
        assert_eq!(
            parse_process_mark(&install, &mark),
            Some((sandbox, Role::Vsock, "abc".to_string()))
        );
        assert_eq!(parse_process_mark(&other, &mark), None);
        for bad in ["", ".", "a.b.c.d", mark.trim_end_matches(".abc")] {
            assert_eq!(parse_process_mark(&install, bad), None, "{bad}");
        }
    }
}
