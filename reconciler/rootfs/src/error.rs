//! What can be wrong with an archive, and what can go wrong beside it.

use std::io;

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is broken, hostile, or holds what an image cannot.
    #[error("layer {layer}: {why}")]
    Refused {
        /// Which layer, counted from 1.
        layer: usize,
        /// What is wrong, cleaned for people by whoever prints it.
        why: String,
    },
    /// It would take more than it may (R-I5).
    #[error("layer {layer}: {why}")]
    Budget {
        /// Which layer, counted from 1.
        layer: usize,
        /// Which bound, and its value.
        why: String,
    },
    /// The bytes of a layer are not those that its image names (R-I7).
    #[error("layer {layer} is not what its image says: diff_id {wanted}, found {found}")]
    DiffId {
        /// Which layer, counted from 1.
        layer: usize,
        /// Hex digits.
        wanted: String,
        /// Hex digits.
        found: String,
    },
    /// A layer cannot be read, or is not in a known compression.
    #[error("layer {layer} cannot be read")]
    Read {
        /// Which layer, counted from 1.
        layer: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image cannot be written.
    #[error("writing the image")]
    Write(#[source] io::Error),
}

/// What one entry or one archive is refused for; the layer is added where it is known.
#[derive(Debug)]
pub(crate) enum Fault {
    Refused(String),
    Budget(String),
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    pub(crate) fn at(self, layer: usize) -> Error {
        match self {
            Fault::Refused(why) => Error::Refused { layer, why },
            Fault::Budget(why) => Error::Budget { layer, why },
            Fault::Read(source) => Error::Read { layer, source },
            Fault::Write(source) => Error::Write(source),
        }
    }
}

pub(crate) fn refuse<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(why.into()))
}

/// A name of an archive for an error text.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let short: String = text.chars().take(200).collect();
    format!("\"{}\"", short.escape_debug())
}
