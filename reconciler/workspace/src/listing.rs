//! What of a folder is shipped: the files that git tracks, as they are now, and what was named besides.

use crate::git::{Git, pieces};
use crate::{WorkspaceError, at};
use banger_tree::beneath::{Beneath, kind};
use banger_tree::name;
use rustix::fs::FileType;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the user keeps what git is to ignore everywhere.
const IGNORE: &str = "git/ignore";

/// A repository of the user's.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its working tree.
    pub top: PathBuf,
    /// Its own folder, that of this working tree.
    pub git_dir: PathBuf,
    /// Its own folder, that of all its working trees.
    common: PathBuf,
    /// `sha1` or `sha256`.
    pub(crate) format: String,
    /// The commit that it is at. `None` before the first.
    pub head: Option<String>,
    /// The branch that it is on.
    pub branch: Option<String>,
    /// Who commits here: name and email.
    pub(crate) identity: (Option<String>, Option<String>),
    /// Patterns of what is ignored that are in no file of the tree.
    pub(crate) excludes: Vec<u8>,
    /// The user's file of such patterns.
    excludes_file: Option<PathBuf>,
}

/// One thing that is shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: Vec<u8>,
    /// Whether it is a link.
    pub link: bool,
    /// The object that git knows it as, when it is as git knows it.
    pub(crate) object: Option<String>,
    /// Why it is shipped.
    pub why: Why,
    /// Bytes.
    pub size: u64,
}

/// Why something is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Git tracks it.
    Tracked,
    /// It was named.
    Included,
    /// Git tracks it in a submodule.
    Submodule,
}

/// All that is shipped.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The repository.
    pub repository: Repository,
    /// By name.
    pub items: Vec<Item>,
    /// Names and objects that git tracks and that are not here because the checkout is sparse.
    pub(crate) sparse: Vec<(String, String, Vec<u8>)>,
    /// What was left out, and why, for a person.
    pub left_out: Vec<(Vec<u8>, String)>,
}

impl Repository {
    /// The repository whose working tree is this folder.
    ///
    /// # Errors
    /// When there is none, or the folder is only a part of one.
    pub fn of(folder: &Path) -> Result<Self, WorkspaceError> {
        let folder = at(folder, std::fs::canonicalize(folder))?;
        let git = Git::asking(&folder);
        let path = |what: &str| -> Result<Option<PathBuf>, WorkspaceError> {
            let said = git.line(&["rev-parse", "--path-format=absolute", what])?;
            Ok(said.filter(|said| !said.is_empty()).map(PathBuf::from))
        };
        let Some(top) = path("--show-toplevel")? else {
            // What git has against it is more than a guess of ours.
            return Err(match git.run(&["rev-parse", "--show-toplevel"]) {
                Err(WorkspaceError::Git { said, .. }) if said.contains("dubious ownership") => {
                    let said = said.lines().next().unwrap_or_default().to_string();
                    WorkspaceError::Git { what: "rev-parse".into(), said }
                }
                _ => WorkspaceError::NoRepository(folder),
            });
        };
        let top = at(&top, std::fs::canonicalize(&top))?;
        if top != folder {
            return Err(WorkspaceError::NotTop { folder, top });
        }
        let none = || WorkspaceError::NoRepository(folder.clone());
        let git_dir = path("--absolute-git-dir")?.ok_or_else(none)?;
        let common = path("--git-common-dir")?.ok_or_else(none)?;
        let format =
            git.line(&["rev-parse", "--show-object-format"])?.unwrap_or_else(|| "sha1".into());
        let setting = |name: &str| git.line(&["config", "--get", name]);
        let excludes_file = git.line(&["config", "--type=path", "--get", "core.excludesFile"])?;
        let excludes_file =
            excludes_file.filter(|file| !file.is_empty()).map(PathBuf::from).or_else(|| {
                let own = std::env::var_os("XDG_CONFIG_HOME")
                    .filter(|own| !own.is_empty())
                    .map(PathBuf::from);
                let own =
                    own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
                own.map(|own| own.join(IGNORE))
            });
        let mut excludes = std::fs::read(common.join("info/exclude")).unwrap_or_default();
        if let Some(more) = excludes_file.as_ref().and_then(|file| std::fs::read(file).ok()) {
            // Those of the repository itself come last: they count more.
            excludes = [more, b"\n".to_vec(), excludes].concat();
        }
        Ok(Self {
            head: git.line(&["rev-parse", "--verify", "-q", "HEAD^{commit}"])?,
            branch: git
                .line(&["symbolic-ref", "-q", "HEAD"])?
                .and_then(|name| name.strip_prefix("refs/heads/").map(String::from)),
            identity: (setting("user.name")?, setting("user.email")?),
            excludes_file: excludes_file.filter(|file| file.is_file()),
            top,
            git_dir,
            common,
            format,
            excludes,
        })
    }

