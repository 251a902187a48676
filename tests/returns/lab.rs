//! A host's repository full of traps, shipped to a guest that lies.

use banger_tree::stream::{Limits, Receiver, Sender};
use banger_wire::api::workspace::Returned;
use banger_workspace::kept::Kept;
use banger_workspace::ship::{self, What};
use banger_workspace::{WorkspaceError, apply, back, pull};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where git writes down what it starts.
pub(super) const TRACE: &str = "GIT_TRACE2_EVENT";

/// Runs this test again in a process of its own that is traced.
pub(super) fn traced(test: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let own = std::env::current_exe().expect("this test's program");
    let status =
        Command::new(own).args(["--exact", test, "--nocapture"]).env(TRACE, &trace).status();
    assert!(status.expect("starts").success(), "{test} failed");
    assert!(fs::metadata(&trace).expect("a trace").len() > 1000, "git was traced");
}

/// What a guest does, and what has to become of it.
pub(super) struct Case {
    /// What it is.
    pub(super) name: &'static str,
    /// The stream of what changed.
    pub(super) stream: Vec<u8>,
    /// Makes a bundle of commits, in a clone of the host's repository.
    pub(super) bundle: Option<fn(&Path) -> PathBuf>,
    /// Something happens to the host's repository, after it came back and before it is applied.
    pub(super) meanwhile: Option<fn(&Path, &Path)>,
    /// What has to happen.
    pub(super) want: Want,
    /// The names that may be written by `apply`.
    pub(super) good: &'static [&'static str],
}

/// What has to become of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Taking it fails.
    Refused,
    /// It is taken without the part that may not come, which is named.
    Without,
    /// It is taken; onto files it does not come.
    NotApplied,
    /// It does no harm.
    Harmless,
}

pub(super) fn sent(build: impl FnOnce(&mut Sender<Vec<u8>>)) -> Vec<u8> {
    let mut sender = Sender::new(Vec::new());
    build(&mut sender);
    sender.end().expect("ends")
}

pub(super) struct Lab {
    folder: tempfile::TempDir,
    number: usize,
}

/// Runs git as the attacker or the host's user.
pub(super) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env_remove(TRACE)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_string()
}

const HOOKS: &[&str] = &[
    "applypatch-msg",
    "pre-applypatch",
    "post-applypatch",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "pre-rebase",
    "post-checkout",
    "post-merge",
    "pre-push",
    "pre-receive",
    "update",
    "post-receive",
    "post-update",
    "reference-transaction",
    "push-to-checkout",
    "pre-auto-gc",
    "post-rewrite",
    "fsmonitor-watchman",
    "post-index-change",
    "proc-receive",
];

/// Settings that make git run something.
const SETTINGS: &[&str] = &[
    "core.fsmonitor",
    "core.sshCommand",
    "core.editor",
    "core.pager",
    "core.askPass",
    "core.gitProxy",
    "filter.evil.clean",
    "filter.evil.smudge",
    "filter.evil.process",
    "diff.external",
    "diff.evil.textconv",
    "diff.evil.command",
    "merge.evil.driver",
    "gpg.program",
    "gpg.ssh.program",
    "credential.helper",
    "uploadpack.packObjectsHook",
    "core.alternateRefsCommand",
    "sequence.editor",
    "pager.log",
    "interactive.diffFilter",
    "trailer.evil.command",
];

/// Everything below a folder, with its content.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("there"));
            let content = if meta.is_dir() {
                // What is kept is ours, and large; objects are git's to check.
                if !["kept", "objects"].iter().any(|name| path.ends_with(name)) {
                    todo.push(path.clone());
                }
                String::new()
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path))
            } else {
                format!("{:?}", fs::read(&path))
            };
            let name = path.strip_prefix(folder).expect("below").to_path_buf();
            all.insert(name, format!("{:o} {content}", meta.mode()));
        }
    }
    all
}

