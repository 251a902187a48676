//! What a daemon and its root helper see of their host: what `banger doctor` cannot see by itself.

use super::Problem;
use crate::helper;
use crate::machine::Backend;
use crate::net::Subnet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `GET /v1/facts`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What runs a sandbox that names nothing.
    pub vmm: Backend,
    /// Why that.
    pub why: String,
    /// Why others cannot be had.
    pub missing: BTreeMap<Backend, String>,
    /// What the root helper sees, or why it does not say. None where there is no helper.
    pub helper: Option<Result<helper::Facts, Problem>>,
    /// Programs that the daemon would start and does not find.
    pub lacks: BTreeSet<String>,
    /// The bridge's subnet. None when there was none to choose.
    pub subnet: Option<Subnet>,
    /// The subnets that overlap no route of the host now. None when the routes cannot be read.
    pub free: Option<BTreeSet<Subnet>>,
    /// The bridge, while there is one.
    pub bridge: Option<Bridge>,
}

/// How a bridge and what belongs to it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Whether the host passes packets on.
    pub forwards: bool,
    /// Whether the rules are as the helper wrote them.
    pub enforced: bool,
    /// Whether the host's resolver asks us for names of sandboxes. None when it has none that could.
    pub names_routed: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ProblemKind;

    #[test]
    fn golden_facts() {
        let problem =
            Problem { kind: ProblemKind::Host, message: "gone".into(), hints: Vec::new() };
        let facts = Facts {
            vmm: Backend::Qemu,
            why: "there is no /dev/kvm".into(),
            missing: [(Backend::Firecracker, "no jailer".to_string())].into(),
            helper: Some(Err(problem)),
            lacks: ["git".to_string()].into(),
            subnet: Subnet::new(1).ok(),
            free: Some(Subnet::all().take(2).collect()),
            bridge: Some(Bridge { forwards: true, enforced: true, names_routed: None }),
        };
        let text = serde_json::to_string(&facts).expect("encodes");
        assert_eq!(
            text,
            r#"{"vmm":"qemu","why":"there is no /dev/kvm","missing":{"firecracker":"no jailer"},"helper":{"Err":{"kind":"host","message":"gone","hints":[]}},"lacks":["git"],"subnet":1,"free":[0,1],"bridge":{"forwards":true,"enforced":true,"names_routed":null}}"#
        );
        assert_eq!(serde_json::from_str::<Facts>(&text).expect("decodes"), facts);
    }
}
