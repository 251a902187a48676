//! Whether a vmlinux can be entered as it is: by PVH, which Xen made up and QEMU knows. A note in the file says so.

use super::{array, is_x86_elf, segments, u32_at};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Kind of a segment that has notes.
const NOTES: u32 = 4;
/// The note with the address at which a kernel is entered by PVH (`XEN_ELFNOTE_PHYS32_ENTRY`).
const ENTRY: u32 = 18;
/// The longest notes that are looked at, in bytes. A kernel's are some hundreds.
const LONGEST: u64 = 64 << 10;
/// The longest part before the notes: the header, and the largest table of segments.
const HEAD: usize = 64 + 56 * 1024;

/// Whether the kernel has an entry for PVH. A file that cannot be read or is no vmlinux has none.
pub(crate) fn has_pvh_entry(file: &File) -> bool {
    let read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        let count = file.read_at(&mut bytes, at).ok()?;
        bytes.truncate(count);
        Some(bytes)
    };
    let Some(head) = read(0, HEAD).filter(|head| is_x86_elf(head)) else { return false };
    let notes =
        segments(&head).filter(|segment| segment.kind == NOTES && segment.length <= LONGEST);
    notes
        .filter_map(|segment| read(segment.offset, segment.length as usize))
        .any(|bytes| says_entry(&bytes))
}

/// Goes through notes: three numbers (length of the name, length of the rest, kind), the name, the rest, each filled up to four.
fn says_entry(mut notes: &[u8]) -> bool {
    let filled = |length: u32| (length as usize).next_multiple_of(4);
    while let (Some(name), Some(rest), Some(kind)) =
        (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        let Some(next) = notes.get(12 + filled(name) + filled(rest)..) else { return false };
        if kind == ENTRY && array(notes, 12) == Some(*b"Xen\0") && matches!(rest, 4 | 8) {
            return true;
        }
        notes = next;
    }
    false
}
