use std::io::Write;

use super::*;

const LIMIT: usize = 1 << 20;
const VERSION: &str = "6.1.0-test";
const CONFIG: &str =
    "CONFIG_VIRTIO=y\n# CONFIG_KVM is not set\nCONFIG_VSOCKETS=m\nCONFIG_A=\"y\"\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    None,
    Gzip,
    Xz,
    Zstd,
    Lz4,
}

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lz4];

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("gzip");
    encoder.finish().expect("gzip")
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("xz");
    encoder.write_all(data).expect("xz");
    encoder.finish().expect("xz")
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = 0x184C_2102_u32.to_le_bytes().to_vec();
    for chunk in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(chunk);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

fn compress(codec: Codec, data: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => data.to_vec(),
        Codec::Gzip => gzip(data),
        Codec::Xz => xz(data),
        Codec::Zstd => zstd::encode_all(data, 3).expect("zstd"),
        Codec::Lz4 => lz4(data),
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A vmlinux of one segment, with calls in it (for the x86 filter), a banner and a configuration.
fn elf() -> Vec<u8> {
    let mut body = Vec::new();
    for n in 0..100_u32 {
        body.push(0xe8);
        body.extend((0x1000 - n * 5).to_le_bytes());
        body.extend(n.wrapping_mul(2_654_435_761).to_le_bytes());
    }
    body.extend(b"Linux version %s\0Linux version ");
    body.extend(VERSION.as_bytes());
    body.extend(b" (x@y) #1 SMP\n\0IKCFG_ST but no gzip\0IKCFG_ST");
    body.extend(gzip(CONFIG.as_bytes()));
    body.extend(b"IKCFG_ED");
    let mut elf = vec![0; 120];
    put(&mut elf, 0, b"\x7fELF\x02\x01\x01");
    put(&mut elf, 16, &[2, 0, 62, 0, 1]);
    put(&mut elf, 32, &64_u64.to_le_bytes());
    put(&mut elf, 52, &[64, 0, 56, 0, 1, 0]);
    put(&mut elf, 64, &[1, 0, 0, 0, 5]);
    put(&mut elf, 72, &120_u64.to_le_bytes());
    put(&mut elf, 96, &(body.len() as u64).to_le_bytes());
    elf.extend(body);
    elf
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x410];
    image[0x1f1] = 1;
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    put(&mut image, 0x20e, &0x100_u16.to_le_bytes());
    put(&mut image, 0x248, &0x10_u32.to_le_bytes());
    put(&mut image, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut image, 0x300, VERSION.as_bytes());
    put(&mut image, 0x300 + VERSION.len(), b" (x@y)\0");
    image.extend(payload);
    image
}

/// A bzImage as the kernel's build makes it, with the size after the compressed data.
fn packed(codec: Codec, data: &[u8]) -> Vec<u8> {
    let mut payload = compress(codec, data);
    payload.extend((data.len() as u32).to_le_bytes());
    bzimage(&payload)
}

/// Runs everything on the bytes: nothing may panic, and what comes out must keep its promises.
fn exercise(bytes: &[u8]) {
    let _ = format(bytes);
    let _ = version(bytes);
    assert!(config(bytes, LIMIT).is_none_or(|text| text.len() <= LIMIT));
    if let Ok(elf) = to_elf(bytes, LIMIT) {
        assert!(elf.len() <= LIMIT);
        assert_eq!(format(&elf), Some(Format::Elf));
    }
}

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            bytes[at] = match self.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << self.below(8)),
                _ => self.below(256) as u8,
            };
        }
    }
}

#[test]
fn every_compression_gives_the_elf_back() {
    let elf = elf();
    for codec in CODECS {
        let image = packed(codec, &elf);
        assert_eq!(format(&image), Some(Format::BzImage { version: VERSION.into() }));
        assert_eq!(version(&image).as_deref(), Some(VERSION));
        let out = to_elf(&image, LIMIT).expect("a good image");
        assert!(out.starts_with(&elf), "{codec:?}");
        // Only an uncompressed payload has no end of its own.
        assert_eq!(out.len(), elf.len() + if codec == Codec::None { 4 } else { 0 }, "{codec:?}");
        // The size after the compressed data may be absent.
        assert_eq!(to_elf(&bzimage(&compress(codec, &elf)), LIMIT), Ok(elf.clone()), "{codec:?}");
    }
}

