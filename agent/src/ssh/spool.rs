//! Input of a command that does not read as fast as it is sent.
//!
//! The SSH library lets a client send on as soon as bytes arrived, and stands still while a channel's reader does. So
//! readers never wait: what a command does not take yet is kept, at first in memory, then in a file without a name.

use rustix::fs::{FallocateFlags, fallocate};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Bytes in memory before the file is used.
const IN_MEMORY: usize = 1 << 20;
/// Bytes in the file before a command is given up.
const IN_FILE: u64 = 8 << 30;
/// Bytes read from the file at once.
const CHUNK: usize = 256 << 10;
/// Where the file may be: on a disk rather than in memory.
const FOLDERS: [&str; 3] = ["/var/tmp", "/tmp", "/"];

/// Bytes on their way, and whether more will come.
#[derive(Clone, Default)]
pub(super) struct Spool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    memory: VecDeque<Vec<u8>>,
    held: usize,
    file: Option<File>,
    written: u64,
    read: u64,
    ended: bool,
    failed: Option<io::Error>,
}

impl Spool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("no holder panics")
    }

    /// Adds bytes. Never waits for the reader. What cannot be kept is an error for the reader too: it must not take
    /// what there is for all.
    pub(super) fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let kept = self.keep(bytes);
        if let Err(error) = &kept {
            self.lock().failed = Some(error.kind().into());
        }
        self.0.changed.notify_one();
        kept
    }

    fn keep(&self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let in_file = inner.written > inner.read;
        if !in_file && inner.held + bytes.len() <= IN_MEMORY {
            inner.held += bytes.len();
            inner.memory.push_back(bytes.to_vec());
        } else {
            if inner.written - inner.read + bytes.len() as u64 > IN_FILE {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if inner.file.is_none() {
                inner.file = Some(nameless()?);
            }
            let at = inner.written;
            if let Some(file) = &inner.file {
                file.write_all_at(bytes, at)?;
            }
            inner.written += bytes.len() as u64;
        }
        Ok(())
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.0.changed.notify_one();
    }

    /// The next bytes, in order; `None` after the last.
    pub(super) async fn pop(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(next) = self.take()? {
                return Ok(next);
            }
            self.0.changed.notified().await;
        }
    }

    /// `None` when there is nothing now.
    fn take(&self) -> io::Result<Option<Option<Vec<u8>>>> {
        let mut inner = self.lock();
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        if let Some(bytes) = inner.memory.pop_front() {
            inner.held -= bytes.len();
            return Ok(Some(Some(bytes)));
        }
        let left = inner.written - inner.read;
        if left > 0 {
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut bytes = vec![0; size];
            if let Some(file) = &inner.file {
                file.read_exact_at(&mut bytes, inner.read)?;
            }
            // The disk is the sandbox's own: what was read is given back at once, where it can be.
            if let Some(file) = &inner.file {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(file, how, inner.read, size as u64);
            }
            inner.read += size as u64;
            if inner.read == inner.written {
                (inner.file, inner.read, inner.written) = (None, 0, 0);
            }
            return Ok(Some(Some(bytes)));
        }
        Ok(inner.ended.then_some(None))
    }
}

/// A file that nobody else can open, and that is gone with its descriptor.
fn nameless() -> io::Result<File> {
    let mut last = io::ErrorKind::NotFound.into();
    for folder in FOLDERS {
        let path = format!("{folder}/.banger-ssh-{}", std::process::id());
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_pace() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let spool = Spool::default();
            let chunk = |n: u32| n.to_le_bytes().repeat(8192);
            let mut next = 0;
            for round in 0..3u32 {
                for n in 0..100 {
                    spool.push(&chunk(round * 100 + n)).expect("takes");
                }
                assert!(spool.lock().held <= IN_MEMORY && spool.lock().written > 0);
                let mut got = Vec::new();
                while got.len() < 50 * 32768 {
                    got.extend(spool.pop().await.expect("reads").expect("more"));
                }
                next += got.len();
            }
            spool.end();
            while let Some(bytes) = spool.pop().await.expect("reads") {
                let expected = chunk(u32::try_from(next / 32768).expect("small"));
                assert_eq!(bytes[..4], expected[..4]);
                next += bytes.len();
            }
            assert_eq!(next, 300 * 32768);
        });
    }
}
