//! Takes what comes back from a guest into our own repository: what changed in its files, and its commits.
//!
//! Nothing of the user's is touched. Names, sizes and counts are the guest's claims and are checked as they come; contents
//! become objects without a filter; commits come as a bundle through git's own checks.

use crate::git::{Git, pieces};
use crate::kept::{Kept, Origin};
use crate::ship::Spool;
use crate::{WorkspaceError, at, bundle, diff, seed};
use banger_tree::manifest::Manifest;
use banger_tree::name;
use banger_tree::stream::{Entry, Receiver};
use banger_tree::take::plain;
use banger_wire::api::workspace::{Branch, Change, Returned};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;

/// Where a guest's references come to in our own repository.
pub(crate) const GUEST: &str = "refs/guest/";
/// Where what is not committed comes to.
pub(crate) const UNCOMMITTED: &str = "refs/guest/work";
/// All files as they are in the guest, where some of them can be in no commit of the repository's.
const FILES: &str = "refs/guest/files";
/// Where it is noted which pack came last.
const PACK: &str = "pack";
/// The most branches that are taken.
const MAX_BRANCHES: usize = 100;

/// What a guest says changed, taken in.
#[derive(Debug, Default)]
pub struct Changes {
    /// By name: mode and object; `None` for what is gone.
    changed: BTreeMap<Vec<u8>, Option<(&'static str, String)>>,
    left_out: Vec<(Vec<u8>, String)>,
}

/// The most names of what does not come back that are kept; the longest reason in bytes.
const MAX_LEFT_OUT: usize = 1000;
const MAX_REASON: usize = 200;

impl Changes {
    fn leave_out(&mut self, name: Vec<u8>, mut why: String) {
        why.truncate(why.floor_char_boundary(MAX_REASON));
        match self.left_out.len() {
            0..MAX_LEFT_OUT => self.left_out.push((name, why)),
            MAX_LEFT_OUT => self.left_out.push((b"and more".to_vec(), "not named".into())),
            _ => {}
        }
    }
}

/// Takes what a guest says changed.
///
/// # Errors
/// When it is no stream of changes, or too much.
pub fn changes(kept: &Kept, receiver: &mut Receiver<impl Read>) -> Result<Changes, WorkspaceError> {
    let scratch = kept.scratch()?;
    let mut spool = Spool::new(scratch.join("spool"))?;
    let mut changes = Changes::default();
    let mut modes = BTreeMap::new();
    while let Some(entry) = receiver.next_entry()? {
        let name = entry.name().to_vec();
        let refused = match name::check(&name) {
            Err(why) => Some(why.to_string()),
            Ok(()) if is_settings(&entry) => {
                Some("a link that git would read its settings from".into())
            }
            Ok(()) if changes.changed.contains_key(&name) || modes.contains_key(&name) => {
                Some("it came twice".into())
            }
            Ok(()) => None,
        };
        if let Some(why) = refused {
            if let Entry::File { .. } = entry {
                receiver.content(&mut std::io::sink())?;
            }
            changes.leave_out(name, why);
            continue;
        }
        match entry {
            Entry::File { mode, .. } => {
                let mut file = spool.next(&name)?;
                receiver.content(&mut file)?;
                modes.insert(name, if plain(mode) == 0o755 { "100755" } else { "100644" });
            }
            Entry::Link { target, .. } => {
                let mut file = spool.next(&name)?;
                at(Path::new(&name::shown(&name)), file.write_all(&target))?;
                modes.insert(name, "120000");
            }
            Entry::Removed { .. } => {
                changes.changed.insert(name, None);
            }
            Entry::LeftOut { why, .. } => {
                changes.leave_out(name, banger_wire::text::clean_line(&why))
            }
            Entry::Folder { .. } => {}
        }
    }
    for (name, object) in spool.objects(kept)? {
        let mode = modes.get(&name).copied().unwrap_or("100644");
        changes.changed.insert(name, Some((mode, object)));
    }
    Ok(changes)
}

/// A link that git does not take into an index.
fn is_settings(entry: &Entry) -> bool {
    let last = entry.name().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    matches!(entry, Entry::Link { .. }) && last.to_ascii_lowercase().starts_with(b".gitmodules")
}

/// Takes a guest's commits, from a bundle that its git made. Its header is read here, its objects by git's strictest reader;
/// what they lead to has to be there. Gives the names that are none.
///
/// # Errors
/// When it is no bundle, has objects that git refuses, or lacks some.
pub fn commits(kept: &Kept, bundle: &Path) -> Result<Vec<String>, WorkspaceError> {
    let mut file = std::io::BufReader::new(at(bundle, std::fs::File::open(bundle))?);
    let tips = bundle::tips(&mut file)?;
    let mut refused = Vec::new();
    let mut references = BTreeMap::new();
    for (name, tip) in tips {
        let wanted = name == "HEAD" || name.starts_with("refs/heads/");
        if !wanted {
            continue;
        }
        let own = format!("{GUEST}{}", name.trim_start_matches("refs/"));
        if kept.git().line(&["check-ref-format", &own])?.is_none() {
            refused
                .push(format!("{}: not a name for a branch", banger_wire::text::clean_line(&name)));
            continue;
        }
        references.insert(own, tip);
    }
    if references.len() > MAX_BRANCHES {
        return Err(WorkspaceError::Refused(format!(
            "the sandbox has more than {MAX_BRANCHES} branches with commits"
        )));
    }
    let git = kept.git().bounded();
    let packed = git.pour(&["index-pack", "--stdin", "--fix-thin", "--strict"], file)?;
    // What it is called, so that it can go with what it was for.
    let packed = String::from_utf8_lossy(&packed).trim().replace('\t', "-");
    let note = kept.folder().join(PACK);
    at(&note, std::fs::write(&note, packed))?;
    // Everything that is new and can be reached has to be there, down to what was shipped.
    let mut input: String = references.values().map(|tip| format!("{tip}\n")).collect();
    if git.line(&["rev-parse", "--verify", "-q", seed::HEAD])?.is_some() {
        input += &format!("^{}\n", seed::HEAD);
    }
    git.feed(&["rev-list", "--objects", "--quiet", "--stdin"], input.into_bytes())?;
    let made: String =
        references.iter().map(|(name, tip)| format!("update {name} {tip}\n")).collect();
    git.feed(&["update-ref", "--stdin"], made.into_bytes())?;
    Ok(refused)
}

/// Forgets what came back before, and what it took up.
///
/// # Errors
/// When git cannot.
pub fn forget(kept: &Kept) -> Result<(), WorkspaceError> {
    let git = kept.git();
    let there = git.run(&["for-each-ref", "--format=delete %(refname)", GUEST])?;
    git.feed(&["update-ref", "--stdin"], there)?;
    let note = kept.folder().join(PACK);
    let Ok(name) = std::fs::read_to_string(&note) else { return Ok(()) };
    let hex = name.strip_prefix("pack-");
    let good = hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    for ending in ["pack", "idx", "rev"].iter().filter(|_| good) {
        let path = kept.repository().join("objects/pack").join(format!("{name}.{ending}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return at(&path, Err(error));
            }
            _ => {}
        }
    }
    at(&note, std::fs::remove_file(&note))
}

/// Puts together what came back.
///
/// # Errors
/// When git cannot.
pub fn returned(
    kept: &Kept,
    manifest: &Manifest,
    changes: &Changes,
    at_branch: Option<String>,
) -> Result<Returned, WorkspaceError> {
    let origin =
        kept.origin()?.ok_or_else(|| WorkspaceError::Refused("nothing was shipped".into()))?;
    let git = kept.git();
    let base = tree(kept, &origin, manifest, None)?;
    let files = tree(kept, &origin, manifest, Some(changes))?;
    let branches = branches(&git, origin.head.as_deref())?;
    let known =
        |name: &str| branches.iter().find(|branch| branch.name == name).map(|b| b.commit.clone());
    let own = git.line(&["rev-parse", "--verify", "-q", &format!("{GUEST}HEAD^{{commit}}")])?;
    let on_branch = at_branch.as_deref().and_then(known);
    let head = own.or(on_branch).or_else(|| origin.head.clone());
    let (uncommitted, more) = uncommitted(kept, &origin, manifest, changes, head.as_deref())?;
    let mut notes = Vec::new();
    if more {
        let shipped = commit(&git, &origin, &base, None, "What was shipped")?;
        let all = commit(&git, &origin, &files, Some(&shipped), "All files of the sandbox")?;
        git.run(&["update-ref", FILES, &all])?;
        notes.push("what changed in submodules and filtered files is in no commit: pull brings it as \"files\"".into());
    }
    let differing = diff::between(&kept.repository(), &base, &files)?;
    let count = match &head {
        Some(to) => {
            let mut arguments = vec!["rev-list".to_string(), "--count".to_string(), to.clone()];
            arguments.extend(origin.head.as_ref().map(|from| format!("^{from}")));
            git.line(&arguments)?.and_then(|count| count.parse().ok()).unwrap_or(0)
        }
        None => 0,
    };
    let listed = differing.iter().map(|file| Change {
        sign: file.sign,
        name: name::shown(&file.name),
        habit: file.runs_by_habit(),
    });
    let left_out =
        changes.left_out.iter().map(|(name, why)| format!("{}: {why}", name::shown(name)));
    Ok(Returned {
        folder: origin.folder.display().to_string(),
        kept: kept.folder().display().to_string(),
        at: manifest.at.clone(),
        revision: manifest.revision,
        shipped_head: origin.head.clone(),
        base,
        files,
        head,
        branch: at_branch,
        branches,
        commits: count,
        uncommitted,
        changes: listed.collect(),
        left_out: left_out.collect(),
        notes,
        failed: None,
    })
}

/// What a file is in git's eyes: mode and object.
type File<'a> = (&'a str, &'a str);

/// What was shipped, with changes or without.
fn files<'a>(manifest: &'a Manifest, changes: Option<&'a Changes>) -> BTreeMap<&'a [u8], File<'a>> {
    let shipped = manifest.entries.iter().map(|(name, shipped)| {
        let mode = match (shipped.link, shipped.executable) {
            (true, _) => "120000",
            (false, true) => "100755",
            (false, false) => "100644",
        };
        (name.as_slice(), (mode, shipped.note.as_str()))
    });
    let mut files: BTreeMap<&[u8], File<'_>> = shipped.collect();
    for (name, change) in changes.into_iter().flat_map(|changes| &changes.changed) {
        match change {
            Some((mode, object)) => files.insert(name, (mode, object)),
            None => files.remove(name.as_slice()),
        };
    }
    files
}

