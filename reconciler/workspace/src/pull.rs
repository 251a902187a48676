//! Brings what came back into the user's repository: as references below `refs/banger/`, and as a branch when one was asked
//! for. No file of the working tree is touched, and git runs nothing of anybody's: no hook, filter, helper or submodule.

use crate::back::{GUEST, UNCOMMITTED};
use crate::git::Git;
use crate::listing::Repository;
use crate::{WorkspaceError, at, diff};
use banger_wire::api::workspace::Returned;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// What came into the user's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// References, with what they lead to.
    pub references: Vec<(String, String)>,
    /// The branch that was made, and what it leads to.
    pub branch: Option<(String, String)>,
}

/// The repository that came back is in this folder.
fn repository(returned: &Returned) -> PathBuf {
    Path::new(&returned.kept).join("git")
}

/// What of all that would come runs on the host by habit: files that differ, and those of each branch.
///
/// # Errors
/// When git cannot tell.
pub fn habits(returned: &Returned) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
    let repository = repository(returned);
    let empty = diff::empty_tree(&repository)?;
    let from = returned.shipped_head.clone().unwrap_or(empty);
    let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
    let commits = returned.branches.iter().map(|branch| &branch.commit).chain(&returned.head);
    let pairs = commits.map(|commit| (&from, commit)).chain([(&returned.base, &returned.files)]);
    for (from, to) in pairs {
        let differing = diff::between(&repository, from, to)?;
        all.extend(
            differing.into_iter().filter(diff::Differing::runs_by_habit).map(|file| file.name),
        );
    }
    Ok(all)
}

/// Whether there is anything to pull.
pub fn is_empty(returned: &Returned) -> bool {
    returned.commits == 0 && returned.branches.is_empty() && returned.changes.is_empty()
}

/// Brings it into the repository of this folder, below `refs/banger/<sandbox>/`. With `branch`, the guest's commits and,
/// unless `committed_only`, what is not committed on top of them, become this branch.
///
/// # Errors
/// When the repository lacks the commit that was shipped, the branch has something else, or git refuses an object.
pub fn pull(
    returned: &Returned,
    folder: &Path,
    sandbox: &str,
    branch: Option<&str>,
    committed_only: bool,
) -> Result<Pulled, WorkspaceError> {
    let user = Repository::of(folder)?;
    let git = Git::within(&user.top)
        .set("core.logAllRefUpdates=always")
        .set("protocol.file.allow=always");
    let space = format!("refs/banger/{sandbox}/");
    git.run(&["check-ref-format", &format!("{space}base")])?;
    if let Some(branch) = branch {
        let checked = git.run(&["check-ref-format", "--branch", branch]);
        checked.map_err(|_| {
            WorkspaceError::Refused(format!("\"{branch}\" is no name for a branch"))
        })?;
    }
    if let Some(shipped) = &returned.shipped_head {
        if git.line(&["rev-parse", "--verify", "-q", &format!("{shipped}^{{commit}}")])?.is_none() {
            let short = shipped.get(..12).unwrap_or(shipped);
            let message = format!(
                "{} does not have the commit {short} any more, which was shipped",
                user.top.display()
            );
            return Err(WorkspaceError::Refused(message));
        }
        // What was shipped stays reachable, and is known to be there when what lies above it comes.
        git.run(&["update-ref", &format!("{space}base"), shipped])?;
    }
    let mut references = fetch(returned, &git, &space)?;
    references.sort();
    let tip = match &returned.uncommitted {
        Some(commit) if !committed_only => Some(commit.clone()),
        _ => returned.head.clone(),
    };
    let branch = match (branch, tip) {
        (Some(branch), Some(tip)) => {
            place_branch(&git, branch, &tip)?;
            Some((branch.to_string(), tip))
        }
        (Some(_), None) => {
            return Err(WorkspaceError::Refused("there is no commit for a branch".into()));
        }
        (None, _) => None,
    };
    Ok(Pulled { references, branch })
}

/// Carries the objects and references over, as a bundle.
fn fetch(
    returned: &Returned,
    git: &Git,
    space: &str,
) -> Result<Vec<(String, String)>, WorkspaceError> {
    let own = Git::at(&repository(returned));
    let there = own.run(&["for-each-ref", "--format=%(refname) %(objectname)", GUEST])?;
    let there = String::from_utf8_lossy(&there).into_owned();
    let shipped = returned.shipped_head.as_deref();
    // One that leads where the guest began brings nothing.
    let news: Vec<(&str, &str)> = there
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, to)| Some(*to) != shipped)
        .collect();
    if news.is_empty() {
        return Ok(Vec::new());
    }
    let bundle = Path::new(&returned.kept).join("return.bundle");
    let mut arguments: Vec<String> =
        vec!["bundle".into(), "create".into(), "-q".into(), bundle.display().to_string()];
    arguments.extend(news.iter().map(|(name, _)| (*name).to_string()));
    arguments.extend(shipped.map(|shipped| format!("^{shipped}")));
    own.run(&arguments)?;
    let fetch = [
        "fetch",
        "-q",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-auto-maintenance",
        "--no-recurse-submodules",
    ];
    let mut arguments: Vec<&OsStr> = fetch.iter().map(OsStr::new).collect();
    arguments.push(bundle.as_os_str());
    let target = |name: &str| format!("{space}{}", name.trim_start_matches(GUEST));
    let mapped: Vec<String> =
        news.iter().map(|(name, _)| format!("+{name}:{}", target(name))).collect();
    arguments.extend(mapped.iter().map(OsStr::new));
    let fetched = git.run(&arguments);
    at(&bundle, fs::remove_file(&bundle))?;
    fetched?;
    Ok(news.iter().map(|(name, to)| (target(name), (*to).to_string())).collect())
}

/// Makes a branch, or moves it forward when nobody has it checked out.
fn place_branch(git: &Git, branch: &str, tip: &str) -> Result<(), WorkspaceError> {
    let name = format!("refs/heads/{branch}");
    let refuse = |why: &str| {
        WorkspaceError::Refused(format!("the branch {branch} is there already, and {why}"))
    };
    let before = git.line(&["rev-parse", "--verify", "-q", &name])?;
    let Some(before) = before else {
        let none = "0".repeat(tip.len());
        return git
            .run(&["update-ref", "-m", "banger: from a sandbox", &name, tip, &none])
            .map(drop);
    };
    if before == tip {
        return Ok(());
    }
    let worktrees = git.run(&["worktree", "list", "--porcelain"])?;
    if String::from_utf8_lossy(&worktrees).lines().any(|line| line == format!("branch {name}")) {
        return Err(refuse("checked out"));
    }
    if git.line(&["merge-base", "--is-ancestor", &before, tip])?.is_none() {
        return Err(refuse("has commits that the sandbox does not have"));
    }
    git.run(&["update-ref", "-m", "banger: from a sandbox", &name, tip, &before]).map(drop)
}

/// The name below `refs/banger/<sandbox>/` of what is not committed.
pub fn uncommitted_name() -> &'static str {
    UNCOMMITTED.trim_start_matches(GUEST)
}
