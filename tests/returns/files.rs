//! Streams of changed files: names, links, kinds, sizes, and bytes that are none.

use super::lab::{Case, Want, sent};
use banger_tree::stream::Sender;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn case(name: &'static str, want: Want, stream: Vec<u8>) -> Case {
    Case {
        name,
        stream,
        bundle: None,
        meanwhile: None,
        want,
        good: &["good", "good/evil", "l/evil", "src/lib.rs", "src/canary", "README/inside"],
    }
}

fn file(s: &mut Sender<Vec<u8>>, name: &[u8]) {
    s.file(name, 0o644, &mut &b"evil"[..]).expect("sends");
}

/// A good file and one of this name.
fn named(name: &'static [u8]) -> Vec<u8> {
    sent(|s| {
        file(s, b"good");
        file(s, name);
    })
}

fn linked(name: &'static [u8], target: &'static [u8]) -> Vec<u8> {
    sent(|s| s.link(name, target).expect("sends"))
}

/// A record by hand: kind, name, and what follows.
fn raw(kind: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("short").to_be_bytes();
    [&[kind][..], &length, name, rest].concat()
}

const MODE: [u8; 4] = [0, 0, 1, 0o244];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // Names that no honest reader of the stream gives on.
    for name in [
        &b""[..],
        b"/etc/cron.d/evil",
        b"//evil",
        b"../evil",
        b"src/../../evil",
        b"..",
        b".",
        b"./evil",
        b"src//evil",
        b"src/",
        b"src/./evil",
        b"evil\0.txt",
        b"src/..",
        b"../../outside/canary",
    ] {
        all.push(case("a name that leads elsewhere", Want::Refused, named(name)));
    }
    // Names that some filesystem takes for the repository's own folder.
    for name in [
        &b".git"[..],
        b".git/config",
        b".git/hooks/post-checkout",
        b".GIT/config",
        b".Git/hooks/pre-commit",
        b".gIT",
        b"src/.git/config",
        b".git./config",
        b".git /config",
        b".git. . /config",
        b"git~1/config",
        b"GIT~1/hooks/x",
        b"git~2",
        b".git::$INDEX_ALLOCATION/config",
        b".git\\config",
        b"a\\..\\.git\\config",
        b".git:x",
        "\u{200c}.git/config".as_bytes(),
        ".g\u{200d}it/config".as_bytes(),
        ".git\u{feff}/config".as_bytes(),
        ".\u{202e}git/config".as_bytes(),
        ".gi\u{206a}t/hooks/x".as_bytes(),
        b".banger-stage-1/journal",
        b".Banger-Stage-x/old-0",
        b".banger-stage-git/HEAD",
    ] {
        all.push(case("a name that is .git somewhere", Want::Without, named(name)));
    }
    let long = vec![b'a'; 256];
    all.push(case("a part that is too long", Want::Refused, sent(|s| file(s, &long))));
    all.push(case(
        "a name that is announced too long",
        Want::Refused,
        [&[b'F', 0xff, 0xff][..], &[b'a'; 100]].concat(),
    ));
    all.extend(links());
    all.extend(streams());
    all
}

fn links() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, target) in [
        (&b"l"[..], &b"/etc/passwd"[..]),
        (b"l", b"../outside/canary"),
        (b"l", b"src/../../outside"),
        (b"src/l", b"../../outside"),
        (b"l", b".git/config"),
        (b"l", b"src/../.git/hooks"),
        (b"l", b".GIT/config"),
        (b"l", b""),
        (b"l", b".."),
        (b"src/l", b"../.."),
        (b"README", b"/etc/passwd"),
    ] {
        all.push(case("a link that leads elsewhere", Want::NotApplied, linked(name, target)));
    }
    all.push(case("a target with a NUL", Want::NotApplied, linked(b"l", b"a\0b")));
    all.push(case(
        "a link, and a file behind it",
        Want::Harmless,
        sent(|s| {
            s.link(b"l", b"../outside").expect("sends");
            file(s, b"l/evil");
        }),
    ));
    all.push(case(
        "a file behind a link that stays beneath",
        Want::Harmless,
        sent(|s| {
            s.link(b"good", b"src").expect("sends");
            file(s, b"good/evil");
        }),
    ));
    all.push(case(
        "a link in place of a folder of the tree",
        Want::NotApplied,
        sent(|s| {
            s.removed(b"src/lib.rs").expect("sends");
            s.link(b"src", b"../outside").expect("sends");
        }),
    ));
    all.push(case(
        "a link in place of a folder, and a file behind it",
        Want::Harmless,
        sent(|s| {
            s.link(b"src", b"../outside").expect("sends");
            file(s, b"src/lib.rs");
            file(s, b"src/canary");
        }),
    ));
    all.push(case("a link to itself", Want::Harmless, linked(b"good", b"good")));
    all.push(case(
        "a link of git's settings",
        Want::Without,
        linked(b".gitmodules", b"../outside/canary"),
    ));
    all.push(case(
        "a link of git's attributes",
        Want::NotApplied,
        linked(b".gitattributes", b"/etc/passwd"),
    ));
    all
}

