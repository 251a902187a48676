//! Names derived from ids, so that an object on the host can be owned without a database (R-R2).

use crate::id::{InstallId, SandboxId};
use std::path::PathBuf;

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

/// The daemon's socket in the run folder.
pub const SOCKET: &str = "bangerd.sock";
/// The daemon's log in the state folder, when nobody else takes it.
pub const LOG: &str = "bangerd.log";

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

/// The cgroup that holds all sandboxes of one owner, below the root of the v2 hierarchy.
pub fn owner_cgroup(uid: u32) -> String {
    format!("banger-{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
