//! Failures at the edge: what is printed, and the exit code.

use banger_schema::Report;
use banger_wire::api::{Problem, ProblemKind};
use std::fmt;
use std::io::IsTerminal;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments or the Bangerfile are wrong; or, for `plan`, there are changes.
pub(crate) const USAGE: u8 = 2;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// A policy forbids it, or it needs a yes.
pub(crate) const REFUSED: u8 = 4;

/// A failure with its exit code and hints.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hints: Vec::new() }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.kind {
            ProblemKind::Refused => REFUSED,
            ProblemKind::User
            | ProblemKind::NotFound
            | ProblemKind::Host
            | ProblemKind::Internal => FAILED,
        };
        Self { code, message: problem.message, hints: problem.hints }
    }
}

/// Whether colours may be used on standard error.
pub(crate) fn color() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a failure, once, and gives its exit code.
pub(crate) fn show(error: &anyhow::Error) -> u8 {
    let clean = banger_wire::text::clean;
    if let Some(report) = error.downcast_ref::<Report>() {
        eprint!("{}", report.render(color()));
        eprintln!("error: {report}");
        return USAGE;
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        eprintln!("error: {}", clean(&failure.message));
        for hint in &failure.hints {
            eprintln!("hint: {}", clean(hint));
        }
        return failure.code;
    }
    eprintln!("error: {}", clean(&format!("{error:#}")));
    FAILED
}
