//! Extended attributes: in the inode where they fit, else in one block.

use super::blocks::BLOCK;
use crate::tree::Xattrs;

const MAGIC: u32 = 0xEA02_0000;
/// Bytes for attributes behind the fields of an inode.
pub(crate) const IN_INODE: usize = 256 - 160;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

/// An attribute as it is stored: the number of its prefix, the rest of its name, its value.
type Stored<'a> = (u8, &'a [u8], &'a [u8]);

fn stored(xattrs: &Xattrs) -> Vec<Stored<'_>> {
    fn one((name, value): &(Vec<u8>, Vec<u8>)) -> Stored<'_> {
        match name.strip_prefix(b"user.") {
            Some(rest) => (1, rest, value),
            None => (6, name.strip_prefix(b"security.").unwrap_or(name), value),
        }
    }
    fn sort_key<'a>(entry: &Stored<'a>) -> (u8, usize, &'a [u8]) {
        (entry.0, entry.1.len(), entry.1)
    }
    let mut all: Vec<Stored<'_>> = xattrs.iter().map(one).collect();
    // The kernel looks for them in this order.
    all.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    all
}

fn space(xattrs: &Xattrs) -> usize {
    let padded = |length: usize| length.next_multiple_of(4);
    let entries = stored(xattrs).into_iter();
    entries.map(|(_, name, value)| ENTRY + padded(name.len()) + padded(value.len())).sum::<usize>()
        + 4
}

/// Whether they can be stored at all.
pub(crate) fn fit(xattrs: &Xattrs) -> bool {
    xattrs.is_empty() || space(xattrs) + BLOCK_HEADER <= BLOCK
}

/// The bytes behind an inode's fields, when they fit there.
pub(crate) fn in_inode(xattrs: &Xattrs) -> Option<[u8; IN_INODE]> {
    if space(xattrs) + 4 > IN_INODE {
        return None;
    }
    let mut bytes = [0; IN_INODE];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    // Offsets of values count from the first entry.
    lay_out(&mut bytes[4..], 0, &stored(xattrs), false);
    Some(bytes)
}

/// A block of its own.
pub(crate) fn block(xattrs: &Xattrs) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let hash = lay_out(&mut bytes, BLOCK_HEADER, &stored(xattrs), true);
    for (at, word) in [(0, MAGIC), (4, 1), (8, 1), (12, hash)] {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Entries from `first` on, values from the end backwards. The hash of all entries.
fn lay_out(bytes: &mut [u8], first: usize, all: &[Stored<'_>], hashed: bool) -> u32 {
    let (mut at, mut end, mut total) = (first, bytes.len(), 0u32);
    for (prefix, name, value) in all {
        end -= value.len().next_multiple_of(4);
        bytes[end..end + value.len()].copy_from_slice(value);
        let hash = if hashed { hash(name, value) } else { 0 };
        total = total.rotate_left(16) ^ hash;
        let offset = if value.is_empty() { 0 } else { end };
        bytes[at] = u8::try_from(name.len()).expect("a name has at most 255 bytes");
        bytes[at + 1] = *prefix;
        bytes[at + 2..at + 4]
            .copy_from_slice(&u16::try_from(offset).expect("within a block").to_le_bytes());
        let size = u32::try_from(value.len()).expect("within a block");
        bytes[at + 8..at + 12].copy_from_slice(&size.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&hash.to_le_bytes());
        bytes[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
        at += ENTRY + name.len().next_multiple_of(4);
    }
    total
}

/// As Linux counts it, `ext4_xattr_hash_entry`.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let named = name.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    value.chunks(4).fold(named, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}
