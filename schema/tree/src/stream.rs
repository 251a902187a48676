//! How a tree looks on the way: records, one after the other, each a kind byte, a name and what belongs to it.
//!
//! Our own form and not tar, for three things that tar has not: a file whose length is not known before it was read, the
//! digest of what was read, and names that are to be removed. Every length is checked before anything is allocated.

use crate::Hash;
use crate::name::{self, MAX_NAME, Refused};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// The most bytes of a file that travel as one piece.
const PIECE: usize = 64 << 10;
/// Ends a file that could not be read to its end.
const BROKEN: u32 = u32::MAX;

const FOLDER: u8 = b'D';
const FILE: u8 = b'F';
const LINK: u8 = b'L';
const REMOVED: u8 = b'R';
const LEFT_OUT: u8 = b'X';
const END: u8 = b'E';

/// One record. After a file comes its content, which has to be read before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder, with its permissions.
    Folder {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits, 0 to 0o7777.
        mode: u32,
    },
    /// A file.
    File {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits, 0 to 0o7777.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its name.
        name: Vec<u8>,
        /// Where it leads: anything.
        target: Vec<u8>,
    },
    /// What was there is not any more.
    Removed {
        /// Its name.
        name: Vec<u8>,
    },
    /// Something is there that does not travel.
    LeftOut {
        /// Its name.
        name: Vec<u8>,
        /// Why, for a person.
        why: String,
    },
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        match self {
            Entry::Folder { name, .. }
            | Entry::File { name, .. }
            | Entry::Link { name, .. }
            | Entry::Removed { name }
            | Entry::LeftOut { name, .. } => name,
        }
    }
}

/// Why a stream cannot be read on. Nothing after it can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection broke, or what is read into does not take it.
    #[error("the transfer broke off")]
    Io(#[from] io::Error),
    /// A name may not cross.
    #[error("{why}: {}", name::shown(.name))]
    Name {
        /// The name.
        name: Vec<u8>,
        /// Why not.
        why: Refused,
    },
    /// The other side could not read one of its files to its end.
    #[error("{} could not be read", name::shown(.0))]
    Broken(Vec<u8>),
    /// There is more of something than may be.
    #[error("more than {0}")]
    TooMuch(String),
    /// It is no such stream.
    #[error("not a stream of files: {0}")]
    Malformed(&'static str),
}

/// Writes a stream. Give it something buffered.
pub struct Sender<W> {
    to: W,
    piece: Vec<u8>,
    digests: bool,
}

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// The digest of them.
    pub hash: Hash,
}

impl<W: Write> Sender<W> {
    /// Writes to this.
    pub fn new(to: W) -> Self {
        Self { to, piece: vec![0; PIECE], digests: true }
    }

    /// Writes to this, with zeros for digests: whoever reads it does not believe them.
    pub fn without_digests(to: W) -> Self {
        Self { digests: false, ..Self::new(to) }
    }

    fn head(&mut self, kind: u8, name: &[u8]) -> io::Result<()> {
        let length = u16::try_from(name.len()).ok().filter(|_| name.len() <= MAX_NAME);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, Refused::TooLong))?;
        self.to.write_all(&[kind])?;
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(name)
    }

    /// A folder.
    ///
    /// # Errors
    /// When writing fails, or the name is too long.
    pub fn folder(&mut self, name: &[u8], mode: u32) -> io::Result<()> {
        self.head(FOLDER, name)?;
        self.to.write_all(&(mode & 0o7777).to_be_bytes())
    }

    /// A link.
    ///
    /// # Errors
    /// When writing fails, or the name or target is too long.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.head(LINK, name)?;
        self.head(LINK, target)
    }

    /// A name that is to go.
    ///
    /// # Errors
    /// When writing fails, or the name is too long.
    pub fn removed(&mut self, name: &[u8]) -> io::Result<()> {
        self.head(REMOVED, name)
    }

    /// Something that does not travel.
    ///
    /// # Errors
    /// When writing fails, or the name or reason is too long.
    pub fn left_out(&mut self, name: &[u8], why: &str) -> io::Result<()> {
        self.head(LEFT_OUT, name)?;
        self.head(LEFT_OUT, why.as_bytes())
    }

    /// A file, read to its end from here. What cannot be read makes the whole transfer fail at the other side.
    ///
    /// # Errors
    /// When writing or reading fails, or the name is too long.
    pub fn file(&mut self, name: &[u8], mode: u32, from: &mut impl Read) -> io::Result<Content> {
        self.head(FILE, name)?;
        self.to.write_all(&(mode & 0o7777).to_be_bytes())?;
        let (mut size, mut hash) = (0u64, Sha256::new());
        loop {
            let count = match from.read(&mut self.piece) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.to.write_all(&BROKEN.to_be_bytes())?;
                    return Err(error);
                }
            };
            self.to.write_all(&u32::try_from(count).expect("a piece is small").to_be_bytes())?;
            if count == 0 {
                let hash: Hash =
                    if self.digests { hash.finalize().into() } else { Hash::default() };
                self.to.write_all(&hash)?;
                return Ok(Content { size, hash });
            }
            if self.digests {
                hash.update(&self.piece[..count]);
            }
            size += count as u64;
            self.to.write_all(&self.piece[..count])?;
        }
    }

    /// The end. Without it the other side knows that something is missing.
    ///
    /// # Errors
    /// When writing fails.
    pub fn end(mut self) -> io::Result<W> {
        self.to.write_all(&[END])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// How much may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of all names, targets and reasons together.
    pub names: u64,
}

