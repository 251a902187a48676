//! A repository goes into a sandbox, work is done there, and it comes back.

use super::home::{Home, IMAGE, NET_IMAGE, WORK_IMAGE, can_run, kernel_of_this_host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The host's git, as its user has it set.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .output()
        .expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_string()
}

/// Everything below a folder: kind, permissions, times and content of each.
pub(crate) fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("reads").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("there"));
            let facts =
                format!("{:o} {} {}.{}", meta.mode(), meta.len(), meta.mtime(), meta.mtime_nsec());
            let content = if meta.is_dir() {
                todo.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).expect("a link").display().to_string()
            } else {
                format!("{:?}", fs::read(&path).expect("reads"))
            };
            all.insert(
                path.strip_prefix(folder).expect("below").to_path_buf(),
                format!("{facts} {content}"),
            );
        }
    }
    all
}

/// As [`snapshot`], without git's own folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = snapshot(folder);
    all.retain(|path, _| !path.starts_with(".git"));
    all
}

impl Home {
    /// Runs a shell line in a sandbox; what it printed.
    fn inside(&self, name: &str, line: &str) -> String {
        self.ok(&["vm", "exec", name, "--", "/bin/sh", "-ec", line])
    }
}

/// A copy of this repository, with somebody who works in it.
fn clone(home: &Home) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent");
    let repo = home.path().join("repo");
    git(home.path(), &["clone", "-q", &here.display().to_string(), "repo"]);
    git(&repo, &["config", "user.name", "Ada Example"]);
    git(&repo, &["config", "user.email", "ada@example.org"]);
    repo
}