    /// Git with a scratch folder of ours for its own, and the objects of this repository: nothing of its settings counts,
    /// whoever wrote them.
    pub(crate) fn objects(&self, scratch: &Path) -> Result<Git, WorkspaceError> {
        at(scratch, std::fs::create_dir_all(scratch))?;
        let format = format!("--object-format={}", self.format);
        let init = ["init", "-q", "--bare", "--template=", &format];
        Git::default()
            .run(&[&init.map(std::ffi::OsStr::new)[..], &[scratch.as_os_str()]].concat())?;
        if let Ok(shallow) = std::fs::read(self.common.join("shallow")) {
            at(scratch, std::fs::write(scratch.join("shallow"), shallow))?;
        }
        Ok(Git::at(scratch).with("GIT_OBJECT_DIRECTORY", self.common.join("objects")))
    }

    /// Git in this repository itself, for its references. Who owns it was looked at before.
    pub(crate) fn references(&self) -> Git {
        Git::at(&self.git_dir)
    }

    /// A repository of ours from which this one can be fetched: nothing but its commit and where its objects are.
    pub(crate) fn source(&self, scratch: &Path) -> Result<(), WorkspaceError> {
        self.objects(scratch)?;
        let info = scratch.join("objects/info");
        at(&info, std::fs::create_dir_all(&info))?;
        let mut objects = self.common.join("objects").into_os_string();
        objects.push("\n");
        at(&info, std::fs::write(info.join("alternates"), objects.as_bytes()))?;
        match &self.head {
            Some(head) => at(scratch, std::fs::write(scratch.join("HEAD"), format!("{head}\n"))),
            None => Ok(()),
        }
    }

    /// As [`Repository::objects`], with its index and files too.
    fn reading(&self, scratch: &Path) -> Result<Git, WorkspaceError> {
        let git = self.objects(scratch)?;
        // An index may be split into two files, of which git looks for one beside its own folder.
        for entry in at(&self.git_dir, std::fs::read_dir(&self.git_dir))?.flatten() {
            if entry.file_name().as_bytes().starts_with(b"sharedindex.") {
                let link = scratch.join(entry.file_name());
                at(&link, std::os::unix::fs::symlink(entry.path(), &link))?;
            }
        }
        // Files are compared as they are, whatever the tree's attributes ask for.
        let info = scratch.join("info");
        at(&info, std::fs::create_dir_all(&info))?;
        let raw = "* -text !eol -ident -filter !working-tree-encoding\n";
        at(&info, std::fs::write(info.join("attributes"), raw))?;
        let mut git = git
            .with("GIT_WORK_TREE", &self.top)
            .with("GIT_INDEX_FILE", self.git_dir.join("index"))
            .set("core.bare=false");
        if let Some(file) = self.excludes_file.as_ref().and_then(|file| file.to_str()) {
            git = git.set(format!("core.excludesFile={file}"));
        }
        Ok(git)
    }
}

/// Lists what is shipped of a repository: what git tracks, and untracked files that match these patterns. That one names
/// nothing is an error where it is `strict`; later, what it named may be gone, or tracked. `scratch` is a folder
/// that does not exist yet; the caller removes it.
///
/// # Errors
/// When there is no repository, a pattern names nothing, or something cannot be read.
pub fn list(
    folder: &Path,
    include: &[String],
    strict: bool,
    scratch: &Path,
) -> Result<Listing, WorkspaceError> {
    let repository = Repository::of(folder)?;
    let mut listing =
        Listing { repository, items: Vec::new(), sparse: Vec::new(), left_out: Vec::new() };
    let repository = listing.repository.clone();
    tracked(&repository, scratch, b"", &mut listing, 0)?;
    let git = repository.reading(&scratch.join("include"))?;
    for pattern in include {
        match included(&git, &repository, pattern, &mut listing) {
            Err(WorkspaceError::Include { .. }) if !strict => {}
            done => done?,
        }
    }
    listing.items.sort_by(|one, other| one.name.cmp(&other.name));
    listing.items.dedup_by(|one, other| one.name == other.name);
    Ok(listing)
}

