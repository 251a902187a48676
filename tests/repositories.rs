//! Repositories of every kind, shipped to a guest that is a folder, where the real git looks at what came.

use banger_tree::beneath::Beneath;
use banger_tree::stream::{Entry, Limits, Receiver, Sender};
use banger_tree::take::{Rules, take};
use banger_workspace::kept::Kept;
use banger_workspace::ship::{self, What};
use banger_workspace::{back, listing};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_string()
}

struct Lab {
    folder: tempfile::TempDir,
    include: Vec<String>,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a folder"), include: Vec::new() };
        fs::create_dir(lab.repo()).expect("a folder");
        fs::create_dir(lab.guest()).expect("a folder");
        lab
    }

    /// With a first commit of one file.
    fn begun(arguments: &[&str]) -> Self {
        let lab = Self::new();
        git(&lab.repo(), &[&["init", "-q"][..], arguments].concat());
        lab.somebody();
        lab.write("file", "one\n");
        lab.commit();
        lab
    }

    fn somebody(&self) {
        git(&self.repo(), &["config", "user.name", "Ada"]);
        git(&self.repo(), &["config", "user.email", "ada@example.org"]);
    }

    fn commit(&self) {
        git(&self.repo(), &["add", "-A"]);
        git(&self.repo(), &["commit", "-q", "-m", "commit"]);
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn guest(&self) -> PathBuf {
        self.folder.path().join("guest")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.repo().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("writes");
    }

    fn kept(&self) -> Kept {
        Kept::open(&self.folder.path().join("kept")).expect("opens")
    }

    /// Ships to a guest of this revision; the stream.
    fn stream(&self, folder: &Path, revision: u64) -> Result<Vec<u8>, String> {
        let kept = self.kept();
        let what = What {
            folder: folder.to_path_buf(),
            at: "/work".into(),
            include: self.include.clone(),
            depth: None,
            mark: "guest".into(),
        };
        let sent = ship::send(&kept, &what, revision, Sender::new(Vec::new()));
        let (sent, bytes) = sent.map_err(|error| error.whole())?;
        ship::settle(&kept, sent, revision + 1, &[]).expect("settles");
        Ok(bytes)
    }

    /// Ships the repository for the first time, into the guest's folder.
    fn ship(&self) {
        self.ship_from(&self.repo());
    }

    fn ship_from(&self, folder: &Path) {
        let bytes = self.stream(folder, 0).expect("ships");
        let root = Beneath::open(&self.guest()).expect("opens");
        let rules = Rules { links: true, force: false, hostile: false };
        let mut receiver = Receiver::new(bytes.as_slice(), Limits::NONE);
        take(&mut receiver, &root, rules, None, None, None).expect("takes");
    }

    /// What the guest's git says is not as it was committed.
    fn status(&self) -> String {
        git(&self.guest(), &["fsck", "--full", "--strict"]);
        git(&self.guest(), &["status", "--porcelain"])
    }

    fn shipped(&self) -> BTreeSet<String> {
        let manifest = self.kept().shipped(1).expect("shipped");
        manifest.entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// The files that the host's side takes for the base, as git lists them.
    fn base(&self) -> String {
        let kept = self.kept();
        let mut nothing = Receiver::new(&b"E"[..], Limits::RETURN);
        let changes = back::changes(&kept, &mut nothing).expect("nothing changed");
        let manifest = kept.shipped(1).expect("shipped");
        let returned = back::returned(&kept, &manifest, &changes, None).expect("nothing came");
        assert_eq!(returned.base, returned.files);
        assert_eq!(returned.uncommitted, None, "nothing was done there");
        git(&kept.repository(), &["ls-tree", "-r", &returned.base])
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn files_of_every_kind_and_state() {
    let lab = Lab::begun(&[]);
    let repo = lab.repo();
    lab.write("run", "#!/bin/sh\n");
    fs::set_permissions(repo.join("run"), fs::Permissions::from_mode(0o755)).expect("sets");
    symlink("../anywhere", repo.join("link")).expect("links");
    for name in [
        "with space",
        "new\nline",
        "quote\"d",
        "-dash",
        "deep/er/file",
        "gone",
        "changed",
        "staged",
    ] {
        lab.write(name, "committed\n");
    }
    fs::write(repo.join(OsStr::from_bytes(b"not \xff text")), "x").expect("writes");
    lab.commit();
    fs::remove_file(repo.join("gone")).expect("removes");
    lab.write("changed", "changed\n");
    lab.write("staged", "staged\n");
    lab.write("added", "added\n");
    lab.write("intended", "intended\n");
    lab.write("untracked", "untracked\n");
    git(&repo, &["add", "staged", "added"]);
    git(&repo, &["add", "-N", "intended"]);
    // The host's index is what it was afterwards, to the byte.
    let index = fs::read(repo.join(".git/index")).expect("reads");
    lab.ship();
    assert_eq!(fs::read(repo.join(".git/index")).expect("reads"), index);
    let status = lab.status();
    for line in [" M changed", " D gone", " M staged", "?? added", "?? intended"] {
        assert!(status.lines().any(|l| l == line), "{line} in {status}");
    }
    assert_eq!(status.lines().count(), 5, "{status}");
    assert_eq!(fs::read_link(lab.guest().join("link")).expect("a link"), Path::new("../anywhere"));
    assert!(lab.guest().join(OsStr::from_bytes(b"not \xff text")).is_file());
    assert!(!lab.guest().join("untracked").exists());
    assert_eq!(git(&lab.guest(), &["log", "--format=%an"]), "Ada", "one commit of history");
    lab.base();
}

#[test]
fn only_what_is_named_is_shipped_besides() {
    let mut lab = Lab::begun(&[]);
    lab.write(".gitignore", "ignored*\n");
    lab.commit();
    for name in
        [".env", ".env.local", "key.pem", "notes.txt", "sub/more.txt", "ignored.txt", "other"]
    {
        lab.write(name, "x");
    }
    fs::write(lab.repo().join(".git/info/exclude"), "private*\n").expect("writes");
    lab.write("private.txt", "x");
    let tracked = [".gitignore", "file"];
    let shipped = |lab: &Lab, include: &[&str]| {
        let include: Vec<String> = include.iter().map(ToString::to_string).collect();
        let scratch = tempfile::tempdir().expect("a folder");
        let listed = listing::list(&lab.repo(), &include, true, &scratch.path().join("x"));
        let listed = listed.map_err(|error| error.whole())?;
        let items = listed.items.iter().map(|i| String::from_utf8_lossy(&i.name).into_owned());
        Ok::<_, String>((items.collect::<BTreeSet<_>>(), listed.left_out))
    };
    let with = |more: &[&str]| names(&[&tracked[..], more].concat());
    assert_eq!(shipped(&lab, &[]).expect("lists").0, with(&[]));
    assert_eq!(shipped(&lab, &["*.txt"]).expect("lists").0, with(&["notes.txt", "sub/more.txt"]));
    assert_eq!(shipped(&lab, &["sub"]).expect("lists").0, with(&["sub/more.txt"]));
    // A wildcard never means secrets.
    let (all, left_out) = shipped(&lab, &["*"]).expect("lists");
    assert_eq!(all, with(&["notes.txt", "other", "sub/more.txt"]));
    assert_eq!(left_out.len(), 3, "{left_out:?}");
    assert_eq!(shipped(&lab, &[".env"]).expect("lists").0, with(&[".env"]));
    for (pattern, why) in [
        ("ignored.txt", "git ignores it"),
        ("private.txt", "git ignores it"),
        ("nothing", "no untracked file"),
    ] {
        let error = shipped(&lab, &[pattern]).expect_err("named in vain");
        assert!(error.contains(why), "{pattern}: {error}");
    }
    lab.include = vec!["notes.txt".into()];
    lab.ship();
    assert_eq!(lab.status(), "?? notes.txt");
    // What is ignored here is ignored there, wherever it is written down.
    fs::write(lab.guest().join("private.txt"), "x").expect("writes");
    assert_eq!(lab.status(), "?? notes.txt");
}

#[test]
fn submodules_are_files() {
    let lab = Lab::begun(&[]);
    let inner = lab.folder.path().join("inner");
    fs::create_dir(&inner).expect("a folder");
    git(&inner, &["init", "-q"]);
    fs::write(inner.join("inside"), "inside\n").expect("writes");
    git(&inner, &["add", "."]);
    git(&inner, &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x"]);
    git(&lab.repo(), &["submodule", "--quiet", "add", &inner.display().to_string(), "sub"]);
    lab.commit();
    lab.write("sub/untracked", "x");
    lab.ship();
    assert_eq!(lab.shipped(), names(&[".gitmodules", "file", "sub/inside"]));
    assert_eq!(lab.status(), "", "the guest's git leaves them alone");
    assert!(lab.base().contains("sub/inside"));
}

/// A large file that a filter keeps elsewhere: the guest gets what the host has, and its git does not take that for a change.
#[test]
fn filtered_files_come_as_they_are_here() {
    let lab = Lab::begun(&[]);
    lab.write(".gitattributes", "*.big filter=lfs\n*.txt text eol=crlf\n");
    git(&lab.repo(), &["config", "filter.lfs.clean", "sha256sum | sed 's/^/pointer /'"]);
    git(&lab.repo(), &["config", "filter.lfs.smudge", "cat"]);
    lab.write("a.big", "a large content\n");
    lab.write("lines.txt", "one\r\ntwo\r\n");
    lab.commit();
    // One that was never fetched is the pointer itself.
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let object = lab.folder.path().join("pointer");
    fs::write(&object, pointer).expect("writes");
    let object =
        git(&lab.repo(), &["hash-object", "-w", "--no-filters", &object.display().to_string()]);
    git(&lab.repo(), &["update-index", "--add", "--cacheinfo", &format!("100644,{object},b.big")]);
    git(&lab.repo(), &["commit", "-q", "-m", "pointer"]);
    lab.write("b.big", pointer);
    lab.ship();
    assert_eq!(fs::read_to_string(lab.guest().join("a.big")).expect("reads"), "a large content\n");
    assert_eq!(fs::read_to_string(lab.guest().join("b.big")).expect("reads"), pointer);
    assert_eq!(fs::read(lab.guest().join("lines.txt")).expect("reads"), b"one\r\ntwo\r\n");
    assert_eq!(lab.status(), "");
    lab.base();
}

#[test]
fn repositories_of_every_kind() {
    // Objects named by SHA-256.
    let lab = Lab::begun(&["--object-format=sha256"]);
    lab.write("file", "changed\n");
    lab.ship();
    assert_eq!(lab.status(), " M file");
    lab.base();
    // Before the first commit.
    let lab = Lab::new();
    git(&lab.repo(), &["init", "-q"]);
    lab.write("file", "x");
    git(&lab.repo(), &["add", "file"]);
    lab.ship();
    assert_eq!(git(&lab.guest(), &["status", "--porcelain"]), "?? file");
    assert_eq!(git(&lab.guest(), &["symbolic-ref", "HEAD"]), "refs/heads/main");
    lab.base();
    // Empty, without an index.
    let lab = Lab::new();
    git(&lab.repo(), &["init", "-q"]);
    lab.ship();
    assert!(lab.shipped().is_empty());
    // At no branch.
    let lab = Lab::begun(&[]);
    git(&lab.repo(), &["checkout", "-q", "--detach"]);
    lab.ship();
    assert_eq!(lab.status(), "");
    assert_eq!(git(&lab.guest(), &["rev-parse", "HEAD"]), git(&lab.repo(), &["rev-parse", "HEAD"]));
    // A second working tree.
    let lab = Lab::begun(&[]);
    git(&lab.repo(), &["worktree", "add", "-q", "../second", "-b", "second"]);
    let second = lab.folder.path().join("second");
    fs::write(second.join("file"), "second\n").expect("writes");
    lab.ship_from(&second);
    assert_eq!(lab.status(), " M file");
    assert_eq!(git(&lab.guest(), &["branch", "--show-current"]), "second");
    // An index in two files.
    let lab = Lab::begun(&[]);
    git(&lab.repo(), &["update-index", "--split-index"]);
    lab.write("later", "x");
    git(&lab.repo(), &["add", "later"]);
    lab.ship();
    assert_eq!(lab.shipped(), names(&["file", "later"]));
    // Not all of it checked out.
    let lab = Lab::begun(&[]);
    lab.write("in/a", "a");
    lab.write("out/b", "b");
    lab.commit();
    git(&lab.repo(), &["sparse-checkout", "set", "in"]);
    lab.ship();
    assert_eq!(lab.shipped(), names(&["file", "in/a"]));
    assert!(lab.base().contains("out/b"), "what is not here was not removed");
    // With as little history as there can be.
    let lab = Lab::begun(&[]);
    lab.write("file", "two\n");
    lab.commit();
    git(
        lab.folder.path(),
        &["clone", "-q", "--depth=1", &format!("file://{}", lab.repo().display()), "shallow"],
    );
    lab.ship_from(&lab.folder.path().join("shallow"));
    assert_eq!(lab.status(), "");
}

#[test]
fn a_conflict_is_shipped_as_it_is() {
    let lab = Lab::begun(&[]);
    git(&lab.repo(), &["checkout", "-q", "-b", "other"]);
    lab.write("file", "other\n");
    lab.commit();
    git(&lab.repo(), &["checkout", "-q", "main"]);
    lab.write("file", "main\n");
    lab.commit();
    let merged =
        Command::new("git").current_dir(lab.repo()).args(["merge", "-q", "other"]).output();
    assert!(!merged.expect("git runs").status.success(), "a conflict");
    lab.ship();
    assert!(fs::read_to_string(lab.guest().join("file")).expect("reads").contains("<<<<<<<"));
    assert_eq!(lab.status(), " M file");
}

#[test]
fn only_what_changed_goes_the_second_time() {
    let lab = Lab::begun(&[]);
    for number in 0..50 {
        lab.write(&format!("many/{number}"), "x");
    }
    lab.commit();
    lab.ship();
    let second = lab.stream(&lab.repo(), 1).expect("ships");
    assert_eq!(second, b"E", "nothing changed");
    lab.write("many/7", "changed");
    lab.write("file", "one\n");
    fs::remove_file(lab.repo().join("many/8")).expect("removes");
    git(&lab.repo(), &["rm", "-q", "--cached", "many/9"]);
    let third = lab.stream(&lab.repo(), 2).expect("ships");
    let mut receiver = Receiver::new(third.as_slice(), Limits::NONE);
    let mut went = Vec::new();
    while let Some(entry) = receiver.next_entry().expect("reads") {
        if let Entry::File { .. } = entry {
            receiver.content(&mut std::io::sink()).expect("reads");
        }
        went.push((
            matches!(entry, Entry::Removed { .. }),
            String::from_utf8_lossy(entry.name()).into_owned(),
        ));
    }
    let expected = [(true, "many/8"), (true, "many/9"), (false, "many/7")];
    assert_eq!(went, expected.map(|(gone, name)| (gone, name.to_string())));
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let lab = Lab::begun(&[]);
    let error = lab.stream(lab.folder.path(), 0).expect_err("no repository");
    assert!(error.contains("is not a git repository"), "{error}");
    fs::create_dir(lab.repo().join("part")).expect("a folder");
    let error = lab.stream(&lab.repo().join("part"), 0).expect_err("a part");
    assert!(error.contains("is a part of the repository"), "{error}");
    let error = lab.stream(&lab.folder.path().join("missing"), 0).expect_err("not there");
    assert!(error.contains("missing"), "{error}");
    fs::remove_dir_all(lab.repo().join(".git/objects")).expect("removes");
    assert!(lab.stream(&lab.repo(), 0).is_err(), "a broken one");
}

/// As many files as may come back go there, and finding out that nothing changed takes little.
#[test]
fn a_hundred_thousand_files() {
    let lab = Lab::begun(&[]);
    for folder in 0..100 {
        let path = lab.repo().join(format!("d{folder}"));
        fs::create_dir(&path).expect("a folder");
        for file in 0..1000 {
            // Few contents, or most of the time would be git's for making objects.
            fs::write(path.join(format!("f{file}")), format!("{folder}")).expect("writes");
        }
    }
    lab.commit();
    let start = Instant::now();
    let bytes = lab.stream(&lab.repo(), 0).expect("ships");
    let first = start.elapsed();
    assert!(bytes.len() > 100_000 * 40);
    let start = Instant::now();
    assert_eq!(lab.stream(&lab.repo(), 1).expect("ships"), b"E");
    let second = start.elapsed();
    println!("100,000 files: {first:?} at first, {second:?} when nothing changed");
    // Git looks at each file both times.
    assert!(second < first * 2, "{second:?} is not little beside {first:?}");
}
