//! How things are: computed from Desired, Actual, the Plan and the failures so far. Never stored.

use crate::actual::{Actual, SandboxFact};
use crate::desired::{Desired, DesiredSandbox, Key, Life};
use crate::plan::Plan;
use banger_wire::agent;
use banger_wire::api::{Phase, Problem, SandboxStatus, Status, VolumeStatus};
use banger_wire::id::{Generation, Name};
use std::collections::BTreeMap;

/// A list that failed, and how often in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Failures in a row.
    pub count: u32,
    /// The last one.
    pub problem: Problem,
    /// Seconds until the next try.
    pub next_try_secs: u64,
}

/// The failures of every list.
pub type Failures = BTreeMap<Key, Failure>;

/// A list that failed this often in a row counts as failed for whoever waits; it is tried again all the same.
pub const PATIENCE: u32 = 2;

/// How everything is.
pub fn status(desired: &Desired, actual: &Actual, plan: &Plan, failures: &Failures) -> Status {
    let sandboxes = desired.sandboxes.values();
    let mut sandboxes: Vec<SandboxStatus> =
        sandboxes.map(|s| sandbox_status(s, desired, actual, plan, failures)).collect();
    sandboxes.sort_by(|a, b| (&a.project, &a.name, &a.id).cmp(&(&b.project, &b.name, &b.id)));
    let volumes = desired.volumes.iter().map(|(id, volume)| VolumeStatus {
        project: volume.project.clone(),
        name: volume.name.clone(),
        size: volume.size.to_string(),
        present: actual.volumes.get(id).is_some_and(|seen| seen.present().is_some()),
    });
    Status { sandboxes, volumes: volumes.collect(), foreign: actual.foreign.clone() }
}

fn sandbox_status(
    sandbox: &DesiredSandbox,
    desired: &Desired,
    actual: &Actual,
    plan: &Plan,
    failures: &Failures,
) -> SandboxStatus {
    let absent = SandboxFact::absent();
    let fact = actual.sandboxes.get(&sandbox.id).unwrap_or(&absent);
    let key = Key::Sandbox(sandbox.id.clone());
    let list = plan.lists.get(&key);
    let failure = failure_of(sandbox, failures, list.is_some());
    let (phase, reason) = phase(sandbox, fact, plan, failure);
    let guest = fact.guest.present();
    let vmm = fact.vmm.present();
    SandboxStatus {
        project: sandbox.project.clone(),
        name: sandbox.name.clone(),
        id: sandbox.id.clone(),
        phase,
        reason: banger_wire::text::clean_line(&reason),
        settled: list.is_none()
            && matches!(phase, Phase::Ready | Phase::Stopped | Phase::Suspended),
        generation: sandbox.generation,
        observed_generation: guest.map_or(Generation(0), |guest| guest.generation),
        image: sandbox.spec.image.to_string(),
        cpus: sandbox.spec.cpus,
        memory: sandbox.spec.memory.to_string(),
        uptime_secs: vmm.map(|vmm| vmm.uptime_secs),
        boot_id: guest.map(|guest| banger_wire::text::clean_line(&guest.boot_id)),
        vmm: vmm.map(|vmm| vmm.backend.clone()),
        address: desired.address(sandbox).filter(|_| fact.tap.present().is_some()),
        networks: sandbox.spec.networks.iter().cloned().collect(),
        egress: sandbox.spec.egress,
        ports: fact.ports.iter().map(|(host, guest)| format!("{host}:{guest}")).collect(),
        failures: failure.map_or(0, |failure| failure.count),
        next_try_secs: failure.map(|failure| failure.next_try_secs),
        ephemeral: sandbox.ephemeral,
    }
}

/// The sandbox's own failure, or that of something that it needs.
fn failure_of<'a>(
    sandbox: &DesiredSandbox,
    failures: &'a Failures,
    has_work: bool,
) -> Option<&'a Failure> {
    let needs = [Key::Kernel(sandbox.kernel.clone()), Key::Image(sandbox.image.clone())];
    // The network is everybody's: its trouble is that of who waits for it.
    let network = has_work.then_some(Key::Network);
    let volumes = sandbox.volumes.iter().map(|volume| Key::Volume(volume.clone()));
    let own = failures.get(&Key::Sandbox(sandbox.id.clone()));
    own.or_else(|| {
        needs.into_iter().chain(network).chain(volumes).find_map(|key| failures.get(&key))
    })
}

fn phase(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    plan: &Plan,
    failure: Option<&Failure>,
) -> (Phase, String) {
    let list = plan.lists.get(&Key::Sandbox(sandbox.id.clone()));
    let waits = list.and_then(|list| list.waits.first()).map(ToString::to_string);
    let blocked = list.and_then(|list| list.blocked.first()).cloned();
    let up = fact.vmm.present().is_some();
    if sandbox.life == Life::Removed {
        return (Phase::Removing, failure.map(|f| f.problem.message.clone()).unwrap_or_default());
    }
    if let Some(why) = blocked {
        return (if up { Phase::Degraded } else { Phase::Pending }, why);
    }
    if !sandbox.runs() {
        let phase = match (up, fact.suspended.present()) {
            (true, _) => Phase::Stopping,
            (false, Some(_)) => Phase::Suspended,
            (false, None) => Phase::Stopped,
        };
        return (phase, failure.map(|f| f.problem.message.clone()).unwrap_or_default());
    }
    if let Some(failure) = failure {
        let phase = if failure.count >= PATIENCE { Phase::Failed } else { Phase::Starting };
        return (phase, failure.problem.message.clone());
    }
    if let Some(why) = waits {
        return (Phase::Pending, why);
    }
    let guest = fact.guest.present();
    match (up, guest) {
        (false, _) if list.is_none() => (Phase::Stopped, "its guest ended".to_string()),
        (false, _) => (Phase::Starting, String::new()),
        (true, None) => (Phase::Starting, "its guest does not answer yet".to_string()),
        (true, Some(guest)) if guest.generation != sandbox.generation => {
            (Phase::Starting, "its guest has no identity of this generation yet".to_string())
        }
        (true, Some(guest)) => guest_phase(guest),
    }
}