/// Whether it is a link or a file. `None` when it is neither.
fn is_link(stat: &rustix::fs::Stat) -> Option<bool> {
    let found = kind(stat).0;
    (found == FileType::Symlink || found == FileType::RegularFile)
        .then_some(found == FileType::Symlink)
}

/// How deep submodules may lie in each other.
const DEEPEST: usize = 8;

fn tracked(
    repository: &Repository,
    scratch: &Path,
    prefix: &[u8],
    listing: &mut Listing,
    depth: usize,
) -> Result<(), WorkspaceError> {
    let place = scratch.join(format!("tracked-{depth}-{}", listing.items.len()));
    let git = repository.reading(&place.join("index"))?;
    let root = at(&repository.top, Beneath::open(&repository.top))?;
    let changed = git.run(&["diff-files", "-z", "--name-only", "--ignore-submodules=all"])?;
    let mut changed: BTreeSet<&[u8]> = pieces(&changed).collect();
    let unfiltered = as_checked_out(&git, repository, &root, &changed, &place)?;
    changed.retain(|name| !unfiltered.contains(*name));
    let staged = git.run(&["ls-files", "-z", "-t", "--stage"])?;
    let mut last: Option<Vec<u8>> = None;
    for record in pieces(&staged) {
        let Some((tag, mode, object, name)) = parse(record) else {
            return Err(WorkspaceError::Refused(
                "git lists its files in a way that is not known".into(),
            ));
        };
        // Several stages of a conflict are one file.
        if last.as_deref() == Some(name) {
            continue;
        }
        last = Some(name.to_vec());
        let whole = [prefix, name].concat();
        if let Err(why) = name::check(&whole) {
            listing.left_out.push((whole, why.to_string()));
            continue;
        }
        let stat = root.stat(name).ok().flatten();
        if mode == "160000" {
            submodule(repository, scratch, name, prefix, listing, depth)?;
            continue;
        }
        let Some(stat) = stat else {
            // A file that is not there by intent counts as there; another was removed.
            if tag == b'S' && prefix.is_empty() {
                listing.sparse.push((mode.to_string(), object.to_string(), whole));
            }
            continue;
        };
        let Some(link) = is_link(&stat) else {
            listing.left_out.push((whole, "no file or link".into()));
            continue;
        };
        let clean = tag == b'H' && prefix.is_empty() && !changed.contains(name);
        listing.items.push(Item {
            name: whole,
            link,
            object: clean.then(|| object.to_string()),
            why: if prefix.is_empty() { Why::Tracked } else { Why::Submodule },
            size: u64::try_from(stat.st_size).unwrap_or(0),
        });
    }
    Ok(())
}

/// The files among those that seem changed which a filter of the user's made just so: they were written within the grain of
/// the index's clock, and compared without that filter they differ from what git keeps. Their stamps tell.
fn as_checked_out(
    git: &Git,
    repository: &Repository,
    root: &Beneath,
    changed: &BTreeSet<&[u8]>,
    scratch: &Path,
) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
    if changed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let names: Vec<&[u8]> = changed.iter().copied().collect();
    // Where no attributes of ours take the tree's own away.
    let plain = repository.objects(&scratch.join(format!("attributes-{}", names.len())))?;
    let attributes = plain.filtered(&repository.top, &names)?;
    let filtered: BTreeSet<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
    if filtered.is_empty() {
        return Ok(BTreeSet::new());
    }
    let out = git.run(&["ls-files", "-z", "--debug"])?;
    let mut found = BTreeSet::new();
    let mut rest = out.as_slice();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let name = &rest[..end];
        rest = &rest[end + 1..];
        let lines = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let Some((length, _)) = lines.take(5).last() else { break };
        let facts = String::from_utf8_lossy(&rest[..=length]).into_owned();
        rest = &rest[length + 1..];
        let Some(stat) = filtered.get(name).and_then(|_| root.stat(name).ok().flatten()) else {
            continue;
        };
        let modified = format!("mtime: {}:{}\n", stat.st_mtime, stat.st_mtime_nsec);
        let size = format!("size: {}\t", stat.st_size);
        if facts.contains(&modified) && facts.contains(&size) {
            found.insert(name.to_vec());
        }
    }
    Ok(found)
}

