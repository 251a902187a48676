//! The blocks of an image, written from front to back as they come. Blocks of zeros are never written.

use crate::archive::Archive;
use crate::error::{Fault, refuse};
use crate::tree::Extent;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// Blocks at the front that are kept for the superblock and the table of groups.
pub(crate) const HEAD: u32 = 16;
/// The most blocks that one extent may have.
pub(crate) const MAX_EXTENT: u32 = 32_768;
/// The most blocks of an image: what fits into the table of groups that [`HEAD`] has room for.
const MAX_BLOCKS: u32 = (HEAD - 1) * (BLOCK as u32 / 32) * 32_768;
/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

/// An image that is being written.
pub(crate) struct Blocks {
    file: File,
    /// What is not written yet, from [`Blocks::written`] on.
    buffer: Vec<u8>,
    written: u64,
    /// The next free block.
    next: u32,
}

impl Blocks {
    pub(crate) fn new(file: File) -> Self {
        let written = u64::from(HEAD) * BLOCK as u64;
        Self { file, buffer: Vec::with_capacity(2 * CHUNK), written, next: HEAD }
    }

    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Takes the next blocks. Whoever takes them also writes that many.
    fn take(&mut self, count: u64) -> Result<u32, Fault> {
        let first = self.next;
        let after = u64::from(first) + count;
        match u32::try_from(after) {
            Ok(after) if after < MAX_BLOCKS => self.next = after,
            _ => return Err(Fault::Budget("the image is larger than 240 GiB".into())),
        }
        Ok(first)
    }

    /// Writes blocks that are in memory; the last is filled up with zeros.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<u32, Fault> {
        let first = self.take(bytes.len().div_ceil(BLOCK) as u64)?;
        self.buffer.extend_from_slice(bytes);
        self.fill_block();
        self.flush_if_large()?;
        Ok(first)
    }

    /// Writes a file's bytes as they come.
    pub(crate) fn write_file<R: Read>(
        &mut self,
        size: u64,
        archive: &mut Archive<R>,
    ) -> Result<Box<[Extent]>, Fault> {
        let blocks = size.div_ceil(BLOCK as u64);
        let first = self.take(blocks)?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let before = self.buffer.len();
            self.buffer.resize(before + most, 0);
            archive.read_exact(&mut self.buffer[before..])?;
            left -= most as u64;
            if left == 0 {
                self.fill_block();
            }
            self.flush_if_large()?;
        }
        Ok(split(0, first, u32::try_from(blocks).expect("taken")))
    }

    /// Writes the pieces of a file that has holes. Blocks that no piece touches stay holes.
    pub(crate) fn write_sparse<R: Read>(
        &mut self,
        pieces: &[(u64, u64)],
        archive: &mut Archive<R>,
    ) -> Result<Box<[Extent]>, Fault> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut block: Option<(u32, Vec<u8>)> = None;
        for (offset, length) in pieces {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let logical = u32::try_from(at / BLOCK as u64).or_else(|_| refuse("too large"))?;
                if block.as_ref().is_none_or(|(open, _)| *open != logical) {
                    self.end_block(block.take(), &mut extents)?;
                }
                let (_, bytes) = block.get_or_insert_with(|| (logical, vec![0; BLOCK]));
                let within = usize::try_from(at % BLOCK as u64).expect("below a block");
                let most = (BLOCK - within).min(usize::try_from(end - at).unwrap_or(BLOCK));
                archive.read_exact(&mut bytes[within..within + most])?;
                at += most as u64;
            }
        }
        self.end_block(block, &mut extents)?;
        Ok(extents.into_boxed_slice())
    }

    fn end_block(
        &mut self,
        block: Option<(u32, Vec<u8>)>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Fault> {
        let Some((logical, bytes)) = block else { return Ok(()) };
        let physical = self.write(&bytes)?;
        match extents.last_mut() {
            Some(last)
                if last.logical + last.blocks == logical
                    && last.physical + last.blocks == physical
                    && last.blocks < MAX_EXTENT =>
            {
                last.blocks += 1;
            }
            _ => extents.push(Extent { logical, physical, blocks: 1 }),
        }
        Ok(())
    }

    fn fill_block(&mut self) {
        let whole = self.buffer.len().next_multiple_of(BLOCK);
        self.buffer.resize(whole, 0);
    }

    fn flush_if_large(&mut self) -> Result<(), Fault> {
        if self.buffer.len() >= CHUNK { self.flush(false) } else { Ok(()) }
    }

    /// Writes whole blocks, and at the end all of them.
    pub(crate) fn flush(&mut self, end: bool) -> Result<(), Fault> {
        if end {
            self.fill_block();
        }
        let whole = self.buffer.len() / BLOCK * BLOCK;
        write_blocks(&self.file, &self.buffer[..whole], self.written)?;
        self.written += whole as u64;
        self.buffer.drain(..whole);
        Ok(())
    }
}

/// Writes what is not zero.
fn write_blocks(file: &File, bytes: &[u8], at: u64) -> Result<(), Fault> {
    let zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut start = None;
    let blocks = bytes.len() / BLOCK;
    for index in 0..=blocks {
        let here = index * BLOCK;
        let full = index < blocks && !zero(&bytes[here..here + BLOCK]);
        match (full, start) {
            (true, None) => start = Some(here),
            (false, Some(from)) => {
                file.write_all_at(&bytes[from..here], at + from as u64).map_err(Fault::Write)?;
                start = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    Ok(())
}

/// A run of blocks as extents.
pub(crate) fn split(logical: u32, physical: u32, blocks: u32) -> Box<[Extent]> {
    let starts = (0..blocks).step_by(MAX_EXTENT as usize);
    let extent = |start: u32| Extent {
        logical: logical + start,
        physical: physical + start,
        blocks: (blocks - start).min(MAX_EXTENT),
    };
    starts.map(extent).collect()
}
