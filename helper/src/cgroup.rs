//! The cgroup of a sandbox: `<v2 hierarchy>/banger-<uid>/<sandbox>`. Every name is derived here.

use crate::answer::{At, Bad};
use banger_wire::derive::owner_cgroup;
use banger_wire::helper::Controller;
use banger_wire::id::SandboxId;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the v2 hierarchy is mounted.
pub(crate) fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| before.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

/// The controllers that the hierarchy offers and we use.
pub(crate) fn controllers(root: &Path) -> Vec<Controller> {
    let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let mut found: Vec<Controller> = offered
        .split_whitespace()
        .filter_map(|name| match name {
            "cpu" => Some(Controller::Cpu),
            "memory" => Some(Controller::Memory),
            "pids" => Some(Controller::Pids),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// A controller's name in the files of the hierarchy.
pub(crate) fn name(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "cpu",
        Controller::Memory => "memory",
        Controller::Pids => "pids",
    }
}

/// The folders of an owner and of one of its sandboxes.
pub(crate) fn folders(uid: u32, sandbox: &SandboxId) -> Result<(PathBuf, PathBuf, PathBuf), Bad> {
    let root = hierarchy().ok_or(Bad::Refused("there is no cgroup v2 hierarchy"))?;
    let owner = root.join(owner_cgroup(uid));
    let own = owner.join(sandbox.as_str());
    Ok((root, owner, own))
}

/// The processes in a cgroup.
pub(crate) fn members(folder: &Path) -> Result<Vec<u32>, Bad> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).at("reading the cgroup")?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
