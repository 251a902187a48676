//! A layer as it is stored becomes its archive: unpacked, counted and hashed while another thread reads it.

use crate::error::{Error, Fault};
use crate::limits::{Limits, ZSTD_WINDOW};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A layer to apply: an archive, plain or packed by gzip or zstd.
pub struct Layer {
    /// Its bytes as they are stored.
    pub read: Box<dyn Read + Send>,
    /// The SHA-256 of the archive, when the image says it.
    pub diff_id: Option<[u8; 32]>,
}

/// Bytes that are handed over at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait at most.
const QUEUE: usize = 16;

/// What was spent of an image's budget.
pub(crate) struct Spent<'a> {
    limits: &'a Limits,
    progress: &'a (dyn Fn(u64) + Sync),
    unpacked: u64,
    read: AtomicU64,
    /// Reading failed, so what is wrong then is not the archive.
    failed: AtomicBool,
}

impl<'a> Spent<'a> {
    pub(crate) fn new(limits: &'a Limits, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self {
            limits,
            progress,
            unpacked: 0,
            read: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked
    }
}

type Chunk = Arc<Vec<u8>>;

/// Lets `work` read a layer's archive, and checks its digest.
pub(crate) fn with_archive(
    layer: Layer,
    number: usize,
    spent: &mut Spent<'_>,
    work: impl FnOnce(&mut dyn Read) -> Result<(), Fault>,
) -> Result<(), Error> {
    let (to_work, from_work) = sync_channel::<Chunk>(QUEUE);
    let (to_hash, from_hash) = sync_channel::<Chunk>(QUEUE);
    let Layer { read, diff_id } = layer;
    let (worked, decoded, found) = std::thread::scope(|scope| {
        let hasher = diff_id.is_some().then(|| scope.spawn(move || hash(&from_hash)));
        let to_hash = diff_id.is_some().then_some(to_hash);
        let decoder = scope.spawn(|| decode(read, spent, &to_work_all(to_work, to_hash)));
        let mut reader = Chunks { from: from_work, chunk: Arc::default(), at: 0 };
        let worked = work(&mut reader);
        drop(reader);
        let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (worked, decoded, hasher.map(|hasher| hasher.join()))
    });
    // What was wrong with the bytes explains what is then wrong with the archive.
    decoded.map_err(|fault| fault.at(number))?;
    worked.map_err(|fault| fault.at(number))?;
    if let (Some(wanted), Some(Ok(found))) = (diff_id, found)
        && wanted != found
    {
        let (wanted, found) = (hex(&wanted), hex(&found));
        return Err(Error::DiffId { layer: number, wanted, found });
    }
    Ok(())
}

fn to_work_all(
    work: SyncSender<Chunk>,
    hash: Option<SyncSender<Chunk>>,
) -> impl Fn(Chunk) -> bool + Send {
    move |chunk| {
        let hashed = hash.as_ref().is_none_or(|hash| hash.send(chunk.clone()).is_ok());
        work.send(chunk).is_ok() && hashed
    }
}

fn hash(from: &Receiver<Chunk>) -> [u8; 32] {
    let mut hash = Sha256::new();
    while let Ok(chunk) = from.recv() {
        hash.update(chunk.as_slice());
    }
    hash.finalize().into()
}

/// Unpacks all of it, within the budget. Ends early, and well, when nobody reads any more.
fn decode(
    read: Box<dyn Read + Send>,
    spent: &mut Spent<'_>,
    send: &impl Fn(Chunk) -> bool,
) -> Result<(), Fault> {
    let before = spent.read.load(Ordering::Relaxed);
    let (count, failed) = (&spent.read, &spent.failed);
    let counted = Counted { inner: read, read: count, failed, progress: spent.progress };
    let mut buffered = BufReader::with_capacity(CHUNK, counted);
    let (magic, have) = magic(&mut buffered)?;
    let buffered = io::Cursor::new(magic).take(have).chain(buffered);
    let mut unpacked: Box<dyn Read + '_> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(buffered).map_err(Fault::Read)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(Fault::Read)?;
            Box::new(decoder)
        }
        [b'B', b'Z', b'h', _] | [0xfd, b'7', b'z', b'X'] => {
            return Err(Fault::Refused(
                "it is packed by bzip2 or xz, which images may not be".into(),
            ));
        }
        _ => Box::new(buffered),
    };
    let mut own = 0u64;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut have = 0;
        while have < CHUNK {
            match unpacked.read(&mut chunk[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if spent.failed.load(Ordering::Relaxed) => {
                    return Err(Fault::Read(error));
                }
                Err(error) => return Err(broken(error)),
            }
        }
        if have == 0 {
            return Ok(());
        }
        chunk.truncate(have);
        own += have as u64;
        spent.unpacked += have as u64;
        if spent.unpacked > spent.limits.bytes {
            let most = spent.limits.bytes;
            return Err(Fault::Budget(format!("the image unpacks to more than {most} bytes")));
        }
        let stored = spent.read.load(Ordering::Relaxed) - before;
        if own > spent.limits.ratio_from && own / spent.limits.ratio > stored {
            let most = spent.limits.ratio;
            return Err(Fault::Budget(format!("it unpacks to more than {most} times its size")));
        }
        if !send(Arc::new(chunk)) {
            return Ok(());
        }
    }
}

fn broken(error: io::Error) -> Fault {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    if [InvalidData, InvalidInput, UnexpectedEof, Other].contains(&error.kind()) {
        Fault::Refused(format!("it cannot be unpacked: {error}"))
    } else {
        Fault::Read(error)
    }
}

/// The first bytes, and how many there are: a reader may give them one by one.
fn magic(read: &mut impl Read) -> Result<([u8; 4], u64), Fault> {
    let (mut magic, mut have) = ([0; 4], 0);
    while have < magic.len() {
        match read.read(&mut magic[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Read(error)),
        }
    }
    Ok((magic, have as u64))
}

struct Counted<'a, R> {
    inner: R,
    read: &'a AtomicU64,
    failed: &'a AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed.store(true, Ordering::Relaxed);
            }
        })?;
        let before = self.read.fetch_add(count as u64, Ordering::Relaxed);
        (self.progress)(before + count as u64);
        Ok(count)
    }
}

struct Chunks {
    from: Receiver<Chunk>,
    chunk: Chunk,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.from.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
