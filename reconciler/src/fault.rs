//! What a driver reports when it could not do its one thing.

use banger_wire::api::{Problem, ProblemKind};
use std::error::Error;
use std::io;

/// A failure at an edge: what failed, on which thing, and what a person can do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Whose fault it is.
    pub kind: ProblemKind,
    /// What failed, on which thing.
    pub what: String,
    /// What to do.
    pub hints: Vec<String>,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fault {
    /// Something about the host or its programs.
    pub fn host(what: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Host, what: what.into(), hints: Vec::new(), source: None }
    }

    /// Something that the user wrote.
    pub fn user(what: impl Into<String>) -> Self {
        Self { kind: ProblemKind::User, ..Self::host(what) }
    }

    /// A system error while doing something.
    pub fn io(what: impl Into<String>, error: io::Error) -> Self {
        let mut fault = Self::host(what);
        if error.kind() == io::ErrorKind::StorageFull {
            fault
                .hints
                .push("the disk is full: free some space; nothing was left half made".into());
        }
        fault.source = Some(Box::new(error));
        fault
    }

    /// Adds what a person can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// As the API shows it: the chain of causes in one line, cleaned.
    pub fn problem(&self) -> Problem {
        let mut message = self.what.clone();
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        let clean = banger_wire::text::clean;
        let hints = self.hints.iter().map(|hint| clean(hint)).collect();
        Problem { kind: self.kind, message: clean(&message), hints }
    }
}

/// Names what was being done, on a system error.
pub trait During<T> {
    /// Turns a system error into a [`Fault`].
    ///
    /// # Errors
    /// When this is an error.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| Fault::io(what(), error))
    }
}

impl<T> During<T> for nix::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| Fault::io(what(), error.into()))
    }
}
