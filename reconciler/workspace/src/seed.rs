//! The repository that the guest gets: the commit that the host is at, as shallow as it was asked for, with the user's name
//! and nothing else of the host's: no remotes, no hooks, no settings, no credentials.

use crate::git::{Git, pieces};
use crate::kept::{Kept, Origin};
use crate::listing::Repository;
use crate::{WorkspaceError, at};
use banger_tree::stream::Sender;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Where the host's commit is in our own repository.
pub(crate) const HEAD: &str = "refs/shipped/head";

/// Has the host's commit in our own repository, which is made where it is not there.
///
/// # Errors
/// When it cannot be fetched.
pub(crate) fn prepare(
    kept: &Kept,
    repository: &Repository,
    depth: Option<u32>,
    scratch: &Path,
) -> Result<(), WorkspaceError> {
    let own = kept.repository();
    if !own.join("HEAD").is_file() {
        let format = format!("--object-format={}", repository.format);
        let arguments = ["init", "-q", "--bare", "--template=", &format].map(std::ffi::OsStr::new);
        Git::default().run(&[&arguments[..], &[own.as_os_str()]].concat())?;
    }
    let Some(head) = &repository.head else { return Ok(()) };
    let git = kept.git();
    if git.line(&["rev-parse", "--verify", "-q", HEAD])?.as_ref() == Some(head) {
        return Ok(());
    }
    // The only way in for a protocol: from one folder of ours to another. What the user's own history has was taken by the
    // user's git: it is not for us to refuse.
    let git = git.set("protocol.file.allow=always").set("fetch.fsckObjects=false");
    let depth = match depth {
        Some(0) => None,
        depth => Some(format!("--depth={}", depth.unwrap_or(1))),
    };
    let source = scratch.join("source");
    repository.source(&source)?;
    let mut arguments =
        vec!["fetch", "-q", "--no-tags", "--no-write-fetch-head", "--update-shallow"];
    arguments.extend(depth.as_deref());
    let path = source.to_str();
    let path =
        path.ok_or_else(|| WorkspaceError::Refused(format!("{} is not UTF-8", source.display())))?;
    let reference = format!("+HEAD:{HEAD}");
    arguments.extend([path, &reference]);
    git.run(&arguments).map(drop)
}

/// Marks those of these names that the index has.
fn mark<'a>(
    index: &Git,
    how: &str,
    names: impl Iterator<Item = &'a [u8]>,
) -> Result<(), WorkspaceError> {
    let listed = index.run(&["ls-files", "-z"])?;
    let listed: BTreeSet<&[u8]> = pieces(&listed).collect();
    let names: Vec<&[u8]> = names.filter(|name| listed.contains(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    index.feed(&["update-index", "-z", how, "--stdin"], names.join(&0u8)).map(drop)
}

/// Sends the repository.
///
/// # Errors
/// When something cannot be read or sent.
pub(crate) fn send(
    to: &mut Sender<impl Write>,
    kept: &Kept,
    repository: &Repository,
    origin: &Origin,
    scratch: &Path,
) -> Result<(), WorkspaceError> {
    let own = kept.repository();
    let seed = scratch.join("seed");
    at(&seed, fs::create_dir(&seed))?;
    let head = match (&repository.branch, &repository.head) {
        (Some(branch), _) => format!("ref: refs/heads/{branch}\n"),
        (None, Some(commit)) => format!("{commit}\n"),
        (None, None) => "ref: refs/heads/main\n".to_string(),
    };
    let write = |name: &str, text: &[u8]| {
        let path = seed.join(name);
        at(&path, fs::write(&path, text))
    };
    write("HEAD", head.as_bytes())?;
    write("banger", origin.mark.as_bytes())?;
    let config = seed.join("config");
    let mut settings = vec![
        ("core.repositoryformatversion", "0"),
        ("core.filemode", "true"),
        ("core.bare", "false"),
        ("core.logallrefupdates", "true"),
    ];
    if repository.format != "sha1" {
        settings[0].1 = "1";
        settings.push(("extensions.objectformat", &repository.format));
    }
    let (name, email) = &repository.identity;
    settings.extend(name.as_deref().map(|name| ("user.name", name)));
    settings.extend(email.as_deref().map(|email| ("user.email", email)));
    for (name, value) in settings {
        let file = config.as_os_str();
        let arguments = ["config", "-f"].map(std::ffi::OsStr::new);
        Git::default().run(&[&arguments[..], &[file, name.as_ref(), value.as_ref()]].concat())?;
    }
    if let Some(commit) = &repository.head {
        if let Some(branch) = &repository.branch {
            write(
                "packed-refs",
                format!(
                    "# pack-refs with: peeled fully-peeled sorted \n{commit} refs/heads/{branch}\n"
                )
                .as_bytes(),
            )?;
        }
        let index = kept.git().with("GIT_INDEX_FILE", seed.join("index"));
        index.run(&["read-tree", commit])?;
        let index = index.with("GIT_WORK_TREE", &repository.top).set("core.bare=false");
        let index = index.inside(&repository.top);
        // Files that a filter of the host's made: the guest's git has no such filter and would take them for changed.
        mark(&index, "--assume-unchanged", origin.filtered.iter().map(Vec::as_slice))?;
        // Files that are not here by intent: it would take them for removed.
        mark(&index, "--skip-worktree", origin.sparse.iter().map(|(_, _, name)| name.as_slice()))?;
    }
    let mut parts: Vec<(String, std::path::PathBuf)> = Vec::new();
    for entry in at(&seed, fs::read_dir(&seed))?.flatten() {
        parts.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    let packs = own.join("objects/pack");
    for entry in at(&packs, fs::read_dir(&packs))?.flatten() {
        parts.push((format!("objects/pack/{}", entry.file_name().to_string_lossy()), entry.path()));
    }
    let shallow = own.join("shallow");
    if shallow.is_file() {
        parts.push(("shallow".to_string(), shallow));
    }
    parts.sort();
    let sent = |name: &str, result: std::io::Result<()>| at(Path::new(name), result);
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
        sent(folder, to.folder(format!(".git/{folder}").as_bytes(), 0o755))?;
    }
    let mut excludes = repository.excludes.as_slice();
    sent("info/exclude", to.file(b".git/info/exclude", 0o644, &mut excludes).map(drop))?;
    for (name, path) in parts {
        let mut file = at(&path, File::open(&path))?;
        at(&path, to.file(format!(".git/{name}").as_bytes(), 0o644, &mut file).map(drop))?;
    }
    Ok(())
}
