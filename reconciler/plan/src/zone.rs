//! Names of sandboxes: who is called what, as the host sees it or as one sandbox does.
//!
//! A name stands for a sandbox that runs with an open port; `<vm>.vm` only while it is nobody else's too.

use crate::actual::{Actual, SandboxFact};
use crate::desired::{Desired, DesiredSandbox, Life};
use crate::policy::reach;
use banger_wire::id::Name;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The top-level name of all sandboxes.
pub const TOP: &str = "vm";

/// Addresses by name, in lower case and without a dot at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone(BTreeMap<String, Ipv4Addr>);

impl Zone {
    /// The address of a name.
    pub fn get(&self, name: &str) -> Option<Ipv4Addr> {
        self.0.get(name).copied()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The names that the host's programs may ask for: every sandbox's.
pub fn host_zone(desired: &Desired, actual: &Actual) -> Zone {
    zone(desired, actual, None, |_| true)
}

/// The names that a sandbox may ask for: its own, and those of the sandboxes that it can reach. A name that its own
/// project has is that one.
pub fn guest_zone(desired: &Desired, actual: &Actual, asks: &DesiredSandbox) -> Zone {
    zone(desired, actual, Some(&asks.project), |other| {
        other.id == asks.id || reach(desired, asks, other)
    })
}

fn zone(
    desired: &Desired,
    actual: &Actual,
    home: Option<&Name>,
    known: impl Fn(&DesiredSandbox) -> bool,
) -> Zone {
    let runs = |sandbox: &DesiredSandbox| {
        let fact = actual.sandboxes.get(&sandbox.id);
        sandbox.runs() && fact.is_some_and(is_connected)
    };
    let mut names = BTreeMap::new();
    let mut short: BTreeMap<&Name, Vec<(&Name, Option<Ipv4Addr>)>> = BTreeMap::new();
    let wanted = desired.sandboxes.values().filter(|sandbox| sandbox.life == Life::Wanted);
    for sandbox in wanted.filter(|sandbox| known(sandbox)) {
        let Some(address) = desired.address(sandbox) else { continue };
        let address = Some(address).filter(|_| runs(sandbox));
        if let Some(address) = address {
            names.insert(format!("{}.{}.{TOP}", sandbox.name, sandbox.project), address);
        }
        // Also one that does not run: a name must not be somebody else's while it is down.
        short.entry(&sandbox.name).or_default().push((&sandbox.project, address));
    }
    for (name, owners) in short {
        let own = owners.iter().find(|(project, _)| Some(*project) == home);
        let address = match (own, owners.as_slice()) {
            (Some((_, address)), _) => *address,
            (None, [(_, only)]) => *only,
            (None, _) => continue,
        };
        if let Some(address) = address {
            names.insert(format!("{name}.{TOP}"), address);
        }
    }
    Zone(names)
}

/// What a name leads to.
pub enum Lookup<'a> {
    /// One sandbox.
    Found(&'a DesiredSandbox),
    /// None.
    Nobody,
    /// Several: their full names.
    Several(Vec<String>),
}

/// The sandbox of a name, with `.vm` at its end or without: `<vm>.<project>`, or `<vm>` where there is just one. It
/// need not run.
pub fn find<'a>(desired: &'a Desired, name: &str) -> Lookup<'a> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let name = name.strip_suffix(&format!(".{TOP}")).unwrap_or(&name);
    let (vm, project) = match name.split_once('.') {
        Some((vm, project)) => (vm, Some(project)),
        None => (name, None),
    };
    let wanted = desired.sandboxes.values().filter(|s| s.life == Life::Wanted);
    let found: Vec<&DesiredSandbox> = wanted
        .filter(|s| s.name.as_str() == vm && project.is_none_or(|p| s.project.as_str() == p))
        .collect();
    match found.as_slice() {
        [] => Lookup::Nobody,
        [only] => Lookup::Found(only),
        several => {
            let full = |s: &&DesiredSandbox| format!("{}.{}.{TOP}", s.name, s.project);
            Lookup::Several(several.iter().map(full).collect())
        }
    }
}

fn is_connected(fact: &SandboxFact) -> bool {
    fact.vmm.present().is_some() && fact.tap.present().is_some_and(|tap| tap.up)
}
