//! Requests that change what is desired.

use super::{Context, Refusal, problem};
use crate::engine::{Consent, Proposal, Terms};
use crate::resolve::resolve;
use axum::Json;
use axum::extract::{Path, State};
use banger_plan::{edit, snapshot};
use banger_schema::Spec;
use banger_wire::api::{Applied, Apply, Destroy, Edit, Phase, Problem, ProblemKind};
use banger_wire::id::Name;

fn applied(proposal: Proposal) -> Json<Applied> {
    let Proposal { plan, accepted, destroys, change } = proposal;
    Json(Applied { plan: plan.view(), accepted, destroys, change })
}

fn agreed(yes: bool) -> Consent {
    if yes { Consent::Yes } else { Consent::No }
}

/// A spec with nothing left open.
pub(super) async fn whole(context: &Context, project: &Name, spec: Spec) -> Result<Spec, Problem> {
    resolve(&context.registry, &context.engine.desired(), project, spec).await
}

/// What a project wants now.
pub(super) async fn show(
    State(context): State<Context>,
    Path(project): Path<Name>,
) -> Result<Json<Spec>, Refusal> {
    let spec = context.engine.desired().projects.get(&project).cloned();
    Ok(Json(spec.ok_or_else(|| no_project(&project))?))
}

fn no_project(project: &Name) -> Problem {
    problem(ProblemKind::NotFound, format!("there is no project {project}"))
}

pub(super) async fn apply(
    State(context): State<Context>,
    Path(project): Path<Name>,
    Json(apply): Json<Apply<Spec>>,
) -> Result<Json<Applied>, Refusal> {
    let _active = context.active();
    let terms = Terms {
        dry_run: apply.dry_run,
        consent: agreed(apply.consent),
        ephemeral: false,
        also: None,
    };
    let spec = whole(&context, &project, apply.spec).await?;
    Ok(applied(context.engine.propose(&project, terms, |_| Ok(spec)).await?))
}

pub(super) async fn destroy(
    State(context): State<Context>,
    Path(project): Path<Name>,
    Json(destroy): Json<Destroy>,
) -> Result<Json<Applied>, Refusal> {
    let _active = context.active();
    let terms = Terms {
        dry_run: destroy.dry_run,
        consent: agreed(destroy.consent),
        ephemeral: false,
        also: None,
    };
    Ok(applied(context.engine.propose(&project, terms, |_| Ok(Spec::default())).await?))
}

pub(super) async fn edit(
    State(context): State<Context>,
    Path(project): Path<Name>,
    Json(command): Json<Edit<Spec>>,
) -> Result<Json<Applied>, Refusal> {
    let _active = context.active();
    if let Edit::Suspend { name } = &command {
        can_suspend(&context, &project, name)?;
    }
    if let Edit::Restore { snapshot, .. } | Edit::Fork { snapshot, .. } = &command {
        is_taken(&context, &project, snapshot)?;
    }
    let starts = if let Edit::Start { name } = &command { Some(name) } else { None };
    let ended = starts.is_some_and(|name| has_ended(&context, &project, name));
    // Whoever deletes by name has said what they mean, and nothing about anything else.
    let removed = if let Edit::Delete { name } = &command { Some(name.clone()) } else { None };
    let consent = if let Edit::Update { consent, .. } = &command {
        agreed(*consent)
    } else {
        Consent::Only(removed)
    };
    let command = if let Edit::Create { spec } = command {
        Edit::Create { spec: whole(&context, &project, spec).await? }
    } else {
        command
    };
    let also = Some(command.clone());
    let terms = Terms { dry_run: false, consent, ephemeral: false, also };
    let proposal = context.engine.propose(&project, terms, |desired| {
        // Snapshots outlive what their project declared.
        let creates = matches!(
            command,
            Edit::Create { .. }
                | Edit::Update { .. }
                | Edit::Fork { .. }
                | Edit::DropSnapshot { .. }
        );
        let spec = desired.projects.get(&project).cloned();
        let spec =
            spec.or_else(|| creates.then(Spec::default)).ok_or_else(|| no_project(&project))?;
        let edited = match snapshot::edit(desired, &project, &spec, &command) {
            Ok(Some(spec)) => Ok(spec),
            Ok(None) => edit::edit(&spec, &command, ended),
            Err(error) => Err(error),
        };
        edited.map_err(|error| {
            let kind = match error {
                edit::EditError::NotFound(_) | edit::EditError::NoSnapshot(_) => {
                    ProblemKind::NotFound
                }
                edit::EditError::Exists(_)
                | edit::EditError::SnapshotExists(_)
                | edit::EditError::OtherImage(_)
                | edit::EditError::NoImage(_)
                | edit::EditError::Differs { .. } => ProblemKind::User,
            };
            problem(kind, error.to_string())
        })
    });
    let proposal = proposal.await?;
    if !proposal.accepted {
        let lost = proposal.destroys.join(", ");
        return Err(problem(
            ProblemKind::Refused,
            format!("this would destroy the data of {lost}"),
        )
        .into());
    }
    Ok(applied(proposal))
}

/// One that runs and could not be suspended would only stand there with its ports closed.
fn can_suspend(context: &Context, project: &Name, name: &Name) -> Result<(), Refusal> {
    let pass = context.engine.snapshots().borrow().clone();
    let fact = pass.desired.sandbox(project, name).and_then(|s| pass.actual.sandboxes.get(&s.id));
    let vmm = fact.and_then(|fact| fact.vmm.present());
    if vmm.is_none_or(|vmm| vmm.can_suspend) {
        return Ok(());
    }
    let message =
        format!("sandbox {name} cannot be suspended: that needs Firecracker, and no disk-rate");
    let hints = vec!["to stop it in order: banger vm stop".to_string()];
    Err(Problem { hints, ..problem(ProblemKind::Refused, message) }.into())
}

/// Nothing can begin from what is not there yet.
fn is_taken(context: &Context, project: &Name, name: &Name) -> Result<(), Refusal> {
    let pass = context.engine.snapshots().borrow().clone();
    let desired = context.engine.desired();
    let found =
        snapshot::find(&desired, project, name).map(|(id, _)| pass.actual.snapshots.get(id));
    match found {
        Some(fact) if fact.is_none_or(|fact| fact.present().is_none()) => {
            let message = format!("snapshot {name} is not taken yet");
            Err(problem(ProblemKind::Refused, message).into())
        }
        // That there is none of that name is said where the command is carried out.
        Some(_) | None => Ok(()),
    }
}

/// Whether a sandbox that should run does not, because it ended by itself.
fn has_ended(context: &Context, project: &Name, name: &Name) -> bool {
    let snapshot = context.engine.snapshots().borrow().clone();
    let mut sandboxes = snapshot.status.sandboxes.iter();
    let found = sandboxes.find(|s| s.project == *project && s.name == *name);
    let wanted = snapshot.desired.sandbox(project, name).is_some_and(|s| s.runs());
    wanted && found.is_some_and(|found| found.phase == Phase::Stopped)
}
