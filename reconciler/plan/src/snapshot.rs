//! Commands about snapshots, as changes of what is desired. They are not in any file: a file says what should be, and a
//! snapshot is what was.

use crate::assign::{assign, bits};
use crate::desired::{Desired, DesiredSnapshot, Life, Origin};
use crate::edit::EditError;
use crate::recipe;
use banger_schema::spec::{Mode, SandboxSpec};
use banger_schema::{Spec, catalog};
use banger_wire::api::Edit;
use banger_wire::id::{Generation, Name, SandboxId, SnapshotId};
use banger_wire::machine::BootKey;

/// What a snapshot's memory is known by.
pub fn memory_of(snapshot: &SnapshotId) -> BootKey {
    let digest = recipe::digest(&("snapshot", snapshot)).as_str()[..BootKey::LENGTH].to_string();
    BootKey::try_from(digest).expect("digests are hex digits")
}

/// The wanted snapshot of this project and name.
pub fn find<'a>(
    desired: &'a Desired,
    project: &Name,
    name: &Name,
) -> Option<(&'a SnapshotId, &'a DesiredSnapshot)> {
    desired
        .snapshots
        .iter()
        .find(|(_, s)| s.life == Life::Wanted && s.project == *project && s.name == *name)
}

fn must<'a>(
    desired: &'a Desired,
    project: &Name,
    name: &Name,
) -> Result<(&'a SnapshotId, &'a DesiredSnapshot), EditError> {
    find(desired, project, name).ok_or_else(|| EditError::NoSnapshot(name.clone()))
}

/// What a project wants after such a command, and whether it is one.
///
/// # Errors
/// When the command does not fit.
pub fn edit(
    desired: &Desired,
    project: &Name,
    spec: &Spec,
    command: &Edit<Spec>,
) -> Result<Option<Spec>, EditError> {
    let has = |name: &Name| {
        let found = desired.sandbox(project, name);
        found.ok_or_else(|| EditError::NotFound(name.clone()))
    };
    match command {
        Edit::Snapshot { name, snapshot, .. } => {
            has(name)?;
            if find(desired, project, snapshot).is_some() {
                return Err(EditError::SnapshotExists(snapshot.clone()));
            }
        }
        Edit::Restore { name, snapshot } => {
            let (sandbox, (_, snapshot)) = (has(name)?, must(desired, project, snapshot)?);
            if sandbox.image != snapshot.image {
                return Err(EditError::OtherImage(snapshot.name.clone()));
            }
        }
        Edit::Fork { snapshot, name } => {
            let (_, of) = must(desired, project, snapshot)?;
            if spec.sandboxes.contains_key(name) {
                return Err(EditError::Exists(name.clone()));
            }
            // Ports of the host and volumes are the first one's.
            let forked = SandboxSpec {
                publish: Vec::new(),
                volumes: Vec::new(),
                mode: Mode::Running,
                kill: false,
                restarts: 0,
                ..of.spec.clone()
            };
            match catalog::image(spec, &forked.image).map(|image| recipe::image(&image.source)) {
                Some(image) if image == of.image => {}
                Some(_) => return Err(EditError::OtherImage(of.name.clone())),
                None => return Err(EditError::NoImage(forked.image)),
            }
            let mut next = spec.clone();
            next.sandboxes.insert(name.clone(), forked);
            return Ok(Some(next));
        }
        Edit::DropSnapshot { snapshot } => {
            must(desired, project, snapshot)?;
        }
        Edit::Create { .. }
        | Edit::Update { .. }
        | Edit::Start { .. }
        | Edit::Stop { .. }
        | Edit::Suspend { .. }
        | Edit::Kill { .. }
        | Edit::Restart { .. }
        | Edit::Delete { .. } => return Ok(None),
    }
    Ok(Some(spec.clone()))
}

/// Makes such a command desired. The project's spec is there already.
pub fn carry_out(desired: &mut Desired, project: &Name, command: &Edit<Spec>) {
    match command {
        Edit::Snapshot { name, snapshot, disk_only } => {
            let Some(sandbox) = desired.sandbox(project, name).cloned() else { return };
            let id = SnapshotId::from_bits(bits(desired, project, snapshot));
            let taken = DesiredSnapshot {
                project: project.clone(),
                name: snapshot.clone(),
                sandbox: sandbox.id,
                of: sandbox.name,
                life: Life::Wanted,
                disk_only: *disk_only,
                image: sandbox.image,
                kernel: sandbox.kernel,
                spec: sandbox.spec,
            };
            desired.snapshots.insert(id, taken);
        }
        Edit::Restore { name, snapshot } | Edit::Fork { snapshot, name } => {
            let from = find(desired, project, snapshot).map(|(id, _)| id.clone());
            let sandbox = desired.sandbox(project, name).map(|sandbox| sandbox.id.clone());
            if let (Some(from), Some(sandbox)) = (from, sandbox) {
                begin_from(desired, &sandbox, from);
            }
        }
        Edit::DropSnapshot { snapshot } => {
            let id = find(desired, project, snapshot).map(|(id, _)| id.clone());
            if let Some(found) = id.and_then(|id| desired.snapshots.get_mut(&id)) {
                found.life = Life::Removed;
            }
            // What only it needed is a cache now.
            let spec = desired.projects.get(project).cloned().unwrap_or_default();
            *desired = assign(desired, project, &spec, false);
        }
        Edit::Create { .. }
        | Edit::Update { .. }
        | Edit::Start { .. }
        | Edit::Stop { .. }
        | Edit::Suspend { .. }
        | Edit::Kill { .. }
        | Edit::Restart { .. }
        | Edit::Delete { .. } => {}
    }
}

/// Lets a sandbox's disk begin from a snapshot, whatever it has now.
fn begin_from(desired: &mut Desired, id: &SandboxId, snapshot: SnapshotId) {
    desired.serial += 1;
    let count = desired.serial;
    if let Some(sandbox) = desired.sandboxes.get_mut(id) {
        sandbox.origin = Some(Origin { snapshot, count });
        sandbox.generation = Generation(sandbox.generation.0 + 1);
    }
}
