//! What came back from a guest that names everything as it likes: a repository of the daemon's, and the user's own.

use super::corpus::texts;
use super::daemon::Repository;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn git(folder: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("takes it");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// A path as `fast-import` reads any.
fn quoted(path: &str) -> String {
    let letters: String = path.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    format!("\"{letters}\"")
}

fn data(bytes: &str) -> String {
    format!("data {}\n{bytes}\n", bytes.len())
}

/// The user's repository with one commit, and the daemon's with one on top of it for each text.
pub(super) fn make(folder: &Path) -> Repository {
    let (user, kept) = (folder.join("user"), folder.join("kept"));
    fs::create_dir_all(&user).expect("a folder");
    fs::create_dir_all(&kept).expect("a folder");
    git(&user, &["init", "-q", "-b", "main"], b"");
    let who = "committer A <a@example.org> 0 +0000\n";
    let first = format!(
        "commit refs/heads/main\n{who}{}M 100644 inline readme\n{}",
        data("first"),
        data("hello")
    );
    git(&user, &["fast-import", "--quiet"], first.as_bytes());
    git(&user, &["reset", "-q", "--hard"], b"");
    let shipped = git(&user, &["rev-parse", "HEAD"], b"");
    // What is shipped is named too.
    fs::write(user.join("ship\u{1b}[6n\u{202e}me"), "x").expect("writes");
    git(&user, &["add", "."], b"");
    git(folder, &["clone", "-q", "--bare", "user", "kept/git"], b"");
    let own = kept.join("git");
    let mut stream = String::new();
    for (number, text) in texts().iter().enumerate() {
        let text = text.replace('\0', "\u{1}");
        let author: String = text.chars().filter(|c| !"<>\n".contains(*c)).take(80).collect();
        let author = format!("committer {author} <a@example.org> {number} +0000\n");
        let from = if number == 0 { format!("from {shipped}\n") } else { String::new() };
        stream += &format!("commit refs/heads/main\n{author}{}{from}", data(&text));
        let name: String = text.replace('/', "_").chars().take(60).collect();
        let name = format!("f{number}{name}");
        stream += &format!("M 100644 inline {}\n{}", quoted(&name), data(&text));
    }
    let all = texts().join("|").replace(['\n', '\0'], " ");
    stream += &format!("commit refs/heads/main\n{who}{}", data(&all));
    stream += &format!("M 100755 inline {}\n{}", quoted("Makefile\u{1b}[6n"), data(&all));
    stream += &format!("M 100644 inline {}\n{}\n", quoted("Makefile"), data(&all));
    git(&own, &["fast-import", "--quiet"], stream.as_bytes());
    let tree = |of: &str| git(&own, &["rev-parse", &format!("{of}^{{tree}}")], b"");
    let commit = git(&own, &["rev-parse", "main"], b"");
    for name in ["heads/main", "heads/evil\u{202e}\u{9b}6n", "HEAD"] {
        git(&own, &["update-ref", &format!("refs/guest/{name}"), &commit], b"");
    }
    Repository { base: tree(&shipped), files: tree("main"), commit, shipped, folder: user, kept }
}