/// The tree of what was shipped, with changes or without.
fn tree(
    kept: &Kept,
    origin: &Origin,
    manifest: &Manifest,
    changes: Option<&Changes>,
) -> Result<String, WorkspaceError> {
    let sparse = origin
        .sparse
        .iter()
        .map(|(mode, object, name)| (name.as_slice(), (mode.as_str(), object.as_str())));
    let all: BTreeMap<&[u8], File<'_>> = sparse.chain(files(manifest, changes)).collect();
    written(kept, origin, None, all.into_iter().map(|(name, file)| (name, Some(file))))
}

/// Writes a tree: this one, with these names changed.
fn written<'a>(
    kept: &Kept,
    origin: &Origin,
    from: Option<&str>,
    names: impl Iterator<Item = (&'a [u8], Option<File<'a>>)>,
) -> Result<String, WorkspaceError> {
    let index = kept.repository().join("banger-index");
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return at(&index, Err(error));
        }
        _ => {}
    }
    let git = kept.git().with("GIT_INDEX_FILE", &index);
    if let Some(from) = from {
        git.run(&["read-tree", from])?;
    }
    // A file takes the place of a folder of that name, and the other way round: removals come first.
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for (name, file) in names {
        let (to, head) = match file {
            Some((mode, object)) => (&mut there, format!("{mode} {object}\t")),
            None => (&mut gone, format!("0 {}\t", origin.zero())),
        };
        to.extend_from_slice(head.as_bytes());
        to.extend_from_slice(name);
        to.push(0);
    }
    gone.append(&mut there);
    git.feed(&["update-index", "-z", "--index-info"], gone)?;
    let tree = git.run(&["write-tree", "--missing-ok"])?;
    Ok(String::from_utf8_lossy(&tree).trim().to_string())
}

