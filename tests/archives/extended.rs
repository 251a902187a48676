//! PAX headers: of records that are broken, at odds with others, or about other things; and attributes.

use super::case::{Case, no, nos, ok, oks, over};
use super::header::{Head, dir, file, global, hard, pax, raw_pax, record, sym, tar};

pub(super) fn cases() -> Vec<Case> {
    [records(), values(), times(), globals(), pairs(), kept(), kept_where(), sizes()]
        .into_iter()
        .flatten()
        .collect()
}

fn records() -> Vec<Case> {
    let of = |bytes: &[u8]| tar([raw_pax(bytes), file("a", "1")]);
    vec![
        ok("a path", of(b"10 path=b\n"), &["b=1"]),
        ok("zeros before a length", of(b"0012 path=b\n"), &["b=1"]),
        ok("no records", of(b""), &["a=1"]),
        ok(
            "records of others",
            of(&[record("comment", "c"), record("VENDOR.x", "\0")].concat()),
            &["a=1"],
        ),
        ok(
            "the last path wins",
            of(&[record("path", "b"), record("path", "c")].concat()),
            &["c=1"],
        ),
        ok("a new line in a path", of(&record("path", "b\nc")), &["b\\nc=1"]),
        ok("an equals sign in a path", of(&record("path", "b=c")), &["b=c=1"]),
        no("no new line", of(b"10 path=bX"), "not as long as it says"),
        no("a length too short", of(b"8 path=b\n"), "not as long as it says"),
        no("a length too long", of(b"11 path=b\n"), "not as long as it says"),
        no("a length of zero", of(b"0 path=b\n"), "not as long as it says"),
        no("a length within itself", of(b"3 path=b\n"), "not as long as it says"),
        no("a huge length", of(b"18446744073709551615 path=b\n"), "no length"),
        no("a length of 65 bits", of(b"18446744073709551616 a=b\n"), "no length"),
        no("a length of 64 bits", of(b"9999999999999999999 a=b\n"), "not as long as it says"),
        no("a negative length", of(b"-10 path=b\n"), "no length"),
        no("a length with a plus", of(b"+10 path=b\n"), "no length"),
        no("a length in letters", of(b"ten path=b\n"), "no length"),
        no("no length", of(b" path=b\n"), "no length"),
        no("no blank", of(b"9path=bb\n"), "no length"),
        no("no equals sign", of(b"9 path b\n"), "no key"),
        no("no key", of(b"5 =b\n"), "no key"),
        no("a NUL in a path", of(&record("path", "b\0c")), "NUL in a path"),
        no("a NUL in a link", of(&record("linkpath", "b\0c")), "NUL in a path"),
        no("zeros behind the records", of(b"10 path=b\n\0\0\0\0"), "no length"),
        over(
            "records of 2 MiB",
            of(&record("comment", "c".repeat(2 << 20))),
            "an extension header has",
        ),
    ]
}

fn values() -> Vec<Case> {
    let with = |key: &str, value: &str| tar([pax(&[(key, value)]), file("a", "1")]);
    let sized = |size: &str, header: u64, data: &str| {
        tar([
            pax(&[("size", size)]),
            Head::new(b'0', "a").size(header).tail(data).end(),
            file("b", ""),
        ])
    };
    vec![
        ok("a size of more than the header's", sized("3", 0, "123"), &["a=123", "b="]),
        ok("a size of less than the header's", sized("1", 8, "1"), &["a=1", "b="]),
        ok("a size of zero", sized("0", 512, ""), &["a=", "b="]),
        no("a size that is too large for what is there", sized("100000", 1, "1"), "cut off"),
        no("a negative size", sized("-1", 1, "1"), "is not a number"),
        no("a size with a fraction", sized("1.5", 1, "1"), "is not a number"),
        no("a size of 65 bits", sized("18446744073709551616", 1, "1"), "is not a number"),
        no("a size of 64 bits", sized("18446744073709551615", 1, "1"), "out of bounds"),
        no("a size of 63 bits", sized("9223372036854775807", 1, "1"), "too large"),
        no("a size in base 16", sized("0x10", 1, "1"), "is not a number"),
        no("a size with blanks", sized(" 1", 1, "1"), "is not a number"),
        ok("an owner of 32 bits", with("uid", "4294967294"), &["a=1 @4294967294:0"]),
        no("the owner that is nobody", with("uid", "4294967295"), "out of bounds"),
        no("an owner of 33 bits", with("uid", "4294967296"), "out of bounds"),
        no("a group of 33 bits", with("gid", "4294967296"), "out of bounds"),
        no("a negative group", with("gid", "-1"), "is not a number"),
        ok("a name of an owner", with("uname", "root"), &["a=1"]),
        ok(
            "an owner that heals the header's",
            tar([pax(&[("uid", "7")]), Head::new(b'0', "a").field(108, b"garbage\0").end()]),
            &["a= @7:0"],
        ),
        ok(
            "a folder by its path's slash",
            tar([pax(&[("path", "d/")]), Head::new(b'0', "a").mode(0o755).end()]),
            &["d/"],
        ),
        no("a size of a folder", tar([pax(&[("size", "1")]), dir("d")]), "is no file"),
        no("a size of a link", tar([pax(&[("size", "1")]), sym("l", "a")]), "is no file"),
        ok(
            "a long target",
            tar([pax(&[("linkpath", &"t".repeat(200))]), sym("l", "t")]),
            &["l->200 bytes"],
        ),
    ]
}

