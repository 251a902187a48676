//! Files with holes: GNU's old way with tables in the header, and its three ways with PAX.

use super::case::{Case, filled, no, ok, over};
use super::header::{Head, file, pax, raw_pax, record, sym, tar};

pub(super) fn cases() -> Vec<Case> {
    [old(), old_broken(), zero(), one(), one_broken(), large()].into_iter().flatten().collect()
}

/// A sparse file in GNU's old way.
fn s(pieces: &[(u64, u64)], real: u64, data: &[u8]) -> Vec<u8> {
    let mut head = Head::new(b'S', "a").gnu().real(real, false).data(data);
    for (index, (offset, length)) in pieces.iter().enumerate() {
        head = head.piece(index, *offset, *length);
    }
    head.end()
}

/// A block with more pieces.
fn more(pieces: &[(u64, u64)], again: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (offset, length) in pieces {
        block.extend(format!("{offset:011o}\0{length:011o}\0").bytes());
    }
    block.resize(504, 0);
    block.push(u8::from(again));
    block.resize(512, 0);
    block
}

const ONES: [u8; 512] = [b'1'; 512];
const ONES_AND_ONE: [u8; 513] = [b'1'; 513];

/// Pieces of 512 bytes at a distance.
fn every(count: usize, step: usize, from: usize) -> Vec<(usize, usize)> {
    (0..count).map(|index| (from + index * step, 512)).collect()
}

fn old() -> Vec<Case> {
    let extended = |chain: Vec<u8>, pieces: u64, length: u64| {
        let mut head = Head::new(b'S', "a")
            .gnu()
            .real(length, true)
            .tail([chain, vec![b'1'; usize::try_from(pieces * 512).expect("small")]].concat())
            .size(pieces * 512);
        for index in 0..4 {
            head = head.piece(index, index as u64 * 8192, 512);
        }
        tar([head.end(), file("b", "")])
    };
    let later: Vec<_> = (4..25).map(|index| (index * 8192, 512)).collect();
    let last: Vec<_> = (25..30).map(|index| (index * 8192, 512)).collect();
    vec![
        ok("S that is whole", tar([s(&[(0, 3)], 3, b"123")]), &["a=123"]),
        ok("S with a hole before", tar([s(&[(4, 1)], 5, b"1")]), &["a=\\x00\\x00\\x00\\x001"]),
        ok("S that ends in a hole", tar([s(&[(0, 1), (4, 0)], 4, b"1")]), &["a=1\\x00\\x00\\x00"]),
        ok("S of a hole only", tar([s(&[(3, 0)], 3, b"")]), &["a=\\x00\\x00\\x00"]),
        ok("S of nothing", tar([s(&[], 0, b"")]), &["a="]),
        ok(
            "S with a piece across blocks",
            tar([s(&[(4000, 512), (9000, 1)], 9001, &ONES_AND_ONE)]),
            &[&filled("a", 9001, &[(4000, 512), (9000, 1)])],
        ),
        ok(
            "S with pieces side by side",
            tar([s(&[(0, 512), (512, 512)], 1024, &ONES.repeat(2))]),
            &[&filled("a", 1024, &[(0, 1024)])],
        ),
        ok(
            "S with one more table",
            extended(more(&later[..2], false), 6, 41_472),
            &[&filled("a", 41_472, &every(6, 8192, 0)), "b="],
        ),
        ok(
            "S with two more tables",
            extended([more(&later, true), more(&last, false)].concat(), 30, 238_080),
            &[&filled("a", 238_080, &every(30, 8192, 0)), "b="],
        ),
        no("S with a table too few", extended(more(&later, true), 25, 238_080), ""),
        no(
            "S with a table that is cut off",
            extended(Vec::new(), 0, 300_000)[..612].to_vec(),
            "cut off",
        ),
    ]
}