impl Limits {
    /// What a guest may send back (R-P6).
    pub const RETURN: Self =
        Self { entries: 100_000, bytes: 2 << 30, file: 256 << 20, names: 64 << 20 };
    /// No limits but those of the disk: what comes is our own.
    pub const NONE: Self =
        Self { entries: u64::MAX, bytes: u64::MAX, file: u64::MAX, names: u64::MAX };
}

/// Reads a stream.
pub struct Receiver<R> {
    from: R,
    limits: Limits,
    entries: u64,
    bytes: u64,
    names: u64,
    /// The file whose content is due.
    open: Option<Vec<u8>>,
    piece: Vec<u8>,
}

impl<R: Read> Receiver<R> {
    /// Reads from this, so much at most.
    pub fn new(from: R, limits: Limits) -> Self {
        Self { from, limits, entries: 0, bytes: 0, names: 0, open: None, piece: vec![0; PIECE] }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<Vec<u8>, StreamError> {
        let length = usize::from(u16::from_be_bytes(self.number()?));
        if length > MAX_NAME {
            return Err(StreamError::Malformed("a name is too long"));
        }
        self.names += length as u64;
        if self.names > self.limits.names {
            return Err(StreamError::TooMuch(format!("{} MiB of names", self.limits.names >> 20)));
        }
        let mut text = vec![0; length];
        self.from.read_exact(&mut text)?;
        Ok(text)
    }

    fn mode(&mut self) -> Result<u32, StreamError> {
        match u32::from_be_bytes(self.number()?) {
            mode @ 0..=0o7777 => Ok(mode),
            _ => Err(StreamError::Malformed("permissions are out of bounds")),
        }
    }

    /// The next record; `None` at the end. Its name is relative and without dots; whether it may be `.git` is the
    /// caller's to say.
    ///
    /// # Errors
    /// When there is none, it is none, it may not be, or there were too many.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, StreamError> {
        if self.open.is_some() {
            return Err(StreamError::Malformed("a file's content was not read"));
        }
        let [kind] = self.number()?;
        if kind == END {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(StreamError::TooMuch(format!("{} files", self.limits.entries)));
        }
        let name = self.text()?;
        if kind != LEFT_OUT
            && let Err(why) = name::parts(&name).map(drop)
        {
            return Err(StreamError::Name { name, why });
        }
        Ok(Some(match kind {
            FOLDER => Entry::Folder { name, mode: self.mode()? },
            FILE => {
                self.open = Some(name.clone());
                Entry::File { name, mode: self.mode()? }
            }
            LINK => match self.number()? {
                [LINK] => Entry::Link { name, target: self.text()? },
                [_] => return Err(StreamError::Malformed("a link without a target")),
            },
            REMOVED => Entry::Removed { name },
            LEFT_OUT => match self.number()? {
                [LEFT_OUT] => {
                    let why = String::from_utf8_lossy(&self.text()?).into_owned();
                    Entry::LeftOut { name, why }
                }
                [_] => return Err(StreamError::Malformed("no reason was given")),
            },
            _ => return Err(StreamError::Malformed("a record of unknown kind")),
        }))
    }

