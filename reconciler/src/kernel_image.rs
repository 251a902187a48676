//! Linux kernel images for x86-64: tells a vmlinux from a bzImage, takes the vmlinux out of a
//! bzImage, and reads a kernel's version and built-in configuration. Pure functions over bytes.

use thiserror::Error;

use decompress::{bounded_copy, decompress, read_bounded};
pub(crate) use pvh::has_pvh_entry;

mod decompress;
mod pvh;
#[cfg(test)]
mod tests;

/// The oldest boot protocol whose header locates the payload.
const OLDEST_PROTOCOL: u16 = 0x208;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const BANNER: &[u8] = b"Linux version ";
/// The longest kernel version that is believed.
const LONGEST_VERSION: usize = 128;
/// How many places that look like an embedded configuration are tried.
const CONFIG_TRIES: usize = 8;

/// What kind of kernel image some bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A vmlinux: an ELF file for x86-64, executable or position-independent.
    Elf,
    /// A bzImage whose boot protocol is at least 2.08.
    BzImage {
        /// The kernel's version as the header has it; empty if the header has none.
        version: String,
    },
}

/// Whether a kernel has a feature of its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    /// Built into the kernel.
    Yes,
    /// Built as a module.
    Module,
    /// Not built.
    No,
}

/// Why no vmlinux could be had from an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum KernelError {
    /// The bytes are of neither format.
    #[error("the file is not a Linux kernel: it is neither an ELF file nor a bzImage")]
    NotKernel,
    /// The bzImage's header does not locate its payload.
    #[error("the kernel's boot protocol {}.{:02} is older than 2.08", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The image ends before its payload, or the payload before its data.
    #[error("the kernel's payload is cut off")]
    CutOff,
    /// The header states a payload of no bytes.
    #[error("the kernel image has no payload")]
    NoPayload,
    /// The payload's compression is known but not supported.
    #[error("compression {0} is not supported")]
    Unsupported(&'static str),
    /// The payload starts like no known compression.
    #[error("the kernel's payload has an unknown compression")]
    UnknownCompression,
    /// The decoder rejected the payload.
    #[error("the kernel's {compression} payload cannot be decompressed: {reason}")]
    Corrupt {
        /// The payload's compression.
        compression: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The vmlinux is larger than the caller allows.
    #[error("the kernel is larger than {limit} bytes when decompressed")]
    TooLarge {
        /// The most bytes the caller allows.
        limit: usize,
    },
    /// The vmlinux is no ELF file, or one for another machine.
    #[error("the kernel is not an ELF file for x86-64")]
    NotX86Elf,
    /// The vmlinux refers to bytes it does not have.
    #[error("the kernel's program headers reach outside its file")]
    BadSegments,
}

/// Tells which kernel image the bytes start like. It looks at headers only.
pub(crate) fn format(bytes: &[u8]) -> Option<Format> {
    if is_x86_elf(bytes) {
        return Some(Format::Elf);
    }
    let protocol = protocol(bytes)?;
    (protocol >= OLDEST_PROTOCOL)
        .then(|| Format::BzImage { version: header_version(bytes).unwrap_or_default() })
}

/// The vmlinux of an image: an ELF file is returned as it is, a bzImage's payload is decompressed.
/// The result is at most `limit` bytes and is an x86-64 ELF file that has all its segments. After
/// the segments there may be the relocations that the kernel's build appends.
pub(crate) fn to_elf(bytes: &[u8], limit: usize) -> Result<Vec<u8>, KernelError> {
    let elf = if bytes.starts_with(ELF_MAGIC) {
        bounded_copy(bytes, limit)?
    } else {
        match protocol(bytes) {
            None => return Err(KernelError::NotKernel),
            Some(old) if old < OLDEST_PROTOCOL => return Err(KernelError::OldProtocol(old)),
            Some(_) => decompress(payload(bytes)?, limit)?,
        }
    };
    check_elf(&elf)?;
    Ok(elf)
}

/// The kernel's version: from a bzImage's header, or from the banner inside a vmlinux.
pub(crate) fn version(elf_or_bz: &[u8]) -> Option<String> {
    match format(elf_or_bz)? {
        Format::BzImage { version } => Some(version).filter(|version| !version.is_empty()),
        Format::Elf => occurrences(elf_or_bz, BANNER).find_map(version_word),
    }
}

/// The configuration that a kernel with CONFIG_IKCONFIG carries, if it is at most `limit` bytes.
pub(crate) fn config(elf: &[u8], limit: usize) -> Option<String> {
    occurrences(elf, b"IKCFG_ST\x1f\x8b").take(CONFIG_TRIES).find_map(|after| {
        // The gzip member's own magic is a part of what was looked for.
        let start = elf.len() - after.len() - 2;
        let mut decoder = flate2::bufread::GzDecoder::new(elf.get(start..)?);
        let text = read_bounded("gzip", &mut decoder, limit).ok()?;
        decoder.into_inner().starts_with(b"IKCFG_ED").then_some(())?;
        String::from_utf8(text).ok()
    })
}

/// How a configuration has a symbol, which may be written with or without `CONFIG_`. The last
/// line that sets the symbol counts.
pub(crate) fn builtin(config: &str, symbol: &str) -> Built {
    let symbol = symbol.strip_prefix("CONFIG_").unwrap_or(symbol);
    let value = config.lines().rev().find_map(|line| {
        line.trim().strip_prefix("CONFIG_")?.strip_prefix(symbol)?.strip_prefix('=')
    });
    match value {
        Some("y") => Built::Yes,
        Some("m") => Built::Module,
        Some(_) | None => Built::No,
    }
}

/// The boot protocol's version, if the bytes have a setup header.
fn protocol(bytes: &[u8]) -> Option<u16> {
    (array(bytes, 0x202)? == *b"HdrS").then(|| u16_at(bytes, 0x206))?
}

fn header_version(bytes: &[u8]) -> Option<String> {
    let at = usize::from(u16_at(bytes, 0x20e)?);
    // The header states no version by an offset of zero.
    (at != 0).then(|| bytes.get(at + 0x200..)).flatten().and_then(version_word)
}

/// The version that the bytes start with: printable, from a digit up to a space or a zero byte.
fn version_word(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.get(..bytes.len().min(LONGEST_VERSION + 1))?;
    let end = bytes.iter().position(|byte| !byte.is_ascii_graphic())?;
    let (word, rest) = bytes.split_at_checked(end)?;
    let ends_well = matches!(rest.first(), Some(b' ' | 0));
    let starts_well = word.first().is_some_and(u8::is_ascii_digit);
    (ends_well && starts_well).then(|| String::from_utf8_lossy(word).into_owned())
}

/// What follows each occurrence of `needle`.
fn occurrences<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let first = needle.first().copied();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let at = rest.iter().position(|byte| Some(*byte) == first)?;
            let here = rest.get(at..)?;
            rest = here.get(1..)?;
            if let Some(after) = here.strip_prefix(needle) {
                return Some(after);
            }
        }
    })
}

