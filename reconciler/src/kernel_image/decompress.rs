//! Decompression of a bzImage's payload. Every decoder's output and window are bounded.

use std::io::{ErrorKind, Read};

use super::KernelError;

/// The most memory a decoder may take for its window: what the kernel's own build uses at most.
const WINDOW_LOG: u32 = 27;
/// The xz decoder's memory limit in KiB: the window and a little for its tables.
const XZ_MEMORY_KIB: u32 = (1 << (WINDOW_LOG - 10)) + 1024;
/// What a full chunk of a legacy lz4 frame decompresses to, and the most any chunk may.
const LZ4_CHUNK: usize = 8 << 20;
const LZ4_MAGIC: u32 = 0x184C_2102;

/// Decompresses a payload and ignores what follows the compressed data: the kernel's build
/// appends the decompressed size there.
pub(super) fn decompress(payload: &[u8], limit: usize) -> Result<Vec<u8>, KernelError> {
    match payload {
        [0x1f, 0x8b, ..] => {
            read_bounded("gzip", &mut flate2::bufread::GzDecoder::new(payload), limit)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let mut decoder = lzma_rust2::XzReader::new_mem_limit(payload, false, XZ_MEMORY_KIB);
            read_bounded("xz", &mut decoder, limit)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder =
                zstd::Decoder::with_buffer(payload).map_err(|error| corrupt("zstd", error))?;
            decoder.window_log_max(WINDOW_LOG).map_err(|error| corrupt("zstd", error))?;
            read_bounded("zstd", &mut decoder.single_frame(), limit)
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest, limit),
        [0x7f, b'E', b'L', b'F', ..] => bounded_copy(payload, limit),
        [0x5d, 0, 0, ..] => Err(KernelError::Unsupported("lzma")),
        [0x89, b'L', b'Z', b'O', ..] => Err(KernelError::Unsupported("lzo")),
        [b'B', b'Z', b'h', ..] => Err(KernelError::Unsupported("bzip2")),
        _ => Err(KernelError::UnknownCompression),
    }
}

/// Decompresses the chunks of a legacy lz4 frame. A chunk that is not full is the frame's last,
/// but another frame may follow.
fn lz4_legacy(mut rest: &[u8], limit: usize) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    let mut chunk = vec![0; LZ4_CHUNK];
    let mut ended = false;
    while let Some((word, tail)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes(*word);
        if size == LZ4_MAGIC {
            (rest, ended) = (tail, false);
            continue;
        }
        if ended || (tail.is_empty() && size as usize == out.len()) {
            break;
        }
        let (data, tail) = tail.split_at_checked(size as usize).ok_or(KernelError::CutOff)?;
        let length = lz4_flex::block::decompress_into(data, &mut chunk)
            .map_err(|error| corrupt("lz4", error))?;
        out.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if out.len() > limit {
            return Err(KernelError::TooLarge { limit });
        }
        (rest, ended) = (tail, length < LZ4_CHUNK);
    }
    Ok(out)
}

pub(super) fn bounded_copy(bytes: &[u8], limit: usize) -> Result<Vec<u8>, KernelError> {
    if bytes.len() > limit { Err(KernelError::TooLarge { limit }) } else { Ok(bytes.to_vec()) }
}

/// Reads a decoder to its end, unless that is further than `limit` bytes.
pub(super) fn read_bounded(
    compression: &'static str,
    decoder: &mut impl Read,
    limit: usize,
) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    let one_more = (limit as u64).saturating_add(1);
    decoder.take(one_more).read_to_end(&mut out).map_err(|error| {
        let cut_off = error.kind() == ErrorKind::UnexpectedEof;
        if cut_off { KernelError::CutOff } else { corrupt(compression, error) }
    })?;
    if out.len() > limit { Err(KernelError::TooLarge { limit }) } else { Ok(out) }
}

fn corrupt(compression: &'static str, error: impl ToString) -> KernelError {
    KernelError::Corrupt { compression, reason: error.to_string() }
}
