//! What differs between two trees of our own repository, as a list or as a patch.

use crate::WorkspaceError;
use crate::git::{Git, pieces};
use banger_tree::name;
use std::path::Path;

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// `A`, `M`, `D` or `T`.
    pub sign: char,
    /// Its name.
    pub name: Vec<u8>,
    /// Its mode before; `000000` when it was not there.
    pub mode_before: String,
    /// Its mode now; `000000` when it is gone.
    pub mode: String,
    /// Its object now.
    pub object: String,
}

impl Differing {
    /// Whether people or their tools run it on the host by habit (R-P5): by its name, or because it became executable.
    pub fn runs_by_habit(&self) -> bool {
        let executable = self.mode == "100755" && self.mode_before != "100755";
        self.mode != "000000" && name::runs_by_habit(&self.name, executable)
            || self.mode == "160000"
    }
}

/// What differs between two trees or commits.
///
/// # Errors
/// When one of them is not there.
pub fn between(repository: &Path, from: &str, to: &str) -> Result<Vec<Differing>, WorkspaceError> {
    let arguments = [
        "diff-tree",
        "-r",
        "-z",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "--no-ext-diff",
        from,
        to,
    ];
    let out = Git::at(repository).bounded().run(&arguments)?;
    let mut all = Vec::new();
    let mut records = pieces(&out);
    while let (Some(head), Some(name)) = (records.next(), records.next()) {
        let head = String::from_utf8_lossy(head).into_owned();
        let fields: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let [mode_before, mode, _, object, sign] = fields[..] else {
            return Err(WorkspaceError::Refused(
                "git lists what differs in a way that is not known".into(),
            ));
        };
        all.push(Differing {
            sign: sign.chars().next().unwrap_or('?'),
            name: name.to_vec(),
            mode_before: mode_before.to_string(),
            mode: mode.to_string(),
            object: object.to_string(),
        });
    }
    Ok(all)
}

/// How a difference is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A patch in which binary files are whole.
    Binary,
    /// A patch for people.
    Text,
    /// Counts of lines.
    Stat,
}

/// A patch from one tree or commit to another, for these names below the top; for all when none is given.
///
/// # Errors
/// When one of them is not there.
pub fn patch(
    repository: &Path,
    from: &str,
    to: &str,
    names: &[String],
    form: Form,
) -> Result<Vec<u8>, WorkspaceError> {
    let mut arguments =
        vec!["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"];
    arguments.extend(match form {
        Form::Binary => &["--binary", "--full-index"][..],
        Form::Text => &[],
        Form::Stat => &["--stat=100"],
    });
    arguments.extend([from, to, "--"]);
    arguments.extend(names.iter().map(String::as_str));
    Git::at(repository).bounded().with("GIT_LITERAL_PATHSPECS", "1").run(&arguments)
}

/// The tree without a file.
///
/// # Errors
/// When git cannot make it.
pub fn empty_tree(repository: &Path) -> Result<String, WorkspaceError> {
    let out = Git::at(repository).bounded().feed(&["mktree"], Vec::new())?;
    Ok(String::from_utf8_lossy(&out).trim().to_string())
}

/// The commits from one to another, newest first: short name, author and subject. At most 50.
///
/// # Errors
/// When one of them is not there.
pub fn log(
    repository: &Path,
    from: Option<&str>,
    to: Option<&str>,
) -> Result<Vec<String>, WorkspaceError> {
    let Some(to) = to else { return Ok(Vec::new()) };
    let not = from.map(|from| format!("^{from}"));
    let mut arguments =
        vec!["log", "--max-count=50", "--format=%h %an: %s", "--no-show-signature", to];
    arguments.extend(not.as_deref());
    let out = Git::at(repository).bounded().run(&arguments)?;
    Ok(String::from_utf8_lossy(&out).lines().map(String::from).collect())
}