/// The loop that people who let agents work in sandboxes go through, on this repository.
#[test]
fn work_that_was_done_in_a_sandbox_comes_back() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(WORK_IMAGE);
    let repo = clone(&home);
    // What the host has not committed goes along; what git does not track and what it ignores does not.
    fs::write(repo.join("README.md"), "changed on the host\n").expect("writes");
    fs::write(repo.join(".env"), "TOKEN=secret\n").expect("writes");
    fs::write(repo.join("notes"), "untracked\n").expect("writes");
    fs::create_dir_all(repo.join("target")).expect("a folder");
    fs::write(repo.join("target/built"), "ignored\n").expect("writes");
    git(&repo, &["remote", "set-url", "origin", "https://user:token@example.org/repo"]);
    let before = snapshot(&repo);
    let listed = home.ok(&["vm", "run", "repo", "--dry-run"]);
    assert!(listed.lines().any(|line| line == "Cargo.toml"), "{listed}");
    assert!(!listed.contains("notes") && !listed.contains(".env"), "{listed}");

    let name = home.ok(&["vm", "run", "-d", "repo", "--image", "work", "--name", "dev"]);
    assert_eq!(name.trim(), "dev");
    assert_eq!(snapshot(&repo), before, "shipping changes nothing here");
    let inside = |line: &str| home.inside("dev", line);
    assert_eq!(inside("pwd"), "/work\n", "commands start there");
    assert_eq!(inside("git status --short"), " M README.md\n", "git says there what it says here");
    assert_eq!(inside("git rev-parse HEAD").trim(), git(&repo, &["rev-parse", "HEAD"]));
    assert_eq!(
        inside("git rev-parse --abbrev-ref HEAD").trim(),
        git(&repo, &["rev-parse", "--abbrev-ref", "HEAD"])
    );
    assert_eq!(inside("git fsck --full 2>&1 | grep -v '^notice' || true"), "");
    assert_eq!(
        inside("git config user.name; git config user.email"),
        "Ada Example\nada@example.org\n"
    );
    assert_eq!(
        inside("git remote; cat .git/config | grep -c token || true"),
        "0\n",
        "no remote, no credential"
    );
    assert_eq!(inside("ls -a | grep -c -e '^.env$' -e notes -e target || true"), "0\n");
    assert_eq!(inside("test -x tests/run && echo yes"), "yes\n");
    assert_eq!(
        home.ok(&["vm", "workspace", "status", "dev"]).lines().last(),
        Some("nothing changed")
    );

    // Two commits by different people, an index that is the guest's own, and what is not committed.
    inside(
        "echo one > one; git add one; git commit -qm 'first: add one'\n\
         git -c user.name='Grace Other' -c user.email=grace@example.org commit -q --allow-empty -m 'second, by another'\n\
         echo staged > staged; git add staged\n\
         echo 'not committed' >> README.md; echo new > new.txt; printf 'a\\0b' > binary\n\
         rm CONTRIBUTING.md; chmod +x LICENSE; ln -s one link\n\
         mkdir -p target; echo x > target/x; mkdir -p deep/er; echo deep > deep/er/file",
    );
    let index = inside("sha256sum .git/index; git status --short");
    let status = home.ok(&["vm", "workspace", "status", "dev"]);
    assert!(status.contains("2 commits on"), "{status}");
    assert!(status.contains("Ada Example: first: add one"), "{status}");
    let diff = home.ok(&["vm", "workspace", "diff", "dev"]);
    for part in [
        "+not committed",
        "b/new.txt",
        "b/one",
        "b/deep/er/file",
        "Binary files",
        "deleted file",
        "new mode 100755",
    ] {
        assert!(diff.contains(part), "{part} in {diff}");
    }
    assert!(!diff.contains("target/"), "{diff}");
    assert!(!diff.contains("changed on the host\n-"), "what was shipped is the base");
    let stat = home.ok(&["vm", "workspace", "diff", "dev", "--stat", "repo/one"]);
    assert!(!stat.contains("new.txt"), "{stat}");
    assert_eq!(
        inside("sha256sum .git/index; git status --short"),
        index,
        "the guest's index was not touched"
    );

    // A patch that makes of the shipped files what the guest has.
    let patch = home.ok(&["vm", "workspace", "export", "dev"]);
    let copy = home.path().join("copy");
    fs::create_dir(&copy).expect("a folder");
    for file in git(&repo, &["ls-files"]).lines() {
        fs::create_dir_all(copy.join(file).parent().expect("a parent")).expect("a folder");
        fs::copy(repo.join(file), copy.join(file)).expect("copies");
    }
    fs::write(home.path().join("patch"), patch).expect("writes");
    git(&copy, &["apply", "--unsafe-paths", &home.path().join("patch").display().to_string()]);
    assert_eq!(fs::read(copy.join("binary")).expect("there"), b"a\0b");
    assert!(!copy.join("CONTRIBUTING.md").exists());

    // LICENSE became executable: that needs a yes.
    let said = home.banger(&["vm", "workspace", "pull", "dev", "--as-branch", "agent/one"]);
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert!(said.err.contains("LICENSE"), "{}", said.err);
    let tree = files(&repo);
    home.ok(&["vm", "workspace", "pull", "dev", "--as-branch", "agent/one", "--yes"]);
    assert_eq!(files(&repo), tree, "no file here moved");
    let log = git(&repo, &["log", "--format=%an <%ae> %s", "agent/one", "-3"]);
    let expected = "Ada Example <ada@example.org> What was not committed in the sandbox\n\
        Grace Other <grace@example.org> second, by another\nAda Example <ada@example.org> first: add one";
    assert_eq!(log, expected);
    assert_eq!(git(&repo, &["rev-parse", "agent/one~3"]), git(&repo, &["rev-parse", "HEAD"]));
    assert_eq!(git(&repo, &["show", "agent/one:new.txt"]), "new");
    assert_eq!(git(&repo, &["show", "agent/one:staged"]), "staged");
    assert!(git(&repo, &["fsck", "--full", "--strict", "--no-dangling"]).is_empty());
    assert_eq!(git(&repo, &["status", "--short"]), " M README.md\n?? .env\n?? notes");
    let mut moved = snapshot(&repo);
    moved.retain(|path, facts| before.get(path) != Some(facts));
    let elsewhere = |path: &&PathBuf| {
        !["objects", "refs", "logs"]
            .iter()
            .any(|part| path.starts_with(Path::new(".git").join(part)))
            && *path != Path::new(".git")
    };
    assert_eq!(moved.keys().filter(elsewhere).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    let references = git(&repo, &["for-each-ref", "--format=%(refname)", "refs/banger"]);
    assert!(references.lines().all(|name| name.starts_with("refs/banger/dev/")), "{references}");

    // Onto the files themselves, and only where nothing moved.
    fs::write(repo.join("Cargo.toml"), "changed meanwhile\n").expect("writes");
    inside("echo theirs >> Cargo.toml");
    let tree = files(&repo);
    let said = home.banger(&["vm", "workspace", "apply", "dev", "--yes", "--symlinks"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("Cargo.toml (it changed here since it was shipped)"), "{}", said.err);
    assert_eq!(files(&repo), tree, "all or nothing");
    inside("git checkout -q Cargo.toml");
    let said = home.banger(&["vm", "workspace", "apply", "dev", "--yes"]);
    assert!(said.err.contains("link (a link to one"), "{}", said.err);
    assert_eq!(files(&repo), tree);
    home.ok(&["vm", "workspace", "apply", "dev", "--yes", "--symlinks"]);
    assert_eq!(
        fs::read_to_string(repo.join("README.md")).expect("there"),
        "changed on the host\nnot committed\n"
    );
    assert_eq!(fs::read_to_string(repo.join("Cargo.toml")).expect("there"), "changed meanwhile\n");
    assert!(!repo.join("CONTRIBUTING.md").exists());
    assert_eq!(
        fs::metadata(repo.join("LICENSE")).expect("there").permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::read_link(repo.join("link")).expect("a link"), Path::new("one"));
    let again = home.ok(&["vm", "workspace", "apply", "dev", "--yes", "--symlinks"]);
    assert!(again.contains("0 files"), "{again}");
    // The guest goes on from what was applied: that is no conflict, neither here nor there.
    inside("echo 'and on' >> README.md; rm new.txt; echo back > CONTRIBUTING.md");
    let said = home.banger(&["vm", "workspace", "push", "dev"]);
    assert!(!said.err.contains("README.md"), "{}", said.err);
    home.ok(&["vm", "workspace", "apply", "dev", "--yes", "--symlinks"]);
    let readme = fs::read_to_string(repo.join("README.md")).expect("there");
    assert_eq!(readme, "changed on the host\nnot committed\nand on\n");
    assert!(!repo.join("new.txt").exists());
    assert_eq!(fs::read_to_string(repo.join("CONTRIBUTING.md")).expect("there"), "back\n");

    // What was applied is the user's to edit: the guest has nothing new for it.
    fs::write(repo.join("one"), "edited here\n").expect("writes");
    let again = home.ok(&["vm", "workspace", "apply", "dev", "--yes", "--symlinks"]);
    assert!(again.contains("0 files"), "{again}");
    assert_eq!(fs::read_to_string(repo.join("one")).expect("there"), "edited here\n");

    // What changed here goes there, but for what changed there too.
    inside("echo mine > notes2; echo mine >> SECURITY.md");
    fs::write(repo.join("Cargo.toml"), "once more\n").expect("writes");
    let said = home.banger(&["vm", "workspace", "push", "dev"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(inside("cat Cargo.toml"), "once more\n");
    fs::write(repo.join("Cargo.toml"), "here\n").expect("writes");
    inside("echo there > Cargo.toml");
    let said = home.banger(&["vm", "workspace", "push", "dev"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("Cargo.toml: it changed in the sandbox"), "{}", said.err);
    assert_eq!(inside("cat Cargo.toml"), "there\n");

    // All of it survives the daemon, the guest's restart, and is gone with the sandbox.
    home.kill_daemon();
    home.ok(&["vm", "restart", "dev", "-p", "default"]);
    assert_eq!(inside("cat Cargo.toml; pwd"), "there\n/work\n");
    let status = home.ok(&["vm", "workspace", "status", "dev"]);
    assert!(status.contains("2 commits on"), "{status}");
    home.ok(&["vm", "delete", "dev", "--yes", "-p", "default"]);
    home.assert_nothing_left();
}

/// A small repository with somebody who works in it.
fn small(home: &Home) -> PathBuf {
    let repo = home.path().join("small");
    fs::create_dir(&repo).expect("a folder");
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["config", "user.name", "Ada Example"]);
    git(&repo, &["config", "user.email", "ada@example.org"]);
    fs::write(repo.join("input"), "one\n").expect("writes");
    fs::write(repo.join("Makefile"), "all:\n\ttrue\n").expect("writes");
    fs::write(repo.join(".gitignore"), "*.log\n").expect("writes");
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "base"]);
    fs::write(repo.join("local"), "named\n").expect("writes");
    repo
}

/// Images without git are most of them: files go there and come back all the same, and a run leaves nothing behind but
/// what was done in it.
#[test]
fn a_run_in_a_repository_keeps_what_was_done() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(IMAGE);
    let repo = small(&home);
    let before = files(&repo);
    let run = |more: &[&str], line: &str| {
        let head = ["vm", "run", "small", "--image", "base", "--memory", "256MiB"];
        home.banger(&[&head[..], more, &["--", "/bin/sh", "-c", line]].concat())
    };
    let said = run(&["--include", "local"], "pwd; cat input local; ls -a; exit 7");
    assert_eq!(said.code, 7, "{}{}", said.out, said.err);
    assert!(said.out.starts_with("/work\none\nnamed\n"), "{}", said.out);
    assert!(!said.err.contains("kept"), "nothing was done: {}", said.err);
    assert_eq!(git(&repo, &["for-each-ref", "refs/banger"]), "");

    let said = run(
        &[],
        "echo two >> input; echo new > made; echo x > x.log; mkdir -p sub; echo deep > sub/made",
    );
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.err.contains("kept 3 changed files: git log -p refs/banger/run-"), "{}", said.err);
    let kept = git(&repo, &["for-each-ref", "--format=%(refname)", "refs/banger"]);
    let work = kept.lines().find(|name| name.ends_with("/work")).expect("what was not committed");
    assert_eq!(git(&repo, &["show", &format!("{work}:made")]), "new");
    assert_eq!(git(&repo, &["diff", "--name-only", "HEAD", work]), "input\nmade\nsub/made");
    assert_eq!(files(&repo), before, "no file here moved");

    let said = run(&["--discard"], "echo lost > lost");
    assert_eq!((said.code, said.err.contains("kept")), (0, false), "{}", said.err);
    assert_eq!(git(&repo, &["for-each-ref", "--format=%(refname)", "refs/banger"]), kept);

    // What changes here while it runs is there at once; what changed there is left alone and named.
    let line = "echo mine > Makefile; echo ready; until grep -q synced input; do sleep 0.1; done; cat input Makefile";
    let command = [
        "vm",
        "run",
        "small",
        "--sync",
        "--discard",
        "--image",
        "base",
        "--memory",
        "256MiB",
        "--",
        "/bin/sh",
        "-c",
        line,
    ];
    let mut client = home.command(&command);
    let mut client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut word = [0; 6];
    std::io::Read::read_exact(client.stdout.as_mut().expect("piped"), &mut word)
        .expect("it is ready");
    let (makefile, input) = (repo.join("Makefile"), repo.join("input"));
    let were = (fs::read(&makefile).expect("reads"), fs::read(&input).expect("reads"));
    fs::write(&makefile, "theirs\n").expect("writes");
    fs::write(&input, "synced\n").expect("writes");
    let said = client.wait_with_output().expect("ends");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!((out.as_ref(), said.status.code()), ("synced\nmine\n", Some(0)), "{err}");
    assert!(err.contains("left alone: Makefile: it changed in the sandbox"), "{err}");
    fs::write(&makefile, were.0).expect("writes");
    fs::write(&input, were.1).expect("writes");

    // A terminal that is closed, a client that is killed: what was done stays where it is, and comes back when it is asked for.
    let line = "echo precious > precious; echo ready; sleep 1000";
    let command = [
        "vm", "run", "small", "--image", "base", "--memory", "256MiB", "--", "/bin/sh", "-c", line,
    ];
    let mut client = home
        .command(&command)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut word = [0; 6];
    std::io::Read::read_exact(client.stdout.as_mut().expect("piped"), &mut word)
        .expect("it is ready");
    client.kill().expect("kills");
    client.wait().expect("ends");
    let name = home.json(&["ps"])[0]["name"].as_str().expect("a name").to_string();
    home.wait("it stays", Duration::from_secs(30), |home| {
        home.status(&name).is_some_and(|status| status["ephemeral"] == false)
    });
    home.ok(&["-p", "run", "vm", "workspace", "pull", &name]);
    assert_eq!(git(&repo, &["show", &format!("refs/banger/{name}/work:precious")]), "precious");
    home.ok(&["-p", "run", "vm", "delete", &name, "--yes"]);

    // What cannot be shipped is said before anything is started.
    let said = home.banger(&["vm", "run", "state", "--image", "base", "--", "true"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(
        said.err.contains("is not a git repository") && said.err.contains("hint: git init"),
        "{}",
        said.err
    );
    home.assert_nothing_left();
}

/// A workspace that is in the file: shipped by `apply`, followed by `apply --watch`, kept true by the loop.
#[test]
fn a_workspace_in_the_file_is_kept_true() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let repo = small(&home);
    let file = |more: &str| {
        format!(
            "{IMAGE}sandbox \"web\" {{\n image \"base\"\n memory \"256MiB\"\n workspace \"small\" at=\"/src\" {{\n include \"local\"\n }}\n \
             provision \"cat input > /provisioned\"\n{more}}}\n"
        )
    };
    home.write(&file(""));
    let mut watching = home.command(&["apply", "--watch"]);
    let mut watching =
        watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let is = |line: &'static str, expected: &'static str| {
        move |home: &Home| {
            home.banger(&["vm", "exec", "web", "--", "/bin/sh", "-c", line]).out == expected
        }
    };
    let minute = Duration::from_secs(60);
    home.wait(
        "shipped before it was provisioned",
        2 * minute,
        is("cat /provisioned local; pwd", "one\nnamed\n/src\n"),
    );
    fs::write(repo.join("input"), "two\n").expect("writes");
    home.wait("a change came", minute, is("cat input", "two\n"));
    fs::write(repo.join("added"), "added\n").expect("writes");
    git(&repo, &["add", "added"]);
    home.wait("a new file came", minute, is("cat added", "added\n"));
    fs::remove_file(repo.join("added")).expect("removes");
    home.wait("a file went", minute, is("test -e added || echo gone", "gone\n"));
    // An editor that writes beside and renames.
    fs::write(repo.join("input~"), "three\n").expect("writes");
    fs::rename(repo.join("input~"), repo.join("input")).expect("renames");
    home.wait("a file that was replaced came", minute, is("cat input", "three\n"));
    home.write(&file(" env GREETING=\"hello\"\n"));
    home.wait("the file was applied again", minute, is("echo $GREETING", "hello\n"));
    let boot = home.boot_id("web");
    // Interrupted while it is at another change, it ends all the same.
    home.write(&file(" env GREETING=\"once more\"\n"));
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(i32::try_from(watching.id()).expect("a number")), Signal::SIGINT)
        .expect("interrupts");
    home.wait("it ends", Duration::from_secs(10), |_| {
        watching.try_wait().expect("a child").is_some()
    });
    let ended = watching.wait_with_output().expect("ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

    // Nobody watches any more: the loop ships to a new disk by itself.
    home.ok(&["apply"]);
    assert_eq!(home.boot_id("web"), boot, "and restarts nothing for it");
    let other = file("")
        .replace("image \"base\"\n", "image \"net\"\n")
        .replace(IMAGE, &format!("{IMAGE}{NET_IMAGE}"));
    home.write(&other);
    home.ok(&["apply", "--yes"]);
    assert!(is("cat input; cat /provisioned", "three\nthree\n")(&home), "shipped anew");
    assert_eq!(home.ok(&["plan"]), "no changes\n");
    home.write("");
    home.ok(&["apply", "--yes"]);
    home.assert_nothing_left();
}

