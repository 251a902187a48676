//! Names and paths: out of the root, through links, too long, too deep, odd.

use super::case::{Case, no, ok, oks, over};
use super::header::{Head, dir, fifo, file, hard, long, pax, sym, tar};

pub(super) fn cases() -> Vec<Case> {
    [dots(), parents(), chains(), roots(), lengths(), odd()].into_iter().flatten().collect()
}

fn dots() -> Vec<Case> {
    vec![
        ok("parent of the root", tar([file("../x", "1")]), &["x=1"]),
        ok("many parents", tar([file("../../../../etc/x", "1")]), &["etc/", "etc/x=1"]),
        ok("absolute", tar([file("/etc/x", "1")]), &["etc/", "etc/x=1"]),
        ok("absolute, then up", tar([file("/../../x", "1")]), &["x=1"]),
        ok("two slashes", tar([file("//a//x", "1")]), &["a/", "a/x=1"]),
        ok("dots within", tar([file("a/./b/../x", "1")]), &["a/", "a/x=1"]),
        ok("up from what is not there", tar([file("a/../x", "1")]), &["x=1"]),
        ok(
            "up from a link is by letters",
            tar([dir("a/b"), sym("l", "a/b"), file("l/../x", "1")]),
            &["a/", "a/b/", "l->a/b", "x=1"],
        ),
        ok("three dots are a name", tar([file(".../x", "1")]), &[".../", ".../x=1"]),
        ok("a long way up", tar([long(b'L', "../".repeat(1000) + "x"), file("y", "1")]), &["x=1"]),
        ok(
            "a PAX path out of the root",
            tar([pax(&[("path", "/../../x")]), file("y", "1")]),
            &["x=1"],
        ),
    ]
}

fn parents() -> Vec<Case> {
    vec![
        ok(
            "through an absolute link",
            tar([sym("l", "/etc"), file("l/x", "1")]),
            &["etc/", "etc/x=1", "l->/etc"],
        ),
        ok(
            "through a relative link",
            tar([dir("a/b"), sym("a/l", "b"), file("a/l/x", "1")]),
            &["a/", "a/b/", "a/b/x=1", "a/l->b"],
        ),
        ok(
            "through a link out of the root",
            tar([sym("l", "../../../../tmp"), file("l/x", "1")]),
            &["l->../../../../tmp", "tmp/", "tmp/x=1"],
        ),
        ok(
            "through an absolute link with dots",
            tar([sym("l", "/../../tmp/./"), file("l/x", "1")]),
            &["l->/../../tmp/./", "tmp/", "tmp/x=1"],
        ),
        ok("through a link to the root", tar([sym("l", "/"), file("l/x", "1")]), &["l->/", "x=1"]),
        ok(
            "through a link to itself's folder",
            tar([sym("a/l", "."), file("a/l/l/x", "1")]),
            &["a/", "a/l->.", "a/x=1"],
        ),
        oks(
            "through a link of the layer below",
            vec![tar([dir("usr/lib"), sym("lib", "usr/lib")]), tar([file("lib/x", "1")])],
            &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/x=1"],
        ),
        oks(
            "a folder replaces a link",
            vec![
                tar([dir("usr/lib"), sym("lib", "usr/lib")]),
                tar([dir("lib"), file("lib/x", "")]),
            ],
            &["lib/", "lib/x=", "usr/", "usr/lib/"],
        ),
        ok(
            "a link is replaced, not followed",
            tar([file("a", "old"), sym("l", "a"), file("l", "new")]),
            &["a=old", "l=new"],
        ),
        no("through a file", tar([file("a", "1"), file("a/x", "1")]), "is in the way"),
        no("through a pipe", tar([fifo("a"), file("a/x", "1")]), "is in the way"),
        no(
            "through a link to a file",
            tar([file("a", "1"), sym("l", "a"), file("l/x", "1")]),
            "is in the way",
        ),
        ok(
            "a dangling chain makes folders",
            tar([sym("l", "m"), sym("m", "n/o"), file("l/x", "")]),
            &["l->m", "m->n/o", "n/", "n/o/", "n/o/x="],
        ),
    ]
}

/// Links that lead to each other: the last of them to a folder.
fn chain(links: usize) -> Vec<u8> {
    let mut bytes = dir("end");
    for index in 0..links {
        let target = if index == 0 { "end".into() } else { format!("l{}", index - 1) };
        bytes.extend(sym(format!("l{index}"), target));
    }
    bytes.extend(file(format!("l{}/x", links - 1), "1"));
    bytes
}

fn chains() -> Vec<Case> {
    let mut forty = vec!["end/".to_string(), "end/x=1".to_string()];
    let mut names: Vec<_> = (0..40).map(|index| format!("l{index}")).collect();
    names.sort();
    forty.extend(names.into_iter().map(|name| match name[1..].parse::<usize>() {
        Ok(0) | Err(_) => format!("{name}->end"),
        Ok(index) => format!("{name}->l{}", index - 1),
    }));
    let forty: Vec<&str> = forty.iter().map(String::as_str).collect();
    let dots = "./".repeat(2047) + "e";
    let long_sym = |name: &str, to: &str| [long(b'K', to), sym(name, "z")].concat();
    vec![
        ok("forty links", tar([chain(40)]), &forty),
        no("forty-one links", tar([chain(41)]), "too many links"),
        no("a link to itself", tar([sym("l", "l"), file("l/x", "1")]), "too many links"),
        no("two links in a ring", tar([sym("a", "b"), sym("b", "a"), file("a/x", "")]), "too many"),
        no("a link below itself", tar([sym("a", "a/b"), file("a/x", "")]), "too many links"),
        ok(
            "a ring that nothing goes through",
            tar([sym("a", "b"), sym("b", "a")]),
            &["a->b", "b->a"],
        ),
        ok(
            "a long way of dots",
            tar([long_sym("l", &dots), file("l/x", "1")]),
            &["e/", "e/x=1", "l->4095 bytes"],
        ),
        no(
            "a long way of dots, again and again",
            tar([
                long_sym("l", &dots),
                long_sym("e", &("./".repeat(2047) + "f")),
                long_sym("f", &("./".repeat(2047) + "g")),
                file("l/x", "1"),
            ]),
            "too",
        ),
    ]
}

