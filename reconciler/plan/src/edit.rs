//! Imperative commands as changes of a project's spec. There is no second way to make anything happen.

use banger_schema::Spec;
use banger_schema::spec::Mode;
use banger_wire::api::Edit;
use banger_wire::id::Name;

/// Why a command does not fit the project.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There is no such sandbox.
    #[error("there is no sandbox {0} in this project")]
    NotFound(Name),
    /// The name is taken.
    #[error("there is already a sandbox {0} in this project")]
    Exists(Name),
    /// There is no such snapshot.
    #[error("there is no snapshot {0} in this project")]
    NoSnapshot(Name),
    /// The name of a snapshot is taken.
    #[error("there is already a snapshot {0} in this project")]
    SnapshotExists(Name),
    /// The sandbox has another image now.
    #[error("snapshot {0} is of another image than the project has under that name now")]
    OtherImage(Name),
    /// The project does not declare the image of a snapshot any more.
    #[error("the project has no image {0} any more, which the snapshot is of")]
    NoImage(Name),
    /// A name stands for something else already.
    #[error("{kind} {name} is already something else in this project")]
    Differs {
        /// Image, kernel or volume.
        kind: &'static str,
        /// Which.
        name: Name,
    },
}

/// The project's spec after the command. `ended` tells whether the sandbox ended by itself.
///
/// # Errors
/// When the command does not fit.
pub fn edit(spec: &Spec, command: &Edit<Spec>, ended: bool) -> Result<Spec, EditError> {
    let mut next = spec.clone();
    let sandbox =
        |next: &mut Spec, name: &Name, change: &dyn Fn(&mut banger_schema::spec::SandboxSpec)| {
            let found =
                next.sandboxes.get_mut(name).ok_or_else(|| EditError::NotFound(name.clone()))?;
            change(found);
            Ok(())
        };
    match command {
        Edit::Create { spec } => return merge(next, spec),
        Edit::Update { spec, .. } => {
            next.images.extend(spec.images.clone());
            next.kernels.extend(spec.kernels.clone());
        }
        Edit::Start { name } => sandbox(&mut next, name, &|s| {
            s.restarts += u32::from(ended);
            s.mode = Mode::Running;
            s.kill = false;
        })?,
        Edit::Stop { name } => sandbox(&mut next, name, &|s| {
            s.mode = Mode::Stopped;
            s.kill = false;
        })?,
        Edit::Suspend { name } => sandbox(&mut next, name, &|s| {
            s.mode = Mode::Suspended;
            s.kill = false;
        })?,
        Edit::Kill { name } => sandbox(&mut next, name, &|s| {
            s.mode = Mode::Stopped;
            s.kill = true;
        })?,
        Edit::Restart { name } => sandbox(&mut next, name, &|s| {
            s.restarts += 1;
            s.mode = Mode::Running;
            s.kill = false;
        })?,
        // Not of the spec.
        Edit::Snapshot { .. }
        | Edit::Restore { .. }
        | Edit::Fork { .. }
        | Edit::DropSnapshot { .. } => {}
        Edit::Delete { name } => {
            next.sandboxes.remove(name).ok_or_else(|| EditError::NotFound(name.clone()))?;
            for other in next.sandboxes.values_mut() {
                other.after.remove(name);
            }
        }
    }
    Ok(next)
}

/// Adds the parts of another spec. What both have must be equal, but a sandbox must be new.
fn merge(mut next: Spec, other: &Spec) -> Result<Spec, EditError> {
    for (name, image) in &other.images {
        if next.images.insert(name.clone(), image.clone()).is_some_and(|old| old != *image) {
            return Err(EditError::Differs { kind: "image", name: name.clone() });
        }
    }
    for (name, kernel) in &other.kernels {
        if next.kernels.insert(name.clone(), kernel.clone()).is_some_and(|old| old != *kernel) {
            return Err(EditError::Differs { kind: "kernel", name: name.clone() });
        }
    }
    for (name, volume) in &other.volumes {
        if next.volumes.insert(name.clone(), volume.clone()).is_some_and(|old| old != *volume) {
            return Err(EditError::Differs { kind: "volume", name: name.clone() });
        }
    }
    for (name, network) in &other.networks {
        // Naming one is joining it: what it is was said where it was declared.
        next.networks.entry(name.clone()).or_insert(*network);
    }
    for (name, sandbox) in &other.sandboxes {
        if next.sandboxes.insert(name.clone(), sandbox.clone()).is_some() {
            return Err(EditError::Exists(name.clone()));
        }
    }
    Ok(next)
}
