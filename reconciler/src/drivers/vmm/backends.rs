//! What guests are run with on this host, and why.

use crate::helper::Helper;
use crate::host::Acceleration;
use banger_plan::actual::Backends;
use banger_wire::machine::Backend;
use std::collections::BTreeMap;

/// The variable that insists for all sandboxes that name nothing themselves.
const VARIABLE: &str = "BANGER_VMM";

/// Looks at the host, once: what is installed later is used by the next daemon.
pub(super) fn find(helper: Option<&Helper>, acceleration: (Acceleration, &str)) -> Backends {
    let named = std::env::var(VARIABLE).ok();
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
    choose(named.as_deref(), missing, acceleration)
}

fn choose(
    named: Option<&str>,
    missing: BTreeMap<Backend, String>,
    (acceleration, why): (Acceleration, &str),
) -> Backends {
    let (default, why) = match (named.and_then(Backend::parse), acceleration) {
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
        assert_eq!(of(Some("firecracker"), none(), tcg), firecracker("BANGER_VMM says so"));
        assert_eq!(of(Some("qemu"), none(), kvm), qemu("BANGER_VMM says so"));
        assert_eq!(of(Some("bochs"), none(), kvm), firecracker("kvm works"));
    }
}
