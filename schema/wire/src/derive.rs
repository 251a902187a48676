//! Names derived from ids, so that an object on the host can be owned without a database (R-R2).

use crate::id::{InstallId, SandboxId};

/// The environment variable that marks every process we start for a sandbox.
pub const MARK: &str = "BANGER_PROCESS";

/// What a process of a sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The virtual machine monitor itself.
    Vmm,
    /// The vsock device process beside it.
    Vsock,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Vmm => "vmm",
            Role::Vsock => "vsock",
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