fn roots() -> Vec<Case> {
    let root = |path: &str| Head::new(b'5', path).mode(0o700).owner(1, 2).time(3).end();
    vec![
        ok("the root as ./", tar([root("./"), file("./a", "")]), &["/ 700 @1:2 t3", "a="]),
        ok("the root as /", tar([root("/")]), &["/ 700 @1:2 t3"]),
        ok("the root as .", tar([root(".")]), &["/ 700 @1:2 t3"]),
        ok("the root as a/..", tar([root("a/..")]), &["/ 700 @1:2 t3"]),
        oks("the last root wins", vec![tar([root(".")]), tar([dir("./")])], &[]),
        no("the root as a file", tar([file(".", "1")]), "takes the place of the root"),
        no("the root as a link", tar([sym("/", "a")]), "takes the place of the root"),
        no("the root as a hard link", tar([file("a", ""), hard("./", "a")]), "the root"),
        no("the root as a pipe", tar([fifo("..")]), "takes the place of the root"),
        no("no name at all", tar([file("", "1")]), "an entry has no name"),
        ok(
            "lost+found as a folder",
            tar([file("lost+found/x", "1")]),
            &["lost+found/", "lost+found/x=1"],
        ),
        no("lost+found as a file", tar([file("lost+found", "1")]), "lost+found is no folder"),
        no("lost+found as a link", tar([sym("lost+found", "a"), dir("a")]), "lost+found"),
        oks(
            "lost+found as a file that is hidden",
            vec![tar([file("lost+found", "1")]), tar([file(".wh.lost+found", "")])],
            &[],
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let name = |length: usize| "n".repeat(length);
    let long_path = |length: usize| {
        let mut path = "./".repeat(length / 2 - 1) + "a";
        while path.len() < length {
            path.insert(0, '/');
        }
        path
    };
    let at = |path: &str| tar([long(b'L', path), file("short", "1")]);
    let by_pax = |path: &str| tar([pax(&[("path", path)]), file("short", "1")]);
    let deep = |depth: usize| "d/".repeat(depth - 1) + "f";
    let mut all_deep: Vec<String> = (1..256).map(|depth| "d/".repeat(depth)).collect();
    all_deep.push(deep(256) + "=1");
    let all_deep: Vec<&str> = all_deep.iter().map(String::as_str).collect();
    let longest = name(255) + "=1";
    vec![
        ok("a path of 4096", at(&long_path(4096)), &["a=1"]),
        over("a path of 4097", at(&long_path(4097)), "a path is longer than 4096"),
        over("a PAX path of 4097", by_pax(&long_path(4097)), "a path is longer than 4096"),
        ok("a name of 255", at(&name(255)), &[&longest]),
        over("a name of 256", at(&name(256)), "is longer than 255 bytes"),
        over("a folder's name of 256", at(&(name(256) + "/x")), "is longer than 255 bytes"),
        ok("256 deep", at(&deep(256)), &all_deep),
        over("257 deep", at(&deep(257)), "deep"),
        over(
            "deep by way of a link",
            tar([
                [long(b'L', "d/".repeat(200)), dir("x")].concat(),
                [long(b'K', "d/".repeat(200)), sym("l", "z")].concat(),
                [long(b'L', "l/".to_string() + &deep(100)), file("x", "1")].concat(),
            ]),
            "deep",
        ),
        over(
            "a link's name of 256",
            tar([[long(b'K', name(256)), sym("l", "z")].concat(), file("l/x", "1")]),
            "is longer than 255 bytes",
        ),
        ok("a path of 100", tar([file(name(100), "1")]), &[&(name(100) + "=1")]),
    ]
}

fn odd() -> Vec<Case> {
    vec![
        ok("not UTF-8", tar([file(b"a\xff\xfe", "1")]), &["a\\xff\\xfe=1"]),
        ok("a new line", tar([file("a\nb", "1")]), &["a\\nb=1"]),
        ok("a backslash", tar([file("a\\..\\b", "1")]), &["a\\\\..\\\\b=1"]),
        ok("an escape", tar([file("\x1b[2J", "1")]), &["\\x1b[2J=1"]),
        ok("a blank", tar([file(" ", "1")]), &[" =1"]),
        ok("a dash", tar([file("-rf", "1")]), &["-rf=1"]),
        ok("letters in two sizes", tar([file("a", "1"), file("A", "2")]), &["A=2", "a=1"]),
        ok("bytes behind the name's end", tar([file("a\0b/../..", "1")]), &["a=1"]),
        ok("a drive", tar([file("C:\\x", "1")]), &["C:\\\\x=1"]),
        ok("a slash at the end of a link", tar([sym("l/", "a")]), &["l->a"]),
        ok("an old folder", tar([Head::new(0, "a/").v7().mode(0o755).end()]), &["a/"]),
        no("an old folder with bytes", tar([Head::new(0, "a/").v7().data("1").end()]), "no file"),
        no("a contiguous file with a slash", tar([Head::new(b'7', "a/").data("1").end()]), "a/"),
        ok("a contiguous file", tar([Head::new(b'7', "a").data("1").end()]), &["a=1"]),
    ]
}