/// The files of a commit.
fn committed_in(
    git: &Git,
    commit: &str,
) -> Result<BTreeMap<Vec<u8>, (String, String)>, WorkspaceError> {
    let out = git.run(&["ls-tree", "-r", "-z", commit])?;
    let records = pieces(&out).filter_map(|record| {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let mut fields = std::str::from_utf8(&record[..tab]).ok()?.split(' ');
        let (mode, _, object) = (fields.next()?, fields.next()?, fields.next()?);
        Some((record[tab + 1..].to_vec(), (mode.to_string(), object.to_string())))
    });
    Ok(records.collect())
}

/// A commit of what is not committed, on top of what is: `None` when everything is. And whether more changed that can be in
/// no such commit.
fn uncommitted(
    kept: &Kept,
    origin: &Origin,
    manifest: &Manifest,
    changes: &Changes,
    head: Option<&str>,
) -> Result<(Option<String>, bool), WorkspaceError> {
    let git = kept.git().bounded();
    let committed = head.map(|head| committed_in(&git, head)).transpose()?.unwrap_or_default();
    let modules = committed.iter().filter(|(_, (mode, _))| mode == "160000");
    let modules: Vec<Vec<u8>> = modules.map(|(name, _)| [name, &b"/"[..]].concat()).collect();
    let sparse: BTreeSet<&[u8]> =
        origin.sparse.iter().map(|(_, _, name)| name.as_slice()).collect();
    let (then, now) = (files(manifest, None), files(manifest, Some(changes)));
    let shipped = origin.head.as_deref().filter(|shipped| head != Some(*shipped));
    let shipped = shipped.map(|shipped| committed_in(&git, shipped)).transpose()?;
    let shipped = shipped.as_ref().unwrap_or(&committed);
    // What was not committed on the host when it was shipped, and was left so, is the host's own.
    let is_hosts =
        |name: &[u8]| then.get(name) == now.get(name) && committed.get(name) == shipped.get(name);
    let filtered: BTreeSet<&[u8]> = origin.filtered.iter().map(Vec::as_slice).collect();
    // What is in a submodule, or a filter of the host's made, is in no commit of the repository's as it is here.
    let outside = |name: &[u8]| {
        filtered.contains(name) || modules.iter().any(|module| name.starts_with(module))
    };
    let changed = now.iter().filter(|(name, (mode, object))| {
        let same = committed.get(**name).is_some_and(|(m, o)| m == mode && o == object);
        !same && !outside(name)
    });
    let gone = committed.iter().filter(|(name, (mode, _))| {
        // What is ignored is not told of: a committed file that is, did not go.
        mode != "160000"
            && then.contains_key(name.as_slice())
            && !now.contains_key(name.as_slice())
            && !sparse.contains(name.as_slice())
    });
    let differing: BTreeMap<&[u8], Option<File<'_>>> = changed
        .map(|(name, file)| (*name, Some(*file)))
        .chain(gone.map(|(name, _)| (name.as_slice(), None)))
        .filter(|(name, _)| !is_hosts(name) && !outside(name))
        .collect();
    let more = changes.changed.keys().any(|name| outside(name));
    if differing.is_empty() {
        return Ok((None, more));
    }
    let tree = written(kept, origin, head, differing.into_iter())?;
    let commit = commit(&git, origin, &tree, head, "What was not committed in the sandbox")?;
    git.run(&["update-ref", UNCOMMITTED, &commit])?;
    Ok((Some(commit), more))
}

