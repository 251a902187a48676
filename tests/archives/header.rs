//! A small builder of tar archives: every byte of a header can be set, and nothing is checked.

const BLOCK: usize = 512;

/// A header and the bytes that follow it.
#[derive(Clone)]
pub(super) struct Head {
    block: [u8; BLOCK],
    data: Vec<u8>,
    sum: Sum,
}

#[derive(Clone, Copy, PartialEq)]
enum Sum {
    Plain,
    Signed,
    Wrong,
}

impl Head {
    pub(super) fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        let mut head = Self { block: [0; BLOCK], data: Vec::new(), sum: Sum::Plain };
        let path = path.as_ref();
        assert!(path.len() <= 100, "longer names need an extension header");
        let mode = match kind {
            b'5' => 0o755,
            b'2' => 0o777,
            _ => 0o644,
        };
        head = head.field(0, path).mode(mode).owner(0, 0).size(0).time(0);
        head.field(156, &[kind]).field(257, b"ustar\x0000")
    }

    /// Bytes at a place, whatever the field.
    pub(super) fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(self, at: usize, length: usize, number: u64) -> Self {
        let width = length - 1;
        self.field(at, format!("{number:0width$o}\0").as_bytes())
    }

    pub(super) fn mode(self, mode: u64) -> Self {
        self.octal(100, 8, mode)
    }

    pub(super) fn owner(self, uid: u64, gid: u64) -> Self {
        self.octal(108, 8, uid).octal(116, 8, gid)
    }

    pub(super) fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    pub(super) fn time(self, seconds: u64) -> Self {
        self.octal(136, 12, seconds)
    }

    pub(super) fn link(self, target: impl AsRef<[u8]>) -> Self {
        assert!(target.as_ref().len() <= 100, "longer links need an extension header");
        self.field(157, target.as_ref())
    }

    pub(super) fn device(self, major: u64, minor: u64) -> Self {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    /// As GNU tar marks its own format.
    pub(super) fn gnu(self) -> Self {
        self.field(257, b"ustar  \0")
    }

    /// As before ustar.
    pub(super) fn v7(self) -> Self {
        self.field(257, &[0; 8])
    }

    /// Bytes that follow; the header says how many.
    pub(super) fn data(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        let size = self.data.len() as u64;
        self.size(size)
    }

    /// Bytes that follow, whatever the header says.
    pub(super) fn tail(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        self
    }

    /// One piece of an old GNU sparse file, in the header's table.
    pub(super) fn piece(self, index: usize, offset: u64, length: u64) -> Self {
        self.octal(386 + index * 24, 12, offset).octal(398 + index * 24, 12, length)
    }

    /// The whole size of an old GNU sparse file, and whether more pieces follow.
    pub(super) fn real(self, size: u64, more: bool) -> Self {
        self.octal(483, 12, size).field(482, &[u8::from(more)])
    }

    pub(super) fn signed_sum(mut self) -> Self {
        self.sum = Sum::Signed;
        self
    }

    pub(super) fn wrong_sum(mut self) -> Self {
        self.sum = Sum::Wrong;
        self
    }

    /// The header with its checksum, and the bytes up to a whole block.
    pub(super) fn end(self) -> Vec<u8> {
        let mut bytes = self.block.to_vec();
        repair(&mut bytes, self.sum == Sum::Signed);
        if self.sum == Sum::Wrong {
            bytes[150] ^= 1;
        }
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

/// Writes the checksum of a header.
pub(super) fn repair(header: &mut [u8], signed: bool) {
    header[148..156].copy_from_slice(b"        ");
    let plain: i64 = header.iter().map(|byte| i64::from(*byte)).sum();
    let strange: i64 = header.iter().map(|byte| i64::from(byte.cast_signed())).sum();
    let sum = if signed { strange } else { plain };
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(super) fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Vec<u8> {
    Head::new(b'0', path).data(data).end()
}

pub(super) fn dir(path: impl AsRef<[u8]>) -> Vec<u8> {
    Head::new(b'5', path).end()
}

pub(super) fn sym(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Vec<u8> {
    Head::new(b'2', path).link(target).end()
}

pub(super) fn hard(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Vec<u8> {
    Head::new(b'1', path).link(target).end()
}

pub(super) fn fifo(path: &str) -> Vec<u8> {
    Head::new(b'6', path).end()
}

pub(super) fn chr(path: &str, major: u64, minor: u64) -> Vec<u8> {
    Head::new(b'3', path).device(major, minor).end()
}

pub(super) fn blk(path: &str, major: u64, minor: u64) -> Vec<u8> {
    Head::new(b'4', path).device(major, minor).end()
}

/// One PAX record, with the length that it needs.
pub(super) fn record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let rest = key.as_ref().len() + value.as_ref().len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key.as_ref(), b"=", value.as_ref(), b"\n"].concat()
}

/// A PAX header of these records.
pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    raw_pax(records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
}

pub(super) fn raw_pax(records: impl AsRef<[u8]>) -> Vec<u8> {
    Head::new(b'x', "PaxHeaders/x").data(records).end()
}

pub(super) fn global(records: &[(&str, &str)]) -> Vec<u8> {
    let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    Head::new(b'g', "pax_global_header").data(bytes).end()
}

/// A long name (`L`) or a long link (`K`), as GNU tar writes it.
pub(super) fn long(kind: u8, name: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = [name.as_ref(), b"\0"].concat();
    Head::new(kind, "././@LongLink").gnu().data(bytes).end()
}

/// An archive of these parts, ended as it should be.
pub(super) fn tar<const N: usize>(parts: [Vec<u8>; N]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}
