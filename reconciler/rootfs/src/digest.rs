//! The digest of an image: SHA-256 over the SHA-256 of its pieces, so that all processors can work on it.

use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a piece.
const PIECE: u64 = 4 << 20;
/// The most threads.
const THREADS: usize = 8;

/// The digest of a file's bytes, holes being zeros. It is not the plain SHA-256 of the file.
///
/// # Errors
/// When the file cannot be read, or becomes shorter meanwhile.
pub fn digest(file: &File) -> io::Result<[u8; 32]> {
    let size = file.metadata()?.len();
    let pieces = size.div_ceil(PIECE);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<Vec<(u64, [u8; 32])>> {
        let mut buffer = vec![0; usize::try_from(PIECE).expect("small")];
        let mut found = Vec::new();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return Ok(found);
            }
            let at = piece * PIECE;
            let length = usize::try_from(PIECE.min(size - at)).expect("small");
            file.read_exact_at(&mut buffer[..length], at)?;
            found.push((piece, Sha256::digest(&buffer[..length]).into()));
        }
    };
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let found = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(found?);
        }
        Ok::<(), io::Error>(())
    })?;
    all.sort_unstable();
    let mut whole = Sha256::new();
    whole.update(b"banger image 1\0");
    whole.update(size.to_le_bytes());
    for (_, piece) in all {
        whole.update(piece);
    }
    Ok(whole.finalize().into())
}
