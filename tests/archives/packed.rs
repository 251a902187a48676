//! Layers as they are stored: compression, digests, readers that fail, and budgets.

use super::case::{Case, check, filled, fsck, no, nos, ok, oks, over};
use super::header::{Head, dir, file, hard, pax, tar};
use super::listing;
use banger_rootfs::{Error, Layer, Limits, build};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use std::io::{self, Cursor, Read, Write as _};

pub(super) fn cases() -> Vec<Case> {
    [packed(), budgets()].into_iter().flatten().collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("packs");
    encoder.finish().expect("packs")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("packs")
}

/// A frame that readers of zstd step over.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("small").to_le_bytes();
    [&[0x53, 0x2a, 0x4d, 0x18], length.as_slice(), bytes].concat()
}

/// A frame that asks for a window of 1 << 31.
fn wide() -> Vec<u8> {
    vec![0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3, 0x21, 0, 0, 1, 2, 3, 4]
}

fn noise(length: usize) -> Vec<u8> {
    let mut chance = super::mutations::Chance::new(7);
    (0..length).map(|_| (chance.next() & 0xff) as u8).collect()
}

fn packed() -> Vec<Case> {
    let whole = || tar([file("a", "1"), file("b", noise(5000))]);
    let ones = || tar([file("a", vec![b'1'; 3_000_000])]);
    let ones_line = filled("a", 3_000_000, &[(0, 3_000_000)]);
    let halves = |pack: fn(&[u8]) -> Vec<u8>| {
        let all = ones();
        let (one, two) = all.split_at(700);
        [pack(one), pack(&[]), pack(two)].concat()
    };
    let without = |mut bytes: Vec<u8>, last: usize| {
        bytes.truncate(bytes.len() - last);
        bytes
    };
    let mut bad_sum = gzip(&whole());
    let at = bad_sum.len() - 8;
    bad_sum[at] ^= 1;
    vec![
        ok("gzip", gzip(&ones()), &[&ones_line]),
        ok("gzip in members", halves(gzip), &[&ones_line]),
        ok("zstd", zstd(&ones()), &[&ones_line]),
        ok("zstd in frames", halves(zstd), &[&ones_line]),
        ok(
            "a frame to step over",
            [skippable(b"hello"), zstd(&ones()), skippable(b"")].concat(),
            &[&ones_line],
        ),
        ok("gzip of nothing", gzip(&[]), &[]),
        ok("zstd of nothing", zstd(&[]), &[]),
        ok("a frame to step over alone", skippable(b"hello"), &[]),
        no("gzip with a wrong sum", bad_sum, "cannot be unpacked"),
        no("gzip that is cut off", without(gzip(&whole()), 100), "cannot be unpacked"),
        no("gzip without its sum", without(gzip(&whole()), 8), "cannot be unpacked"),
        no(
            "gzip and rubbish",
            [gzip(&whole()), b"rubbish".to_vec()].concat(),
            "cannot be unpacked",
        ),
        no("gzip's first bytes", vec![0x1f, 0x8b], "cannot be unpacked"),
        no("zstd that is cut off", without(zstd(&whole()), 100), "cannot be unpacked"),
        no(
            "zstd and rubbish",
            [zstd(&whole()), b"rubbish".to_vec()].concat(),
            "cannot be unpacked",
        ),
        no("zstd's first bytes", vec![0x28, 0xb5, 0x2f, 0xfd], "cannot be unpacked"),
        no("a window that is too large", wide(), "too much memory"),
        no("gzip in gzip", gzip(&gzip(&whole())), "checksum"),
        no("bzip2", b"BZh91AY&SY".to_vec(), "bzip2 or xz"),
        no("xz", b"\xfd7zXZ\0\0\x04".to_vec(), "bzip2 or xz"),
        oks(
            "each layer in its own way",
            vec![tar([file("a", "")]), gzip(&tar([file("b", "")])), zstd(&tar([file("c", "")]))],
            &["a=", "b=", "c="],
        ),
        nos(
            "the second layer",
            vec![tar([file("a", "")]), gzip(&tar([Head::new(b'?', "b").end()]))],
            "unknown kind",
        ),
    ]
}

