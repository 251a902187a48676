//! The image as an ext4 filesystem that is only read: no journal, no backups, folders as plain lists.
//!
//! Layout: superblock and table of groups, the bytes of files as they came, folders, long links, attributes, trees of
//! extents; then bitmaps and inode tables, which may be anywhere (`flex_bg`). The same tree over the same blocks gives
//! the same bytes.

pub(crate) mod blocks;
mod folder;
mod inode;
pub(crate) mod xattr;

use crate::error::{Fault, refuse};
use crate::tree::{Body, Id, ROOT, Tree, new_folder};
use blocks::{BLOCK, Blocks, HEAD};
use inode::Placed;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;

/// Blocks of a group: as many as a block has bits.
const GROUP: u32 = (BLOCK as u32) * 8;
/// The root's inode, and the first that is free.
const ROOT_INODE: u32 = 2;
const FIRST_INODE: u32 = 11;
const LOST_FOUND: &[u8] = b"lost+found";

/// Where everything is.
struct Layout {
    inodes: u32,
    groups: u32,
    inodes_per_group: u32,
    /// The first block of bitmaps and tables.
    tables: u32,
    /// All blocks.
    total: u32,
}

impl Layout {
    /// Finds the number of groups that holds all blocks, tables included.
    fn new(inodes: u32, used: u32) -> Self {
        let mut groups = inodes.div_ceil(GROUP).max(used.div_ceil(GROUP)).max(1);
        loop {
            let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(16).max(16);
            let total = used + groups * Self::per_group(inodes_per_group);
            // Inodes alone may need more groups than blocks do; their blocks are holes.
            let least = (groups - 1) * GROUP + 64;
            if total.div_ceil(GROUP) <= groups {
                let total = total.max(least);
                return Self { inodes, groups, inodes_per_group, tables: used, total };
            }
            groups += 1;
        }
    }

    /// Blocks of a group's two bitmaps and its table.
    fn per_group(inodes_per_group: u32) -> u32 {
        2 + inodes_per_group / 16
    }

    fn block_bitmap(&self, group: u32) -> u32 {
        self.tables + group
    }

    fn inode_bitmap(&self, group: u32) -> u32 {
        self.tables + self.groups + group
    }

    fn table(&self, group: u32) -> u32 {
        self.tables + 2 * self.groups + group * (self.inodes_per_group / 16)
    }

    fn tables_end(&self) -> u32 {
        self.table(self.groups)
    }
}

/// Writes everything that is not the bytes of files. The size of the image in bytes.
pub(crate) fn finish(tree: &mut Tree, blocks: &mut Blocks) -> Result<u64, Fault> {
    match tree.children(ROOT).get(LOST_FOUND).map(|child| child.id) {
        Some(id) if !tree.is_folder(id) => return refuse("/lost+found is no folder"),
        Some(_) => {}
        None => {
            let mut folder = new_folder();
            folder.meta.mode = 0o700;
            tree.put(ROOT, LOST_FOUND, 0, folder);
        }
    }
    let (order, parents, numbers) = number(tree);
    let placed = place(tree, blocks, &order, &parents, &numbers)?;
    blocks.flush(true)?;
    let inodes = FIRST_INODE - 1 + u32::try_from(order.len()).expect("bounded") - 1;
    let layout = Layout::new(inodes, blocks.next());
    let size = u64::from(layout.total) * BLOCK as u64;
    blocks.file().set_len(size).map_err(Fault::Write)?;
    let folders = write_tables(tree, blocks, &layout, &order, &placed)?;
    let free = write_block_bitmaps(tree, blocks, &layout)?;
    let free_inodes = write_inode_bitmaps(blocks, &layout)?;
    write_head(blocks, &layout, &free, &free_inodes, &folders)?;
    punch(tree, blocks);
    Ok(size)
}

/// All nodes in the order of their inodes, each folder's parent, and each node's number.
fn number(tree: &Tree) -> (Vec<Id>, HashMap<Id, Id>, Vec<u32>) {
    let mut numbers = vec![0u32; tree.len()];
    let (mut order, mut parents) = (vec![ROOT], HashMap::from([(ROOT, ROOT)]));
    numbers[ROOT as usize] = ROOT_INODE;
    let mut next = FIRST_INODE;
    let mut at = 0;
    while at < order.len() {
        let id = order[at];
        at += 1;
        if !tree.is_folder(id) {
            continue;
        }
        for child in tree.children(id).values() {
            if numbers[child.id as usize] == 0 {
                numbers[child.id as usize] = next;
                next += 1;
                order.push(child.id);
                if tree.is_folder(child.id) {
                    parents.insert(child.id, id);
                }
            }
        }
    }
    (order, parents, numbers)
}