fn old_broken() -> Vec<Case> {
    let unfinished =
        Head::new(b'S', "a").gnu().piece(0, 0, 512).piece(1, 1024, 0).piece(2, 2048, 512);
    let unfinished =
        unfinished.field(398 + 24, &[0; 12]).real(4096, false).data(ONES.repeat(2)).end();
    let ended = Head::new(b'S', "a").gnu().piece(0, 0, 512).real(4096, true);
    let ended = ended.tail([more(&[(1024, 512)], false), ONES.repeat(2)].concat()).size(1024).end();
    vec![
        no(
            "S with pieces that overlap",
            tar([s(&[(0, 512), (100, 512)], 999, &ONES.repeat(2))]),
            "not in order",
        ),
        no(
            "S with pieces out of order",
            tar([s(&[(1024, 512), (0, 512)], 1536, &ONES.repeat(2))]),
            "not in order",
        ),
        no("S beyond its size", tar([s(&[(0, 512)], 100, &ONES)]), "not in order"),
        no("S with more bytes than pieces", tar([s(&[(0, 1)], 1, &ONES)]), "does not fit"),
        no(
            "S that ends in a hole without a piece",
            tar([s(&[(0, 1)], 600, b"1")]),
            "ends too early",
        ),
        no("S with fewer bytes than pieces", tar([s(&[(0, 512)], 512, b"1")]), "does not fit"),
        no(
            "S with a piece of 2^36",
            tar([s(&[(0, 0o77_777_777_777), (0o77_777_777_777, 1)], 9, b"")]),
            "not in order",
        ),
        no(
            "S with pieces that are unaligned",
            tar([s(&[(0, 1), (4096, 1)], 4097, b"12")]),
            "sparse map",
        ),
        no("S with a piece without a length", tar([unfinished]), "sparse map"),
        no("S with a table after the last piece", tar([ended]), "sparse map"),
        no(
            "S with letters",
            tar([Head::new(b'S', "a").gnu().field(386, b"x").field(398, b"1").end()]),
            "offset is not",
        ),
        no(
            "S with a size of letters",
            tar([Head::new(b'S', "a").gnu().field(483, b"x").end()]),
            "real size",
        ),
        no(
            "S in ustar's format",
            tar([Head::new(b'S', "a").piece(0, 0, 3).real(3, false).data("123").end()]),
            "sparse",
        ),
        no(
            "S and PAX at once",
            tar([
                pax(&[("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "1")]),
                s(&[(0, 3)], 3, b"123"),
            ]),
            "sparse",
        ),
    ]
}

fn p(records: &[(&str, &str)], data: &[u8]) -> Vec<u8> {
    tar([pax(records), file("GNUSparseFile.1/a", data), file("z", "")])
}

/// Versions 0.0 and 0.1.
fn zero() -> Vec<Case> {
    let (size, map, name) = ("GNU.sparse.size", "GNU.sparse.map", ("GNU.sparse.name", "a"));
    let (blocks, offset, bytes) =
        ("GNU.sparse.numblocks", "GNU.sparse.offset", "GNU.sparse.numbytes");
    let tail = ["z="];
    let lines = |line: &'static str| [line, tail[0]];
    vec![
        ok(
            "0.1",
            p(&[(size, "5"), (blocks, "1"), (map, "4,1"), name], b"1"),
            &lines("a=\\x00\\x00\\x00\\x001"),
        ),
        ok(
            "0.1 with a last piece of nothing",
            p(&[(size, "2"), (blocks, "2"), (map, "0,1,2,0"), name], b"1"),
            &lines("a=1\\x00"),
        ),
        ok(
            "0.0",
            p(&[("path", "a"), (size, "5"), (blocks, "1"), (offset, "4"), (bytes, "1")], b"1"),
            &lines("a=\\x00\\x00\\x00\\x001"),
        ),
        no(
            "0.0 with two offsets",
            p(&[(size, "5"), (offset, "4"), (offset, "4"), (bytes, "1")], b"1"),
            "two offsets",
        ),
        no("0.0 without an offset", p(&[(size, "5"), (bytes, "1")], b"1"), "without an offset"),
        no(
            "0.0 without a length",
            p(&[(size, "5"), (offset, "1")], b"1"),
            "in the middle of a piece",
        ),
        no("0.1 with an odd map", p(&[(size, "5"), (map, "0,1,2"), name], b"1"), "not pairs"),
        no("0.1 with an empty map", p(&[(size, "5"), (map, ""), name], b""), "not pairs"),
        no(
            "0.1 with a comma at the end",
            p(&[(size, "5"), (map, "0,1,"), name], b"1"),
            "not pairs",
        ),
        no("0.1 with letters", p(&[(size, "5"), (map, "a,b"), name], b"1"), "not pairs"),
        no("0.1 with a negative offset", p(&[(size, "5"), (map, "-1,2"), name], b"1"), "not pairs"),
        no("0.1 without a size", p(&[(map, "0,1"), name], b"1"), "how large it is"),
        no("0.1 that overlaps", p(&[(size, "5"), (map, "0,2,1,1"), name], b"123"), "not in order"),
        no(
            "0.1 beyond 64 bits",
            p(&[(size, "5"), (map, "18446744073709551615,1"), name], b"1"),
            "not in order",
        ),
        no("0.1 with a wrong sum", p(&[(size, "2"), (map, "0,2"), name], b"1"), "does not fit"),
        no(
            "0.1 with unaligned pieces",
            p(&[(size, "5"), (map, "0,1,4,1"), name], b"12"),
            "sparse map",
        ),
        no(
            "a map and pieces",
            p(&[(size, "5"), (offset, "0"), (bytes, "1"), (map, "0,1"), name], b"1"),
            "sparse",
        ),
        no("a name but no map", tar([pax(&[name]), file("b", "1")]), "sparse"),
        no("a size but no map", tar([pax(&[(size, "5")]), file("b", "")]), "sparse"),
        no(
            "a sparse link",
            tar([pax(&[(size, "5"), (map, "0,0"), name]), sym("b", "c")]),
            "sparse",
        ),
    ]
}

/// Version 1.0: the map is before the data.
fn v1(real: &str, map: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = map.as_bytes().to_vec();
    bytes.resize(map.len().next_multiple_of(512), 0);
    bytes.extend_from_slice(data);
    p(
        &[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "a"),
            ("GNU.sparse.realsize", real),
        ],
        &bytes,
    )
}

fn one() -> Vec<Case> {
    let many: String = (0..100).map(|index| format!("{}\n512\n", index * 4096)).collect();
    vec![
        ok("1.0", v1("5", "1\n4\n1\n", b"1"), &["a=\\x00\\x00\\x00\\x001", "z="]),
        ok("1.0 of a hole only", v1("3", "1\n3\n0\n", b""), &["a=\\x00\\x00\\x00", "z="]),
        no("1.0 with no pieces", v1("3", "0\n", b""), "ends too early"),
        no("1.0 that ends in a hole without a piece", v1("3", "1\n0\n1\n", b"1"), "ends too early"),
        ok("1.0 of nothing", v1("0", "0\n", b""), &["a=", "z="]),
        ok(
            "1.0 with a map of two blocks",
            v1("406016", &format!("100\n{many}"), &ONES.repeat(100)),
            &[&filled("a", 406_016, &every(100, 4096, 0)), "z="],
        ),
    ]
}

fn one_broken() -> Vec<Case> {
    let version = |major: &str, minor: &str| {
        p(
            &[
                ("GNU.sparse.major", major),
                ("GNU.sparse.minor", minor),
                ("GNU.sparse.name", "a"),
                ("GNU.sparse.realsize", "1"),
            ],
            b"0\n",
        )
    };
    vec![
        over("1.0 that claims a million pieces", v1("5", "1000000\n", b""), "pieces"),
        over("1.0 that claims 2^64 pieces", v1("5", "18446744073709551615\n", b""), "pieces"),
        no("1.0 that claims more than 2^64", v1("5", "18446744073709551616\n", b""), "no numbers"),
        no("1.0 with fewer numbers than it says", v1("5", "2\n0\n1\n", b"1"), ""),
        no("1.0 with letters", v1("5", "x\n", b""), "no numbers"),
        no("1.0 with an empty line", v1("5", "\n", b""), "no numbers"),
        no("1.0 with a negative number", v1("5", "1\n-1\n1\n", b"1"), "no numbers"),
        no("1.0 with a number without end", v1("5", &"1".repeat(100), b""), "no numbers"),
        no("1.0 with a wrong sum", v1("3", "1\n0\n3\n", b"1"), "does not fit"),
        no("1.0 beyond its size", v1("5", "1\n4\n2\n", b"12"), "not in order"),
        no("1.0 with unaligned pieces", v1("5", "2\n0\n1\n4\n1\n", b"12"), "sparse map"),
        no(
            "1.0 without a map",
            p(
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", "1"),
                ],
                b"",
            ),
            "",
        ),
        no("version 2.0", version("2", "0"), "unknown version"),
        no("version 1.1", version("1", "1"), "unknown version"),
        no(
            "1.0 without a size",
            tar([pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]), file("a", "0\n")]),
            "how large",
        ),
    ]
}

