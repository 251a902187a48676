//! A small reader of ext4 images that knows nothing of the code that writes them.

use super::listing::{Content, Item, What};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 4096;

struct Image<'a> {
    file: &'a File,
    per_group: u32,
    items: Vec<Item>,
}

struct Inode {
    number: u32,
    raw: Vec<u8>,
}

/// Logical block, physical block, blocks.
type Run = (u64, u64, u64);

impl Inode {
    fn u16(&self, at: usize) -> u32 {
        u32::from(u16::from_le_bytes([self.raw[at], self.raw[at + 1]]))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.raw[at..at + 4].try_into().expect("four bytes"))
    }

    fn size(&self) -> u64 {
        u64::from(self.u32(4)) | u64::from(self.u32(108)) << 32
    }

    /// Seconds with their two extra bits, and nanoseconds.
    fn mtime(&self) -> (i64, u32) {
        let extra = self.u32(136);
        (i64::from(self.u32(16).cast_signed()) + (i64::from(extra & 3) << 32), extra >> 2)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")))
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Everything in an image. `lost+found` is left out where it is as `mkfs` makes it.
pub(super) fn read(file: &File) -> Vec<Item> {
    let mut head = [0; 1024];
    file.read_exact_at(&mut head, 1024).expect("a superblock");
    assert_eq!(half(&head, 56), 0xEF53, "it is ext4");
    let per_group = u32::try_from(word(&head, 40)).expect("32 bits");
    let mut image = Image { file, per_group, items: Vec::new() };
    image.walk(2, 2, &mut Vec::new());
    let mut items = image.items;
    items.retain(|item| !(item.path == b"lost+found" && item.mode == 0o700 && item.empty));
    items
}

impl Image<'_> {
    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).expect("within the image");
        bytes
    }

    fn inode(&self, number: u32) -> Inode {
        let (group, index) = ((number - 1) / self.per_group, (number - 1) % self.per_group);
        let table = word(&self.bytes(BLOCK + u64::from(group) * 32 + 8, 4), 0);
        Inode { number, raw: self.bytes(table * BLOCK + u64::from(index) * 256, 256) }
    }

    fn runs(&self, node: &[u8], into: &mut Vec<Run>) {
        assert_eq!(half(node, 0), 0xF30A, "a node of extents");
        let depth = half(node, 6);
        for index in 0..half(node, 2) {
            let entry = &node[12 + index * 12..][..12];
            if depth == 0 {
                let physical = word(entry, 8) | (half(entry, 6) as u64) << 32;
                into.push((word(entry, 0), physical, half(entry, 4) as u64));
            } else {
                self.runs(&self.bytes(word(entry, 4) * BLOCK, 4096), into);
            }
        }
    }

    /// The bytes of an inode in pieces of a block, in order and with holes as zeros.
    fn content(&self, inode: &Inode, mut take: impl FnMut(&[u8])) {
        let mut runs = Vec::new();
        self.runs(&inode.raw[40..100], &mut runs);
        let (mut at, size) = (0, inode.size());
        let mut runs = runs.into_iter().peekable();
        while at < size {
            let logical = at / BLOCK;
            while runs.peek().is_some_and(|(first, _, blocks)| first + blocks <= logical) {
                runs.next();
            }
            let most = usize::try_from(BLOCK.min(size - at)).expect("small");
            match runs.peek() {
                Some((first, physical, _)) if *first <= logical => {
                    take(&self.bytes((physical + logical - first) * BLOCK, most));
                }
                _ => take(&[0; 4096][..most]),
            }
            at += most as u64;
        }
    }

    fn whole(&self, inode: &Inode) -> Vec<u8> {
        let mut all = Vec::new();
        self.content(inode, |bytes| all.extend_from_slice(bytes));
        all
    }

    fn file_content(&self, inode: &Inode) -> Content {
        let mut runs = Vec::new();
        self.runs(&inode.raw[40..100], &mut runs);
        let blocks = runs.iter().map(|(_, _, blocks)| blocks).sum();
        let size = inode.size();
        if size > Content::LARGE {
            return Content { size, blocks, short: Vec::new(), hash: [0; 32] };
        }
        let (mut hash, mut short) = (Sha256::new(), Vec::new());
        self.content(inode, |bytes| {
            hash.update(bytes);
            if size <= Content::SHORT {
                short.extend_from_slice(bytes);
            }
        });
        Content { size, blocks, short, hash: hash.finalize().into() }
    }

    fn target(&self, inode: &Inode) -> Vec<u8> {
        let size = usize::try_from(inode.size()).expect("short");
        if size < 60 { inode.raw[40..40 + size].to_vec() } else { self.whole(inode) }
    }

    fn walk(&mut self, number: u32, parent: u32, path: &mut Vec<u8>) {
        let inode = self.inode(number);
        let mode = inode.u16(0);
        let (mut folders, mut names) = (0, Vec::new());
        let what = match mode >> 12 {
            4 => {
                names = self.names(&inode, parent);
                folders = names.iter().filter(|(_, _, kind)| *kind == 2).count();
                What::Folder
            }
            8 => What::File(self.file_content(&inode)),
            10 => What::Symlink(self.target(&inode)),
            2 => What::Character(inode.u32(40) >> 8, inode.u32(40) & 0xff),
            1 => What::Fifo,
            other => panic!("an inode of kind {other}"),
        };
        let links = inode.u16(26);
        if what == What::Folder {
            assert!(links as usize == folders + 2 || links == 1, "links of a folder");
        }
        self.items.push(Item {
            path: path.clone(),
            what,
            mode: mode & 0o7777,
            uid: inode.u16(2) | inode.u16(120) << 16,
            gid: inode.u16(24) | inode.u16(122) << 16,
            mtime: inode.mtime(),
            links,
            identity: u64::from(number),
            empty: names.is_empty(),
            xattrs: self.xattrs(&inode),
        });
        for (name, child, _) in names {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.walk(child, number, path);
            path.truncate(length);
        }
    }

    /// The names of a folder, sorted, without `.` and `..`, which are checked.
    fn names(&self, folder: &Inode, parent: u32) -> Vec<(Vec<u8>, u32, u8)> {
        let mut names = Vec::new();
        for block in self.whole(folder).chunks(4096) {
            let mut at = 0;
            while at < block.len() {
                let number = u32::try_from(word(block, at)).expect("32 bits");
                let name = block[at + 8..][..usize::from(block[at + 6])].to_vec();
                if number != 0 {
                    names.push((name, number, block[at + 7]));
                }
                at += half(block, at + 4);
            }
        }
        names.sort();
        let dots: Vec<_> =
            names.extract_if(.., |(name, ..)| name == b"." || name == b"..").collect();
        assert_eq!((dots[0].1, dots[1].1), (folder.number, parent), "dots lead where they should");
        assert!(names.windows(2).all(|pair| pair[0].0 != pair[1].0), "a name stands twice");
        names
    }

    fn xattrs(&self, inode: &Inode) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let inside = &inode.raw[160..];
        if word(inside, 0) == 0xEA02_0000 {
            entries(&inside[4..], 0, &mut all);
        }
        let block = u64::from(inode.u32(104));
        if block != 0 {
            let bytes = self.bytes(block * BLOCK, 4096);
            assert_eq!(word(&bytes, 0), 0xEA02_0000, "a block of attributes");
            entries(&bytes, 32, &mut all);
        }
        all
    }
}

fn entries(bytes: &[u8], mut at: usize, all: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    while word(bytes, at) != 0 {
        let length = usize::from(bytes[at]);
        let prefix: &[u8] = match bytes[at + 1] {
            1 => b"user.",
            6 => b"security.",
            other => panic!("an attribute of kind {other}"),
        };
        let (offset, size) = (half(bytes, at + 2), half(bytes, at + 8));
        let name = [prefix, &bytes[at + 16..][..length]].concat();
        all.push((name, bytes[offset..offset + size].to_vec()));
        at += 16 + length.next_multiple_of(4);
    }
}
