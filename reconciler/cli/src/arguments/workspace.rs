//! The arguments of what carries files: workspaces and copies.

use crate::failure::{FAILED, Failure};
use banger_wire::id::Name;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What of a repository is shipped, and how.
#[derive(Debug, Args)]
pub(crate) struct Ship {
    /// Ship untracked files that match, too; git's patterns. What git ignores is never shipped
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Where the repository goes in the sandbox
    #[arg(long, value_name = "FOLDER", default_value = banger_schema::spec::WorkspaceSpec::AT)]
    pub(crate) at: String,
    /// How many commits of history go along; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Workspace {
    /// Show what the sandbox did: commits, and files that are not as they were shipped
    Status {
        /// Which sandbox
        name: Name,
    },
    /// Show how files differ from what was shipped, new ones included
    Diff {
        /// Which sandbox
        name: Name,
        /// Only count lines
        #[arg(long)]
        stat: bool,
        /// Only these files or folders
        paths: Vec<String>,
    },
    /// Bring its commits, and what is not committed, into the repository: below refs/banger/NAME/, and no file is touched
    Pull {
        /// Which sandbox
        name: Name,
        /// Make them this branch, too
        #[arg(long, value_name = "BRANCH")]
        as_branch: Option<String>,
        /// Leave out of that branch what is not committed
        #[arg(long, requires = "as_branch")]
        committed_only: bool,
        /// Agree to files that run on this host by habit
        #[arg(short, long)]
        yes: bool,
    },
    /// Print how files differ as a patch that git apply takes, binary files included
    Export {
        /// Which sandbox
        name: Name,
        /// Only these files or folders
        paths: Vec<String>,
    },
    /// Change the files here as the sandbox changed its own: all or none, and only where nothing changed here
    Apply {
        /// Which sandbox
        name: Name,
        /// Only show what would be changed
        #[arg(long)]
        dry_run: bool,
        /// Make links that stay beneath the repository, too
        #[arg(long)]
        symlinks: bool,
        /// Agree to files that run on this host by habit
        #[arg(short, long)]
        yes: bool,
    },
    /// Ship what changed here since. What the sandbox changed itself is left alone and named
    Push {
        /// Which sandbox
        name: Name,
        /// Go on with every change until interrupted
        #[arg(long)]
        watch: bool,
    },
}

/// `SOURCE TARGET`, one of them in a sandbox.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// What: PATH, or NAME:PATH in a sandbox
    pub(crate) from: String,
    /// Where to: a folder, or a new name
    pub(crate) to: String,
    /// Replace what is there and different
    #[arg(long)]
    pub(crate) force: bool,
    /// Bring links that stay beneath the folder, too
    #[arg(long)]
    pub(crate) symlinks: bool,
}

/// Makes a path whole; a plain text otherwise.
pub(crate) fn whole(path: &std::path::Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", path.display())).into())
}
