//! Trees of files that cross the boundary between host and guest, in both directions.
//!
//! [`name`] says which names may cross, [`stream`] is how a tree looks on the way, [`beneath`] writes and reads below a
//! folder without ever leaving it, [`walk`] puts what is below a folder into a stream, [`take`] takes one out of it, and
//! [`stage`] makes many changes as one.
//! Nothing here knows git, sandboxes or sockets.

pub mod beneath;

pub mod manifest;
pub mod name;
pub mod stage;
pub mod stream;
pub mod take;
pub mod walk;

/// The SHA-256 of a file's content.
pub type Hash = [u8; 32];
