//! Bundles of commits: objects, references and headers that no honest git would make.

use super::lab::{Case, Want, git, sent};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Writes an object, whatever is in it; its name.
fn object(repo: &Path, kind: &str, content: &[u8]) -> String {
    let mut child = Command::new("git")
        .current_dir(repo)
        .args(["hash-object", "--literally", "-w", "--stdin", "-t", kind])
        .env_remove(super::lab::TRACE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    child.stdin.take().expect("piped").write_all(content).expect("writes");
    let output = child.wait_with_output().expect("ends");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
        .collect()
}

/// A file that no other case has: the repository's name is its own.
fn blob(repo: &Path) -> String {
    object(repo, "blob", format!("evil {}\n", repo.display()).as_bytes())
}

/// A tree of these entries, as they are.
fn tree(repo: &Path, entries: &[(&str, &[u8], &str)]) -> String {
    let mut content = Vec::new();
    for (mode, name, object) in entries {
        content.extend_from_slice(mode.as_bytes());
        content.push(b' ');
        content.extend_from_slice(name);
        content.push(0);
        content.extend(bytes(object));
    }
    object(repo, "tree", &content)
}

fn base(repo: &Path) -> String {
    git(repo, &["rev-parse", "refs/base"])
}

const WHO: &str = "Evil <evil@example.org> 1700000000 +0000";

/// A commit of a tree on top of what was shipped.
fn commit(repo: &Path, tree: &str) -> String {
    let text =
        format!("tree {tree}\nparent {}\nauthor {WHO}\ncommitter {WHO}\n\nevil\n", base(repo));
    object(repo, "commit", text.as_bytes())
}

/// A pack of what leads from these commits to what was shipped, with a header of these lines.
fn packed(repo: &Path, tips: &[&str], header: &[u8]) -> PathBuf {
    let mut child = Command::new("git")
        .current_dir(repo)
        .args(["pack-objects", "--revs", "--stdout", "-q"])
        .env_remove(super::lab::TRACE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git runs");
    let input = format!("{}\n^{}\n", tips.join("\n"), base(repo));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("writes");
    let mut pack = child.wait_with_output().expect("ends").stdout;
    if pack.is_empty() {
        // Git will not follow what it takes for broken: every loose object, then.
        let all = git(
            repo,
            &["cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered"],
        );
        let mut child = Command::new("git")
            .current_dir(repo)
            .args(["pack-objects", "--stdout", "-q"])
            .env_remove(super::lab::TRACE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git runs");
        child.stdin.take().expect("piped").write_all(all.as_bytes()).expect("writes");
        pack = child.wait_with_output().expect("ends").stdout;
    }
    let bundle = repo.join("bundle");
    fs::write(&bundle, [header, b"\n", &pack].concat()).expect("writes");
    bundle
}

fn bundle_of(repo: &Path, tip: &str) -> PathBuf {
    let header = format!("# v2 git bundle\n-{}\n{tip} refs/heads/main\n{tip} HEAD\n", base(repo));
    packed(repo, &[tip], header.as_bytes())
}

/// A bundle whose header is made by hand around a good commit.
fn headed(repo: &Path, header: impl FnOnce(&str, &str) -> String) -> PathBuf {
    let tip = commit(repo, &tree(repo, &[("100644", b"fine", &blob(repo))]));
    let header = header(&base(repo), &tip);
    packed(repo, &[&tip], header.as_bytes())
}

/// A commit whose tree has one entry.
fn entry(repo: &Path, mode: &str, name: &[u8]) -> PathBuf {
    let object = if mode == "160000" { base(repo) } else { blob(repo) };
    let object =
        if mode == "40000" { tree(repo, &[("100755", b"post-checkout", &object)]) } else { object };
    let tree = tree(repo, &[(mode, name, &object)]);
    bundle_of(repo, &commit(repo, &tree))
}

fn modules(repo: &Path, text: &str) -> PathBuf {
    let modules = object(repo, "blob", text.as_bytes());
    let tree = tree(repo, &[("100644", b".gitmodules", &modules), ("160000", b"sub", &base(repo))]);
    bundle_of(repo, &commit(repo, &tree))
}

fn written(repo: &Path, text: impl FnOnce(&str, &str) -> String) -> PathBuf {
    let tree = tree(repo, &[("100644", b"fine", &blob(repo))]);
    let text = text(&tree, &base(repo));
    let commit = object(repo, "commit", text.as_bytes());
    bundle_of(repo, &commit)
}

fn case(name: &'static str, want: Want, bundle: fn(&Path) -> PathBuf) -> Case {
    Case { name, stream: sent(|_| ()), bundle: Some(bundle), meanwhile: None, want, good: &[] }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = trees();
    all.extend(objects());
    all.extend(headers());
    all
}

fn trees() -> Vec<Case> {
    vec![
        case("an honest commit", Want::Harmless, |r| entry(r, "100644", b"fine")),
        case("a tree with .git", Want::Refused, |r| entry(r, "40000", b".git")),
        case("a tree with .GIT", Want::Refused, |r| entry(r, "40000", b".GIT")),
        case("a tree with git~1", Want::Refused, |r| entry(r, "40000", b"git~1")),
        case("a tree with .git and a dot", Want::Refused, |r| entry(r, "40000", b".git.")),
        case("a tree with .git and a space", Want::Refused, |r| entry(r, "40000", b".git ")),
        case("a tree with .git and what HFS ignores", Want::Refused, |r| {
            entry(r, "40000", ".g\u{200c}it".as_bytes())
        }),
        case("a tree with .git and a stream", Want::Refused, |r| {
            entry(r, "40000", b".git::$INDEX_ALLOCATION")
        }),
        case("a file named .git", Want::Refused, |r| entry(r, "100644", b".git")),
        case("a tree with ..", Want::Refused, |r| entry(r, "40000", b"..")),
        case("a tree with .", Want::Refused, |r| entry(r, "40000", b".")),
        case("a tree with an empty name", Want::Refused, |r| entry(r, "100644", b"")),
        case("a name with a slash", Want::Refused, |r| entry(r, "100644", b"a/b")),
        case("a name that leads above", Want::Refused, |r| entry(r, "100644", b"../outside")),
        case("a submodule", Want::Harmless, |r| entry(r, "160000", b"sub")),
        case("an unknown mode", Want::Harmless, |r| entry(r, "100777", b"fine")),
        case("a mode with zeros in front", Want::Refused, |r| entry(r, "0100644", b"fine")),
        case("settings of modules that are a link", Want::Refused, |r| {
            entry(r, "120000", b".gitmodules")
        }),
        case("attributes that are a link", Want::Harmless, |r| {
            entry(r, "120000", b".gitattributes")
        }),
        case("entries twice", Want::Refused, |r| {
            let blob = blob(r);
            let tree = tree(r, &[("100644", b"a", &blob), ("100644", b"a", &blob)]);
            bundle_of(r, &commit(r, &tree))
        }),
        case("entries out of order", Want::Refused, |r| {
            let blob = blob(r);
            let tree = tree(r, &[("100644", b"b", &blob), ("100644", b"a", &blob)]);
            bundle_of(r, &commit(r, &tree))
        }),
        case("a link and a folder of one name", Want::Refused, |r| {
            let (blob, link) = (blob(r), object(r, "blob", b".git/hooks"));
            let inner = tree(r, &[("100755", b"post-checkout", &blob)]);
            let tree = tree(r, &[("120000", b"a", &link), ("40000", b"a", &inner)]);
            bundle_of(r, &commit(r, &tree))
        }),
        case("a deep .git", Want::Refused, |r| {
            let inner = tree(r, &[("100755", b"config", &blob(r))]);
            let mut at = tree(r, &[("40000", b".git", &inner)]);
            for _ in 0..20 {
                at = tree(r, &[("40000", b"d", &at)]);
            }
            bundle_of(r, &commit(r, &at))
        }),
        case("a thousand million files in a few trees", Want::Refused, |r| {
            let mut at = tree(r, &[("100644", b"x", &blob(r))]);
            for _ in 0..9 {
                let names: Vec<String> = (0..10).map(|n| format!("d{n}")).collect();
                let entries: Vec<(&str, &[u8], &str)> =
                    names.iter().map(|name| ("40000", name.as_bytes(), at.as_str())).collect();
                at = tree(r, &entries);
            }
            bundle_of(r, &commit(r, &at))
        }),
        case("attributes that ask for a filter", Want::Harmless, |r| {
            let attributes =
                object(r, "blob", b"* filter=evil diff=evil merge=evil text eol=crlf\n");
            let tree = tree(
                r,
                &[("100644", b".gitattributes", &attributes), ("100644", b"x.bin", &blob(r))],
            );
            bundle_of(r, &commit(r, &tree))
        }),
        case("an address of a module that is an option", Want::Refused, |r| {
            modules(r, "[submodule \"sub\"]\n\tpath = sub\n\turl = -u./evil\n")
        }),
        case("a module whose name leads above", Want::Refused, |r| {
            modules(r, "[submodule \"../../hooks\"]\n\tpath = sub\n\turl = https://example.org/x\n")
        }),
        case("a module whose path is an option", Want::Refused, |r| {
            modules(r, "[submodule \"sub\"]\n\tpath = -sub\n\turl = https://example.org/x\n")
        }),
        case("a module that updates by a command", Want::Refused, |r| {
            modules(
                r,
                "[submodule \"sub\"]\n\tpath = sub\n\turl = https://example.org/x\n\tupdate = !touch evil\n",
            )
        }),
    ]
}

fn objects() -> Vec<Case> {
    vec![
        case("a commit without an author", Want::Refused, |r| {
            written(r, |tree, base| format!("tree {tree}\nparent {base}\ncommitter {WHO}\n\nx\n"))
        }),
        case("a commit without a committer", Want::Refused, |r| {
            written(r, |tree, base| format!("tree {tree}\nparent {base}\nauthor {WHO}\n\nx\n"))
        }),
        case("a commit with a NUL in its head", Want::Refused, |r| {
            written(r, |tree, base| {
                format!(
                    "tree {tree}\nparent {base}\nauthor Ev\0il <e@x> 1 +0000\ncommitter {WHO}\n\nx\n"
                )
            })
        }),
        case("a commit of no date", Want::Refused, |r| {
            written(r, |tree, base| {
                format!("tree {tree}\nparent {base}\nauthor Evil <e@x> x\ncommitter {WHO}\n\nx\n")
            })
        }),
        case("a commit of the end of time", Want::Refused, |r| {
            written(r, |tree, base| {
                format!(
                    "tree {tree}\nparent {base}\nauthor Evil <e@x> 99999999999999999999999 +0000\ncommitter {WHO}\n\nx\n"
                )
            })
        }),
        case("a commit with escapes in its author", Want::Harmless, |r| {
            written(r, |tree, base| {
                format!(
                    "tree {tree}\nparent {base}\nauthor \x1b[2JEvil <e@x> 1 +0000\ncommitter {WHO}\n\n\x1b]52;c;x\x07\n"
                )
            })
        }),
        case("a commit whose tree is not there", Want::Refused, |r| {
            let missing = "1".repeat(40);
            let text =
                format!("tree {missing}\nparent {}\nauthor {WHO}\ncommitter {WHO}\n\nx\n", base(r));
            let commit = object(r, "commit", text.as_bytes());
            bundle_of(r, &commit)
        }),
        case("a tree whose file is not there", Want::Refused, |r| {
            let tree = tree(r, &[("100644", b"missing", &"2".repeat(40))]);
            bundle_of(r, &commit(r, &tree))
        }),
        case("a file that is a tree", Want::Refused, |r| {
            let inner = tree(r, &[("100644", b"x", &blob(r))]);
            let outer = tree(r, &[("100644", b"x", &inner)]);
            bundle_of(r, &commit(r, &outer))
        }),
        case("a name of no object", Want::Refused, |r| {
            let tree = tree(r, &[("100644", b"x", &"0".repeat(40))]);
            bundle_of(r, &commit(r, &tree))
        }),
        case("a signature that asks for a program", Want::Harmless, |r| {
            written(r, |tree, base| {
                format!(
                    "tree {tree}\nparent {base}\nauthor {WHO}\ncommitter {WHO}\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\nx\n"
                )
            })
        }),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        case("an empty file", Want::Refused, |r| {
            let bundle = r.join("bundle");
            fs::write(&bundle, "").expect("writes");
            bundle
        }),
        case("a bundle of no version", Want::Refused, |r| {
            headed(r, |base, tip| format!("# v9 git bundle\n-{base}\n{tip} HEAD\n"))
        }),
        case("a capability that nobody knows", Want::Refused, |r| {
            headed(r, |base, tip| format!("# v3 git bundle\n@evil=1\n-{base}\n{tip} HEAD\n"))
        }),
        case("a bundle that leaves objects out", Want::Refused, |r| {
            headed(r, |base, tip| {
                format!(
                    "# v3 git bundle\n@object-format=sha1\n@filter=blob:none\n-{base}\n{tip} HEAD\n"
                )
            })
        }),
        case("something before that is not there and not needed", Want::Harmless, |r| {
            headed(r, |_, tip| format!("# v2 git bundle\n-{}\n{tip} HEAD\n", "3".repeat(40)))
        }),
        case("a tip that is not in it", Want::Refused, |r| {
            headed(r, |base, _| format!("# v2 git bundle\n-{base}\n{} HEAD\n", "4".repeat(40)))
        }),
        case("a branch whose name leads above", Want::Harmless, |r| {
            headed(r, |base, tip| {
                format!("# v2 git bundle\n-{base}\n{tip} refs/heads/../../config\n{tip} HEAD\n")
            })
        }),
        case("a branch whose name is an option", Want::Harmless, |r| {
            headed(r, |base, tip| {
                format!(
                    "# v2 git bundle\n-{base}\n{tip} refs/heads/--upload-pack=evil\n{tip} HEAD\n"
                )
            })
        }),
        case("a branch that is a lock", Want::Harmless, |r| {
            headed(r, |base, tip| {
                format!("# v2 git bundle\n-{base}\n{tip} refs/heads/main.lock\n{tip} HEAD\n")
            })
        }),
        case("a branch with escapes", Want::Harmless, |r| {
            headed(r, |base, tip| {
                format!("# v2 git bundle\n-{base}\n{tip} refs/heads/\x1b[2J\n{tip} HEAD\n")
            })
        }),
        case("a branch within a branch", Want::Refused, |r| {
            headed(r, |base, tip| {
                format!("# v2 git bundle\n-{base}\n{tip} refs/heads/a\n{tip} refs/heads/a/b\n")
            })
        }),
        case("references of another kind", Want::Harmless, |r| {
            headed(r, |base, tip| {
                format!(
                    "# v2 git bundle\n-{base}\n{tip} refs/tags/v1\n{tip} refs/replace/{base}\n{tip} refs/banger/x\n{tip} HEAD\n"
                )
            })
        }),
        case("no reference of use", Want::Harmless, |r| {
            headed(r, |base, tip| format!("# v2 git bundle\n-{base}\n{tip} refs/tags/v1\n"))
        }),
        case("more branches than may come", Want::Refused, |r| {
            headed(r, |base, tip| {
                let many: String = (0..150).map(|n| format!("{tip} refs/heads/b{n}\n")).collect();
                format!("# v2 git bundle\n-{base}\n{many}")
            })
        }),
        case("a pack that is cut", Want::Refused, |r| {
            let bundle = entry(r, "100644", b"fine");
            let bytes = fs::read(&bundle).expect("reads");
            fs::write(&bundle, &bytes[..bytes.len() - 30]).expect("writes");
            bundle
        }),
        case("a pack with a wrong bit", Want::Refused, |r| {
            let bundle = entry(r, "100644", b"fine");
            let mut bytes = fs::read(&bundle).expect("reads");
            let at = bytes.len() - 40;
            bytes[at] ^= 1;
            fs::write(&bundle, bytes).expect("writes");
            bundle
        }),
        case("no pack and nothing new", Want::Refused, |r| {
            let bundle = r.join("bundle");
            fs::write(&bundle, format!("# v2 git bundle\n-{0}\n{0} HEAD\n\n", base(r)))
                .expect("writes");
            bundle
        }),
    ]
}
