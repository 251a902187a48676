//! Real archives: what is in the image is what GNU tar unpacks.

use super::case::{fsck, make};
use super::image;
use super::listing::{Content, Item, What, lines};
use banger_rootfs::Limits;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

/// Runs a line; all of it must go well.
pub(super) fn shell(folder: &Path, line: &str) {
    let said = Command::new("sh").args(["-ec", line]).current_dir(folder).output().expect("sh");
    assert!(said.status.success(), "{line}\n{}", String::from_utf8_lossy(&said.stderr));
}

/// What is in a folder of this machine, as the reader of images tells it.
pub(super) fn walk(root: &Path) -> Vec<Item> {
    let mut items = Vec::new();
    visit(root, Vec::new(), &mut items);
    items
}

fn visit(at: &Path, path: Vec<u8>, items: &mut Vec<Item>) {
    let meta = at.symlink_metadata().expect("it is there");
    let kind = meta.file_type();
    let mut names = Vec::new();
    let what = if kind.is_dir() {
        for entry in at.read_dir().expect("a folder") {
            names.push(entry.expect("an entry").file_name());
        }
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        What::Folder
    } else if kind.is_symlink() {
        What::Symlink(at.read_link().expect("a link").as_os_str().as_bytes().to_vec())
    } else if kind.is_fifo() {
        What::Fifo
    } else if kind.is_char_device() {
        let number = u32::try_from(meta.rdev()).expect("small");
        What::Character(number >> 8, number & 0xff)
    } else {
        let large = meta.size() > Content::LARGE;
        let bytes = if large { Vec::new() } else { std::fs::read(at).expect("a file") };
        let short = if bytes.len() as u64 <= Content::SHORT { bytes.clone() } else { Vec::new() };
        let hash = if large { [0; 32] } else { Sha256::digest(&bytes).into() };
        What::File(Content { size: meta.size(), blocks: 0, short, hash })
    };
    items.push(Item {
        path: path.clone(),
        what,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), 0),
        links: u32::try_from(meta.nlink()).expect("small"),
        identity: meta.ino(),
        empty: names.is_empty(),
        xattrs: Vec::new(),
    });
    for name in names {
        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
        visit(&at.join(&name), [&path, slash, name.as_bytes()].concat(), items);
    }
}

/// Items without what the walk of a folder does not tell.
pub(super) fn comparable(mut items: Vec<Item>) -> Vec<String> {
    for item in &mut items {
        item.mtime.1 = 0;
        item.xattrs.clear();
    }
    lines(&items, true)
}

/// Files of every kind, with numbers that all formats can tell. The first line is for formats with short names.
const SMALL: &str = "mkdir -p t/a/b t/c; cd t; echo hello > a/b/hello; ln a/b/hello again; ln again a/third; \
    ln -s /etc/nowhere link; ln -s ../../../out a/out; ln link link2; touch -d '1999-01-01' a/old; \
    chmod 4755 a/b/hello; chmod 1777 c; chown 7:8 a/old; chown -h 9:9 link; : > empty; \
    head -c 4096 /dev/urandom > c/block; head -c 100001 /dev/urandom > c/large; cd ..";
const MORE: &str = "cd t; mkfifo pipe; mknod null c 1 3; \
    for i in $(seq 1 600); do echo $i > c/some-rather-long-name-of-a-file-$i; done; \
    D=d; for i in $(seq 1 12); do D=$D/a-folder; done; mkdir -p $D; echo deep > $D/file; cd ..";
const LONG: &str = "cd t; ln $(find d -name file) d/another-name-of-the-file; ln -s $(printf 'x%.0s' $(seq 1 300)) long; \
    echo n > $(printf 'n%.0s' $(seq 1 255)); ln $(printf 'n%.0s' $(seq 1 255)) $(printf 'm%.0s' $(seq 1 255)); \
    printf 'odd' > \"$(printf 'a\\nb\\377\\302')\"; ln -s \"$(printf '\\376')\" odd-link; \
    echo 8 > big-id; chown 3000000000:4000000000 big-id; cd ..";
const HOLES: &str = "cd t; printf 1 > h1; truncate -s 1M h1; printf 2 >> h1; truncate -s 3M h1; \
    truncate -s 5000 h2; truncate -s 4096 h3; printf 3 >> h3; \
    for i in $(seq 1 60); do printf x | dd of=h4 bs=1 seek=$((i * 20000)) conv=notrunc status=none; done; cd ..";

