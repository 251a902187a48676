use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const OURS: Rules = Rules { links: false, force: false, hostile: true };

fn streamed(build: impl FnOnce(&mut Sender<Vec<u8>>)) -> Vec<u8> {
    let mut sender = Sender::new(Vec::new());
    build(&mut sender);
    sender.end().expect("ends")
}

fn taken(folder: &Path, bytes: &[u8], rules: Rules) -> Result<Taken, StageError> {
    let root = Beneath::open(folder).expect("opens");
    take(&mut Receiver::new(bytes, Limits::RETURN), &root, rules, None, None)
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
        ("l", "/etc/passwd", false),
        ("l", ".git/config", false),
        ("l", "x/.GIT", false),
        ("l", "", false),
        ("l", "a\0b", false),
    ] {
        assert_eq!(stays_beneath(name.as_bytes(), target.as_bytes()), good, "{name} → {target}");
    }
}

/// An error in the middle: a folder appeared where a file was to go.
#[test]
fn an_error_in_the_middle_puts_everything_back() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a"), "old a").expect("writes");
    fs::write(folder.path().join("gone"), "old").expect("writes");
    let root = Beneath::open(folder.path()).expect("opens");
    let before = listing(folder.path());
    let mut stage = Stage::new(&root, None).expect("begins");
    let write = |text: &'static str| {
        move |file: &mut File| {
            file.write_all(text.as_bytes()).expect("writes");
            Ok::<_, StageError>(())
        }
    };
    stage.file("a".as_bytes(), 0o644, write("new a")).expect("prepares");
    stage.remove(b"gone");
    stage.file("made/for/it".as_bytes(), 0o644, write("x")).expect("prepares");
    stage.file("z".as_bytes(), 0o644, write("z")).expect("prepares");
    fs::create_dir(folder.path().join("z")).expect("a folder");
    assert!(stage.commit().is_err());
    fs::remove_dir(folder.path().join("z")).expect("still empty");
    assert_eq!(listing(folder.path()), before);
}

/// A crash after each rename: whoever comes next finds the old tree or the new one.
#[test]
fn what_a_crash_left_is_put_back() {
    for step in 0..=3 {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a"), "old a").expect("writes");
        fs::create_dir(folder.path().join("d")).expect("a folder");
        fs::write(folder.path().join("d/b"), "old b").expect("writes");
        let before = listing(folder.path());
        let root = Beneath::open(folder.path()).expect("opens");
        // As `commit` leaves it after so many changes.
        let stage = folder.path().join(format!("{STAGE}0"));
        fs::create_dir(&stage).expect("a folder");
        fs::write(stage.join("new-0"), "new a").expect("writes");
        fs::write(stage.join("new-2"), "new c").expect("writes");
        let journal = streamed(|s| {
            s.link(b"a", b"put").expect("sends");
            s.removed(b"d/b").expect("sends");
            s.link(b"e/c", b"put").expect("sends");
        });
        fs::write(stage.join("journal"), journal).expect("writes");
        if step >= 1 {
            fs::rename(folder.path().join("a"), stage.join("old-0")).expect("moves");
            fs::rename(stage.join("new-0"), folder.path().join("a")).expect("moves");
        }
        if step >= 2 {
            fs::rename(folder.path().join("d/b"), stage.join("old-1")).expect("moves");
        }
        if step >= 3 {
            fs::create_dir(folder.path().join("e")).expect("a folder");
            fs::rename(stage.join("new-2"), folder.path().join("e/c")).expect("moves");
        }
        recover(&root).expect("recovers");
        assert_eq!(listing(folder.path()), before, "after {step} changes");
    }
}

#[test]
fn a_forged_stage_moves_nothing_of_the_repository() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join(".git")).expect("a folder");
    fs::write(folder.path().join(".git/config"), "mine").expect("writes");
    let stage = folder.path().join(format!("{STAGE}9"));
    fs::create_dir(&stage).expect("a folder");
    fs::write(stage.join("old-0"), "evil").expect("writes");
    fs::write(stage.join("journal"), streamed(|s| s.link(b".git/config", b"put").expect("sends")))
        .expect("writes");
    let root = Beneath::open(folder.path()).expect("opens");
    assert!(recover(&root).is_err());
    assert_eq!(fs::read(folder.path().join(".git/config")).expect("reads"), b"mine");
    symlink("/etc", folder.path().join(format!("{STAGE}8"))).expect("a link");
    assert!(recover(&root).is_err());
}