/// A record of `ls-files -t --stage`: tag, mode, object, name.
fn parse(record: &[u8]) -> Option<(u8, &str, &str, &[u8])> {
    let tab = record.iter().position(|byte| *byte == b'\t')?;
    let mut head = std::str::from_utf8(&record[..tab]).ok()?.split(' ');
    let (tag, mode, object) = (head.next()?, head.next()?, head.next()?);
    Some((*tag.as_bytes().first()?, mode, object, &record[tab + 1..]))
}

fn submodule(
    repository: &Repository,
    scratch: &Path,
    name: &[u8],
    prefix: &[u8],
    listing: &mut Listing,
    depth: usize,
) -> Result<(), WorkspaceError> {
    let folder = repository.top.join(std::ffi::OsStr::from_bytes(name));
    let whole = [prefix, name].concat();
    if std::fs::symlink_metadata(folder.join(".git")).is_err() {
        listing.left_out.push((whole, "a submodule that is not checked out".into()));
        return Ok(());
    }
    let inner = Repository::of(&folder);
    match inner {
        Ok(inner) if inner.top.starts_with(&repository.top) && depth < DEEPEST => {
            let prefix = [&whole, &b"/"[..]].concat();
            tracked(&inner, scratch, &prefix, listing, depth + 1)
        }
        Ok(_) | Err(_) => {
            listing.left_out.push((whole, "a submodule that cannot be read".into()));
            Ok(())
        }
    }
}

/// Whether a pattern names one thing, without wildcards.
fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', '\\']) && !pattern.starts_with(':')
}

/// Files with secrets, which a wildcard does not ship.
fn is_secret(last: &[u8]) -> bool {
    last == b".env"
        || last.starts_with(b".env.")
        || last.ends_with(b".pem")
        || last.ends_with(b".key")
}

fn included(
    git: &Git,
    repository: &Repository,
    pattern: &str,
    listing: &mut Listing,
) -> Result<(), WorkspaceError> {
    let refuse = |why: &str| WorkspaceError::Include { pattern: pattern.into(), why: why.into() };
    if pattern.is_empty() || pattern.contains('\0') {
        return Err(refuse("it is empty"));
    }
    let mut own = std::ffi::OsString::from("--exclude-from=");
    own.push(repository.common.join("info/exclude"));
    let mut arguments: Vec<&std::ffi::OsStr> =
        ["ls-files", "-z", "--others", "--exclude-standard"].map(std::ffi::OsStr::new).to_vec();
    if repository.common.join("info/exclude").is_file() {
        arguments.push(&own);
    }
    let pattern_path = std::ffi::OsString::from(pattern);
    arguments.extend([std::ffi::OsStr::new("--"), &pattern_path]);
    let found = git.clone().inside(&repository.top).run(&arguments)?;
    let root = at(&repository.top, Beneath::open(&repository.top))?;
    let mut any = false;
    for name in pieces(&found) {
        let name = name.to_vec();
        any = true;
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let named = is_literal(pattern) && name == pattern.trim_end_matches('/').as_bytes();
        if is_secret(last) && !named {
            let why = format!("it may have secrets; --include {} ships it", name::shown(&name));
            listing.left_out.push((name, why));
            continue;
        }
        if let Err(why) = name::check(name.strip_suffix(b"/").unwrap_or(&name)) {
            listing.left_out.push((name, why.to_string()));
            continue;
        }
        let Some(stat) = root.stat(name.strip_suffix(b"/").unwrap_or(&name)).ok().flatten() else {
            continue;
        };
        let Some(link) = is_link(&stat) else {
            listing.left_out.push((name, "no file or link".into()));
            continue;
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        listing.items.push(Item { name, link, object: None, why: Why::Included, size });
    }
    if any {
        return Ok(());
    }
    if is_literal(pattern) && listing.items.iter().any(|item| item.name == pattern.as_bytes()) {
        return Ok(());
    }
    Err(refuse(match is_literal(pattern) && repository.top.join(pattern).exists() {
        true => "git ignores it, and what is ignored is not shipped; banger vm cp copies it",
        false => "no untracked file matches",
    }))
}
