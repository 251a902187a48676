//! Layers in, one filesystem image out.
//!
//! Archives are applied to a tree in memory, and the bytes of files go straight to their blocks in the image; at the
//! end the tree follows as ext4. Nothing here opens, makes or names a file: no path of an archive can become a path of
//! the host (R-I1). Whoever calls it gives it readers and one empty file.
#![forbid(unsafe_code)]

mod archive;
mod decode;
mod digest;
mod error;
mod ext4;
mod layer;
mod limits;
mod pax;
mod tree;

pub use decode::Layer;
pub use digest::digest;
pub use error::Error;
pub use layer::Counts;
pub use limits::Limits;

use ext4::blocks::Blocks;
use layer::Applier;
use std::fs::File;
use tree::Tree;

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The size of the image in bytes; holes take no room.
    pub bytes: u64,
    /// Bytes of all archives.
    pub unpacked: u64,
    /// What was in them.
    pub counts: Counts,
}

/// Writes the layers, lowest first, as one filesystem into an empty file. `progress` is told the bytes read so far, of
/// all layers as they are stored, from another thread.
///
/// The file is whole in the kernel's cache when this returns, and nothing is synced.
///
/// # Errors
/// When a layer is broken, hostile or too large, is not what its `diff_id` says, or when the file cannot be written.
/// The file's content is of no use then.
pub fn build(
    layers: Vec<Layer>,
    out: File,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Built, Error> {
    let (mut tree, mut blocks) = (Tree::new(), Blocks::new(out));
    let (mut counts, mut kept) = (Counts::default(), 0);
    let mut spent = decode::Spent::new(limits, progress);
    let last = layers.len();
    for (layer, number) in layers.into_iter().zip(1..) {
        let (tree, blocks, counts) = (&mut tree, &mut blocks, &mut counts);
        let mut applier = Applier { tree, blocks, limits, counts, kept: &mut kept };
        decode::with_archive(layer, number, &mut spent, |read| applier.apply(number, read))?;
    }
    let bytes = ext4::finish(&mut tree, &mut blocks).map_err(|fault| fault.at(last))?;
    Ok(Built { bytes, unpacked: spent.unpacked(), counts })
}

#[cfg(test)]
mod tests;