impl Lab {
    pub(super) fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a folder"), number: 0 };
        let repo = lab.repo();
        fs::create_dir_all(&repo).expect("a folder");
        fs::create_dir_all(lab.path("outside")).expect("a folder");
        fs::write(lab.path("outside/canary"), "canary").expect("writes");
        git(&repo, &["init", "-q", "-b", "main"]);
        lab.reset();
        for setting in [["user.name", "Host"], ["user.email", "host@example.org"]] {
            git(&repo, &["config", setting[0], setting[1]]);
        }
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "base"]);
        // Whatever the user's repository could run, it must not because of what came back.
        let trap = lab.path("PWNED").display().to_string();
        for key in SETTINGS {
            git(&repo, &["config", key, &format!("touch {trap}; cat")]);
        }
        // Ways to lead a fetch elsewhere, and an alternate whose references a command would list.
        git(&repo, &["config", "protocol.ext.allow", "always"]);
        let evil = format!("url.ext::sh -c touch% {trap} .insteadOf");
        git(&repo, &["config", &evil, "/"]);
        git(&repo, &["config", "fetch.bundleURI", "http://127.0.0.1:9/bundle"]);
        let alternate = lab.path("outside/alternate");
        fs::create_dir_all(&alternate).expect("a folder");
        let alternates = repo.join(".git/objects/info");
        fs::create_dir_all(&alternates).expect("a folder");
        fs::write(alternates.join("alternates"), format!("{}\n", alternate.display()))
            .expect("writes");
        let hooks = repo.join(".git/hooks");
        fs::create_dir_all(&hooks).expect("a folder");
        for hook in HOOKS {
            let path = hooks.join(hook);
            fs::write(&path, format!("#!/bin/sh\ntouch {trap}\n")).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        }
        let kept = Kept::open(&lab.path("kept")).expect("opens");
        let what = What {
            folder: repo,
            at: "/work".into(),
            include: vec![],
            depth: None,
            mark: "lab".into(),
        };
        let (shipped, _) = ship::send(&kept, &what, 0, Sender::new(Vec::new())).expect("ships");
        ship::settle(&kept, shipped, 1, &[]).expect("settles");
        assert!(!lab.path("PWNED").exists(), "shipping runs nothing of the repository's");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// A clone in which anything may be written.
    fn attacker(&self) -> PathBuf {
        let attacker = self.path(&format!("attacker-{}", self.number));
        fs::create_dir(&attacker).expect("a folder");
        git(&attacker, &["init", "-q", "--template=", "-b", "main"]);
        for setting in [["user.name", "Evil"], ["user.email", "evil@example.org"]] {
            git(&attacker, &["config", setting[0], setting[1]]);
        }
        let host = self.repo().display().to_string();
        git(&attacker, &["fetch", "-q", "--upload-pack=git-upload-pack", &host, "main:refs/base"]);
        attacker
    }

    fn take(&self, case: &Case) -> Result<Returned, String> {
        let kept = Kept::open(&self.path("kept")).expect("opens");
        let taken = || {
            let mut refused = Vec::new();
            let mut receiver = Receiver::new(case.stream.as_slice(), Limits::RETURN);
            let changes = back::changes(&kept, &mut receiver)?;
            back::forget(&kept)?;
            if let Some(bundle) = case.bundle {
                let attacker = self.attacker();
                let bundle = bundle(&attacker);
                let taken = back::commits(&kept, &bundle);
                fs::remove_dir_all(&attacker).expect("removes");
                refused = taken?;
            }
            let manifest = kept.shipped(1)?;
            let mut returned = back::returned(&kept, &manifest, &changes, Some("main".into()))?;
            returned.left_out.extend(refused);
            Ok(returned)
        };
        taken().map_err(|error: WorkspaceError| error.whole())
    }

    /// Does all that can be done with what came back, and looks at what it did.
    pub(super) fn run(&mut self, case: &Case) {
        self.number += 1;
        self.reset();
        let name = case.name;
        let (before, tree) = (self.outside(), self.tree());
        let taken = self.take(case);
        let mut applied = Ok(());
        match &taken {
            Ok(returned) => {
                assert_ne!(case.want, Want::Refused, "{name}: it was taken: {returned:?}");
                if case.want == Want::Without {
                    assert!(!returned.left_out.is_empty(), "{name}: what was left out is named");
                }
                let branch = format!("evil-{}", self.number);
                pull::habits(returned).expect("lists");
                if !returned.is_empty() {
                    let pulled = pull::pull(returned, &self.repo(), "box", Some(&branch), false);
                    pulled.unwrap_or_else(|error| panic!("{name}: {}", error.whole()));
                }
                if let Some(meanwhile) = case.meanwhile {
                    meanwhile(&self.repo(), &self.path("outside"));
                }
                applied = apply::apply(returned, true, false).map(drop);
                if case.want == Want::NotApplied {
                    assert!(applied.is_err(), "{name}: it was applied");
                }
            }
            Err(why) => assert_eq!(case.want, Want::Refused, "{name}: {why}"),
        }
        let mut other = self.outside();
        let gone = before.keys().filter(|path| !other.contains_key(*path)).cloned();
        let gone: Vec<PathBuf> = gone.collect();
        other.retain(|path, facts| before.get(path) != Some(facts));
        let other: Vec<PathBuf> = other.into_keys().chain(gone).collect();
        assert!(other.is_empty(), "{name}: {other:?} changed outside of the tree ({applied:?})");
        assert!(!self.path("PWNED").exists(), "{name}: something of the user's was run");
        let bad = self.only_good(case, &tree);
        assert_eq!(bad, Vec::<PathBuf>::new(), "{name}: these were written");
        if case.bundle.is_some() {
            git(&self.repo(), &["-c", "core.fsmonitor=false", "fsck", "--full"]);
        }
    }

    /// The names that were written and may not be. The host's own changes of a case are its own.
    fn only_good(&self, case: &Case, before: &BTreeMap<PathBuf, String>) -> Vec<PathBuf> {
        if case.meanwhile.is_some() {
            return Vec::new();
        }
        let good: BTreeSet<&Path> =
            case.good.iter().flat_map(|name| Path::new(name).ancestors()).collect();
        let written = self.tree().into_iter().filter(|(path, facts)| {
            before.get(path) != Some(facts) && !good.contains(path.as_path())
        });
        written.map(|(path, _)| path).collect()
    }

    /// Puts the host's files back to what was shipped.
    fn reset(&self) {
        let repo = self.repo();
        for entry in fs::read_dir(&repo).expect("reads").flatten() {
            if entry.file_name() != ".git" {
                let meta = entry.metadata().expect("there");
                let removed = match meta.is_dir() {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                };
                removed.expect("removes");
            }
        }
        fs::create_dir_all(repo.join("src")).expect("a folder");
        fs::write(repo.join("src/lib.rs"), "lib\n").expect("writes");
        fs::write(repo.join("README"), "readme\n").expect("writes");
        fs::write(repo.join(".gitattributes"), "*.bin filter=evil diff=evil\n").expect("writes");
    }

    /// Everything that nothing may touch: what is beside the repository, and its own folder but for what pulls are for.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut all = snapshot(self.folder.path());
        all.retain(|path, _| {
            let kept = path.starts_with("kept");
            let tree = path.starts_with("repo") && !path.starts_with("repo/.git");
            let spaces = ["refs/banger", "refs/banger-before"];
            let logs = spaces.map(|space| format!("logs/{space}"));
            let pulled = ["objects"]
                .into_iter()
                .chain(spaces)
                .chain(logs.iter().map(String::as_str))
                .any(|part| path.starts_with(Path::new("repo/.git").join(part)));
            let branch = path.to_string_lossy().contains("refs/heads/evil-");
            let above = ["logs", "logs/refs", "logs/refs/heads", "refs"]
                .iter()
                .any(|log| *path == Path::new("repo/.git").join(log));
            !(kept || tree || pulled || branch || above)
        });
        all
    }

    fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut all = snapshot(&self.repo());
        all.retain(|path, _| !path.starts_with(".git"));
        all
    }

    /// Every process that git started was git.
    pub(super) fn nothing_was_run(&self) {
        let trace = std::env::var_os(TRACE).expect("traced");
        let trace = fs::read_to_string(trace).expect("a trace");
        let mut started = 0;
        for line in trace.lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("an event");
            assert_ne!(event["event"], "exec", "git became something else: {line}");
            if event["event"] != "child_start" {
                continue;
            }
            started += 1;
            let argv = event["argv"].as_array().expect("arguments");
            let program = argv.first().and_then(|first| first.as_str()).unwrap_or_default();
            // One repository of this host is fetched from another by git's own server.
            let server = program.strip_prefix("git-upload-pack '");
            let server = server.is_some_and(|path| path.matches('\'').count() == 1);
            let own = program == "git" || program.ends_with("/git");
            assert!(server || own && event["use_shell"] != true, "git started {argv:?}");
            assert_ne!(event["child_class"], "hook", "git started {argv:?}");
        }
        assert!(started > 0, "git starts parts of itself");
    }
}
