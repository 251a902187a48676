//! Frames over an asynchronous stream. Behind the feature `tokio`, so that the root helper never sees it.

use crate::frame::{self, Decoder, Frame, Kind};
use serde::Serialize;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads frames from one side of a connection.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from this stream. At most one frame and one chunk are held in memory.
    pub fn new(stream: R) -> Self {
        Self { stream, decoder: Decoder::default(), chunk: vec![0; frame::MAX_CHUNK] }
    }

    /// The next frame; `None` at the end of the stream. Cancel-safe: no byte is lost.
    ///
    /// # Errors
    /// When reading fails, or the stream is not made of frames (`InvalidData`).
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let frame = self.decoder.next_frame();
            if let Some(frame) =
                frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            {
                return Ok(Some(frame));
            }
            match self.stream.read(&mut self.chunk).await? {
                0 => return Ok(None),
                count => self.decoder.push(&self.chunk[..count]),
            }
        }
    }

    /// The stream and what of it was read already, when it stops being frames.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.stream, self.decoder.into_rest())
    }
}

/// Writes one frame.
///
/// # Errors
/// When writing fails.
pub async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &[u8],
) -> io::Result<()> {
    to.write_all(&frame::encode(kind, payload)).await?;
    to.flush().await
}

/// Writes one control message as JSON.
///
/// # Errors
/// When writing fails, or the message is above the limit of a frame.
pub async fn send_message(
    to: &mut (impl AsyncWrite + Unpin),
    message: &(impl Serialize + Sync),
) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    if payload.len() > frame::MAX_CONTROL {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    send(to, Kind::Control, &payload).await
}