fn budgets() -> Vec<Case> {
    let zeros = vec![0; 256 << 20];
    let files = |count: usize| -> Vec<u8> {
        (0..count).flat_map(|index| file(format!("f{index}"), "")).collect()
    };
    let deep = |top: usize| file(format!("{top}/{}x", "d/".repeat(40)), "");
    let text = "the image has more than 10 entries";
    vec![
        over("a bomb of gzip", gzip(&zeros), "more than 200 times"),
        over("a bomb of zstd", zstd(&zeros), "more than 200 times"),
        over("a bomb in frames", zstd(&zeros[..60 << 20]).repeat(2), "more than 200 times"),
        ok(
            "as many entries as may be",
            files(10),
            &["f0=", "f1=", "f2=", "f3=", "f4=", "f5=", "f6=", "f7=", "f8=", "f9="],
        )
        .limits(|limits| limits.entries = 10),
        over("one entry more", files(11), text).limits(|limits| limits.entries = 10),
        over("whiteouts count", file(".wh.x", "").repeat(11), text)
            .limits(|limits| limits.entries = 10),
        over("what takes the place of another counts", file("x", "").repeat(11), text)
            .limits(|limits| limits.entries = 10),
        over("devices that are left out count", Head::new(b'4', "x").end().repeat(11), text)
            .limits(|limits| limits.entries = 10),
        over("folders that nobody named count", deep(1), "more than 10")
            .limits(|limits| limits.entries = 10),
        ok("all bytes that may be", tar([file("a", "")]), &["a="])
            .limits(|limits| limits.bytes = 1536),
        over("one byte more", tar([file("a", "")]), "more than 1535 bytes")
            .limits(|limits| limits.bytes = 1535),
        over("bytes after the end", [tar([]), vec![1; 4096]].concat(), "more than 2000 bytes")
            .limits(|limits| limits.bytes = 2000),
        over("bytes that are packed", gzip(&vec![0; 1 << 20]), "more than 1000000 bytes")
            .limits(|limits| limits.bytes = 1_000_000),
        over("extension headers", pax(&[("comment", "c")]).repeat(100), "more than 100000 bytes")
            .limits(|limits| limits.bytes = 100_000),
        over("a ratio of one's own", gzip(&vec![0; 1 << 20]), "more than 10 times its size")
            .limits(|limits| (limits.ratio, limits.ratio_from) = (10, 1000)),
    ]
}

#[test]
fn compression_and_budgets() {
    check(&cases());
}

/// The most names, and one more. e2fsck has to count them all.
#[test]
fn many_names_of_one_file() {
    let names = |count: usize| -> Vec<u8> {
        let links = (1..count).flat_map(|index| hard(format!("d/{index}"), "a"));
        [dir("d"), file("a", "1")].concat().into_iter().chain(links).collect()
    };
    let (_, image) = super::case::make(&[names(65_000)], &Limits::default()).expect("builds");
    fsck(image.path()).expect("clean");
    check(&[
        no("one name more than may be", names(65_001), "has too many names"),
        no("70,000 names", names(70_000), "has too many names"),
    ]);
}

fn attempt(read: Box<dyn Read + Send>, diff_id: Option<[u8; 32]>) -> Result<Vec<String>, Error> {
    let out = tempfile::tempfile().expect("a file");
    let layer = Layer { read, diff_id };
    build(vec![layer], out.try_clone().expect("opens"), &Limits::default(), &|_| {})?;
    Ok(listing::lines(&super::image::read(&out), true))
}

