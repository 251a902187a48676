//! Links, hard and soft, and one kind of entry in place of another.

use super::case::{Case, no, nos, ok, oks};
use super::header::{Head, blk, chr, dir, fifo, file, hard, long, pax, sym, tar};

pub(super) fn cases() -> Vec<Case> {
    [hard_links(), hard_layers(), hard_odd(), targets(), replaced(), duplicates(), devices()]
        .into_iter()
        .flatten()
        .collect()
}

fn hard_links() -> Vec<Case> {
    vec![
        ok("two names", tar([file("a", "1"), hard("b", "a")]), &["a=1 x2", "b==a"]),
        ok(
            "three names",
            tar([file("b", "1"), hard("c", "b"), hard("a", "c")]),
            &["a=1 x3", "b==a", "c==a"],
        ),
        ok(
            "a link target with dots",
            tar([file("a", "1"), hard("b", "../x/../a")]),
            &["a=1 x2", "b==a"],
        ),
        ok("an absolute hard link", tar([file("a", "1"), hard("b", "/a")]), &["a=1 x2", "b==a"]),
        ok(
            "a hard link to a link",
            tar([sym("a", "nowhere"), hard("b", "a")]),
            &["a->nowhere x2", "b==a"],
        ),
        ok("a hard link to a pipe", tar([fifo("a"), hard("b", "a")]), &["a| x2", "b==a"]),
        ok(
            "a hard link through a link",
            tar([file("d/a", "1"), sym("l", "d"), hard("b", "l/a")]),
            &["b=1 x2", "d/", "d/a==b", "l->d"],
        ),
        no("a hard link to nothing", tar([hard("b", "a")]), "which is not there"),
        no("a hard link to what comes later", tar([hard("b", "a"), file("a", "")]), "not there"),
        no("a hard link without a target", tar([hard("b", "")]), "which is not there"),
        no("a hard link to the root", tar([hard("b", "/")]), "which is not there"),
        no("a hard link out of the root", tar([hard("b", "../../etc/passwd")]), "not there"),
        no("a hard link to a folder", tar([dir("a"), hard("b", "a")]), "linked to a folder"),
        no("a hard link to a new self", tar([hard("a", "a")]), "which is not there"),
        ok("a hard link to itself", tar([file("a", "1"), hard("a", "a")]), &["a=1"]),
        ok(
            "a hard link twice",
            tar([file("a", "1"), hard("b", "a"), hard("b", "a")]),
            &["a=1 x2", "b==a"],
        ),
        no("a hard link through a file", tar([file("a", "1"), hard("b", "a/c")]), "not there"),
        no("a hard link in a ring", tar([sym("r", "r"), hard("b", "r/c")]), "too many links"),
        no("a hard link in place of its folder", tar([file("d/f", "1"), hard("d", "d/f")]), "d"),
        no(
            "a hard link in place of a folder above",
            tar([file("d/e/f", "1"), file("d/e/g", "2"), hard("d", "d/e/f")]),
            "d",
        ),
        ok(
            "a hard link in place of a folder with the other name",
            tar([file("d/f", "1"), hard("g", "d/f"), hard("d", "g")]),
            &["d=1 x2", "g==d"],
        ),
    ]
}

fn hard_layers() -> Vec<Case> {
    let lower = || tar([file("a", "1"), file("d/b", "2")]);
    vec![
        oks(
            "a hard link to the layer below",
            vec![lower(), tar([hard("c", "d/b")])],
            &["a=1", "c=2 x2", "d/", "d/b==c"],
        ),
        oks(
            "the other name is hidden",
            vec![lower(), tar([hard("c", "a"), file(".wh.a", "")])],
            &["c=1", "d/", "d/b=2"],
        ),
        nos(
            "a hard link to what is hidden",
            vec![lower(), tar([file(".wh.a", ""), hard("c", "a")])],
            "which is not there",
        ),
        oks(
            "the other name is replaced",
            vec![lower(), tar([hard("c", "a"), file("a", "3")])],
            &["a=3", "c=1", "d/", "d/b=2"],
        ),
        oks(
            "a hard link to itself is of its layer",
            vec![lower(), tar([hard("a", "a"), file(".wh.a", "")])],
            &["a=1", "d/", "d/b=2"],
        ),
        oks(
            "a name of two goes",
            vec![tar([file("a", "1"), hard("b", "a")]), tar([file(".wh.b", "")])],
            &["a=1"],
        ),
    ]
}

fn hard_odd() -> Vec<Case> {
    let sized = |size: u64| Head::new(b'1', "b").link("a").size(size).end();
    vec![
        ok(
            "a hard link that says a size",
            tar([file("a", "12345"), sized(5)]),
            &["a=12345 x2", "b==a"],
        ),
        no(
            "a hard link with bytes",
            tar([file("a", "12345"), Head::new(b'1', "b").link("a").data("12345").end()]),
            "checksum",
        ),
        no(
            "a hard link with bytes, by PAX",
            tar([file("a", "1"), pax(&[("mtime", "1")]), sized(512), file("c", "1")]),
            "b",
        ),
        ok(
            "a hard link by long names",
            tar([file("a", "1"), long(b'L', "b"), long(b'K', "a"), hard("x", "y")]),
            &["a=1 x2", "b==a"],
        ),
        ok(
            "a hard link by PAX",
            tar([file("a", "1"), pax(&[("linkpath", "a"), ("path", "b")]), hard("x", "y")]),
            &["a=1 x2", "b==a"],
        ),
    ]
}

