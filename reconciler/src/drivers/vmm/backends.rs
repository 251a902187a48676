//! What guests are run with on this host, and why.

use crate::fault::Fault;
use crate::helper::Helper;
use crate::host::Acceleration;
use banger_plan::actual::Backends;
use banger_wire::machine::Backend;
use std::collections::BTreeMap;

/// The variable that insists for all sandboxes that name nothing themselves.
const VARIABLE: &str = "BANGER_VMM";

/// Looks at the host, once: what is installed later is used by the next daemon.
///
/// # Errors
/// When the environment insists on something that there is not.
pub(super) fn find(
    helper: Option<&Helper>,
    acceleration: (Acceleration, &str),
) -> Result<Backends, Fault> {
    let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty());
    let named = named.map(|named| insisted(&named.to_string_lossy())).transpose()?;
    let facts = helper.map(|helper| helper.probe());
    let mut missing = BTreeMap::new();
    match facts {
        None => {
            let why = "it needs its jailer, which needs the root helper";
            missing.insert(Backend::Firecracker, why.to_string());
        }
        Some(Err(fault)) => {
            missing.insert(Backend::Firecracker, fault.problem().message);
        }
        Some(Ok(facts)) => {
            if let Err(why) = facts.qemu {
                missing.insert(Backend::Qemu, why);
            }
            if let Err(why) = facts.firecracker {
                missing.insert(Backend::Firecracker, why);
            }
        }
    }
    if std::fs::metadata("/dev/kvm").is_err() {
        let why = "there is no /dev/kvm";
        missing.entry(Backend::Firecracker).or_insert_with(|| why.to_string());
    }
    Ok(choose(named, missing, acceleration))
}

fn insisted(named: &str) -> Result<Backend, Fault> {
    Backend::parse(named).ok_or_else(|| {
        let named = banger_wire::text::clean_line(named);
        Fault::user(format!("{VARIABLE} is {named:?}, which banger does not know"))
            .hint(format!("set it to firecracker or qemu, or unset {VARIABLE}"))
    })
}

fn choose(
    named: Option<Backend>,
    missing: BTreeMap<Backend, String>,
    (acceleration, why): (Acceleration, &str),
) -> Backends {
    let (default, why) = match (named, acceleration) {
        (Some(named), _) => (named, format!("{VARIABLE} says so")),
        (None, Acceleration::Tcg) => (Backend::Qemu, why.to_string()),
        (None, Acceleration::Kvm) => match missing.get(&Backend::Firecracker) {
            None => (Backend::Firecracker, why.to_string()),
            Some(_) => (Backend::Qemu, why.to_string()),
        },
    };
    Backends { default, why, missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_decides_where_nobody_insists() {
        let none = BTreeMap::new;
        let lacks = || BTreeMap::from([(Backend::Firecracker, "it is not there".to_string())]);
        let (kvm, tcg) = ((Acceleration::Kvm, "kvm works"), (Acceleration::Tcg, "kvm does not"));
        let of = |named, missing, host| {
            let chosen = choose(named, missing, host);
            (chosen.default, chosen.why)
        };
        let qemu = |why: &str| (Backend::Qemu, why.to_string());
        let firecracker = |why: &str| (Backend::Firecracker, why.to_string());
        assert_eq!(of(None, none(), kvm), firecracker("kvm works"));
        assert_eq!(of(None, none(), tcg), qemu("kvm does not"));
        assert_eq!(of(None, lacks(), kvm), qemu("kvm works"));
        assert_eq!(of(Some(Backend::Firecracker), none(), tcg), firecracker("BANGER_VMM says so"));
        assert_eq!(of(Some(Backend::Qemu), none(), kvm), qemu("BANGER_VMM says so"));
        assert_eq!(insisted("qemu").expect("known"), Backend::Qemu);
        let problem = insisted("bochs").expect_err("unknown").problem();
        assert!(problem.message.contains("\"bochs\"") && !problem.hints.is_empty());
    }
}