fn guest_phase(guest: &agent::GuestState) -> (Phase, String) {
    match guest.phase {
        agent::Phase::Waiting | agent::Phase::Identifying => {
            (Phase::Starting, guest.detail.clone())
        }
        agent::Phase::Shipping => (Phase::Starting, "it waits for its workspace".to_string()),
        agent::Phase::Provisioning => (Phase::Starting, format!("provisioning {}", guest.detail)),
        agent::Phase::Probing => (Phase::Starting, format!("not ready {}", guest.detail)),
        agent::Phase::Ready => (Phase::Ready, String::new()),
        agent::Phase::Failed => (Phase::Degraded, guest.detail.clone()),
        agent::Phase::Leaving => (Phase::Stopping, "its guest is shutting down".to_string()),
    }
}

/// Whether nothing more will happen by itself for a project, and what is wrong then.
pub enum Settled {
    /// Things are still moving.
    No,
    /// It stands still; the problems, if any.
    Yes(Vec<Problem>),
}

/// Whether a project stands still; or one sandbox of it, with what it needs.
pub fn settled(
    desired: &Desired,
    status: &Status,
    plan: &Plan,
    failures: &Failures,
    project: &Name,
    only: Option<&Name>,
) -> Settled {
    let mut plan = plan.of_project(desired, project);
    if let Some(name) = only {
        let mut sandboxes = desired.sandboxes.values();
        let sandbox = sandboxes.find(|s| s.project == *project && s.name == *name);
        let needs = sandbox.map(|sandbox| desired.needs(&sandbox.id)).unwrap_or_default();
        let idle = needs.first().is_none_or(|own| !plan.lists.contains_key(own));
        plan.lists.retain(|key, _| needs.contains(key) && !(idle && *key == Key::Network));
    }
    let mut problems = Vec::new();
    for (key, list) in &plan.lists {
        let problem = match failures.get(key) {
            Some(failure) if failure.count >= patience(key) => failure.problem.clone(),
            Some(_) => return Settled::No,
            None => match stuck(list, failures, status, project) {
                Some(why) => user_problem(why),
                None => return Settled::No,
            },
        };
        problems
            .push(Problem { message: format!("{}: {}", list.title, problem.message), ..problem });
    }
    let shown = status.sandboxes.iter().filter(|s| s.project == *project);
    for sandbox in shown.filter(|s| only.is_none_or(|name| s.name == *name)) {
        let title = format!("sandbox {}", sandbox.name);
        let told = problems.iter().any(|problem: &Problem| {
            problem.message.starts_with(&title)
                || !sandbox.reason.is_empty() && problem.message.contains(&sandbox.reason)
        });
        match sandbox.phase {
            Phase::Ready | Phase::Stopped | Phase::Suspended => {}
            Phase::Pending
            | Phase::Stopping
            | Phase::Removing
            | Phase::Failed
            | Phase::Degraded
                if told => {}
            Phase::Degraded | Phase::Failed => {
                let mut problem = user_problem(format!("{title}: {}", sandbox.reason));
                problem.hints.push(format!("see: banger vm logs {}", sandbox.name));
                problems.push(problem);
            }
            Phase::Pending | Phase::Starting | Phase::Stopping | Phase::Removing => {
                return Settled::No;
            }
        }
    }
    Settled::Yes(problems)
}

fn user_problem(message: String) -> Problem {
    Problem { kind: banger_wire::api::ProblemKind::User, message, hints: Vec::new() }
}

/// Why a list will not move by itself. `None` when it will.
fn stuck(
    list: &crate::plan::List,
    failures: &Failures,
    status: &Status,
    project: &Name,
) -> Option<String> {
    let failed = |key: &Key| failures.get(key).is_some_and(|f| f.count >= patience(key));
    let hopeless = |wait: &&crate::plan::Wait| match wait {
        crate::plan::Wait::For(key, _) => failed(key),
        crate::plan::Wait::Turn(_) => false,
        crate::plan::Wait::Ready(name) => status.sandboxes.iter().any(|other| {
            other.project == *project
                && other.name == *name
                && matches!(
                    other.phase,
                    Phase::Failed | Phase::Degraded | Phase::Stopped | Phase::Suspended
                )
        }),
    };
    if let Some(wait) = list.waits.iter().find(hopeless) {
        return Some(wait.to_string());
    }
    if list.steps.is_empty() && list.waits.is_empty() {
        list.blocked.first().cloned()
    } else {
        None
    }
}

/// A fetch or build that failed will hardly succeed at once; a guest that failed to boot may.
fn patience(key: &Key) -> u32 {
    match key {
        Key::Network
        | Key::Memories
        | Key::Kernel(_)
        | Key::Image(_)
        | Key::Volume(_)
        | Key::Snapshot(_) => 1,
        Key::Sandbox(_) => PATIENCE,
    }
}