#[test]
fn an_elf_is_returned_as_it_is() {
    let mut elf = elf();
    assert_eq!(format(&elf), Some(Format::Elf));
    assert_eq!(to_elf(&elf, elf.len()), Ok(elf.clone()));
    let limit = elf.len() - 1;
    assert_eq!(to_elf(&elf, limit), Err(KernelError::TooLarge { limit }));
    elf[16] = 3;
    assert_eq!(format(&elf), Some(Format::Elf));
    elf[16] = 1;
    assert_eq!(to_elf(&elf, LIMIT), Err(KernelError::NotX86Elf));
    (elf[16], elf[18]) = (2, 183);
    assert_eq!(format(&elf), None);
    assert_eq!(to_elf(&elf, LIMIT), Err(KernelError::NotX86Elf));
}

/// A vmlinux whose second segment has notes.
fn elf_with_notes(notes: &[u8]) -> Vec<u8> {
    let mut elf = elf();
    // The body moves behind the longer table.
    elf.splice(120..120, [0; 56]);
    put(&mut elf, 56, &[2, 0]);
    put(&mut elf, 72, &176_u64.to_le_bytes());
    put(&mut elf, 120, &[4, 0, 0, 0]);
    let at = elf.len() as u64;
    put(&mut elf, 128, &at.to_le_bytes());
    put(&mut elf, 152, &(notes.len() as u64).to_le_bytes());
    elf.extend(notes);
    elf
}

