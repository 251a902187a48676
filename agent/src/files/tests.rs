use super::{ship, shipped, survey};
use banger_tree::beneath::Beneath;
use banger_tree::manifest::Manifest;
use banger_tree::stream::{Entry, Limits, Receiver, Sender};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Guest {
    _folder: tempfile::TempDir,
    at: PathBuf,
    hidden: File,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let hidden = folder.path().join("hidden");
        fs::create_dir(&hidden).expect("a folder");
        let hidden = File::open(hidden).expect("opens");
        Self { at: folder.path().join("work"), hidden, _folder: folder }
    }

    fn ship(&self, build: impl FnOnce(&mut Sender<Vec<u8>>)) -> Result<Vec<String>, String> {
        let mut sender = Sender::new(Vec::new());
        build(&mut sender);
        let bytes = sender.end().expect("ends");
        self.ship_bytes(&bytes)
    }

    fn ship_bytes(&self, bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut left = Sender::new(Vec::new());
        let mut receiver = Receiver::new(bytes, Limits::NONE);
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        ship::run(&mut receiver, &mut left, &self.hidden, self.at.to_str().expect("text"), owner)?;
        let bytes = left.end().expect("ends");
        let mut receiver = Receiver::new(bytes.as_slice(), Limits::NONE);
        let mut all = Vec::new();
        while let Some(entry) = receiver.next_entry().expect("reads") {
            let Entry::LeftOut { name, why } = entry else { panic!("{entry:?}") };
            all.push(format!("{}: {why}", String::from_utf8_lossy(&name)));
        }
        Ok(all)
    }

    fn manifest(&self) -> Manifest {
        shipped(&self.hidden).expect("reads").expect("there")
    }

    /// What changed: `name → what`.
    fn survey(&self) -> BTreeMap<String, String> {
        let root = Beneath::open(&self.at).expect("opens");
        let mut sender = Sender::new(Vec::new());
        survey::run(&mut sender, &root, &self.manifest()).expect("looks");
        let bytes = sender.end().expect("ends");
        let mut receiver = Receiver::new(bytes.as_slice(), Limits::NONE);
        let mut all = BTreeMap::new();
        while let Some(entry) = receiver.next_entry().expect("reads") {
            let name = String::from_utf8_lossy(entry.name()).into_owned();
            let what = match entry {
                Entry::File { mode, .. } => {
                    let mut content = Vec::new();
                    receiver.content(&mut content).expect("reads");
                    format!("{mode:o} {}", String::from_utf8_lossy(&content))
                }
                Entry::Link { target, .. } => format!("→ {}", String::from_utf8_lossy(&target)),
                Entry::Removed { .. } => "gone".to_string(),
                Entry::LeftOut { why, .. } => why,
                Entry::Folder { .. } => "folder".to_string(),
            };
            assert!(all.insert(name, what).is_none(), "each name once");
        }
        all
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("writes");
    }
}

fn first(s: &mut Sender<Vec<u8>>) {
    s.file(b"a", 0o644, &mut &b"a"[..]).expect("sends");
    s.file(b"d/run", 0o755, &mut &b"run"[..]).expect("sends");
    s.file(b"d/keep", 0o644, &mut &b"keep"[..]).expect("sends");
    s.link(b"l", b"d/run").expect("sends");
    s.file(b".gitignore", 0o644, &mut &b"*.log\n/target/\n!important.log\n"[..]).expect("sends");
    s.file(b"target/kept", 0o644, &mut &b"tracked though ignored"[..]).expect("sends");
    s.file(b".git/HEAD", 0o644, &mut &b"ref: refs/heads/main\n"[..]).expect("sends");
    s.file(b".git/banger", 0o644, &mut &b"one"[..]).expect("sends");
    s.file(b".git/info/exclude", 0o644, &mut &b"private\n"[..]).expect("sends");
}

fn changes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, what)| (name.to_string(), what.to_string())).collect()
}

#[test]
fn what_was_shipped_has_not_changed() {
    let guest = Guest::new();
    assert_eq!(guest.ship(first), Ok(vec![]));
    assert_eq!(guest.survey(), changes(&[]));
    assert_eq!(guest.manifest().revision, 1);
    assert_eq!(
        fs::read_to_string(guest.path(".git/HEAD")).expect("there"),
        "ref: refs/heads/main\n"
    );
    assert!(!guest.manifest().entries.keys().any(|name| name.starts_with(b".git/")));
    assert_eq!(guest.ship(first), Ok(vec![]), "again: nothing is in the way");
    assert_eq!(guest.manifest().revision, 2);
}

#[test]
fn every_kind_of_change_is_seen_and_what_is_ignored_is_not() {
    let guest = Guest::new();
    guest.ship(first).expect("ships");
    guest.write("a", "other");
    fs::set_permissions(guest.path("d/keep"), fs::Permissions::from_mode(0o755)).expect("sets");
    fs::remove_file(guest.path("d/run")).expect("removes");
    fs::remove_file(guest.path("l")).expect("removes");
    symlink("a", guest.path("l")).expect("a link");
    guest.write("target/kept", "changed");
    guest.write("target/new", "ignored");
    guest.write("x.log", "ignored");
    guest.write("important.log", "kept");
    guest.write("private", "excluded");
    guest.write("deep/er/new", "new");
    guest.write("deep/.gitignore", "er/skip\n");
    guest.write("deep/er/skip", "ignored");
    guest.write("nested/.git/config", "a repository of its own");
    guest.write("nested/file", "file");
    let special = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, guest.path("pipe"), special, mode, 0).expect("a pipe");
    let expected = changes(&[
        ("a", "644 other"),
        ("d/keep", "755 keep"),
        ("d/run", "gone"),
        ("l", "→ a"),
        ("target/kept", "644 changed"),
        ("important.log", "644 kept"),
        ("deep/er/new", "644 new"),
        ("deep/.gitignore", "644 er/skip\n"),
        ("nested/file", "644 file"),
        ("pipe", "no file, folder or link"),
    ]);
    assert_eq!(guest.survey(), expected);
}

