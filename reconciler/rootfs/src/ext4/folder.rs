//! The blocks of a folder: a plain list of names.

use super::blocks::BLOCK;
use crate::tree::{Body, Id, Tree};

/// Bytes of an entry without its name.
const ENTRY: usize = 8;

/// The blocks of a folder that has these numbers.
pub(crate) fn blocks(tree: &Tree, folder: Id, own: u32, parent: u32, numbers: &[u32]) -> Vec<u8> {
    let mut writer = Writer { bytes: Vec::new(), last: 0 };
    writer.entry(own, 2, b".");
    writer.entry(parent, 2, b"..");
    for (name, child) in tree.children(folder) {
        let kind = match tree.node(child.id).body {
            Body::File { .. } => 1,
            Body::Folder(_) => 2,
            Body::Character(..) => 3,
            Body::Fifo => 5,
            Body::Symlink(_) => 7,
        };
        writer.entry(numbers[child.id as usize], kind, name);
    }
    writer.end()
}

struct Writer {
    bytes: Vec<u8>,
    /// Where the last entry begins: it reaches to the end of its block.
    last: usize,
}

impl Writer {
    fn entry(&mut self, number: u32, kind: u8, name: &[u8]) {
        let length = (ENTRY + name.len()).next_multiple_of(4);
        let used = self.bytes.len() % BLOCK;
        if self.bytes.is_empty() || BLOCK - used < length && used > 0 {
            self.stretch();
        }
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(&u16::try_from(length).expect("below a block").to_le_bytes());
        self.bytes.push(u8::try_from(name.len()).expect("a name has at most 255 bytes"));
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        let begun = self.last;
        self.bytes.resize(begun + length, 0);
    }

    /// Lets the last entry reach to the end of its block.
    fn stretch(&mut self) {
        let whole = self.bytes.len().next_multiple_of(BLOCK);
        if whole > self.bytes.len() {
            let length = u16::try_from(whole - self.last).expect("at most a block");
            self.bytes[self.last + 4..self.last + 6].copy_from_slice(&length.to_le_bytes());
            self.bytes.resize(whole, 0);
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.stretch();
        self.bytes
    }
}