/// Copies of files: whole or not at all, and what comes out of a sandbox is a stranger's.
#[test]
fn files_are_copied_both_ways() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"web\" {{ image \"base\"; memory \"256MiB\"; }}"));
    home.ok(&["apply"]);
    let here = home.path().join("tree");
    fs::create_dir_all(here.join("deep/er")).expect("a folder");
    fs::write(here.join("deep/er/run"), "#!/bin/sh\necho ran\n").expect("writes");
    fs::set_permissions(here.join("deep/er/run"), fs::Permissions::from_mode(0o755)).expect("sets");
    // An emulated kernel takes its time with each packet.
    let mib = if kernel_of_this_host().is_some() { 1u32 } else { 8 };
    let large: Vec<u8> =
        (0..mib << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(here.join("large"), &large).expect("writes");
    fs::write(here.join("with space"), "x").expect("writes");
    let fails = |arguments: &[&str], code: i32, why: &str| {
        let said = home.banger(&[&["vm", "cp"], arguments].concat());
        assert_eq!(said.code, code, "{arguments:?}: {}{}", said.out, said.err);
        assert!(said.err.contains(why), "{arguments:?}: {}", said.err);
    };
    home.ok(&["vm", "cp", "tree", "web:/root"]);
    assert_eq!(
        home.inside("web", "/root/tree/deep/er/run; ls /root/tree"),
        "ran\ndeep\nlarge\nwith space\n"
    );
    home.ok(&["vm", "cp", "tree/large", "web:/tmp/other"]);
    // Again: it is there already, just so; other content needs a word.
    let said = home.banger(&["vm", "cp", "tree", "web:/root"]);
    assert!(said.code == 0 && said.err.contains("3 already so"), "{}", said.err);
    home.inside("web", "echo changed > '/root/tree/with space'");
    fails(&["tree", "web:/root"], 1, "tree/with space (another file) already there");
    assert_eq!(home.inside("web", "cat '/root/tree/with space'"), "changed\n");
    home.ok(&["vm", "cp", "--force", "tree", "web:/root"]);
    assert_eq!(home.inside("web", "cat '/root/tree/with space'"), "x");
    fails(&["tree", "web:/nowhere/here"], 1, "there is no folder /nowhere");
    fails(&["missing", "web:/tmp"], 1, "missing");
    fails(&["tree", "other"], 2, "one of the two is in a sandbox");
    fails(&["tree", "nobody:/tmp"], 1, "there is no sandbox nobody");

    home.ok(&["vm", "cp", "web:/root/tree", "back"]);
    let compared =
        Command::new("diff").args(["-r"]).arg(&here).arg(home.path().join("back")).status();
    assert!(compared.expect("diff").success());
    let mode =
        fs::metadata(home.path().join("back/deep/er/run")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    home.ok(&["vm", "cp", "web:/tmp/other", "."]);
    assert_eq!(fs::read(home.path().join("other")).expect("reads"), large);
    fails(&["web:/root/tree", "back/none/"], 1, "there is no folder back/none");
    fails(&["web:/missing", "."], 1, "/missing");
    fs::write(home.path().join("other"), "mine").expect("writes");
    fails(&["web:/tmp/other", "."], 1, "other (another file) already there");
    assert_eq!(fs::read(home.path().join("other")).expect("reads"), b"mine");

    // What a stranger may send.
    home.inside("web", "mkdir -p /e/.git /s /l; echo x > /e/.git/config; mkfifo /s/pipe; echo s > /s/file; ln -s /etc/passwd /l/out; ln -s in /l/fine");
    let before = snapshot(home.path().join("back").as_path());
    fails(&["web:/e", "back"], 1, "e/.git");
    fails(&["web:/l", "back"], 1, "l/out (a link to /etc/passwd)");
    fails(&["--symlinks", "web:/l", "back"], 1, "l/out (a link to /etc/passwd)");
    assert_eq!(snapshot(home.path().join("back").as_path()), before);
    let said = home.banger(&["vm", "cp", "web:/s", "back"]);
    assert!(said.code == 0 && said.err.contains("left out 1"), "{}", said.err);
    home.inside("web", "rm /l/out");
    home.ok(&["vm", "cp", "--symlinks", "web:/l", "back"]);
    assert_eq!(fs::read_link(home.path().join("back/l/fine")).expect("a link"), Path::new("in"));
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
