//! A byte stream between code that waits in threads and connections that are served by tasks. Behind the feature `tokio`.
//!
//! A tree of files is read and written by plain blocking code; its bytes travel as stream frames, an empty one last.

use crate::frame::{Kind, MAX_CHUNK};
use crate::stream::{Reader, send};
use std::io::{self, Read, Write};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Chunks that may be under way.
const DEPTH: usize = 16;

/// The end that a thread writes to. Dropping it without [`Out::finish`] is a stream that broke off.
#[derive(Debug)]
pub struct Out {
    to: Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

/// The end that a thread reads from.
#[derive(Debug)]
pub struct In {
    from: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

/// A pipe that a thread writes and a task reads.
pub fn outward() -> (Out, Receiver<Vec<u8>>) {
    let (to, from) = channel(DEPTH);
    (Out { to, chunk: Vec::with_capacity(MAX_CHUNK) }, from)
}

/// A pipe that a task writes and a thread reads.
pub fn inward() -> (Sender<Vec<u8>>, In) {
    let (to, from) = channel(DEPTH);
    (to, In { from, chunk: Vec::new(), at: 0, ended: false })
}

impl Out {
    fn send(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(MAX_CHUNK));
        self.to.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the stream in order.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub fn finish(mut self) -> io::Result<()> {
        self.send()?;
        self.to.blocking_send(Vec::new()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == MAX_CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    /// Only whole chunks travel; the rest goes with [`Out::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for In {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            match self.from.blocking_recv() {
                Some(chunk) if chunk.is_empty() => self.ended = true,
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = bytes.len().min(self.chunk.len() - self.at);
        bytes[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Carries what a thread writes as frames of this kind, an empty one last. Returns whether it ended in order. A write may
/// take so long at most.
///
/// # Errors
/// When the connection breaks, or takes nothing for so long.
pub async fn carry_out(
    mut from: Receiver<Vec<u8>>,
    kind: Kind,
    to: &mut (impl AsyncWrite + Unpin),
    patience: Duration,
) -> io::Result<bool> {
    while let Some(chunk) = from.recv().await {
        tokio::time::timeout(patience, send(to, kind, &chunk)).await??;
        if chunk.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Carries frames of this kind to a thread that reads, up to the empty one. The first frame of another kind ends it too,
/// and is given back. When the thread has stopped reading, the rest is only taken from the connection if `drain`: whoever
/// sends is ours and waits for an answer.
///
/// # Errors
/// When the connection breaks, or the frames are none.
pub async fn carry_in<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    kind: Kind,
    to: Sender<Vec<u8>>,
    drain: bool,
) -> io::Result<Option<Vec<u8>>> {
    loop {
        let frame = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if frame.kind != kind {
            return Ok(Some(frame.payload));
        }
        let last = frame.payload.is_empty();
        // A thread that stopped reading has its reasons, and says them itself.
        let stopped = to.send(frame.payload).await.is_err();
        if last || stopped && !drain {
            return Ok(None);
        }
    }
}
