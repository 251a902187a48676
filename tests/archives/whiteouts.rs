//! Whiteouts and opaque folders: they hide what is in layers below, in whatever order they come.

use super::case::{Case, no, nos, oks};
use super::header::{Head, dir, fifo, file, hard, sym, tar};

const OPAQUE: &str = ".wh..wh..opq";

pub(super) fn cases() -> Vec<Case> {
    [plain(), order(), opaque(), through(), odd(), reserved()].into_iter().flatten().collect()
}

fn lower() -> Vec<u8> {
    tar([file("a", "1"), file("d/b", "2"), file("d/e/c", "3")])
}

fn on(name: &'static str, upper: Vec<u8>, lines: &[&str]) -> Case {
    oks(name, vec![lower(), upper], lines)
}

fn plain() -> Vec<Case> {
    vec![
        on("a file", tar([file("d/.wh.b", "")]), &["a=1", "d/", "d/e/", "d/e/c=3"]),
        on("a folder", tar([file(".wh.d", "")]), &["a=1"]),
        on("children of the root", tar([file(".wh.a", ""), file("./.wh.d", "")]), &[]),
        on("an absolute path", tar([file("/.wh.a", "")]), &["d/", "d/b=2", "d/e/", "d/e/c=3"]),
        on("from above the root", tar([file("../.wh.d", "")]), &["a=1"]),
        on(
            "what is not there",
            tar([file(".wh.x", ""), file("x/y/.wh.z", "")]),
            &["a=1", "d/", "d/b=2", "d/e/", "d/e/c=3"],
        ),
        on("below a file", tar([file("a/.wh.z", "")]), &["a=1", "d/", "d/b=2", "d/e/", "d/e/c=3"]),
        on("twice", tar([file(".wh.d", ""), file(".wh.d", "")]), &["a=1"]),
        oks("in the lowest layer", vec![tar([file("x", "1"), file(".wh.x", "")])], &["x=1"]),
        oks(
            "and back again",
            vec![lower(), tar([file(".wh.d", "")]), tar([file("d/n", "4")])],
            &["a=1", "d/", "d/n=4"],
        ),
        oks(
            "two layers below",
            vec![lower(), tar([file("n", "")]), tar([file(".wh.d", "")])],
            &["a=1", "n="],
        ),
    ]
}

fn order() -> Vec<Case> {
    let meta = || Head::new(b'5', "d").mode(0o700).owner(5, 5).end();
    let lower = || vec![tar([meta(), file("d/b", "2"), file("d/e/c", "3")])];
    let two = |upper: Vec<u8>| [lower(), vec![upper]].concat();
    let wh = |path: &str| file(path, "");
    vec![
        oks(
            "a new file after it",
            two(tar([wh("d/.wh.b"), file("d/b", "n"), wh("d/.wh.e")])),
            &["d/ 700 @5:5", "d/b=n"],
        ),
        oks(
            "a new file before it",
            two(tar([file("d/b", "n"), wh("d/.wh.b"), wh("d/.wh.e")])),
            &["d/ 700 @5:5", "d/b=n"],
        ),
        oks(
            "a new folder after it",
            two(tar([wh(".wh.d"), dir("d"), file("d/n", "")])),
            &["d/", "d/n="],
        ),
        oks(
            "a new folder before it",
            two(tar([dir("d"), file("d/n", ""), wh(".wh.d")])),
            &["d/", "d/n="],
        ),
        oks(
            "a new folder around it",
            two(tar([file("d/n", ""), wh(".wh.d"), dir("d")])),
            &["d/", "d/n="],
        ),
        oks("a file below, before it", two(tar([file("d/n", ""), wh(".wh.d")])), &["d/", "d/n="]),
        oks("a file below, after it", two(tar([wh(".wh.d"), file("d/n", "")])), &["d/", "d/n="]),
        oks(
            "deep below, before it",
            two(tar([file("d/e/n", ""), wh(".wh.d")])),
            &["d/", "d/e/", "d/e/n="],
        ),
        oks("another kind before it", two(tar([fifo("d"), wh(".wh.d")])), &["d|"]),
        oks("another kind after it", two(tar([wh(".wh.d"), fifo("d")])), &["d|"]),
        oks(
            "a link before it",
            two(tar([sym("d/b", "x"), wh("d/.wh.b"), wh("d/.wh.e")])),
            &["d/ 700 @5:5", "d/b->x"],
        ),
    ]
}

