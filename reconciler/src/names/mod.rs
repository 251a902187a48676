//! Names of sandboxes over DNS: `answer` turns a question into an answer, `host` serves the host's programs on
//! its loopback, `guest` serves guests over vsock, `upstream` asks the host's resolvers for guests.
//!
//! Nothing here decides who is called what: zones are pure values of `banger-plan`.

mod answer;
mod guest;
mod host;
mod upstream;

pub use answer::{Answer, answer};
pub use guest::serve_guests;
pub use host::{Server, serve_host};
