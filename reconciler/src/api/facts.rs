//! What the daemon and its helper see of the host, for `banger doctor`. It judges nothing.

use super::{Context, Refusal, problem};
use crate::drivers::net;
use crate::helper::Helper;
use crate::process::find_program;
use axum::Json;
use axum::extract::State;
use banger_plan::actual::BridgeFact;
use banger_plan::desired::Desired;
use banger_plan::doctor::PROGRAMS;
use banger_plan::policy::policy;
use banger_wire::api::ProblemKind;
use banger_wire::api::facts::{Bridge, Facts};
use banger_wire::helper::Rules;
use banger_wire::net::Subnet;

pub(super) async fn facts(State(context): State<Context>) -> Result<Json<Facts>, Refusal> {
    let snapshot = context.engine.snapshots().borrow().clone();
    let network = snapshot.actual.network.present();
    let network = network.filter(|fact| fact.bridge != BridgeFact::Absent);
    let names_routed = network.map(|fact| fact.names_routed);
    let (helper, desired) = (context.helper.clone(), snapshot.desired.clone());
    // It runs other programs: a thread waits for it.
    let asked = tokio::task::spawn_blocking(move || {
        let enforced = names_routed.is_some() && enforced(helper.as_ref(), &desired);
        (helper.map(|helper| helper.probe().map_err(|fault| fault.problem())), enforced)
    });
    let asked = asked.await;
    let asked = asked.map_err(|error| problem(ProblemKind::Internal, error.to_string()));
    let (helper, enforced) = asked?;
    let forwards = net::forwards();
    let lacks = PROGRAMS.into_iter().filter(|program| find_program(program).is_none());
    let free = net::is_free(&snapshot.desired.install).await.ok();
    let backends = &snapshot.actual.backends;
    Ok(Json(Facts {
        vmm: backends.default,
        why: backends.why.clone(),
        missing: backends.missing.clone(),
        helper,
        lacks: lacks.map(String::from).collect(),
        subnet: snapshot.desired.subnet,
        free: free.map(|is_free| Subnet::all().filter(|subnet| is_free(*subnet)).collect()),
        bridge: names_routed.map(|names_routed| Bridge { forwards, enforced, names_routed }),
    }))
}

/// Whether the rules are as the helper wrote them, now. Those that cannot be read are not.
fn enforced(helper: Option<&Helper>, desired: &Desired) -> bool {
    let (Some(helper), Some(subnet)) = (helper, desired.subnet) else { return false };
    match helper.rules(subnet, policy(desired)) {
        Ok((Rules::Older | Rules::Current, _)) => true,
        Ok((Rules::Absent | Rules::Altered, _)) | Err(_) => false,
    }
}