/// Writes folders, long links, attributes and trees of extents.
fn place(
    tree: &Tree,
    blocks: &mut Blocks,
    order: &[Id],
    parents: &HashMap<Id, Id>,
    numbers: &[u32],
) -> Result<HashMap<Id, Placed>, Fault> {
    let mut all = HashMap::new();
    for id in order {
        let node = tree.node(*id);
        let mut placed = Placed::default();
        match &node.body {
            Body::Folder(_) => {
                let own = numbers[*id as usize];
                let parent = numbers[parents[id] as usize];
                let bytes = folder::blocks(tree, *id, own, parent, numbers);
                placed.first = blocks.write(&bytes)?;
                placed.blocks = u32::try_from(bytes.len() / BLOCK).expect("names are bounded");
            }
            Body::Symlink(target) if target.len() > inode::INLINE_LINK => {
                (placed.first, placed.blocks) = (blocks.write(target)?, 1);
            }
            Body::File { extents, .. } if extents.len() > inode::INLINE_EXTENTS => {
                placed.extents = inode::extent_tree(extents, |bytes| blocks.write(bytes))?;
            }
            Body::File { .. } | Body::Symlink(_) | Body::Character(..) | Body::Fifo => {}
        }
        if let Some(xattrs) = node.xattrs.as_ref().filter(|x| xattr::in_inode(x).is_none()) {
            placed.xattrs = blocks.write(&xattr::block(xattrs))?;
        }
        if placed.blocks + placed.xattrs + placed.extents.blocks > 0 {
            all.insert(*id, placed);
        }
    }
    Ok(all)
}

/// Writes the inode tables. How many folders each group has.
fn write_tables(
    tree: &Tree,
    blocks: &Blocks,
    layout: &Layout,
    order: &[Id],
    placed: &HashMap<Id, Placed>,
) -> Result<Vec<u32>, Fault> {
    let mut folders = vec![0; layout.groups as usize];
    let mut table = Vec::with_capacity(1 << 20);
    let mut at = u64::from(layout.table(0)) * BLOCK as u64;
    let mut write = |table: &mut Vec<u8>| {
        let done = blocks.file().write_all_at(table, at).map_err(Fault::Write);
        at += table.len() as u64;
        table.clear();
        done
    };
    // Tables follow each other without a gap, so inodes do too.
    let first = [None, Some(ROOT)].into_iter().chain(std::iter::repeat_n(None, 8));
    for (index, id) in first.chain(order[1..].iter().copied().map(Some)).enumerate() {
        match id {
            None => table.extend_from_slice(&[0; inode::SIZE]),
            Some(id) => {
                table.extend_from_slice(&inode::encode(tree, id, placed));
                if tree.is_folder(id) {
                    folders[index / layout.inodes_per_group as usize] += 1;
                }
            }
        }
        if table.len() >= 1 << 20 {
            write(&mut table)?;
        }
    }
    write(&mut table)?;
    Ok(folders)
}

/// Writes which blocks are taken. How many are free in each group.
fn write_block_bitmaps(tree: &Tree, blocks: &Blocks, layout: &Layout) -> Result<Vec<u32>, Fault> {
    let mut taken = vec![0u8; (layout.groups as usize) * BLOCK];
    let mut set = |from: u32, to: u32, on: bool| {
        for block in from..to {
            let (byte, bit) = ((block / 8) as usize, 1u8 << (block % 8));
            if on { taken[byte] |= bit } else { taken[byte] &= !bit }
        }
    };
    set(0, 1 + table_blocks(layout), true);
    set(HEAD, layout.tables_end(), true);
    for (first, count) in &tree.dead {
        set(*first, first + count, false);
    }
    set(layout.total, layout.groups * GROUP, true);
    let mut free = Vec::new();
    for group in 0..layout.groups {
        let bitmap = &taken[(group as usize) * BLOCK..][..BLOCK];
        free.push(bitmap.iter().map(|byte| byte.count_zeros()).sum());
        let at = u64::from(layout.block_bitmap(group)) * BLOCK as u64;
        blocks.file().write_all_at(bitmap, at).map_err(Fault::Write)?;
    }
    Ok(free)
}