/// Makes a commit of a tree, by whoever commits on the host.
fn commit(
    git: &Git,
    origin: &Origin,
    tree: &str,
    parent: Option<&str>,
    message: &str,
) -> Result<String, WorkspaceError> {
    let (name, email) = &origin.identity;
    let name = name.as_deref().unwrap_or("banger");
    let email = email.as_deref().unwrap_or("banger@localhost");
    let git = git
        .clone()
        .with("GIT_AUTHOR_NAME", name)
        .with("GIT_AUTHOR_EMAIL", email)
        .with("GIT_COMMITTER_NAME", name)
        .with("GIT_COMMITTER_EMAIL", email);
    let mut arguments = vec!["commit-tree", tree, "-m", message];
    if let Some(parent) = parent {
        arguments.extend(["-p", parent]);
    }
    let commit = git.run(&arguments)?;
    Ok(String::from_utf8_lossy(&commit).trim().to_string())
}

fn branches(git: &Git, base: Option<&str>) -> Result<Vec<Branch>, WorkspaceError> {
    let out =
        git.run(&["for-each-ref", "--format=%(objectname) %(refname)", &format!("{GUEST}heads/")])?;
    let text = String::from_utf8_lossy(&out).into_owned();
    let all = text.lines().filter_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        let name = name.strip_prefix(GUEST)?.strip_prefix("heads/")?;
        (Some(commit) != base)
            .then(|| Branch { name: name.to_string(), commit: commit.to_string() })
    });
    Ok(all.collect())
}
