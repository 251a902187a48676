//! A sandbox's processes and the folder of their run.

use super::View;
use crate::action::Action;
use crate::desired::Life;
use crate::plan::List;

pub(super) fn plan_removal(view: &View<'_>, list: &mut List) {
    let sandbox = view.desired.id.clone();
    if let Some(why) = &view.verdict.stop {
        let stands_still =
            view.verdict.suspend || view.fact.vmm.present().is_some_and(|vmm| vmm.is_suspended);
        let kill = view.desired.spec.kill
            || view.desired.ephemeral && view.desired.life == Life::Removed
            || stands_still;
        list.push(Action::StopVmm { sandbox: sandbox.clone(), kill }, why.clone());
    }
    let left_over = view.fact.run.present().is_some() || view.fact.jail;
    let ends = view.verdict.stop.is_some();
    let ended = view.fact.vmm.is_absent() && (view.verdict.start.is_some() || !view.desired.runs());
    if left_over && (ends || ended) {
        list.push(Action::RemoveRun { sandbox }, "it ended");
    }
}

pub(super) fn plan_addition(view: &View<'_>, list: &mut List) {
    if let Some(why) = &view.verdict.start {
        let spec = &view.desired.spec;
        let action = Action::StartVmm {
            boot: view.verdict.boot.clone().map(Box::new),
            sandbox: view.desired.id.clone(),
            cold: spec.cold,
            wakes: view.verdict.wakes,
            cpus: spec.cpus,
            memory: spec.memory,
        };
        list.push(action, why.clone());
    }
}
