//! One inode: 256 bytes.

use super::blocks::{BLOCK, split};
use super::xattr;
use crate::tree::{Body, Extent, Id, Tree};
use std::collections::HashMap;

/// Bytes of an inode.
pub(crate) const SIZE: usize = 256;
/// Extents that fit into an inode.
pub(crate) const INLINE_EXTENTS: usize = 4;
/// Extents that fit into a block.
pub(crate) const BLOCK_EXTENTS: usize = (BLOCK - 12) / 12;
/// Bytes of a link that fit into an inode.
pub(crate) const INLINE_LINK: usize = 59;

/// The blocks that were written for an inode beside its file's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Placed {
    /// A folder's or long link's first block.
    pub(crate) first: u32,
    /// How many.
    pub(crate) blocks: u32,
    /// The block of its extended attributes.
    pub(crate) xattrs: u32,
    /// A file's tree of extents.
    pub(crate) extents: Top,
}

/// What the inode holds of a tree of extents.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Top {
    /// The first block within the file, and where the node is.
    below: [(u32, u32); INLINE_EXTENTS],
    used: usize,
    height: u16,
    /// How many blocks the tree has.
    pub(crate) blocks: u32,
}

/// The bytes of an inode.
pub(crate) fn encode(tree: &Tree, id: Id, placed: &HashMap<Id, Placed>) -> [u8; SIZE] {
    let node = tree.node(id);
    let placed = placed.get(&id).copied().unwrap_or_default();
    let mut out = Out([0; SIZE]);
    let (kind, size, links) = match &node.body {
        Body::Folder(children) => {
            let folders = children.values().filter(|child| tree.is_folder(child.id)).count();
            // A folder with more folders than can be counted has one link.
            let links = if folders > 64_998 { 1 } else { folders + 2 };
            (0o040_000, u64::from(placed.blocks) * BLOCK as u64, links)
        }
        Body::File { size, .. } => (0o100_000, *size, node.links as usize),
        Body::Symlink(target) => (0o120_000, target.len() as u64, node.links as usize),
        Body::Character(..) => (0o020_000, 0, node.links as usize),
        Body::Fifo => (0o010_000, 0, node.links as usize),
    };
    out.u16(0, kind | node.meta.mode);
    out.owner(node.meta.uid, node.meta.gid);
    out.u32(4, (size & 0xffff_ffff) as u32);
    out.u32(108, (size >> 32) as u32);
    out.u16(26, u16::try_from(links).expect("bounded"));
    out.times(node.meta.mtime);
    let mut blocks = u64::from(placed.blocks) + u64::from(placed.extents.blocks);
    match &node.body {
        Body::File { extents, .. } => {
            blocks += extents.iter().map(|extent| u64::from(extent.blocks)).sum::<u64>();
            if placed.extents.blocks == 0 {
                out.extents(extents);
            } else {
                out.tree(&placed.extents);
            }
        }
        Body::Folder(_) => out.extents(&split(0, placed.first, placed.blocks)),
        Body::Symlink(target) if target.len() <= INLINE_LINK => {
            out.0[40..40 + target.len()].copy_from_slice(target);
        }
        Body::Symlink(_) => out.extents(&split(0, placed.first, placed.blocks)),
        // Both numbers are below 256.
        Body::Character(major, minor) => out.u32(40, major << 8 | minor),
        Body::Fifo => {}
    }
    if let Some(xattrs) = &node.xattrs {
        match xattr::in_inode(xattrs) {
            Some(bytes) => out.0[160..].copy_from_slice(&bytes),
            None => {
                out.u32(104, placed.xattrs);
                blocks += 1;
            }
        }
    }
    let sectors = blocks * (BLOCK as u64 / 512);
    out.u32(28, (sectors & 0xffff_ffff) as u32);
    out.u16(116, (sectors >> 32) as u16);
    out.0
}

struct Out([u8; SIZE]);

impl Out {
    fn u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn owner(&mut self, uid: u32, gid: u32) {
        self.u16(2, (uid & 0xffff) as u16);
        self.u16(120, (uid >> 16) as u16);
        self.u16(24, (gid & 0xffff) as u16);
        self.u16(122, (gid >> 16) as u16);
    }

    /// All four times. Seconds have 34 bits: 32 here, two with the nanoseconds.
    fn times(&mut self, (seconds, nanos): (i64, u32)) {
        let seconds = seconds.clamp(i64::from(i32::MIN), (1 << 34) - (1 << 31) - 1);
        let low = (seconds & 0xffff_ffff) as u32;
        let epoch = ((seconds - i64::from(low.cast_signed())) >> 32) as u32 & 3;
        let extra = nanos << 2 | epoch;
        self.u16(128, 32);
        for at in [8, 12, 16, 144] {
            self.u32(at, low);
        }
        for at in [132, 136, 140, 148] {
            self.u32(at, extra);
        }
    }

    fn extents(&mut self, extents: &[Extent]) {
        self.u32(32, 0x8_0000);
        leaf(&mut self.0[40..100], extents);
    }

    fn tree(&mut self, top: &Top) {
        self.u32(32, 0x8_0000);
        index(&mut self.0[40..100], &top.below[..top.used], top.height);
    }
}

fn header(bytes: &mut [u8], entries: usize, height: u16) {
    let most = (bytes.len() - 12) / 12;
    let entries = u16::try_from(entries).expect("within a block");
    let most = u16::try_from(most).expect("within a block");
    for (at, value) in [(0, 0xF30A), (2, entries), (4, most), (6, height)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

fn leaf(bytes: &mut [u8], extents: &[Extent]) {
    header(bytes, extents.len(), 0);
    for (extent, at) in extents.iter().zip((12..).step_by(12)) {
        bytes[at..at + 4].copy_from_slice(&extent.logical.to_le_bytes());
        let blocks = u16::try_from(extent.blocks).expect("at most 32768");
        bytes[at + 4..at + 6].copy_from_slice(&blocks.to_le_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&extent.physical.to_le_bytes());
    }
}

fn index(bytes: &mut [u8], below: &[(u32, u32)], height: u16) {
    header(bytes, below.len(), height);
    for ((logical, block), at) in below.iter().zip((12..).step_by(12)) {
        bytes[at..at + 4].copy_from_slice(&logical.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&block.to_le_bytes());
    }
}

/// Writes the tree of a file with many extents: `write` stores a block and says where.
pub(crate) fn extent_tree<E>(
    extents: &[Extent],
    mut write: impl FnMut(&[u8]) -> Result<u32, E>,
) -> Result<Top, E> {
    let (mut level, mut height, mut count) = (Vec::new(), 0, 0);
    for chunk in extents.chunks(BLOCK_EXTENTS) {
        let mut bytes = vec![0; BLOCK];
        leaf(&mut bytes, chunk);
        level.push((chunk[0].logical, write(&bytes)?));
        count += 1;
    }
    while level.len() > INLINE_EXTENTS {
        height += 1;
        let mut above = Vec::new();
        for chunk in level.chunks(BLOCK_EXTENTS) {
            let mut bytes = vec![0; BLOCK];
            index(&mut bytes, chunk, height);
            above.push((chunk[0].0, write(&bytes)?));
            count += 1;
        }
        level = above;
    }
    let mut top = Top { used: level.len(), height: height + 1, blocks: count, ..Top::default() };
    top.below[..level.len()].copy_from_slice(&level);
    Ok(top)
}