/// The compressed kernel inside a bzImage.
fn payload(bytes: &[u8]) -> Result<&[u8], KernelError> {
    let sectors = match bytes.get(0x1f1) {
        // Zero stands for four, for the sake of very old kernels.
        Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
        None => return Err(KernelError::CutOff),
    };
    let offset = u32_at(bytes, 0x248).ok_or(KernelError::CutOff)?;
    let length = u32_at(bytes, 0x24c).ok_or(KernelError::CutOff)?;
    if length == 0 {
        return Err(KernelError::NoPayload);
    }
    ((sectors + 1) * 512)
        .checked_add(offset as usize)
        .and_then(|start| bytes.get(start..start.checked_add(length as usize)?))
        .ok_or(KernelError::CutOff)
}

/// Whether the bytes start with the header of a little-endian 64-bit ELF file for x86-64 that is
/// of type ET_EXEC or ET_DYN.
fn is_x86_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF\x02\x01")
        && matches!(u16_at(bytes, 16), Some(2 | 3))
        && u16_at(bytes, 18) == Some(62)
}

/// Checks that the bytes are an x86-64 ELF file that has its program headers and all its segments.
fn check_elf(elf: &[u8]) -> Result<(), KernelError> {
    if !is_x86_elf(elf) {
        return Err(KernelError::NotX86Elf);
    }
    segments_inside(elf).then_some(()).ok_or(KernelError::BadSegments)
}

fn segments_inside(elf: &[u8]) -> bool {
    let inside = |segment: Segment| {
        segment.offset.checked_add(segment.length).is_some_and(|end| end <= elf.len() as u64)
    };
    let stated = u16_at(elf, 56).map(usize::from);
    stated != Some(0) && stated == Some(segments(elf).filter(|s| inside(*s)).count())
}

/// A part of an ELF file, as its table of segments has it.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    length: u64,
}

/// The segments whose entries in the table are all within the bytes.
fn segments(elf: &[u8]) -> impl Iterator<Item = Segment> {
    let table = u64_at(elf, 32).and_then(|at| usize::try_from(at).ok());
    let size = u16_at(elf, 54).filter(|size| *size == 56).map(usize::from);
    let count = u16_at(elf, 56).map_or(0, usize::from);
    let table = table.zip(size).and_then(|(at, size)| {
        let table = elf.get(at..)?;
        table.get(..size * count)
    });
    table.unwrap_or_default().chunks_exact(56).filter_map(|entry| {
        Some(Segment {
            kind: u32_at(entry, 0)?,
            offset: u64_at(entry, 8)?,
            length: u64_at(entry, 32)?,
        })
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}