fn opaque() -> Vec<Case> {
    let opq = || file(format!("d/{OPAQUE}"), "");
    let meta = || Head::new(b'5', "d").mode(0o700).end();
    vec![
        on("opaque before", tar([opq(), file("d/n", "")]), &["a=1", "d/", "d/n="]),
        on("opaque after", tar([file("d/n", ""), opq()]), &["a=1", "d/", "d/n="]),
        on(
            "opaque, and the folder again",
            tar([meta(), opq(), file("d/n", "")]),
            &["a=1", "d/ 700", "d/n="],
        ),
        on("opaque, then the folder", tar([opq(), meta()]), &["a=1", "d/ 700"]),
        on(
            "opaque over a new file of the same name",
            tar([file("d/b", "n"), opq()]),
            &["a=1", "d/", "d/b=n"],
        ),
        on(
            "opaque keeps deep ones",
            tar([file("d/e/n", ""), opq()]),
            &["a=1", "d/", "d/e/", "d/e/n="],
        ),
        on("opaque twice", tar([opq(), file("d/n", ""), opq()]), &["a=1", "d/", "d/n="]),
        on("an opaque root", tar([file(OPAQUE, ""), file("n", "")]), &["n="]),
        on(
            "opaque and not there",
            tar([file(format!("x/{OPAQUE}"), "")]),
            &["a=1", "d/", "d/b=2", "d/e/", "d/e/c=3"],
        ),
        on("opaque keeps hard links", tar([hard("d/n", "a"), opq()]), &["a=1 x2", "d/", "d/n==a"]),
        oks(
            "opaque, one layer later",
            vec![lower(), tar([opq(), file("d/n", "")]), tar([opq(), file("d/m", "")])],
            &["a=1", "d/", "d/m="],
        ),
    ]
}

fn through() -> Vec<Case> {
    let linked = || tar([file("d/b", "2"), sym("l", "d"), sym("out", "../../d"), sym("r", "r")]);
    let rest = ["l->d", "out->../../d", "r->r"];
    let mut gone = vec!["d/"];
    gone.extend(rest);
    vec![
        oks("through a link", vec![linked(), tar([file("l/.wh.b", "")])], &gone),
        oks("through a link out of the root", vec![linked(), tar([file("out/.wh.b", "")])], &gone),
        oks("opaque through a link", vec![linked(), tar([file(format!("l/{OPAQUE}"), "")])], &gone),
        oks(
            "a link itself",
            vec![linked(), tar([file(".wh.l", ""), file(".wh.out", ""), file(".wh.r", "")])],
            &["d/", "d/b=2"],
        ),
        nos("through a ring", vec![linked(), tar([file("r/.wh.b", "")])], "too many links"),
    ]
}

fn odd() -> Vec<Case> {
    let wh = |kind: u8| Head::new(kind, "d/.wh.b");
    let gone = ["a=1", "d/", "d/e/", "d/e/c=3"];
    vec![
        no(".wh. alone", tar([file(".wh.", "")]), "hides nothing"),
        no(".wh.. alone", tar([file("d/.wh..", "")]), "hides nothing"),
        no(".wh... alone", tar([file("d/.wh...", "")]), "hides nothing"),
        on(
            "a whiteout of three dots",
            tar([file("d/.wh....", "")]),
            &["a=1", "d/", "d/b=2", "d/e/", "d/e/c=3"],
        ),
        on("a whiteout with bytes", tar([wh(b'0').data("12345").end()]), &gone),
        on("a whiteout as a folder", tar([wh(b'5').end()]), &gone),
        on("a whiteout as a link", tar([wh(b'2').link("x").end()]), &gone),
        on("a whiteout as a hard link", tar([wh(b'1').link("x").end()]), &gone),
        on("a whiteout as a device", tar([wh(b'3').device(0, 0).end()]), &gone),
        on("a whiteout with a slash", tar([file("d/.wh.b/", "")]), &gone),
        on(
            "a name that only begins alike",
            tar([file("d/.whb", "")]),
            &["a=1", "d/", "d/.whb=", "d/b=2", "d/e/", "d/e/c=3"],
        ),
        on(
            "a name in capitals",
            tar([file("d/.WH.b", "")]),
            &["a=1", "d/", "d/.WH.b=", "d/b=2", "d/e/", "d/e/c=3"],
        ),
    ]
}

/// Names that AUFS kept for itself: they are no files of an image, and below a whiteout nothing can be.
fn reserved() -> Vec<Case> {
    let all = ["a=1", "d/", "d/b=2", "d/e/", "d/e/c=3"];
    vec![
        on(".wh..wh.plnk", tar([dir(".wh..wh.plnk"), dir(".wh..wh.orph")]), &all),
        on(".wh..wh.aufs", tar([file(".wh..wh.aufs", "")]), &all),
        on("a file in .wh..wh.plnk", tar([file(".wh..wh.plnk/1.2", "5")]), &all),
        no("a file in a whiteout", tar([file(".wh.x/y", "1")]), ".wh.x"),
        no("a whiteout in a whiteout", tar([file("d/.wh.x/.wh.y", "1")]), ".wh.x"),
    ]
}
