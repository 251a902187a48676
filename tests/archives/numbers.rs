//! Numbers of headers, checksums, formats, and archives that end too early or too late.

use super::case::{Case, filled, no, ok, over};
use super::header::{Head, dir, file, global, long, pax, raw_pax, tar};

pub(super) fn cases() -> Vec<Case> {
    [octal(), binary(), sums(), formats(), long_names(), ends(), cuts()]
        .into_iter()
        .flatten()
        .collect()
}

fn head() -> Head {
    Head::new(b'0', "a")
}

fn octal() -> Vec<Case> {
    let size = |field: &[u8]| tar([head().data("1").field(124, field).end()]);
    vec![
        ok("a size after blanks", size(b"          1\0"), &["a=1"]),
        ok("a size before blanks", size(b"1           "), &["a=1"]),
        ok("a size without an end", size(b"000000000001"), &["a=1"]),
        ok("no owner", tar([head().field(108, &[0; 16]).end()]), &["a="]),
        ok("no mode", tar([head().field(100, &[0; 8]).end()]), &["a= 0"]),
        no("a size of letters", size(b"00000000xyz\0"), "size is not a number"),
        no("an eight", size(b"00000000008\0"), "size is not a number"),
        no("a sign", size(b"-0000000001\0"), "size is not a number"),
        no("a plus", size(b"+0000000001\0"), "size is not a number"),
        no("a number in base 16", size(b"0x000000001\0"), "size is not a number"),
        no("two numbers", size(b"1 1         "), "size is not a number"),
        no("a tab", size(b"\t0000000001\0"), "size is not a number"),
        no("a number behind the end", size(b"0000001\x00001\0"), "size is not a number"),
        no("letters for a mode", tar([head().field(100, b"rwxr-xr\0").end()]), "mode is not"),
        no("letters for a time", tar([head().field(136, b"yesterday\0\0\0").end()]), "time is not"),
        no("letters for an owner", tar([head().field(108, b"root\0\0\0\0").end()]), "owner is not"),
        no("letters for a group", tar([head().field(116, b"wheel\0\0\0").end()]), "group is not"),
        no("letters for a device", tar([Head::new(b'3', "x").field(329, b"one").end()]), "device"),
        ok(
            "the last octal owner",
            tar([head().owner(0o777_7777, 0o777_7777).end()]),
            &["a= @2097151:2097151"],
        ),
        ok(
            "the last octal time",
            tar([head().time(0o777_777_777_777 >> 3).end()]),
            &["a= t8589934591"],
        ),
        no("the largest octal size", size(b"777777777777"), "cut off within a file"),
    ]
}

/// A number in base 256, of this many bytes.
fn base256<const N: usize>(number: i128) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&number.to_be_bytes()[16 - N..]);
    bytes[0] |= 0x80;
    bytes
}

fn binary() -> Vec<Case> {
    let time = |number| tar([head().field(136, &base256::<12>(number)).end()]);
    let size = |number| tar([head().field(124, &base256::<12>(number)).tail("1").end()]);
    let uid = |number| tar([head().field(108, &base256::<8>(number)).end()]);
    let wide = |first: u8| [first, 0, 0, 0, 0, 0, 1, 0o355];
    vec![
        ok("a binary size", size(1), &["a=1"]),
        ok("a binary owner", uid(4_294_967_294), &["a= @4294967294:0"]),
        ok("a time before 1970", time(-1), &["a= t-1"]),
        ok("a time in 1901", time(-(1 << 31)), &["a= t-2147483648"]),
        ok("a time before what can be told", time(-(1 << 40)), &["a= t-2147483648"]),
        ok("the last time", time((1 << 34) - (1 << 31) - 1), &["a= t15032385535"]),
        ok("a time after what can be told", time(1 << 60), &["a= t15032385535"]),
        no("a time of more than 64 bits", time(1 << 64), "time is not a number"),
        no("a negative time of more than 64 bits", time(-(1 << 64)), "time is not a number"),
        no("the owner that is nobody", uid(4_294_967_295), "owner 4294967295 is out of bounds"),
        no("an owner of 33 bits", uid(1 << 32), "out of bounds"),
        no("a negative owner", uid(-1), "owner is negative"),
        no("a negative size", size(-1), "size is negative"),
        no("a size of 63 bits", size(i128::from(i64::MAX)), "too large for a file"),
        no("a size of 64 bits", size(1 << 63), "size is not a number"),
        no("a size of 88 bits", size(1 << 88), "size is not a number"),
        over("a size of 40 bits", size(1 << 40), "240 GiB"),
        no("a mode of 58 bits", tar([head().field(100, &wide(0x81)).end()]), "mode"),
        no("a negative mode", tar([head().field(100, &wide(0xff)).end()]), "mode is"),
        ok("a binary mode", tar([head().field(100, &wide(0x80)).end()]), &["a= 755"]),
        no(
            "a header's size that is negative",
            tar([Head::new(b'x', "x").field(124, &base256::<12>(-512)).end(), file("a", "")]),
            "size is negative",
        ),
    ]
}