fn targets() -> Vec<Case> {
    let to = |length: usize| tar([long(b'K', "t".repeat(length)), sym("l", "x")]);
    vec![
        ok("a target of 59", to(59), &[&format!("l->{}", "t".repeat(59))]),
        ok("a target of 60", to(60), &[&format!("l->{}", "t".repeat(60))]),
        ok("a target of 61", to(61), &["l->61 bytes"]),
        ok("a target of 4095", to(4095), &["l->4095 bytes"]),
        no("a target of 4096", to(4096), "further than 4095 bytes"),
        no("no target", tar([sym("l", "")]), "leads to nothing"),
        ok("a target that is not UTF-8", tar([sym("l", b"\xff\n")]), &["l->\\xff\\n"]),
        no("a link with bytes", tar([Head::new(b'2', "l").link("a").data("1").end()]), "no file"),
        no("a pipe with bytes", tar([Head::new(b'6', "p").data("1").end()]), "is no file"),
        no("a folder with bytes", tar([Head::new(b'5', "d").data("1").end()]), "is no file"),
    ]
}

/// Every kind in place of every kind, in one layer and in two.
fn replaced() -> Vec<Case> {
    type One = (&'static str, fn() -> Vec<u8>, &'static [&'static str]);
    let kinds: [One; 6] = [
        ("file", || file("x", "1"), &["x=1"]),
        ("folder", || [dir("x"), file("x/in", "")].concat(), &["x/", "x/in="]),
        ("symlink", || sym("x", "nowhere"), &["x->nowhere"]),
        ("pipe", || fifo("x"), &["x|"]),
        ("device", || chr("x", 1, 3), &["x:1,3"]),
        ("hard link", || hard("x", "a"), &["a=0 x2", "x==a"]),
    ];
    let mut all = Vec::new();
    for (below, lower, _) in &kinds {
        for (above, upper, lines) in &kinds {
            let mut lines = lines.to_vec();
            if !lines[0].starts_with('a') {
                lines.insert(0, "a=0");
            }
            let name = format!("{above} in place of {below}").leak();
            let one = tar([file("a", "0"), lower(), upper()]);
            let two = vec![tar([file("a", "0"), lower()]), tar([upper()])];
            all.push(ok(name, one, &lines));
            all.push(oks(format!("{name}, a layer above").leak(), two, &lines));
        }
    }
    all
}

fn duplicates() -> Vec<Case> {
    vec![
        ok("the last file wins", tar([file("a", "1"), file("a", "2"), file("./a", "3")]), &["a=3"]),
        ok(
            "the last folder wins",
            tar([dir("d"), file("d/x", "1"), Head::new(b'5', "d/").mode(0o700).owner(1, 1).end()]),
            &["d/ 700 @1:1", "d/x=1"],
        ),
        ok(
            "a folder that is named late",
            tar([file("d/x", "1"), Head::new(b'5', "d").mode(0o711).time(9).end()]),
            &["d/ 711 t9", "d/x=1"],
        ),
        ok(
            "one path, two ways to write it",
            tar([file("d/a", "1"), file("d/../d/./a", "2")]),
            &["d/", "d/a=2"],
        ),
        ok(
            "large files that are replaced",
            tar([file("a", vec![1; 100_000]), file("a", vec![2; 50_000]), file("a", "3")]),
            &["a=3"],
        ),
        ok(
            "all bits of a mode",
            tar([
                Head::new(b'0', "a").mode(0o107_777).end(),
                Head::new(b'5', "d").mode(0o1777).end(),
            ]),
            &["a= 7777", "d/ 1777"],
        ),
    ]
}

fn devices() -> Vec<Case> {
    vec![
        ok(
            "devices that are allowed",
            tar([
                chr("null", 1, 3),
                chr("zero", 1, 5),
                chr("full", 1, 7),
                chr("random", 1, 8),
                chr("urandom", 1, 9),
                chr("tty", 5, 0),
                chr("console", 5, 1),
                chr("ptmx", 5, 2),
            ]),
            &[
                "console:5,1",
                "full:1,7",
                "null:1,3",
                "ptmx:5,2",
                "random:1,8",
                "tty:5,0",
                "urandom:1,9",
                "zero:1,5",
            ],
        ),
        ok(
            "memory is left out",
            tar([chr("mem", 1, 1), chr("kmem", 1, 2), file("a", "")]),
            &["a="],
        ),
        ok("disks are left out", tar([blk("sda", 8, 0), blk("null", 1, 3)]), &[]),
        ok("a device 0:0 is left out", tar([chr("x", 0, 0)]), &[]),
        ok("numbers that are cut off", tar([chr("x", 0o1000 + 1, 3), chr("y", 1, 0o400_003)]), &[]),
        oks(
            "a device takes the place of a file",
            vec![tar([file("x", "1")]), tar([blk("x", 8, 0)])],
            &[],
        ),
        oks(
            "a device 0:0 takes the place of a folder",
            vec![tar([file("x/y", "1"), file("a", "1")]), tar([chr("x", 0, 0)])],
            &["a=1"],
        ),
        ok("a device takes the place of a link", tar([sym("x", "a"), chr("x", 7, 7)]), &[]),
        no(
            "a device with bytes",
            tar([Head::new(b'3', "x").device(1, 3).data("1").end()]),
            "no file",
        ),
        no("a hard link to what is left out", tar([blk("x", 8, 0), hard("y", "x")]), "not there"),
        ok("a device in a folder", tar([chr("dev/x", 9, 9)]), &["dev/"]),
    ]
}