/// Writes which inodes are taken. How many are free in each group.
fn write_inode_bitmaps(blocks: &Blocks, layout: &Layout) -> Result<Vec<u32>, Fault> {
    let mut free = Vec::new();
    for group in 0..layout.groups {
        let before = group * layout.inodes_per_group;
        let used = layout.inodes.saturating_sub(before).min(layout.inodes_per_group);
        free.push(layout.inodes_per_group - used);
        let mut bitmap = vec![0u8; BLOCK];
        for bit in (0..used).chain(layout.inodes_per_group..GROUP) {
            bitmap[(bit / 8) as usize] |= 1 << (bit % 8);
        }
        let at = u64::from(layout.inode_bitmap(group)) * BLOCK as u64;
        blocks.file().write_all_at(&bitmap, at).map_err(Fault::Write)?;
    }
    Ok(free)
}

/// Blocks of the table of groups.
fn table_blocks(layout: &Layout) -> u32 {
    (layout.groups * 32).div_ceil(BLOCK as u32)
}

/// Writes the superblock and the table of groups: from now on it is a filesystem.
fn write_head(
    blocks: &Blocks,
    layout: &Layout,
    free: &[u32],
    free_inodes: &[u32],
    folders: &[u32],
) -> Result<(), Fault> {
    let mut groups = vec![0u8; (table_blocks(layout) as usize) * BLOCK];
    for group in 0..layout.groups {
        let index = group as usize;
        let entry = &mut groups[index * 32..][..32];
        let places = [layout.block_bitmap(group), layout.inode_bitmap(group), layout.table(group)];
        for (place, at) in places.into_iter().zip([0, 4, 8]) {
            entry[at..at + 4].copy_from_slice(&place.to_le_bytes());
        }
        let counts = [free[index], free_inodes[index], folders[index]];
        for (count, at) in counts.into_iter().zip([12, 14, 16]) {
            let count = u16::try_from(count).expect("at most a group");
            entry[at..at + 2].copy_from_slice(&count.to_le_bytes());
        }
    }
    let mut head = vec![0u8; BLOCK];
    head[1024..2048].copy_from_slice(&superblock(layout, free, free_inodes));
    blocks.file().write_all_at(&head, 0).map_err(Fault::Write)?;
    blocks.file().write_all_at(&groups, BLOCK as u64).map_err(Fault::Write)
}

fn superblock(layout: &Layout, free: &[u32], free_inodes: &[u32]) -> [u8; 1024] {
    let mut out = [0u8; 1024];
    let words: [(usize, u32); 15] = [
        (0, layout.inodes_per_group * layout.groups),
        (4, layout.total),
        (12, free.iter().sum()),
        (16, free_inodes.iter().sum()),
        (24, 2),
        (28, 2),
        (32, GROUP),
        (36, GROUP),
        (40, layout.inodes_per_group),
        (76, 1),
        (84, FIRST_INODE),
        // ext_attr, sparse_super2: no backup is named.
        (92, 0x208),
        // filetype, extents, flex_bg.
        (96, 0x242),
        // large_file, huge_file, dir_nlink, extra_isize.
        (100, 0x6a),
        // Hashes of names would be of unsigned bytes.
        (352, 2),
    ];
    for (at, word) in words {
        out[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let size = u16::try_from(inode::SIZE).expect("small");
    for (at, word) in
        [(54, 0xffff), (56, 0xEF53), (58, 1), (60, 1), (88, size), (348, 32), (350, 32)]
    {
        out[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    out[104..120].copy_from_slice(b"banger read only");
    out[252] = 1;
    out[372] = 4;
    out
}

/// Gives back the space of files that upper layers replaced. Without it they only take up room.
fn punch(tree: &Tree, blocks: &Blocks) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for (first, count) in &tree.dead {
        let (at, length) = (i64::from(*first) << 12, i64::from(*count) << 12);
        if length > 0 && fallocate(blocks.file(), flags, at, length).is_err() {
            break;
        }
    }
}