fn sums() -> Vec<Case> {
    let bright = || Head::new(b'0', b"\xe9");
    let binary = {
        let mut bytes = file("a", "");
        let text = std::str::from_utf8(&bytes[148..154]).expect("octal").to_string();
        let sum = u16::from_str_radix(&text, 8).expect("octal");
        bytes[148..156].fill(0);
        bytes[148] = 0x80;
        bytes[154..156].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    vec![
        ok("a signed checksum", tar([bright().signed_sum().end()]), &["\\xe9="]),
        ok("an unsigned checksum", tar([bright().end()]), &["\\xe9="]),
        no("a wrong checksum", tar([head().wrong_sum().end()]), "checksum is wrong"),
        no("a wrong checksum, later", tar([file("a", ""), head().wrong_sum().end()]), "is wrong"),
        no("a binary checksum", tar([binary]), "checksum"),
        no(
            "no checksum",
            {
                let mut bytes = file("a", "");
                bytes[148..156].fill(b' ');
                bytes
            },
            "checksum is wrong",
        ),
        no("bytes that are no archive", b"#!/bin/sh\n".repeat(100), "checksum"),
        no("a text that is short", b"hello".to_vec(), "cut off within a header"),
    ]
}

fn formats() -> Vec<Case> {
    let prefix = |head: Head| head.field(345, b"pre/fix");
    let of = |kind: u8| tar([Head::new(kind, "a").end()]);
    vec![
        ok("a prefix", tar([prefix(head()).end()]), &["pre/", "pre/fix/", "pre/fix/a="]),
        ok("no prefix in GNU's format", tar([prefix(head().gnu()).end()]), &["a="]),
        ok("no prefix before ustar", tar([prefix(head().v7()).end()]), &["a="]),
        ok("a prefix out of the root", tar([head().field(345, b"/../..").end()]), &["a="]),
        ok("a full prefix", tar([head().field(345, &[b'/'; 155]).end()]), &["a="]),
        ok("a file before ustar", tar([Head::new(0, "a").v7().data("1").end()]), &["a=1"]),
        ok("a volume's name", tar([Head::new(b'V', "label").gnu().end(), file("a", "")]), &["a="]),
        no("a piece of another volume", of(b'M'), "of an unknown kind 'M'"),
        no("a list of a folder", of(b'D'), "of an unknown kind 'D'"),
        no("old long names", of(b'N'), "of an unknown kind 'N'"),
        no("an access list", of(b'A'), "of an unknown kind 'A'"),
        no("kind 8", of(b'8'), "of an unknown kind '8'"),
        no("kind ÿ", of(0xff), "of an unknown kind"),
        no("a kind that is a new line", of(b'\n'), "unknown kind '\\n'"),
        no(
            "a volume's name after an extension",
            tar([pax(&[("path", "b")]), Head::new(b'V', "label").gnu().end(), file("a", "")]),
            "volume",
        ),
    ]
}

fn long_names() -> Vec<Case> {
    let l = |name: &str| long(b'L', name);
    let size = [pax(&[("mtime", "7")]), l("b")].concat();
    vec![
        ok("L", tar([l("b"), file("a", "1")]), &["b=1"]),
        ok("x, then L", tar([size, file("a", "1")]), &["b=1 t7"]),
        ok("L, then x", tar([l("b"), pax(&[("mtime", "7")]), file("a", "1")]), &["b=1 t7"]),
        no(
            "x with a path, then L",
            tar([pax(&[("path", "c")]), l("b"), file("a", "")]),
            "two long names",
        ),
        no(
            "L, then x with a path",
            tar([l("b"), pax(&[("path", "c")]), file("a", "")]),
            "two long names",
        ),
        no("two L", tar([l("b"), l("c"), file("a", "")]), "two long names"),
        no("two K", tar([long(b'K', "b"), long(b'K', "c"), file("a", "")]), "two long names"),
        no("an empty L", tar([l(""), file("a", "")]), "a long name is empty"),
        no("an L of no bytes", tar([Head::new(b'L', "x").end(), file("a", "")]), "name is empty"),
        no("a NUL in an L", tar([l("b\0c"), file("a", "")]), "a NUL within"),
        ok(
            "an L without its end",
            tar([Head::new(b'L', "x").data("b").end(), file("a", "")]),
            &["b="],
        ),
        no("an L at the end", tar([l("b")]), "ends after an extension header"),
        over(
            "an L of 2 MiB",
            tar([l(&"b/".repeat(1 << 20)), file("a", "")]),
            "an extension header has",
        ),
        over(
            "an L that claims 8 GiB",
            tar([Head::new(b'L', "x").size(0o77_777_777_777).end(), file("a", "")]),
            "an extension header has",
        ),
        no(
            "x with a link, then K",
            tar([pax(&[("linkpath", "c")]), long(b'K', "b"), Head::new(b'2', "a").end()]),
            "two long names",
        ),
    ]
}

fn ends() -> Vec<Case> {
    let zeros = |blocks: usize| vec![0; blocks * 512];
    vec![
        ok("a layer of no bytes", Vec::new(), &[]),
        ok("an archive of nothing", tar([]), &[]),
        ok("one block of zeros", zeros(1), &[]),
        ok("no end", file("a", "1"), &["a=1"]),
        ok("half an end", [file("a", "1"), zeros(1)].concat(), &["a=1"]),
        ok("a long end", [file("a", "1"), zeros(40)].concat(), &["a=1"]),
        ok("an end that is cut off", [file("a", "1"), zeros(1), vec![0; 100]].concat(), &["a=1"]),
        ok("rubbish after the end", [tar([file("a", "1")]), vec![7; 1000]].concat(), &["a=1"]),
        ok(
            "a second archive after the end",
            [tar([file("a", "1")]), tar([file("b", "")])].concat(),
            &["a=1"],
        ),
        no(
            "one block of zeros in the middle",
            [file("a", "1"), zeros(1), file("b", "2")].concat(),
            "zero",
        ),
        no(
            "one block of zeros, then rubbish",
            [file("a", "1"), zeros(1), vec![7; 512]].concat(),
            "zero",
        ),
    ]
}

fn cuts() -> Vec<Case> {
    let whole = [file("a", vec![b'1'; 600]), dir("d")].concat();
    let to = |length: usize| whole[..length].to_vec();
    let extension = |length: usize| {
        let all = [pax(&[("path", "b")]), file("a", "1")].concat();
        all[..length].to_vec()
    };
    vec![
        no("cut after a byte", to(1), "cut off within a header"),
        no("cut before a header's end", to(511), "cut off within a header"),
        no("cut before the bytes", to(512), "cut off within a file"),
        no("cut within the bytes", to(1000), "cut off within a file"),
        ok("cut before the padding", to(1112), &[&filled("a", 600, &[(0, 600)])]),
        ok("cut within the padding", to(1535), &[&filled("a", 600, &[(0, 600)])]),
        ok("cut before the next header", to(1536), &[&filled("a", 600, &[(0, 600)])]),
        no("cut within the next header", to(1537), "cut off within a header"),
        no("cut before an extension", extension(512), "the archive is cut off"),
        no("cut within an extension", extension(515), "the archive is cut off"),
        no("cut behind an extension's bytes", extension(600), "the archive is cut off"),
        no("cut behind an extension", extension(1024), "ends after an extension header"),
        no("cut where the file's header is", extension(1100), "cut off within a header"),
        no(
            "a global header that is cut off",
            global(&[("comment", "c")])[..520].to_vec(),
            "cut off",
        ),
        no(
            "records that are cut off",
            tar([raw_pax(b"30 path=aaaaaaa\n"), file("a", "")]),
            "as long as it says",
        ),
        no(
            "a whiteout that is cut off",
            Head::new(b'0', ".wh.a").size(600).tail("1").end(),
            "cut off",
        ),
    ]
}
