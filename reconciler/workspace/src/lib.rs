//! A repository's way into a sandbox, and the way of what was done there back.
//!
//! There: [`listing`] says what of a folder goes, `seed` makes the repository that the guest gets, [`ship`] sends both.
//! Back: [`back`] takes what the guest says changed and its commits into a repository of our own beside the sandbox's disk,
//! where nothing of the user's is. From there [`pull`] brings commits into the user's repository as references, [`diff`]
//! shows, and [`apply`] changes files. Everything that comes back is hostile (R-P1 to R-P9).
//!
//! All of it blocks; it knows neither sockets nor the engine. Git is run as a program, without any of its settings.
#![forbid(unsafe_code)]

pub mod apply;
pub mod back;
mod bundle;
pub mod diff;
mod git;
pub mod kept;
pub mod listing;
pub mod pull;
mod seed;
pub mod ship;

use std::io;
use std::path::{Path, PathBuf};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The folder is in no repository.
    #[error("{} is not a git repository", .0.display())]
    NoRepository(PathBuf),
    /// The folder is in a repository, but is not the whole of it.
    #[error("{} is a part of the repository {}", .folder.display(), .top.display())]
    NotTop {
        /// The folder.
        folder: PathBuf,
        /// The repository's.
        top: PathBuf,
    },
    /// A pattern names nothing that may be shipped.
    #[error("--include {pattern}: {why}")]
    Include {
        /// The pattern.
        pattern: String,
        /// Why not.
        why: String,
    },
    /// Git failed.
    #[error("git {what}: {said}")]
    Git {
        /// What it was to do.
        what: String,
        /// What it said.
        said: String,
    },
    /// Git is not there.
    #[error("git cannot be started")]
    NoGit(#[source] io::Error),
    /// A file or folder cannot be read or written.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// A stream of files is none, or has too much.
    #[error(transparent)]
    Stream(#[from] banger_tree::stream::StreamError),
    /// Changes could not be made.
    #[error(transparent)]
    Stage(#[from] banger_tree::stage::StageError),
    /// It cannot be done, and why.
    #[error("{0}")]
    Refused(String),
}

impl WorkspaceError {
    /// With everything that it was caused by, in one line.
    pub fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        text
    }
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, WorkspaceError> {
    result.map_err(|error| WorkspaceError::Io(path.to_path_buf(), error))
}
