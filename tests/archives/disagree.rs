//! Archives that GNU tar and bsdtar do not see in the same way: such are refused, whoever is right.

use super::case::{Case, make};
use super::differential::{comparable, walk};
use super::{extended, image, numbers, sparse};
use std::path::Path;
use std::process::Command;

/// Where the two differ and an image is made all the same, each for a reason.
const KNOWN: &[(&str, &str)] = &[
    ("a fraction before 1970", "bsdtar rounds it to 1970"),
    ("attributes of bsdtar", "bsdtar applies access lists, which images do not have"),
    ("attributes of a whiteout", "it is no file"),
];

/// What a program unpacks; `None` when it is not content with the archive.
fn unpacked(program: &str, archive: &Path) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program);
    if program == "tar" {
        command.arg("--delay-directory-restore");
    }
    let command =
        command.args(["--numeric-owner", "-xpf"]).arg(archive).arg("-C").arg(folder.path());
    let said = command.output().expect("it runs");
    said.status.success().then(|| without_folder_times(comparable(walk(folder.path()))))
}

/// Folders that no entry names have the time of now.
fn without_folder_times(lines: Vec<String>) -> Vec<String> {
    let below = lines.into_iter().filter(|line| !line.starts_with('/'));
    below
        .map(|line| {
            line.split("/ t").next().expect("one part").to_string()
                + if line.contains("/ t") { "/" } else { "" }
        })
        .collect()
}

fn judge(case: &Case) -> Option<String> {
    let [layer] = case.layers.as_slice() else { return None };
    let ours = make(&case.layers, &case.limits).ok().map(|(_, file)| {
        without_folder_times(comparable(image::read(&file.reopen().expect("opens"))))
    });
    let ours = ours?;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), layer).expect("writes");
    let (gnu, bsd) = (unpacked("tar", file.path()), unpacked("bsdtar", file.path()));
    // A program that is not content has nothing to say about what is in it.
    let same = [&gnu, &bsd].iter().all(|one| one.as_ref().is_none_or(|lines| *lines == ours));
    let known = KNOWN.iter().any(|(name, _)| *name == case.name);
    (same == known).then(|| format!("{}: ours {ours:?}, GNU {gnu:?}, BSD {bsd:?}", case.name))
}

#[test]
fn what_others_do_not_agree_on_is_refused() {
    let all = [numbers::cases(), extended::cases(), sparse::cases()];
    let found: Vec<String> = all.iter().flatten().filter_map(judge).collect();
    assert!(found.is_empty(), "{} differ\n{}", found.len(), found.join("\n"));
}