/// Makes files, packs them by each line, and compares.
fn compare(files: &[&str], packs: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    for line in files {
        shell(folder.path(), line);
    }
    for pack in packs {
        shell(folder.path(), &format!("rm -rf t.tar out; {pack}"));
        shell(
            folder.path(),
            "mkdir out; tar --delay-directory-restore --numeric-owner -xpf t.tar -C out",
        );
        let bytes = std::fs::read(folder.path().join("t.tar")).expect("reads");
        let (_, file) =
            make(&[bytes], &Limits::default()).unwrap_or_else(|e| panic!("{pack}: {e}"));
        fsck(file.path()).unwrap_or_else(|why| panic!("{pack}: {why}"));
        let ours = comparable(image::read(&file.reopen().expect("opens")));
        let theirs = comparable(walk(&folder.path().join("out")));
        let below = |line: &String| pack.ends_with(" .") || !line.starts_with('/');
        let (ours, theirs) = (ours.into_iter().filter(below), theirs.into_iter().filter(below));
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
        let ours_only: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
        let theirs_only: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
        assert!(ours == theirs, "{pack}\nours {ours_only:#?}\ntheirs {theirs_only:#?}");
    }
}

#[test]
fn old_formats_are_as_gnu_tar_unpacks_them() {
    compare(
        &[SMALL],
        &[
            "tar --format=v7 -cf t.tar -C t .",
            "tar --format=v7 -cf t.tar -C t a again c link empty",
        ],
    );
    compare(
        &[SMALL, MORE],
        &[
            "tar --format=ustar -cf t.tar -C t .",
            "tar --format=oldgnu -cf t.tar -C t .",
            "bsdtar --format=ustar -cf t.tar -C t .",
            "bsdtar --format=gnutar -cf t.tar -C t .",
            "tar --format=ustar -czf t.tar -C t .",
            "tar --format=ustar --zstd -cf t.tar -C t .",
        ],
    );
}

#[test]
fn new_formats_are_as_gnu_tar_unpacks_them() {
    compare(
        &[SMALL, MORE, LONG],
        &[
            "tar --format=gnu -cf t.tar -C t .",
            "tar --format=posix -cf t.tar -C t .",
            "tar --format=posix --xattrs --acls -cf t.tar -C t .",
            "tar --format=gnu --label=name -cf t.tar -C t .",
            "tar --format=posix --pax-option=globexthdr.name=g,comment=hello -cf t.tar -C t .",
            "tar --format=posix --hard-dereference -cf t.tar -C t .",
            "bsdtar --format=pax -cf t.tar -C t .",
            "bsdtar --format=gnutar -cf t.tar -C t .",
            "cd t; bsdtar --format=pax --no-recursion -cf ../t.tar $(find . -type d) link empty null",
        ],
    );
}

#[test]
fn holes_are_as_gnu_tar_unpacks_them() {
    compare(
        &[SMALL, HOLES],
        &[
            "tar --format=gnu --sparse -cf t.tar -C t .",
            "tar --format=oldgnu --sparse -cf t.tar -C t .",
            "tar --format=gnu --sparse --hole-detection=raw -cf t.tar -C t .",
            "tar --format=posix --sparse --sparse-version=0.0 -cf t.tar -C t .",
            "tar --format=posix --sparse --sparse-version=0.1 -cf t.tar -C t .",
            "tar --format=posix --sparse --sparse-version=1.0 -cf t.tar -C t .",
            "tar --format=posix --sparse --hole-detection=raw -cf t.tar -C t .",
            "bsdtar --format=pax -cf t.tar -C t .",
        ],
    );
}

#[test]
fn attributes_are_those_of_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = "import os,sys; [os.setxattr(f, n, v) for f, n, v in [('t/a', 'user.one', b'1'), \
        ('t/a', 'user.empty', b''), ('t/d', 'user.two', b'2' * 30), ('t/a', 'trusted.no', b'3'), \
        ('t/a', 'security.capability', bytes.fromhex('0000000200040000000000000000000000000000'))]]";
    shell(
        folder.path(),
        &format!("mkdir -p t/d; echo 1 > t/a; touch -d @1 t/a t/d t; python3 -c \"{put}\""),
    );
    for pack in [
        "tar --format=posix --xattrs --xattrs-include='*' -cf t.tar -C t .",
        "bsdtar --format=pax --xattrs -cf t.tar -C t .",
    ] {
        shell(folder.path(), pack);
        let bytes = std::fs::read(folder.path().join("t.tar")).expect("reads");
        let (_, file) = make(&[bytes], &Limits::default()).expect("builds");
        fsck(file.path()).expect("clean");
        let found: Vec<_> = image::read(&file.reopen().expect("opens"))
            .into_iter()
            .map(|item| item.xattrs.into_iter().collect::<HashMap<_, _>>())
            .collect();
        let of = |index: usize, name: &str| found[index].get(name.as_bytes()).map(Vec::len);
        assert_eq!((of(1, "user.one"), of(1, "user.empty")), (Some(1), Some(0)), "{pack}");
        assert_eq!(
            (of(1, "security.capability"), of(2, "user.two")),
            (Some(20), Some(30)),
            "{pack}"
        );
        assert_eq!((found[0].len(), found[1].len(), found[2].len()), (0, 3, 1), "{pack}");
    }
}
