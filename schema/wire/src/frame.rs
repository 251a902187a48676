//! Frames on a byte stream: `u32` big-endian payload length, `u8` kind, payload.
//!
//! One form serves the agent's vsock connections, the helper's socket and the daemon's upgraded
//! connections. There is no I/O here: callers push bytes in and take frames out. The length is
//! checked before anything is allocated (R-G6, R-H5).

use std::fmt;

/// Bytes before a payload.
pub const HEADER: usize = 5;
/// The largest control payload in bytes.
pub const MAX_CONTROL: usize = 1 << 20;
/// The largest stream chunk in bytes.
pub const MAX_CHUNK: usize = 64 << 10;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON message.
    Control,
    /// Bytes for a command's standard input. Empty means end of input.
    Stdin,
    /// Bytes from a command's standard output or its terminal.
    Stdout,
    /// Bytes from a command's standard error.
    Stderr,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Kind::Control),
            1 => Some(Kind::Stdin),
            2 => Some(Kind::Stdout),
            3 => Some(Kind::Stderr),
            _ => None,
        }
    }

    /// The largest payload of this kind in bytes.
    pub fn limit(self) -> usize {
        match self {
            Kind::Control => MAX_CONTROL,
            Kind::Stdin | Kind::Stdout | Kind::Stderr => MAX_CHUNK,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// At most [`Kind::limit`] bytes.
    pub payload: Vec<u8>,
}

/// A stream that is not made of frames. Nothing after it can be trusted: close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is unknown.
    UnknownKind(u8),
    /// The announced length is above the kind's limit.
    TooLong {
        /// The announced length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::UnknownKind(kind) => write!(f, "frame of unknown kind {kind}"),
            FrameError::TooLong { length, limit } => {
                write!(f, "frame of {length} bytes is above the limit of {limit}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// A frame as bytes.
///
/// # Panics
/// When the payload is above the kind's limit: the caller chunks.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= kind.limit(), "payload above the limit of its kind");
    let length = u32::try_from(payload.len()).expect("limits are below 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(payload);
    bytes
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// When the stream is not made of frames.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((header, body)) = rest.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = Kind::from_byte(header[4]).ok_or(FrameError::UnknownKind(header[4]))?;
        let limit = kind.limit();
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        let Some(payload) = body.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER + length;
        Ok(Some(Frame { kind, payload }))
    }

    /// Bytes that belong to no whole frame yet, for a connection that stops being framed.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer[self.start..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(encode(Kind::Control, b"{}"), [0, 0, 0, 2, 0, b'{', b'}']);
        assert_eq!(encode(Kind::Stderr, b""), [0, 0, 0, 0, 3]);
    }

    #[test]
    fn hostile_headers_are_refused_before_any_allocation() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0]);
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong { length: 0xffff_ffff, limit: MAX_CONTROL })
        );
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 0, 9]);
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind(9)));
    }

    proptest! {
        #[test]
        fn any_cut_of_a_stream_gives_the_same_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cut in 1usize..40,
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|p| encode(Kind::Stdout, p)).collect();
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(cut) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().expect("well-formed") {
                    seen.push(frame.payload);
                }
            }
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