fn streams() -> Vec<Case> {
    let mut all = vec![
        case("nothing at all", Want::Refused, Vec::new()),
        case("no end", Want::Refused, raw(b'R', b"README", b"")),
        case("an unknown kind", Want::Refused, raw(b'Z', b"x", b"")),
        case("a device", Want::Refused, raw(b'C', b"dev", &MODE)),
        case("permissions out of bounds", Want::Refused, raw(b'F', b"x", &[0xff; 4])),
        case(
            "a piece that is too long",
            Want::Refused,
            raw(b'F', b"x", &[&MODE[..], &[0, 1, 0, 1]].concat()),
        ),
        case(
            "a piece of four gigabytes",
            Want::Refused,
            raw(b'F', b"x", &[&MODE[..], &[0xff, 0xff, 0xff, 0xfe]].concat()),
        ),
        case(
            "a file that the guest could not read",
            Want::Refused,
            raw(b'F', b"x", &[&MODE[..], &[0xff; 4]].concat()),
        ),
        case("a link without a target", Want::Refused, raw(b'L', b"x", b"F\0\x01y")),
        case(
            "a file without its digest",
            Want::Refused,
            raw(b'F', b"x", &[&MODE[..], &[0; 4], &[0; 31]].concat()),
        ),
        case(
            "a removal of what is not there",
            Want::Harmless,
            sent(|s| s.removed(b"never").expect("sends")),
        ),
        case("a removal of a folder", Want::Harmless, sent(|s| s.removed(b"src").expect("sends"))),
        case("a removal of .git", Want::Without, sent(|s| s.removed(b".git").expect("sends"))),
        case(
            "a removal above",
            Want::Refused,
            sent(|s| s.removed(b"../outside/canary").expect("sends")),
        ),
        case(
            "a folder named .git",
            Want::Harmless,
            sent(|s| s.folder(b".git", 0o777).expect("sends")),
        ),
        case("a folder above", Want::Refused, sent(|s| s.folder(b"../x", 0o777).expect("sends"))),
    ];
    all.push(case(
        "the same name twice",
        Want::Without,
        sent(|s| {
            file(s, b"good");
            file(s, b"good");
        }),
    ));
    all.push(case(
        "removed and written",
        Want::Without,
        sent(|s| {
            s.removed(b"src/lib.rs").expect("sends");
            file(s, b"src/lib.rs");
        }),
    ));
    all.push(case(
        "written and removed",
        Want::Without,
        sent(|s| {
            file(s, b"src/lib.rs");
            s.removed(b"src/lib.rs").expect("sends");
        }),
    ));
    all.push(case(
        "a file and a folder of one name",
        Want::Harmless,
        sent(|s| {
            file(s, b"good");
            file(s, b"good/inside");
        }),
    ));
    all.push(case(
        "a folder in place of a file",
        Want::Harmless,
        sent(|s| file(s, b"README/inside")),
    ));
    all.push(case("terminal escapes in a name", Want::Harmless, sent(|s| file(s, b"good\x1b[2J"))));
    all.push(case(
        "setuid",
        Want::Harmless,
        sent(|s| s.file(b"good", 0o7777, &mut &b"x"[..]).map(drop).expect("sends")),
    ));
    all.push(case(
        "more files than may come",
        Want::Refused,
        sent(|s| {
            for number in 0..100_001 {
                s.removed(format!("x{number}").as_bytes()).expect("sends");
            }
        }),
    ));
    all.push(case(
        "a file larger than may come",
        Want::Refused,
        sent(|s| {
            let mut zeros = std::io::Read::take(std::io::repeat(0), (256 << 20) + 1);
            s.file(b"good", 0o644, &mut zeros).expect("sends");
        }),
    ));
    all.push(case(
        "what it says it left out, with escapes",
        Want::Without,
        sent(|s| {
            s.left_out(b"\x1b]52;c;x\x07", "\x1b[31mwhy\nnot").expect("sends");
        }),
    ));
    for case in &mut all {
        if case.name == "terminal escapes in a name" {
            case.good = &["good\x1b[2J"];
        }
        if case.name == "a file and a folder of one name" {
            case.good = &["good", "good/inside"];
        }
    }
    all
}