#[test]
fn a_touched_file_is_the_same_and_one_of_equal_length_is_not() {
    let guest = Guest::new();
    guest.ship(first).expect("ships");
    guest.write("a", "a");
    assert_eq!(guest.survey(), changes(&[]));
    guest.write("a", "b");
    assert_eq!(guest.survey(), changes(&[("a", "644 b")]));
}

#[test]
fn a_folder_and_a_file_may_change_places() {
    let guest = Guest::new();
    guest.ship(first).expect("ships");
    fs::remove_file(guest.path("a")).expect("removes");
    guest.write("a/inside", "x");
    fs::remove_dir_all(guest.path("d")).expect("removes");
    symlink("/etc", guest.path("d")).expect("a link");
    let seen = guest.survey();
    let expected = [
        ("a", "gone"),
        ("a/inside", "644 x"),
        ("d", "→ /etc"),
        ("d/keep", "gone"),
        ("d/run", "gone"),
    ];
    assert_eq!(seen, changes(&expected));
}

#[test]
fn what_changed_in_the_guest_is_never_overwritten() {
    let guest = Guest::new();
    guest.ship(first).expect("ships");
    guest.write("a", "mine");
    fs::remove_file(guest.path("d/keep")).expect("removes");
    guest.write("new", "mine");
    guest.write("equal", "equal");
    let left = guest.ship(|s| {
        s.file(b"a", 0o644, &mut &b"theirs"[..]).expect("sends");
        s.file(b"d/keep", 0o644, &mut &b"theirs"[..]).expect("sends");
        s.file(b"new", 0o644, &mut &b"theirs"[..]).expect("sends");
        s.file(b"equal", 0o644, &mut &b"equal"[..]).expect("sends");
        s.file(b"d/run", 0o755, &mut &b"newer"[..]).expect("sends");
        s.removed(b"l").expect("sends");
        s.removed(b"never there").expect("sends");
    });
    let expected = [
        "a: it changed in the sandbox",
        "d/keep: it was removed in the sandbox",
        "new: the sandbox has another file there",
    ];
    assert_eq!(left, Ok(expected.map(String::from).to_vec()));
    assert_eq!(fs::read_to_string(guest.path("a")).expect("there"), "mine");
    assert_eq!(fs::read_to_string(guest.path("d/run")).expect("there"), "newer");
    assert!(!guest.path("l").exists());
    let seen = guest.survey();
    assert_eq!(seen, changes(&[("a", "644 mine"), ("d/keep", "gone"), ("new", "644 mine")]));
    let left = guest.ship(|s| s.removed(b"a").expect("sends"));
    assert_eq!(left, Ok(vec!["a: it changed in the sandbox".to_string()]));
}

#[test]
fn links_in_the_guest_lead_nothing_outside() {
    let outside = tempfile::tempdir().expect("a folder");
    let guest = Guest::new();
    guest.ship(first).expect("ships");
    fs::remove_dir_all(guest.path("d")).expect("removes");
    symlink(outside.path(), guest.path("d")).expect("a link");
    let left = guest.ship(|s| {
        s.file(b"d/run", 0o755, &mut &b"x"[..]).expect("sends");
        s.file(b"a", 0o644, &mut &b"newer"[..]).expect("sends");
    });
    assert_eq!(left.expect("goes on").len(), 1);
    assert_eq!(fs::read_dir(outside.path()).expect("reads").count(), 0);
    assert_eq!(fs::read_to_string(guest.path("a")).expect("there"), "newer");
}

#[test]
fn a_stream_that_broke_off_is_gone_on_with() {
    let mut sender = Sender::new(Vec::new());
    first(&mut sender);
    let bytes = sender.end().expect("ends");
    for cut in (0..bytes.len()).step_by(7) {
        let guest = Guest::new();
        assert!(guest.ship_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        let known = shipped(&guest.hidden).expect("reads").expect("what came is known");
        assert_eq!(known.revision, 0, "it does not count as shipped");
        assert_eq!(guest.ship_bytes(&bytes), Ok(vec![]), "cut at {cut}");
        assert_eq!(guest.survey(), changes(&[]));
        assert_eq!(entries(&guest.at), 6, "no half file is left");
    }
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("reads").count()
}

#[test]
fn a_repository_that_is_there_stays() {
    let guest = Guest::new();
    guest.write(".git/HEAD", "theirs");
    guest.write("a", "theirs");
    let refused = guest.ship(first).expect_err("half a workspace is none");
    assert!(refused.ends_with("has other files already: a and 1 more"), "{refused}");
    assert_eq!(fs::read_to_string(guest.path("a")).expect("there"), "theirs");
    assert_eq!(guest.manifest().revision, 0);
    assert_eq!(fs::read_to_string(guest.path(".git/HEAD")).expect("there"), "theirs");
}