fn times() -> Vec<Case> {
    let at = |time: &str| tar([pax(&[("mtime", time)]), file("a", "")]);
    vec![
        ok("a whole second", at("5"), &["a= t5"]),
        ok("a fraction", at("5.25"), &["a= t5.250000000"]),
        ok("a fraction of ten digits", at("5.0000000019"), &["a= t5.000000001"]),
        ok("before 1970", at("-5"), &["a= t-5"]),
        ok("a fraction before 1970", at("-0.25"), &["a= t-1.750000000"]),
        ok("a time that ends with a dot", at("5."), &["a= t5"]),
        ok(
            "the first time that there is",
            at("-9223372036854775807.5"),
            &["a= t-2147483648.500000000"],
        ),
        ok("the last time that there is", at("9223372036854775807"), &["a= t15032385535"]),
        no("a time of 64 bits", at("9223372036854775808"), "is not a time"),
        no("no second before the dot", at(".5"), "is not a time"),
        no("two dots", at("1.2.3"), "is not a time"),
        no("an exponent", at("1e9"), "is not a time"),
        no("two signs", at("--1"), "is not a time"),
        no("no number", at("now"), "is not a time"),
        ok("another time", tar([pax(&[("atime", "7"), ("ctime", "x")]), file("a", "")]), &["a="]),
    ]
}

fn globals() -> Vec<Case> {
    let with = |key: &str, value: &str| tar([global(&[(key, value)]), file("a", "1")]);
    vec![
        ok("a global comment", with("comment", "0123456789abcdef"), &["a=1"]),
        ok("a global header alone", tar([global(&[("comment", "c")])]), &[]),
        no("a global path", with("path", "b"), "a global PAX header"),
        no("a global link", with("linkpath", "b"), "a global PAX header"),
        no("a global size", with("size", "0"), "a global PAX header"),
        no("a global attribute", with("SCHILY.xattr.user.a", "1"), "a global PAX header"),
        no("a global sparse map", with("GNU.sparse.map", "0,1"), "a global PAX header"),
        no("a global sparse name", with("GNU.sparse.name", "b"), "global"),
        no("a global sparse version", with("GNU.sparse.minor", "0"), "global"),
        no("a global owner", with("uid", "7"), "global"),
        no("a global group", with("gid", "7"), "global"),
        no("a global time", with("mtime", "7"), "global"),
        no(
            "a global header that is broken",
            tar([Head::new(b'g', "g").data("x").end()]),
            "no length",
        ),
        oks(
            "a global header ends with its layer",
            vec![with("comment", "c"), tar([file("b", "")])],
            &["a=1", "b="],
        ),
    ]
}

fn pairs() -> Vec<Case> {
    vec![
        no(
            "two x",
            tar([pax(&[("path", "b")]), pax(&[("path", "c")]), file("a", "")]),
            "two PAX headers",
        ),
        no(
            "two x about other things",
            tar([pax(&[]), pax(&[("mtime", "1")]), file("a", "")]),
            "two PAX",
        ),
        no(
            "x and X",
            tar([
                pax(&[("path", "b")]),
                Head::new(b'X', "x").data("10 path=c\n").end(),
                file("a", ""),
            ]),
            "two PAX headers",
        ),
        ok("X as x", tar([Head::new(b'X', "x").data("10 path=c\n").end(), file("a", "")]), &["c="]),
        no("x at the end", tar([pax(&[("path", "b")])]), "ends after an extension header"),
        ok(
            "x is for one entry",
            tar([pax(&[("path", "b"), ("mtime", "1")]), file("a", ""), file("c", "")]),
            &["b= t1", "c="],
        ),
        ok(
            "x, then a comment",
            tar([pax(&[("path", "b")]), global(&[("comment", "c")]), file("a", "")]),
            &["b="],
        ),
        nos(
            "x is for one layer",
            vec![[pax(&[("path", "b")])].concat(), tar([file("a", "")])],
            "after an extension",
        ),
    ]
}

/// A file with attributes.
fn with(attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let records: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, value)| record(format!("SCHILY.xattr.{name}"), value))
        .collect();
    [raw_pax(records), file("a", "")].concat()
}

