use super::*;
use std::fs;
use std::path::Path;

/// Every name below a folder, with its content.
fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("reads").flatten() {
            let name = entry.path().strip_prefix(folder).expect("below").display().to_string();
            if entry.metadata().expect("there").is_dir() {
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

struct Lab {
    folder: tempfile::TempDir,
    root: Beneath,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("tree/d")).expect("a folder");
        let root = Beneath::open(&folder.path().join("tree")).expect("opens");
        let lab = Self { folder, root };
        lab.write("a", "old a");
        lab.write("d/b", "old b");
        lab
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.tree().join(name), text).expect("writes");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.tree().join(name)).expect("reads")
    }

    /// A new `a`, no `d/b`, a new `e/c`.
    fn stage(&self, expect: impl Fn(&str) -> Expect) -> Stage<'_> {
        let mut stage = Stage::new(&self.root, None, Some(&self.record())).expect("begins");
        let put = |stage: &mut Stage<'_>, name: &str| {
            stage.file(name.as_bytes(), 0o644, expect(name), |file: &mut File| {
                file.write_all(format!("new {name}").as_bytes()).expect("writes");
                Ok::<_, StageError>(())
            })
        };
        put(&mut stage, "a").expect("prepares");
        stage.remove(b"d/b", expect("d/b"));
        put(&mut stage, "e/c").expect("prepares");
        stage
    }

    fn looked_at(&self, name: &str) -> Expect {
        let stat = self.root.stat(name.as_bytes()).expect("looks");
        stat.map_or(Expect::Nothing, |stat| Expect::This(Mark::of(&stat)))
    }

    /// As a crash leaves it after so many renames.
    fn cut(&self, steps: usize) -> PathBuf {
        let stage = self.stage(|name| self.looked_at(name));
        let inside = self.tree().join(name::shown(&stage.folder));
        let mut journal = Sender::new(Vec::new());
        for change in &stage.changes {
            match &change.put {
                Some(mark) => journal.link(&change.name, mark.text().as_bytes()).expect("sends"),
                None => journal.removed(&change.name).expect("sends"),
            }
        }
        fs::write(inside.join("journal"), journal.end().expect("ends")).expect("writes");
        write_down(&self.record(), &stage.folder).expect("writes");
        let tree = self.tree();
        let moves: [(PathBuf, PathBuf); 4] = [
            (tree.join("a"), inside.join("old-0")),
            (inside.join("new-0"), tree.join("a")),
            (tree.join("d/b"), inside.join("old-1")),
            (inside.join("new-2"), tree.join("e/c")),
        ];
        for (from, to) in moves.iter().take(steps) {
            fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
            fs::rename(from, to).expect("moves");
        }
        // The crash: nothing is tidied, and the lock goes with the process.
        let held = rustix::fs::flock(stage.inside.descriptor(), FlockOperation::Unlock);
        held.expect("lets go");
        std::mem::forget(stage);
        inside
    }
}

#[test]
fn all_of_it_is_made() {
    let lab = Lab::new();
    lab.stage(|name| lab.looked_at(name)).commit().expect("commits");
    assert_eq!((lab.read("a"), lab.read("e/c")), ("new a".to_string(), "new e/c".to_string()));
    assert_eq!(listing(&lab.tree()).len(), 3, "no stage, no empty folder");
    assert!(!lab.record().exists());
}

/// Whatever happens to a place after it was looked at: nothing is changed, and what happened stays.
#[test]
fn what_changes_meanwhile_is_seen_when_it_is_too_late_to_hide() {
    type Happens = (&'static str, fn(&Lab));
    let meanwhile: [Happens; 6] = [
        ("edited", |lab| lab.write("a", "edited")),
        ("edited, of equal length", |lab| lab.write("a", "OLD A")),
        ("removed", |lab| fs::remove_file(lab.tree().join("a")).expect("removes")),
        ("edited what was to go", |lab| lab.write("d/b", "edited")),
        ("appeared", |lab| {
            fs::create_dir(lab.tree().join("e")).expect("a folder");
            lab.write("e/c", "mine");
        }),
        ("a folder now", |lab| {
            fs::create_dir_all(lab.tree().join("e/c")).expect("a folder");
        }),
    ];
    for (what, happens) in meanwhile {
        let lab = Lab::new();
        let stage = lab.stage(|name| lab.looked_at(name));
        // The clock of a filesystem stands still for up to 10 ms before Linux 6.13.
        std::thread::sleep(std::time::Duration::from_millis(20));
        happens(&lab);
        let before: Vec<_> =
            listing(&lab.tree()).into_iter().filter(|(n, _)| !n.starts_with(STAGE)).collect();
        assert!(matches!(stage.commit(), Err(StageError::Conflict(_))), "{what}");
        assert_eq!(listing(&lab.tree()), before, "{what}");
    }
}

/// A crash after each rename: whoever comes next finds the old tree or the new one.
#[test]
fn what_a_crash_left_is_put_back_or_ended() {
    for steps in 0..=4 {
        let lab = Lab::new();
        let before = listing(&lab.tree());
        lab.cut(steps);
        recover(&lab.root, &lab.record()).expect("recovers");
        if steps == 4 {
            assert_eq!(lab.read("a"), "new a", "all were made");
            assert!(!lab.tree().join("d/b").exists());
        } else {
            assert_eq!(listing(&lab.tree()), before, "after {steps} renames");
        }
        assert!(!lab.record().exists());
        assert!(listing(&lab.tree()).iter().all(|(name, _)| !name.starts_with(STAGE)));
    }
}

/// A change that came to its end but for its last words, and then days of work: nothing of that is undone.
#[test]
fn what_was_edited_since_is_never_taken_back() {
    let lab = Lab::new();
    lab.cut(4);
    lab.write("a", "edited for days");
    recover(&lab.root, &lab.record()).expect("recovers");
    assert_eq!(lab.read("a"), "edited for days");
    // One that was cut in the middle: what was edited stays, and it is said where the rest is.
    let lab = Lab::new();
    let inside = lab.cut(2);
    lab.write("a", "edited for days");
    let error = recover(&lab.root, &lab.record()).expect_err("says so");
    assert!(error.to_string().contains("a was edited since"), "{error}");
    assert_eq!(lab.read("a"), "edited for days");
    assert_eq!(fs::read_to_string(inside.join("old-0")).expect("kept"), "old a");
    recover(&lab.root, &lab.record()).expect("says it once");
    assert_eq!(lab.read("a"), "edited for days");
}

/// A folder that only looks like one of ours, from a repository or from somebody else, is nobody's.
#[test]
fn a_forged_stage_is_left_alone() {
    let lab = Lab::new();
    let forged = lab.tree().join(format!("{STAGE}9"));
    fs::create_dir(&forged).expect("a folder");
    fs::write(forged.join("old-0"), "evil").expect("writes");
    let mut journal = Sender::new(Vec::new());
    journal.link(b"a", b"1 2 3 4").expect("sends");
    fs::write(forged.join("journal"), journal.end().expect("ends")).expect("writes");
    let before = listing(&lab.tree());
    drop(Stage::new(&lab.root, None, Some(&lab.record())).expect("begins"));
    assert_eq!(listing(&lab.tree()), before);
    // Not even when the record names something else.
    fs::write(lab.record(), format!("{STAGE}9/../d")).expect("writes");
    recover(&lab.root, &lab.record()).expect("nothing to do");
    assert_eq!(listing(&lab.tree()), before);
}