/// The host moves between what came back and its being applied.
pub(super) fn moving() -> Vec<Case> {
    let moved = |name, stream, meanwhile: fn(&Path, &Path), want| Case {
        meanwhile: Some(meanwhile),
        ..case(name, want, stream)
    };
    let lib = || sent(|s| file(s, b"src/lib.rs"));
    vec![
        moved(
            "the file changed",
            lib(),
            |repo, _| fs::write(repo.join("src/lib.rs"), "mine").expect("writes"),
            Want::NotApplied,
        ),
        moved(
            "the file changed to equal length",
            lib(),
            |repo, _| fs::write(repo.join("src/lib.rs"), "LIB\n").expect("writes"),
            Want::NotApplied,
        ),
        moved(
            "the file is gone",
            lib(),
            |repo, _| fs::remove_file(repo.join("src/lib.rs")).expect("removes"),
            Want::NotApplied,
        ),
        moved(
            "the file is a link now",
            lib(),
            |repo, outside| {
                fs::remove_file(repo.join("src/lib.rs")).expect("removes");
                symlink(outside.join("canary"), repo.join("src/lib.rs")).expect("links");
            },
            Want::NotApplied,
        ),
        moved(
            "the file is a folder now",
            lib(),
            |repo, _| {
                fs::remove_file(repo.join("src/lib.rs")).expect("removes");
                fs::create_dir(repo.join("src/lib.rs")).expect("makes");
            },
            Want::NotApplied,
        ),
        moved(
            "its folder leads outside now",
            lib(),
            |repo, outside| {
                fs::remove_dir_all(repo.join("src")).expect("removes");
                symlink(outside, repo.join("src")).expect("links");
            },
            Want::NotApplied,
        ),
        moved(
            "the folder of a new file leads outside now",
            sent(|s| file(s, b"new/evil")),
            |repo, outside| {
                symlink(outside, repo.join("new")).expect("links");
            },
            Want::NotApplied,
        ),
        moved(
            "another file is in place of a new one",
            sent(|s| file(s, b"new")),
            |repo, _| fs::write(repo.join("new"), "mine").expect("writes"),
            Want::NotApplied,
        ),
        moved(
            "a link is in place of a new one",
            sent(|s| file(s, b"new")),
            |repo, outside| {
                symlink(outside.join("made"), repo.join("new")).expect("links");
            },
            Want::NotApplied,
        ),
        moved(
            "a removal of what changed",
            sent(|s| s.removed(b"README").expect("sends")),
            |repo, _| {
                fs::write(repo.join("README"), "mine").expect("writes");
            },
            Want::NotApplied,
        ),
        moved(
            "a removal in a folder that leads outside",
            sent(|s| s.removed(b"src/lib.rs").expect("sends")),
            |repo, outside| {
                fs::remove_dir_all(repo.join("src")).expect("removes");
                symlink(outside, repo.join("src")).expect("links");
            },
            Want::NotApplied,
        ),
        moved(
            "a stage that somebody forged",
            sent(|s| file(s, b"new")),
            |repo, _| {
                let stage = repo.join(".banger-stage-1");
                fs::create_dir(&stage).expect("makes");
                fs::write(stage.join("old-0"), "evil").expect("writes");
                let mut journal = Sender::new(Vec::new());
                journal.link(b".git/config", b"put").expect("sends");
                fs::write(stage.join("journal"), journal.end().expect("ends")).expect("writes");
            },
            Want::Harmless,
        ),
    ]
}
