//! How an operation ends.

use banger_wire::helper::Reply;
use std::io;

/// Anything but success.
#[derive(Debug)]
pub(crate) enum Bad {
    /// Not allowed; nothing was done.
    Refused(&'static str),
    /// The system refused at this step.
    Failed(&'static str, io::Error),
}

/// What an operation gives.
pub(crate) type Answer = Result<Reply, Bad>;

/// Names the step on a system error.
pub(crate) trait At<T> {
    fn at(self, step: &'static str) -> Result<T, Bad>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &'static str) -> Result<T, Bad> {
        self.map_err(|error| Bad::Failed(step, error.into()))
    }
}

/// A failure as a message.
pub(crate) fn reply(bad: Bad) -> Reply {
    match bad {
        Bad::Refused(rule) => Reply::Refused { rule: rule.to_string() },
        Bad::Failed(at, error) => {
            Reply::Failed { errno: error.raw_os_error().unwrap_or(0), at: at.to_string() }
        }
    }
}
