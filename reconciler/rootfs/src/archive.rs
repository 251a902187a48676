//! A strict reader of tar archives: ustar, PAX and GNU. It yields entries and their bytes, and touches nothing.
//!
//! Where readers are known to disagree about an archive it is refused (R-I3). Extension headers are bounded, so that
//! a small compressed archive cannot make a large allocation.

use crate::error::{Fault, refuse, shown};
use crate::limits;
use crate::pax::Pax;
use std::io::{self, Read};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink,
    Hardlink,
    Character,
    Block,
    Fifo,
}

/// One entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of the file, holes included.
    pub(crate) size: u64,
    /// The pieces that are not holes, in order: offset and length. `None` for a file that is stored whole.
    pub(crate) pieces: Option<Vec<(u64, u64)>>,
}

/// An archive that is being read.
pub(crate) struct Archive<R> {
    inner: R,
    /// Bytes of the current entry that are still to come.
    left: u64,
    padding: u64,
    /// Whether a PAX header came yet.
    pax: bool,
}

type Header = [u8; BLOCK];

impl<R: Read> Archive<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, pax: false }
    }

    /// The next entry; `None` at the end. What was not read of the one before is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        self.finish_entry()?;
        let (mut pax, mut long_path, mut long_link) = (None::<Pax>, None, None);
        loop {
            let Some(header) = self.header()? else {
                if pax.is_some() || long_path.is_some() || long_link.is_some() {
                    return refuse("the archive ends after an extension header");
                }
                return Ok(None);
            };
            let size = unsigned(&header[124..136], "size")?;
            match header[156] {
                b'x' | b'X' => {
                    if pax.is_some() {
                        return refuse("two PAX headers stand before one entry");
                    }
                    self.pax = true;
                    let mut records = Pax::default();
                    records.read(&self.extension(size)?)?;
                    pax = Some(records);
                }
                b'g' => {
                    // Some readers apply it, some do not: only comments mean the same to all.
                    self.pax = true;
                    let mut global = Pax::default();
                    global.read(&self.extension(size)?)?;
                    if !global.is_empty() {
                        return refuse("a global PAX header is about entries");
                    }
                }
                b'L' if long_path.is_none() => long_path = Some(self.long_name(size)?),
                b'K' if long_link.is_none() => long_link = Some(self.long_name(size)?),
                b'L' | b'K' => return refuse("two long names stand before one entry"),
                b'V' if pax.is_some() || long_path.is_some() || long_link.is_some() => {
                    return refuse("an extension header stands before a volume's name");
                }
                b'V' => self.skip_padded(size)?,
                _ => {
                    let pax = pax.unwrap_or_default();
                    return self.entry(&header, size, pax, long_path, long_link).map(Some);
                }
            }
        }
    }

    /// Bytes of the current entry.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..most]) {
            Ok(0) => refuse("the archive is cut off within a file"),
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(buffer),
            Err(error) => Err(Fault::Read(error)),
        }
    }

    pub(crate) fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), Fault> {
        while !buffer.is_empty() {
            let count = self.read(buffer)?;
            if count == 0 {
                return refuse("a file is shorter than it says");
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// Reads whatever follows the end, which belongs to the layer's digest.
    pub(crate) fn drain(&mut self) -> Result<(), Fault> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
    }

    fn finish_entry(&mut self) -> Result<(), Fault> {
        let (rest, padding) = (self.left, self.padding);
        (self.left, self.padding) = (0, 0);
        self.skip(rest)?;
        // Some programs leave out what fills the last block, and the end with it.
        let padding = usize::try_from(padding).expect("below a block");
        let mut have = 0;
        while have < padding {
            match self.inner.read(&mut [0; BLOCK][..padding - have]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Fault> {
        let mut buffer = [0; 8192];
        while bytes > 0 {
            let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            self.exact(&mut buffer[..most])?;
            bytes -= most as u64;
        }
        Ok(())
    }

    fn skip_padded(&mut self, size: u64) -> Result<(), Fault> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        padded.map_or_else(|| refuse("an entry's size is out of bounds"), |bytes| self.skip(bytes))
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        self.inner.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Fault::Refused("the archive is cut off".into())
            } else {
                Fault::Read(error)
            }
        })
    }

    /// The next header block, with its checksum verified. `None` at the end: a block of zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let (header, have) = self.block()?;
        if have == 0 {
            return Ok(None);
        }
        if have < BLOCK {
            return refuse("the archive is cut off within a header");
        }
        if header == [0; BLOCK] {
            // The end has two of them. Some readers stop at one, some do not.
            if self.block()?.0 != [0; BLOCK] {
                return refuse("a block of zeros stands within the archive");
            }
            return Ok(None);
        }
        if header[148] & 0x80 != 0 {
            return refuse("a header's checksum is not a number");
        }
        let blank = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
        let bytes = || header.iter().enumerate().map(|(index, byte)| blank(index, *byte));
        let plain: u64 = bytes().map(u64::from).sum();
        // Some very old programs added up signed bytes.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        let wanted = unsigned(&header[148..156], "checksum")?;
        if wanted != plain && i64::try_from(wanted) != Ok(signed) {
            return refuse("a header's checksum is wrong");
        }
        Ok(Some(header))
    }

    /// The next block, and how much of it there is.
    fn block(&mut self) -> Result<(Header, usize), Fault> {
        let (mut block, mut have) = ([0; BLOCK], 0);
        while have < BLOCK {
            match self.inner.read(&mut block[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
        Ok((block, have))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > limits::EXTENSION {
            return Err(Fault::Budget(format!(
                "an extension header has {size} bytes, at most {} are read",
                limits::EXTENSION
            )));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.exact(&mut bytes)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            if name[end..].iter().any(|byte| *byte != 0) {
                return refuse("a long name has a NUL within");
            }
            name.truncate(end);
        }
        if name.is_empty() { refuse("a long name is empty") } else { Ok(name) }
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Fault> {
        if long_path.is_some() && pax.path.is_some() || long_link.is_some() && pax.link.is_some() {
            return refuse("an entry has two long names, by PAX and by GNU");
        }
        let stored = pax.size.unwrap_or(size);
        let path = long_path.or(pax.path).unwrap_or_else(|| name(header));
        let link = long_link.or(pax.link).unwrap_or_else(|| field(&header[157..257]));
        let kind = kind_of(header[156], &path)?;
        if pax.sparse.is_there() && (kind != Kind::File || header[156] == b'S') {
            return refuse(format!("a sparse map stands before {}", shown(&path)));
        }
        match kind {
            Kind::File => {}
            // The bytes of a file that is linked to are with the file.
            Kind::Hardlink if stored != 0 && self.pax => {
                return refuse(format!("{} is a hard link and has bytes", shown(&path)));
            }
            Kind::Hardlink => {}
            Kind::Folder | Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => {
                if stored != 0 {
                    return refuse(format!("{} has bytes but is no file", shown(&path)));
                }
            }
        }
        let mtime = match pax.mtime {
            Some(time) => time,
            None => (signed(&header[136..148], "time")?, 0),
        };
        let mut entry = Entry {
            link,
            kind,
            mode: u16::try_from(unsigned(&header[100..108], "mode")? & 0o7777)
                .expect("twelve bits"),
            uid: id(pax.uid, &header[108..116], "owner", &path)?,
            gid: id(pax.gid, &header[116..124], "group", &path)?,
            mtime,
            device: (0, 0),
            xattrs: pax.xattrs,
            size: 0,
            pieces: None,
            path,
        };
        if matches!(kind, Kind::Character | Kind::Block) {
            let number = |range| unsigned(&header[range], "device").map(|n: u64| n.min(1 << 24));
            let clip = |n: u64| u32::try_from(n).expect("bounded");
            entry.device = (clip(number(329..337)?), clip(number(337..345)?));
        }
        if kind == Kind::File {
            self.left = stored;
            let Some(padded) = stored.checked_next_multiple_of(BLOCK as u64) else {
                return refuse("an entry's size is out of bounds");
            };
            self.padding = padded - stored;
            entry.size = stored;
            if header[156] == b'S' {
                self.old_sparse(header, &mut entry)?;
            } else if pax.sparse.is_there() {
                self.pax_sparse(pax.sparse, &mut entry)?;
            }
        }
        Ok(entry)
    }

    /// GNU's own sparse files: the first pieces in the header, more in blocks behind it.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), Fault> {
        if &header[257..265] != b"ustar  \0" {
            return refuse(format!("{} is sparse as only GNU's format has it", shown(&entry.path)));
        }
        let mut pieces = Vec::new();
        let mut more = header[482] != 0;
        entry.size = unsigned(&header[483..495], "real size")?;
        let mut ended = read_pieces(&header[386..482], &mut pieces)?;
        while more {
            if ended {
                return refuse("a sparse map goes on after its end");
            }
            let mut block = [0; BLOCK];
            self.exact(&mut block)?;
            ended = read_pieces(&block[..504], &mut pieces)?;
            more = block[504] != 0;
        }
        self.accept(pieces, entry)
    }

    fn pax_sparse(&mut self, sparse: crate::pax::Sparse, entry: &mut Entry) -> Result<(), Fault> {
        if let Some(name) = sparse.name {
            entry.path = name;
        }
        let Some(real) = sparse.real_size else {
            return refuse("a sparse file does not say how large it is");
        };
        entry.size = real;
        let pieces = match (sparse.major, sparse.minor, sparse.map) {
            (Some(1), Some(0), None) => self.map_before_data()?,
            (None | Some(0), _, Some(map)) => map,
            _ => return refuse("a sparse file is of an unknown version"),
        };
        self.accept(pieces, entry)
    }

    /// Version 1.0: a list of decimal lines in whole blocks before the data.
    fn map_before_data(&mut self) -> Result<Vec<(u64, u64)>, Fault> {
        let (mut text, mut numbers) = (Vec::<u8>::new(), Vec::new());
        let mut wanted = 1;
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    text.push(byte);
                    if text.len() > 20 {
                        return refuse("a sparse map has no numbers");
                    }
                    continue;
                }
                numbers.push(decimal(&text)?);
                text.clear();
                if numbers.len() == 1 {
                    let pieces = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                    bounded(pieces)?;
                    wanted = 1 + pieces * 2;
                }
            }
            if numbers.len() == wanted {
                return Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
        }
    }

    /// Pieces must be in order, up to the end of the file, and as many bytes as follow.
    fn accept(&self, pieces: Vec<(u64, u64)>, entry: &mut Entry) -> Result<(), Fault> {
        bounded(pieces.len())?;
        let (mut end, mut total) = (0u64, 0u64);
        for (offset, length) in &pieces {
            let after = offset.checked_add(*length);
            let Some(after) = after.filter(|after| *offset >= end && *after <= entry.size) else {
                return refuse(format!("the sparse map of {} is not in order", shown(&entry.path)));
            };
            // Some readers expect each piece in blocks of its own.
            if *length > 0 && total % BLOCK as u64 != 0 {
                return refuse(format!("the sparse map of {} is not aligned", shown(&entry.path)));
            }
            end = after;
            total += length;
        }
        if end != entry.size {
            // GNU tar ends the file there, others do not.
            return refuse(format!("the sparse map of {} ends too early", shown(&entry.path)));
        }
        if total != self.left {
            return refuse(format!("the sparse map of {} does not fit", shown(&entry.path)));
        }
        entry.pieces = Some(pieces.into_iter().filter(|(_, length)| *length > 0).collect());
        Ok(())
    }
}

