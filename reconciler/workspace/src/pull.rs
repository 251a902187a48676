//! Brings what came back into the user's repository: as references below `refs/banger/`, and as a branch when one was asked
//! for. No file of the working tree is touched, and git runs nothing of anybody's: no hook, filter, helper or submodule.

use crate::back::{GUEST, UNCOMMITTED};
use crate::git::Git;
use crate::kept::Kept;
use crate::listing::Repository;
use crate::{WorkspaceError, at, diff};
use banger_wire::api::workspace::Returned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
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

/// Brings it into the repository of this folder, below `refs/banger/<sandbox>/`. With `branch`, the guest's commits and,
/// unless `committed_only`, what is not committed on top of them, become this branch. What was pulled before and is not a
/// part of this is kept below `refs/banger-before/`.
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
    let kept = Kept::open(Path::new(&returned.kept))?;
    let user = Repository::of(folder)?;
    let scratch = kept.scratch()?;
    // Objects are read and written without any of the user's settings: a fetch would run what is in them.
    let objects = user.objects(&scratch.join("objects"))?;
    let git = user.references();
    let space = format!("refs/banger/{sandbox}/");
    git.run(&["check-ref-format", &format!("{space}base")])?;
    if let Some(branch) = branch {
        let checked = git.run(&["check-ref-format", "--branch", branch]);
        checked.map_err(|_| {
            WorkspaceError::Refused(format!("\"{branch}\" is no name for a branch"))
        })?;
    }
    let shipped = returned.shipped_head.as_deref();
    if let Some(shipped) = shipped
        && objects.line(&["cat-file", "-e", &format!("{shipped}^{{commit}}")])?.is_none()
    {
        let short = shipped.get(..12).unwrap_or(shipped);
        return Err(WorkspaceError::Refused(format!(
            "{} does not have the commit {short} any more, which was shipped",
            user.top.display()
        )));
    }
    let news = bring(returned, &objects, &scratch)?;
    let target = |name: &str| format!("{space}{}", name.trim_start_matches(GUEST));
    let mut wanted: BTreeMap<String, String> =
        news.iter().map(|(name, to)| (target(name), to.clone())).collect();
    let references = wanted.clone().into_iter().collect();
    wanted.extend(shipped.map(|shipped| (format!("{space}base"), shipped.to_string())));
    let tip = match &returned.uncommitted {
        Some(commit) if !committed_only => Some(commit.clone()),
        _ => returned.head.clone(),
    };
    let placed = match (branch, tip) {
        (Some(branch), Some(tip)) => {
            let before = may_place(&git, &objects, branch, &tip)?;
            Some((branch.to_string(), tip, before))
        }
        (Some(_), None) => {
            return Err(WorkspaceError::Refused("there is no commit for a branch".into()));
        }
        (None, _) => None,
    };
    let mut lines = replaced(&git, &objects, &space, sandbox, &wanted)?;
    if let Some((branch, tip, before)) = &placed {
        let before = before.clone().unwrap_or_else(|| "0".repeat(tip.len()));
        lines += &format!("update refs/heads/{branch} {tip} {before}\n");
    }
    // All of them or none.
    let named = git.set("core.logAllRefUpdates=always");
    let update =
        ["update-ref", "--no-deref", "--create-reflog", "-m", "banger: from a sandbox", "--stdin"];
    named.feed(&update, lines.into_bytes())?;
    Ok(Pulled { references, branch: placed.map(|(branch, tip, _)| (branch, tip)) })
}

/// Carries the objects over. The names in our own repository that bring something, and where they lead.
fn bring(
    returned: &Returned,
    objects: &Git,
    scratch: &Path,
) -> Result<Vec<(String, String)>, WorkspaceError> {
    let own = Git::at(&repository(returned)).bounded();
    let there = own.run(&["for-each-ref", "--format=%(refname) %(objectname)", GUEST])?;
    let there = String::from_utf8_lossy(&there).into_owned();
    let shipped = returned.shipped_head.as_deref();
    // One that leads where the guest began brings nothing.
    let news: Vec<(String, String)> = there
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, to)| Some(*to) != shipped)
        .map(|(name, to)| (name.to_string(), to.to_string()))
        .collect();
    if news.is_empty() {
        return Ok(news);
    }
    let mut tips: String = news.iter().map(|(_, to)| format!("{to}\n")).collect();
    tips.extend(shipped.map(|shipped| format!("^{shipped}\n")));
    let pack = scratch.join("pack");
    let file = at(&pack, File::create(&pack))?;
    own.write(&["pack-objects", "--revs", "--stdout", "-q"], tips.clone().into_bytes(), file)?;
    let file = at(&pack, File::open(&pack))?;
    objects.pour(&["index-pack", "--stdin", "--fix-thin", "--strict"], file)?;
    objects.feed(&["rev-list", "--objects", "--quiet", "--stdin"], tips.into_bytes())?;
    Ok(news)
}

/// What makes these references of a space, in place of those that were there. What would be lost with them moves aside.
fn replaced(
    git: &Git,
    objects: &Git,
    space: &str,
    sandbox: &str,
    wanted: &BTreeMap<String, String>,
) -> Result<String, WorkspaceError> {
    let there = git.run(&["for-each-ref", "--format=%(refname) %(objectname)", space])?;
    let there = String::from_utf8_lossy(&there).into_owned();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let aside = format!("refs/banger-before/{sandbox}/{}/", now.unwrap_or_default().as_millis());
    let mut lines = String::new();
    for (name, old) in there.lines().filter_map(|line| line.split_once(' ')) {
        let held = wanted.values().any(|new| {
            old == new
                || matches!(objects.line(&["merge-base", "--is-ancestor", old, new]), Ok(Some(_)))
        });
        if !held {
            lines += &format!("create {aside}{} {old}\n", name.trim_start_matches(space));
        }
        if !wanted.contains_key(name) {
            lines += &format!("delete {name} {old}\n");
        }
    }
    for (name, to) in wanted {
        lines += &format!("update {name} {to}\n");
    }
    Ok(lines)
}

/// Whether a branch may be made or moved forward: what it leads to now.
fn may_place(
    git: &Git,
    objects: &Git,
    branch: &str,
    tip: &str,
) -> Result<Option<String>, WorkspaceError> {
    let name = format!("refs/heads/{branch}");
    let refuse = |why: &str| {
        WorkspaceError::Refused(format!("the branch {branch} is there already, and {why}"))
    };
    let Some(before) = git.line(&["rev-parse", "--verify", "-q", &name])? else { return Ok(None) };
    if before == tip {
        return Ok(Some(before));
    }
    let worktrees = git.run(&["worktree", "list", "--porcelain"])?;
    if String::from_utf8_lossy(&worktrees).lines().any(|line| line == format!("branch {name}")) {
        return Err(refuse("checked out"));
    }
    if objects.line(&["merge-base", "--is-ancestor", &before, tip])?.is_none() {
        return Err(refuse("has commits that the sandbox does not have"));
    }
    Ok(Some(before))
}

/// The name below `refs/banger/<sandbox>/` of what is not committed.
pub fn uncommitted_name() -> &'static str {
    UNCOMMITTED.trim_start_matches(GUEST)
}