fn note(name: &[u8], kind: u32, rest: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [name.len() as u32, rest.len() as u32, kind] {
        note.extend(number.to_le_bytes());
    }
    for part in [name, rest] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn enters(image: &[u8]) -> bool {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(image).expect("writes");
    has_pvh_entry(&file)
}

#[test]
fn a_note_says_that_a_kernel_is_entered_as_it_is() {
    let before = [note(b"Linux\0", 257, &[1; 5]), note(b"Xen\0", 6, b"linux\0")].concat();
    let entry = note(b"Xen\0", 18, &[0; 8]);
    let with = elf_with_notes(&[&before[..], &entry].concat());
    assert!(to_elf(&with, LIMIT).is_ok());
    assert!(enters(&with));
    assert!(enters(&elf_with_notes(&note(b"Xen\0", 18, &[0; 4]))));
    let none =
        [before.clone(), note(b"GNU\0", 18, &[0; 8]), note(b"Xen\0", 18, &[0; 3]), Vec::new()];
    for notes in none {
        assert!(!enters(&elf_with_notes(&notes)), "{notes:?}");
    }
    assert!(!enters(&elf()) && !enters(&packed(Codec::Gzip, &with)) && !enters(b""));
    // Cut off anywhere, and with lengths that are none: no harm.
    for length in 0..with.len() {
        assert!(!enters(&with[..length]), "{length}");
    }
    let mut endless = before;
    put(&mut endless, 0, &[0xff; 8]);
    assert!(!enters(&elf_with_notes(&endless)));
    let mut random = Xorshift(88);
    for _ in 0..500 {
        let mut mutant = with.clone();
        random.mutate(&mut mutant);
        let _ = enters(&mutant);
    }
}

#[test]
fn a_version_is_one_printable_word() {
    let elf = elf();
    assert_eq!(version(&elf).as_deref(), Some(VERSION));
    let mut none = elf.clone();
    for _ in 0..2 {
        let at = none.windows(BANNER.len()).position(|window| window == BANNER).expect("a banner");
        none[at] = b'l';
    }
    assert_eq!(version(&none), None);
    for bad in ["6.1", "6.\x07 x", "-6.1 x", &format!("{} x", "6".repeat(200))] {
        let mut other = none.clone();
        other.extend(BANNER);
        other.extend(bad.as_bytes());
        assert_eq!(version(&other), None, "{bad:?}");
    }
    // An offset of zero says that the header has no version.
    let mut image = packed(Codec::Gzip, &elf);
    put(&mut image, 0x20e, &[0, 0]);
    assert_eq!(format(&image), Some(Format::BzImage { version: String::new() }));
    assert_eq!(version(&image), None);
}

#[test]
fn the_configuration_is_read() {
    let elf = elf();
    let config_text = config(&elf, LIMIT).expect("a configuration");
    assert_eq!(config_text, CONFIG);
    assert_eq!(config(&elf, CONFIG.len() - 1), None);
    assert_eq!(config(&elf[..elf.len() - 1], LIMIT), None);
    assert_eq!(builtin(&config_text, "CONFIG_VIRTIO"), Built::Yes);
    assert_eq!(builtin(&config_text, "VIRTIO"), Built::Yes);
    assert_eq!(builtin(&config_text, "VSOCKETS"), Built::Module);
    for symbol in ["KVM", "VIRT", "A", "", "CONFIG_", "VIRTIO=y"] {
        assert_eq!(builtin(&config_text, symbol), Built::No, "{symbol}");
    }
    assert_eq!(builtin("CONFIG_A=m\r\nCONFIG_A=y\r\n", "A"), Built::Yes);
}

#[test]
fn an_lz4_kernel_may_have_many_chunks_and_frames() {
    let mut large = elf();
    large.resize(16 << 20, 7);
    // The last chunk is full here, so that only the size after it tells the end.
    let image = packed(Codec::Lz4, &large);
    assert!(to_elf(&image, large.len()) == Ok(large.clone()));
    let limit = large.len() - 1;
    assert_eq!(to_elf(&image, limit), Err(KernelError::TooLarge { limit }));
    let cut = compress(Codec::Lz4, &large[..8 << 20]);
    let mut cut = bzimage(&cut);
    cut.extend((large.len() as u32).to_le_bytes());
    let length = (cut.len() - 0x410) as u32;
    put(&mut cut, 0x24c, &length.to_le_bytes());
    assert_eq!(to_elf(&cut, large.len()), Err(KernelError::CutOff));

    let elf = elf();
    let mut frames = lz4(&elf[..200]);
    frames.extend(lz4(&elf[200..]));
    assert_eq!(to_elf(&bzimage(&frames), LIMIT), Ok(elf));
}

#[test]
fn refusals_say_why() {
    let says = |bytes: &[u8]| to_elf(bytes, LIMIT).expect_err("a refusal").to_string();
    let good = packed(Codec::Gzip, &elf());
    assert!(says(b"").starts_with("the file is not a Linux kernel"));
    let mut old = good.clone();
    put(&mut old, 0x206, &[7, 2]);
    assert_eq!(format(&old), None);
    assert_eq!(says(&old), "the kernel's boot protocol 2.07 is older than 2.08");
    assert_eq!(says(&good[..good.len() - 1]), "the kernel's payload is cut off");
    assert_eq!(says(&bzimage(b"")), "the kernel image has no payload");
    assert_eq!(says(&bzimage(b"\x5d\0\0\x80")), "compression lzma is not supported");
    assert_eq!(says(&bzimage(b"\x89LZO\0")), "compression lzo is not supported");
    assert_eq!(says(&bzimage(b"BZh9")), "compression bzip2 is not supported");
    assert_eq!(says(&bzimage(b"what")), "the kernel's payload has an unknown compression");
    assert_eq!(says(&packed(Codec::Gzip, b"text")), "the kernel is not an ELF file for x86-64");
    let mut broken = good;
    broken[0x410 + 40] ^= 0xff;
    assert!(says(&broken).starts_with("the kernel's gzip payload cannot be decompressed: "));
}

#[test]
fn every_truncation_is_refused() {
    let elf = elf();
    for codec in CODECS {
        let image = packed(codec, &elf);
        for length in 0..image.len() {
            exercise(&image[..length]);
            assert!(to_elf(&image[..length], LIMIT).is_err(), "{codec:?} {length}");
        }
        // The same with a header that agrees with the cut payload.
        let payload = compress(codec, &elf);
        for length in 0..payload.len() {
            assert!(to_elf(&bzimage(&payload[..length]), LIMIT).is_err(), "{codec:?} {length}");
        }
    }
    for length in 0..elf.len() {
        exercise(&elf[..length]);
    }
}

#[test]
fn mutations_never_panic() {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    for codec in CODECS {
        let image = packed(codec, &elf());
        for _ in 0..2000 {
            // Half of them leave the boot sector and its header alone.
            let mut mutant = image.clone();
            let from = random.below(2) * 0x410;
            random.mutate(&mut mutant[from..]);
            exercise(&mutant);
        }
    }
    let elf = elf();
    for _ in 0..2000 {
        let mut mutant = elf.clone();
        random.mutate(&mut mutant[..120]);
        exercise(&mutant);
    }
}

#[test]
fn xz_block_headers_with_good_checksums_never_panic() {
    let mut random = Xorshift(0x2545_f491_4f6c_dd1d);
    let payload = compress(Codec::Xz, &elf());
    let length = (usize::from(payload[12]) + 1) * 4;
    for _ in 0..2000 {
        let mut mutant = payload.clone();
        random.mutate(&mut mutant[13..12 + length - 4]);
        fix_block_header(&mut mutant);
        exercise(&bzimage(&mutant));
    }
}

fn fix_block_header(xz: &mut [u8]) {
    let length = (usize::from(xz[12]) + 1) * 4;
    let mut crc = flate2::Crc::new();
    crc.update(&xz[12..12 + length - 4]);
    put(xz, 12 + length - 4, &crc.sum().to_le_bytes());
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let mut zeros = vec![0; 4 * LIMIT];
    put(&mut zeros, 0, ELF_MAGIC);
    for codec in CODECS {
        let image = packed(codec, &zeros);
        let refused = to_elf(&image, LIMIT);
        assert_eq!(refused, Err(KernelError::TooLarge { limit: LIMIT }), "{codec:?}");
        assert_eq!(to_elf(&image, usize::MAX), Err(KernelError::NotX86Elf), "{codec:?}");
    }
}

#[test]
fn windows_over_the_limit_are_refused() {
    // A zstd frame whose window is 2 GiB.
    let zstd = bzimage(b"\x28\xb5\x2f\xfd\0\xa8\x01\0\0");
    assert!(matches!(to_elf(&zstd, LIMIT), Err(KernelError::Corrupt { compression: "zstd", .. })));
    // The block header's fields: flags, the x86 filter of no properties, LZMA2 with one.
    let mut payload = compress(Codec::Xz, &elf());
    assert_eq!(payload[13..18], [1, 4, 0, 0x21, 1]);
    payload[18] = 30;
    fix_block_header(&mut payload);
    assert!(to_elf(&bzimage(&payload), LIMIT).is_ok(), "a window of 128 MiB");
    payload[18] = 31;
    fix_block_header(&mut payload);
    assert!(matches!(
        to_elf(&bzimage(&payload), LIMIT),
        Err(KernelError::Corrupt { compression: "xz", .. })
    ));
}

#[test]
fn offsets_at_their_greatest_are_refused() {
    let elf = elf();
    let image = packed(Codec::Zstd, &elf);
    for (at, width) in [(0x248, 4), (0x24c, 4), (0x1f1, 1)] {
        let mut mutant = image.clone();
        put(&mut mutant, at, &[0xff; 4][..width]);
        assert_eq!(to_elf(&mutant, LIMIT), Err(KernelError::CutOff), "{at:#x}");
    }
    let mut mutant = image;
    put(&mut mutant, 0x20e, &[0xff; 2]);
    assert_eq!(format(&mutant), Some(Format::BzImage { version: String::new() }));
    assert_eq!(to_elf(&mutant, LIMIT), Ok(elf.clone()));
    // The ELF file's own: the table, its entries' size and count, a segment's place and length.
    for (at, width) in [(32, 8), (54, 2), (56, 2), (72, 8), (96, 8)] {
        let mut mutant = elf.clone();
        put(&mut mutant, at, &[0xff; 8][..width]);
        assert_eq!(to_elf(&mutant, LIMIT), Err(KernelError::BadSegments), "{at}");
    }
    let mut mutant = elf;
    put(&mut mutant, 56, &[0, 0]);
    assert_eq!(to_elf(&mutant, LIMIT), Err(KernelError::BadSegments));
}