fn bounded(pieces: usize) -> Result<(), Fault> {
    if pieces > limits::PIECES {
        return Err(Fault::Budget(format!(
            "a sparse file has more than {} pieces",
            limits::PIECES
        )));
    }
    Ok(())
}

/// Whether the map ends here.
fn read_pieces(bytes: &[u8], pieces: &mut Vec<(u64, u64)>) -> Result<bool, Fault> {
    for piece in bytes.chunks_exact(24) {
        match (piece[0], piece[12]) {
            (0, 0) => return Ok(true),
            (0, _) | (_, 0) => return refuse("a sparse map has half a piece"),
            _ => {}
        }
        bounded(pieces.len())?;
        pieces.push((unsigned(&piece[..12], "offset")?, unsigned(&piece[12..], "length")?));
    }
    Ok(false)
}

fn decimal(text: &[u8]) -> Result<u64, Fault> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| plain).and_then(|t| t.parse().ok());
    number.map_or_else(|| refuse("a sparse map has no numbers"), Ok)
}

fn kind_of(flag: u8, path: &[u8]) -> Result<Kind, Fault> {
    Ok(match flag {
        // Before ustar, a folder was a file whose name ends with a slash.
        b'0' | 0 if path.ends_with(b"/") => Kind::Folder,
        b'7' | b'S' if path.ends_with(b"/") => {
            return refuse(format!("{} is a file whose name ends with a slash", shown(path)));
        }
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        other => {
            let flag = char::from(other).escape_debug();
            return refuse(format!("{} is of an unknown kind '{flag}'", shown(path)));
        }
    })
}

