use super::*;
use crate::stream::{Limits, Sender};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const OURS: Rules = Rules { links: false, force: false, hostile: true };

fn streamed(build: impl FnOnce(&mut Sender<Vec<u8>>)) -> Vec<u8> {
    let mut sender = Sender::new(Vec::new());
    build(&mut sender);
    sender.end().expect("ends")
}

fn taken(folder: &Path, bytes: &[u8], rules: Rules) -> Result<Taken, StageError> {
    let root = Beneath::open(folder).expect("opens");
    take(&mut Receiver::new(bytes, Limits::RETURN), &root, rules, None, None, None)
}

/// Every name below a folder, with its content.
fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("reads").flatten() {
            let meta = entry.metadata().expect("there");
            let name = entry.path().strip_prefix(folder).expect("below").display().to_string();
            if meta.is_dir() {
                todo.push(entry.path());
                all.push((name, Vec::new()));
            } else {
                all.push((name, fs::read(entry.path()).unwrap_or_default()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_tree_is_taken_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = streamed(|s| {
        s.folder(b"d", 0o700).expect("sends");
        s.file(b"d/run", 0o4711, &mut &b"#!/bin/sh"[..]).expect("sends");
        s.link(b"d/l", b"run").expect("sends");
    });
    let rules = Rules { links: true, ..OURS };
    let got = taken(folder.path(), &bytes, rules).expect("takes");
    assert_eq!((got.files, got.bytes), (2, 9));
    let mode = fs::metadata(folder.path().join("d/run")).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "whether it is executable is all that comes");
    let got = taken(folder.path(), &bytes, rules).expect("takes again");
    assert_eq!((got.files, got.same), (0, 2));
    assert_eq!(listing(folder.path()).len(), 3, "no stage is left");
}

#[test]
fn nothing_is_taken_when_something_may_not_be() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("mine"), "mine").expect("writes");
    let before = listing(folder.path());
    let with = |name: &'static [u8]| {
        streamed(move |s| {
            s.file(b"new/good", 0o644, &mut &b"good"[..]).expect("sends");
            s.file(name, 0o644, &mut &b"bad"[..]).expect("sends");
        })
    };
    for name in [&b".git/config"[..], b"a/.GIT/x", b"mine", b"new/good"] {
        let error = taken(folder.path(), &with(name), OURS).expect_err("refused");
        assert!(error.to_string().contains(&name::shown(name)), "{error}");
        assert_eq!(listing(folder.path()), before);
    }
    let link = streamed(|s| s.link(b"l", b"mine").expect("sends"));
    assert!(taken(folder.path(), &link, OURS).is_err(), "links need to be asked for");
    let forced = Rules { force: true, ..OURS };
    taken(folder.path(), &with(b"mine"), forced).expect("forced");
    assert_eq!(fs::read(folder.path().join("mine")).expect("reads"), b"bad");
}

#[test]
fn links_may_only_stay_beneath() {
    for (name, target, good) in [
        ("l", "x", true),
        ("a/l", "../x", true),
        ("a/b/l", "../../x/y", true),
        ("l", "../x", false),
        ("a/l", "../../x", false),
        ("a/l", "b/../../../x", false),
        // A part on the way may be a link itself: `k → .` makes `k/..` the folder above.
        ("l", "k/../x", false),
        ("a/b/l", "../k/../x", false),
        ("a/b/l", "../../k/x", true),
        ("l", "/etc/passwd", false),
        ("l", ".git/config", false),
        ("l", "x/.GIT", false),
        ("l", "", false),
        ("l", "a\0b", false),
    ] {
        assert_eq!(stays_beneath(name.as_bytes(), target.as_bytes()), good, "{name} → {target}");
    }
}

/// What is copied alone stays within itself: the folder that it comes into is the user's.
#[test]
fn links_of_a_copy_stay_within_it() {
    for (name, target, good) in [
        ("tree/l", "x", true),
        ("tree/a/l", "../x", true),
        ("tree/l", "../x", false),
        ("l", "x", false),
    ] {
        assert_eq!(
            stays_within(name.as_bytes(), target.as_bytes(), true),
            good,
            "{name} → {target}"
        );
    }
}
