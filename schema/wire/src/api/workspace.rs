//! Workspaces: what of a repository was shipped into a sandbox, and what came back.

use serde::{Deserialize, Serialize};

/// The answer to `POST /v1/projects/{project}/sandboxes/{name}/workspace/push`: what changed on the host was shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pushed {
    /// Files and links that went.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files and links that are gone here and were removed there.
    pub removed: u64,
    /// What was left alone because the sandbox has something else there, and why.
    pub conflicts: Vec<String>,
    /// What is not shipped, and why.
    pub left_out: Vec<String>,
}

/// The answer to `POST /v1/projects/{project}/sandboxes/{name}/workspace/fetch`: what the sandbox did, taken into a
/// repository of banger's own. Objects are named as in that repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Returned {
    /// The folder on the host that it came from.
    pub folder: String,
    /// The folder on the host that all of this is kept in.
    pub kept: String,
    /// The folder in the guest.
    pub at: String,
    /// Which shipment this is against.
    pub revision: u64,
    /// The commit that the guest was given. `None` when there was none yet.
    pub shipped_head: Option<String>,
    /// The tree of the files that were shipped.
    pub base: String,
    /// The tree of the files as they are in the guest.
    pub files: String,
    /// The commit that the guest is at.
    pub head: Option<String>,
    /// The branch that the guest is on.
    pub branch: Option<String>,
    /// Branches of the guest with commits that it was not given.
    pub branches: Vec<Branch>,
    /// Commits of the guest on top of the one that it was given.
    pub commits: u64,
    /// A commit of what is not committed in the guest, on top of `head`. `None` when everything is.
    pub uncommitted: Option<String>,
    /// What differs between `base` and `files`.
    pub changes: Vec<Change>,
    /// What does not come back, and why.
    pub left_out: Vec<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
    /// Why its commits could not be taken; its files were.
    #[serde(default)]
    pub failed: Option<String>,
}

impl Returned {
    /// Whether nothing was done, as far as could be told.
    pub fn is_empty(&self) -> bool {
        let quiet = self.commits == 0 && self.branches.is_empty() && self.changes.is_empty();
        quiet && self.failed.is_none()
    }
}

/// A branch of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Its name, without `refs/heads/`.
    pub name: String,
    /// Its commit.
    pub commit: String,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// `A` is new, `M` changed, `D` is gone, `T` is of another type.
    pub sign: char,
    /// Its name. What is not text is replaced.
    pub name: String,
    /// Whether people or their tools run such a file on the host by habit.
    pub habit: bool,
}