fn large() -> Vec<Case> {
    let map = |count: u64, step: u64, from: u64| {
        let pieces: Vec<_> =
            (0..count).map(|index| format!("{},512", from + index * step)).collect();
        let end = from + (count - 1) * step + 512;
        let records = [
            record("GNU.sparse.size", end.to_string()),
            record("GNU.sparse.numblocks", count.to_string()),
            record("GNU.sparse.map", pieces.join(",")),
            record("GNU.sparse.name", "a"),
        ]
        .concat();
        let data = ONES.repeat(usize::try_from(count).expect("small"));
        tar([raw_pax(records), file("b", data)])
    };
    let only_hole = |size: &str| {
        p(
            &[
                ("GNU.sparse.size", size),
                ("GNU.sparse.numblocks", "1"),
                ("GNU.sparse.map", &format!("{size},0")),
                ("GNU.sparse.name", "a"),
            ],
            b"",
        )
    };
    vec![
        ok("a tree of extents", map(10, 8192, 0), &[&filled("a", 74_240, &every(10, 8192, 0))]),
        ok(
            "a tree of extents after a hole",
            map(10, 8192, 4096),
            &[&filled("a", 78_336, &every(10, 8192, 4096))],
        ),
        ok(
            "a tree of two levels after a hole",
            map(1000, 8192, 1 << 20),
            &[&filled("a", 9_232_896, &every(1000, 8192, 1 << 20))],
        ),
        ok(
            "a tree of two levels",
            map(2000, 8192, 0),
            &[&filled("a", 16_376_320, &every(2000, 8192, 0))],
        ),
        over("more pieces than may be", map(65_537, 1, 0), ""),
        ok("the largest file", only_hole("17592186040320"), &["a=17592186040320#00000000", "z="]),
        no("larger than the largest file", only_hole("17592186040321"), "too large for a file"),
        no("a size of 64 bits", only_hole("18446744073709551615"), "too large for a file"),
    ]
}