    /// The content of the file that [`Receiver::next_entry`] just gave. The digest is the sender's word.
    ///
    /// # Errors
    /// When it does not come whole, is too large, or cannot be written.
    pub fn content(&mut self, to: &mut impl Write) -> Result<Content, StreamError> {
        let Some(name) = self.open.take() else {
            return Err(StreamError::Malformed("no file is due"));
        };
        let mut size = 0u64;
        loop {
            let count = match u32::from_be_bytes(self.number()?) {
                0 => return Ok(Content { size, hash: self.number()? }),
                BROKEN => return Err(StreamError::Broken(name)),
                count => usize::try_from(count).unwrap_or(usize::MAX),
            };
            if count > PIECE {
                return Err(StreamError::Malformed("a piece is too long"));
            }
            size += count as u64;
            self.bytes += count as u64;
            if size > self.limits.file {
                return Err(StreamError::TooMuch(format!(
                    "{} MiB in {}",
                    self.limits.file >> 20,
                    name::shown(&name)
                )));
            }
            if self.bytes > self.limits.bytes {
                return Err(StreamError::TooMuch(format!(
                    "{} MiB in all",
                    self.limits.bytes >> 20
                )));
            }
            self.from.read_exact(&mut self.piece[..count])?;
            to.write_all(&self.piece[..count])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>, StreamError> {
        let mut receiver = Receiver::new(bytes, limits);
        let mut all = Vec::new();
        while let Some(entry) = receiver.next_entry()? {
            let mut content = Vec::new();
            if let Entry::File { .. } = entry {
                receiver.content(&mut content)?;
            }
            all.push((entry, content));
        }
        Ok(all)
    }

    fn sample() -> Vec<u8> {
        let mut sender = Sender::new(Vec::new());
        sender.folder(b"a", 0o755).expect("sends");
        sender.file(b"a/b", 0o644, &mut &b"hello"[..]).expect("sends");
        sender.link(b"l", b"../../anything").expect("sends");
        sender.removed(b"old").expect("sends");
        sender.left_out(b"fifo", "no file, folder or link").expect("sends");
        sender.end().expect("ends")
    }

    #[test]
    fn a_tree_comes_as_it_went() {
        let all = read(&sample(), Limits::NONE).expect("reads");
        assert_eq!(all.len(), 5);
        assert_eq!(all[1], (Entry::File { name: b"a/b".to_vec(), mode: 0o644 }, b"hello".to_vec()));
        assert_eq!(
            all[2].0,
            Entry::Link { name: b"l".to_vec(), target: b"../../anything".to_vec() }
        );
    }

    #[test]
    fn limits_and_cuts_are_seen() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], Limits::NONE).is_err(), "cut at {cut}");
        }
        let limits = |entries, bytes, file| Limits { entries, bytes, file, names: 100 };
        assert!(matches!(read(&bytes, limits(4, 9, 9)), Err(StreamError::TooMuch(_))));
        assert!(matches!(read(&bytes, limits(9, 4, 9)), Err(StreamError::TooMuch(_))));
        assert!(matches!(read(&bytes, limits(9, 9, 4)), Err(StreamError::TooMuch(_))));
        read(&bytes, limits(5, 5, 5)).expect("just enough");
        let mut sender = Sender::new(Vec::new());
        sender.removed(b"../up").expect("sends what it is given");
        assert!(matches!(
            read(&sender.end().expect("ends"), Limits::NONE),
            Err(StreamError::Name { .. })
        ));
    }

    #[test]
    fn a_file_that_cannot_be_read_fails_the_transfer() {
        struct Bad;
        impl Read for Bad {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let mut sender = Sender::new(Vec::new());
        assert!(sender.file(b"x", 0o644, &mut Bad).is_err());
        let bytes = sender.end().expect("ends");
        assert!(
            matches!(read(&bytes, Limits::NONE), Err(StreamError::Broken(name)) if name == b"x")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_allocate_much(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes, Limits::RETURN);
        }

        #[test]
        fn a_damaged_stream_never_panics(at in 0usize..80, value in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = read(&bytes, Limits::RETURN);
        }
    }
}