/// A field up to its first NUL.
fn field(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The name, with ustar's prefix before it.
fn name(header: &Header) -> Vec<u8> {
    let name = field(&header[..100]);
    let prefix = field(&header[345..500]);
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name;
    }
    [prefix.as_slice(), b"/", name.as_slice()].concat()
}

fn id(pax: Option<u64>, bytes: &[u8], what: &str, path: &[u8]) -> Result<u32, Fault> {
    let number = match pax {
        Some(number) => number,
        None => unsigned(bytes, what)?,
    };
    match u32::try_from(number) {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => refuse(format!("{}: the {what} {number} is out of bounds", shown(path))),
    }
}

fn unsigned(bytes: &[u8], what: &str) -> Result<u64, Fault> {
    let number = signed(bytes, what)?;
    u64::try_from(number).or_else(|_| refuse(format!("a header's {what} is negative")))
}

/// Octal digits, or base 256 where the first bit is set.
fn signed(bytes: &[u8], what: &str) -> Result<i64, Fault> {
    let wrong = || refuse(format!("a header's {what} is not a number"));
    if bytes[0] & 0x80 != 0 {
        let mut number: i64 = match bytes[0] {
            0x80 => 0,
            0xff => -1,
            _ => return wrong(),
        };
        for byte in &bytes[1..] {
            let Some(shifted) = number.checked_mul(256) else { return wrong() };
            number = shifted + i64::from(*byte);
        }
        return Ok(number);
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = bytes.iter().position(|byte| *byte != b' ').unwrap_or(bytes.len());
    let end = bytes[start..].iter().position(blank).map_or(bytes.len(), |at| start + at);
    if !bytes[end..].iter().all(blank) {
        return wrong();
    }
    let mut number = 0i64;
    for digit in &bytes[start..end] {
        if !(b'0'..=b'7').contains(digit) {
            return wrong();
        }
        number = number * 8 + i64::from(digit - b'0');
    }
    Ok(number)
}