#[test]
fn digests_are_of_what_is_unpacked() {
    // What follows the end belongs to it.
    let plain = [tar([file("a", "1")]), vec![9; 700]].concat();
    let right: [u8; 32] = Sha256::digest(&plain).into();
    for stored in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let found = attempt(Box::new(Cursor::new(stored)), Some(right));
        assert_eq!(found.expect("the digest is right"), ["a=1"]);
    }
    let packed = gzip(&plain);
    let of_packed: [u8; 32] = Sha256::digest(&packed).into();
    let outcome = attempt(Box::new(Cursor::new(packed)), Some(of_packed));
    let Err(Error::DiffId { layer: 1, wanted, found }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((wanted, found), (listing::hex(&of_packed), listing::hex(&right)));
    let empty: [u8; 32] = Sha256::digest([]).into();
    assert!(attempt(Box::new(io::empty()), Some(empty)).is_ok());
    let outcome = attempt(Box::new(io::empty()), Some(right));
    assert!(matches!(outcome, Err(Error::DiffId { .. })), "{outcome:?}");
    // A broken archive is told of before a wrong digest.
    let outcome = attempt(Box::new(Cursor::new(vec![7; 512])), Some(right));
    assert!(matches!(outcome, Err(Error::Refused { .. })), "{outcome:?}");
}

/// Gives its bytes one by one, interrupted before each, or fails at the end.
struct Slow {
    bytes: io::Cursor<Vec<u8>>,
    interrupt: bool,
    fails: Option<io::ErrorKind>,
}

impl Slow {
    fn new(bytes: Vec<u8>, fails: Option<io::ErrorKind>) -> Box<Self> {
        Box::new(Self { bytes: Cursor::new(bytes), interrupt: false, fails })
    }
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt && self.fails.is_none();
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(1);
        match (self.bytes.read(&mut buffer[..most])?, self.fails) {
            (0, Some(kind)) => Err(io::Error::new(kind, "the network is down")),
            (count, _) => Ok(count),
        }
    }
}

#[test]
fn slow_readers_give_the_same() {
    let plain = tar([file("a", "1")]);
    for stored in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let found = attempt(Slow::new(stored, None), None);
        assert_eq!(found.expect("it is whole"), ["a=1"]);
    }
}

#[test]
fn readers_that_fail_are_no_bad_archives() {
    let plain = tar([file("a", noise(3000))]);
    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::Other, io::ErrorKind::UnexpectedEof]
    {
        for stored in [plain.clone(), gzip(&plain), zstd(&plain), Vec::new()] {
            for cut in [stored.len(), stored.len() / 2] {
                let outcome = attempt(Slow::new(stored[..cut].to_vec(), Some(kind)), None);
                assert!(
                    matches!(outcome, Err(Error::Read { layer: 1, .. })),
                    "{kind}: {outcome:?}"
                );
            }
        }
    }
}

/// Work that small archives must not be able to ask for: each of these took minutes, or all memory.
#[test]
fn work_is_bounded() {
    let start = std::time::Instant::now();
    let files = |folder: &str| -> Vec<u8> {
        (0..20_000).flat_map(|index| file(format!("{folder}/{index}"), "")).collect()
    };
    let records: Vec<u8> = (0..40_000)
        .flat_map(|index| super::header::record(format!("SCHILY.xattr.x{index}"), ""))
        .collect();
    let attributes = [super::header::raw_pax(records), file("a", "")].concat();
    let hidden = |path: &str| [files("d"), file(path, "").repeat(20_000)].concat();
    let many: Vec<u8> =
        (0..20_000).flat_map(|top| file(format!("{top}/{}x", "d/".repeat(40)), "")).collect();
    for (name, layers) in [
        ("opaque again and again", vec![hidden("d/.wh..wh..opq")]),
        ("a whiteout again and again", vec![hidden(".wh.d")]),
        ("attributes that are dropped", vec![attributes.repeat(20)]),
    ] {
        super::case::make(&layers, &Limits::default()).expect("builds");
        println!("{name}: {:?}", start.elapsed());
    }
    let limits = Limits { entries: 20_000, ..Limits::default() };
    let outcome = super::case::make(&[many], &limits);
    assert!(matches!(outcome, Err(Error::Budget { .. })), "{outcome:?}");
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}