fn kept() -> Vec<Case> {
    let cap = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let shown = format!("a= security.capability={}", cap.escape_ascii());
    vec![
        ok("security.capability", tar([with(&[("security.capability", cap)])]), &[&shown]),
        ok("user.*", tar([with(&[("user.b", b"2"), ("user.a", b"1")])]), &["a= user.a=1 user.b=2"]),
        ok(
            "the order of kernels",
            tar([with(&[
                ("security.capability", b"c"),
                ("user.bb", b"2"),
                ("user.a", b"1"),
                ("user.aaa", b"0"),
            ])]),
            &["a= user.a=1 user.bb=2 user.aaa=0 security.capability=c"],
        ),
        ok(
            "what is dropped",
            tar([with(&[
                ("trusted.overlay.opaque", b"y"),
                ("security.selinux", b"s"),
                ("user.", b"1"),
                ("system.posix_acl_access", b"p"),
                ("trusted.x", b""),
                ("security.ima", b"i"),
                ("user", b"1"),
                ("", b"1"),
                ("USER.a", b"1"),
                ("security.capability.x", b"1"),
            ])]),
            &["a="],
        ),
        ok(
            "an empty value",
            tar([with(&[("user.a", b""), ("user.b", b"1")])]),
            &["a= user.a= user.b=1"],
        ),
        ok("a NUL in a name", tar([with(&[("user.a\0b", b"1")])]), &["a="]),
        ok(
            "a value of bytes",
            tar([with(&[("user.a", b"\0\n=\xff")])]),
            &["a= user.a=\\x00\\n=\\xff"],
        ),
        ok(
            "the last value wins",
            tar([with(&[("user.a", b"1"), ("user.a", b"2")])]),
            &["a= user.a=2"],
        ),
    ]
}

/// Attributes of what is no new file.
fn kept_where() -> Vec<Case> {
    vec![
        ok(
            "attributes of bsdtar",
            tar([
                pax(&[("LIBARCHIVE.xattr.user.a", "MQ"), ("SCHILY.acl.access", "user::rwx")]),
                file("a", ""),
            ]),
            &["a="],
        ),
        ok(
            "attributes of a folder that is named again",
            tar([
                [with(&[])[..0].to_vec(), pax(&[("SCHILY.xattr.user.a", "1")]), dir("d")].concat(),
                dir("d"),
            ]),
            &["d/"],
        ),
        ok(
            "attributes of the root",
            tar([pax(&[("SCHILY.xattr.user.a", "1")]), dir(".")]),
            &["/ user.a=1"],
        ),
        ok(
            "attributes of a link",
            tar([pax(&[("SCHILY.xattr.user.a", "1")]), sym("l", "x")]),
            &["l->x user.a=1"],
        ),
        ok(
            "attributes of a hard link are with the file",
            tar([file("a", ""), pax(&[("SCHILY.xattr.user.a", "1")]), hard("b", "a")]),
            &["a= x2", "b==a"],
        ),
        ok(
            "attributes of a whiteout",
            tar([pax(&[("SCHILY.xattr.user.a", "1")]), file(".wh.a", "")]),
            &[],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let one = |length: usize| tar([with(&[("user.a", &vec![b'v'; length])])]);
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("user.name{index:04}")).collect();
        with(&names.iter().map(|name| (name.as_str(), b"".as_slice())).collect::<Vec<_>>())
    };
    let bright = format!("user.{}", "é".repeat(60));
    let line = format!("a= {}=1", bright.as_bytes().escape_ascii());
    let link = [
        pax(&[("SCHILY.xattr.user.a", &"v".repeat(200)), ("linkpath", &"t".repeat(99))]),
        sym("l", "t"),
    ]
    .concat();
    vec![
        ok("the most that fits into an inode", one(68), &["a= user.a=68 bytes"]),
        ok("one more than fits into an inode", one(69), &["a= user.a=69 bytes"]),
        ok("the most that fits into a block", one(4040), &["a= user.a=4040 bytes"]),
        no("one more than fits into a block", one(4041), "do not fit into a block"),
        no("a value of a megabyte", one(1_000_000), "do not fit into a block"),
        no("many names", tar([many(200)]), "do not fit into a block"),
        ok(
            "as many names as fit",
            tar([[many(120), Vec::new()].concat()]),
            &[&{
                let names = (0..120).map(|index| format!(" user.name{index:04}="));
                format!("a={}", names.collect::<String>())
            }],
        ),
        ok(
            "a name of 255",
            tar([with(&[(&format!("user.{}", "n".repeat(250)), b"1")])]),
            &[&format!("a= user.{}=1", "n".repeat(250))],
        ),
        ok("a name of 256", tar([with(&[(&format!("user.{}", "n".repeat(251)), b"1")])]), &["a="]),
        ok("a name that is not ASCII, in a block", tar([with(&[(&bright, b"1")])]), &[&line]),
        ok("a link with a block of each", tar([link]), &["l->99 bytes user.a=200 bytes"]),
    ]
}
