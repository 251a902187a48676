//! What an image may cost (R-I5). Work on what is skipped counts too.

/// Bounds of one image.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of all layers once they are unpacked.
    pub bytes: u64,
    /// Entries of all archives.
    pub entries: u64,
    /// How many bytes one compressed byte may become, after the first [`Limits::ratio_from`].
    pub ratio: u64,
    /// Bytes of a layer that are unpacked before the ratio counts.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 20 << 30, entries: 1_000_000, ratio: 200, ratio_from: 64 << 20 }
    }
}

/// Bytes of links, attributes and maps of sparse files that are kept in memory, for one image.
pub(crate) const KEPT: u64 = 96 << 20;
/// The longest path, in bytes.
pub(crate) const PATH: usize = 4096;
/// The longest name, in bytes.
pub(crate) const NAME: usize = 255;
/// The deepest folder.
pub(crate) const DEPTH: usize = 256;
/// Links followed on the way to one path.
pub(crate) const HOPS: usize = 40;
/// Names, dots included, on the way to one path.
pub(crate) const STEPS: usize = 4096;
/// The longest link, in bytes: it must fit into a block with its end.
pub(crate) const LINK: usize = 4095;
/// The largest extension header, in bytes.
pub(crate) const EXTENSION: u64 = 1 << 20;
/// The most pieces of one sparse file.
pub(crate) const PIECES: usize = 65_536;
/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB.
pub(crate) const ZSTD_WINDOW: u32 = 27;
