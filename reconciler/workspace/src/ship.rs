//! Sends a repository's files, or those that changed since: each is read once, and what was read is what counts as shipped.

use crate::kept::{Kept, Origin};
use crate::listing::{self, Item, Listing};
use crate::{WorkspaceError, at, seed};
use banger_tree::beneath::{Beneath, kind};
use banger_tree::manifest::{self, Manifest, Now, Shipped, seen};
use banger_tree::name;
use banger_tree::stream::{Content, Sender};
use banger_tree::take::digest;
use rustix::fs::FileType;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What is to be shipped.
#[derive(Debug, Clone)]
pub struct What {
    /// The folder on the host.
    pub folder: PathBuf,
    /// The folder in the guest.
    pub at: String,
    /// Untracked files that go too.
    pub include: Vec<String>,
    /// Commits of history that go along: all for 0, one if not given.
    pub depth: Option<u32>,
    /// Names this copy.
    pub mark: String,
}

/// A shipment that was sent, before the guest said what became of it.
#[derive(Debug)]
pub struct Sent {
    manifest: Manifest,
    before: Option<Manifest>,
    origin: Origin,
    /// Files and links.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Names that went.
    pub removed: u64,
    /// What was not shipped, and why.
    pub left_out: Vec<(Vec<u8>, String)>,
}

/// Sends what a guest of this revision lacks: everything to one of revision 0.
///
/// # Errors
/// When something cannot be read or sent. Nothing counts as shipped then.
pub fn send<W: Write>(
    kept: &Kept,
    what: &What,
    revision: u64,
    mut to: Sender<W>,
) -> Result<(Sent, W), WorkspaceError> {
    let scratch = kept.scratch()?;
    let place = scratch.join("listing");
    let listing = listing::list(&what.folder, &what.include, revision == 0, &place)?;
    let repository = &listing.repository;
    seed::prepare(kept, repository, what.depth, &scratch)?;
    // What a guest has that is not known any more is shipped anew: its own changes stay.
    let before = if revision == 0 { None } else { kept.shipped(revision).ok() };
    let known = kept.origin()?.filter(|_| revision > 0);
    let objects = objects(kept, &listing)?;
    let origin = Origin {
        folder: repository.top.clone(),
        // The commit that the guest is at stays the one that it was given first.
        head: known.as_ref().map_or_else(|| repository.head.clone(), |known| known.head.clone()),
        branch: repository.branch.clone(),
        identity: repository.identity.clone(),
        format: repository.format.clone(),
        filtered: filtered(kept, &listing, &objects)?,
        sparse: listing.sparse.clone(),
        mark: known.map_or_else(|| what.mark.clone(), |known| known.mark),
    };
    // It is the guest's word; the last number has none after it.
    let next = revision.checked_add(1);
    let next = next.ok_or_else(|| {
        WorkspaceError::Refused("the guest counts what was shipped out of bounds".into())
    })?;
    let is_filtered: BTreeSet<Vec<u8>> = origin.filtered.iter().cloned().collect();
    let mut run = Run {
        root: at(&repository.top, Beneath::open(&repository.top))?,
        spool: Spool::new(scratch.join("spool"))?,
        objects,
        filtered: is_filtered,
        applied: kept.applied()?,
        before: before.as_ref(),
        manifest: Manifest {
            at: what.at.clone(),
            revision: next,
            written: 0,
            entries: BTreeMap::new(),
        },
        files: 0,
        bytes: 0,
        removed: 0,
    };
    run.removals(&mut to, &listing)?;
    for item in &listing.items {
        run.item(&mut to, item)?;
    }
    if revision == 0 {
        seed::send(&mut to, kept, repository, &origin, &scratch)?;
    }
    run.spool.hash(kept, &mut run.manifest)?;
    run.manifest.written = manifest::now_secs();
    let Run { manifest, files, bytes, removed, .. } = run;
    if revision == 0 {
        kept.keep_origin(&origin)?;
    }
    kept.keep_shipping(&manifest)?;
    let left_out = listing.left_out;
    let out = at(Path::new(&what.at), to.end())?;
    Ok((Sent { manifest, before, origin, files, bytes, removed, left_out }, out))
}

/// The guest took a shipment, but for what it left alone.
///
/// # Errors
/// When it cannot be kept.
pub fn settle(
    kept: &Kept,
    sent: Sent,
    revision: u64,
    left: &[Vec<u8>],
) -> Result<(), WorkspaceError> {
    let Sent { mut manifest, before, origin, .. } = sent;
    manifest.revision = revision;
    for name in left {
        match before.as_ref().and_then(|before| before.entries.get(name)) {
            Some(shipped) => manifest.entries.insert(name.clone(), shipped.clone()),
            None => manifest.entries.remove(name),
        };
    }
    kept.keep_origin(&origin)?;
    kept.keep_shipped(&manifest)
}

/// The sizes of the objects that our own repository has of what git tracks.
fn objects(kept: &Kept, listing: &Listing) -> Result<BTreeMap<String, u64>, WorkspaceError> {
    let wanted: BTreeSet<&str> =
        listing.items.iter().filter_map(|item| item.object.as_deref()).collect();
    let input = wanted.into_iter().collect::<Vec<_>>().join("\n") + "\n";
    let out = kept
        .git()
        .feed(&["cat-file", "--batch-check=%(objectname) %(objectsize)"], input.into_bytes())?;
    let text = String::from_utf8_lossy(&out);
    let sized = text.lines().filter_map(|line| {
        let (object, size) = line.split_once(' ')?;
        Some((object.to_string(), size.parse().ok()?))
    });
    Ok(sized.collect())
}

struct Run<'a> {
    root: Beneath,
    spool: Spool,
    objects: BTreeMap<String, u64>,
    filtered: BTreeSet<Vec<u8>>,
    applied: Manifest,
    before: Option<&'a Manifest>,
    manifest: Manifest,
    files: u64,
    bytes: u64,
    removed: u64,
}

impl Run<'_> {
    fn removals<W: Write>(
        &mut self,
        to: &mut Sender<W>,
        listing: &Listing,
    ) -> Result<(), WorkspaceError> {
        let now: BTreeSet<&[u8]> = listing.items.iter().map(|item| item.name.as_slice()).collect();
        let Some(before) = self.before else { return Ok(()) };
        for name in before.entries.keys().filter(|name| !now.contains(name.as_slice())) {
            at(Path::new(&name::shown(name)), to.removed(name))?;
            self.removed += 1;
        }
        Ok(())
    }

    fn item<W: Write>(&mut self, to: &mut Sender<W>, item: &Item) -> Result<(), WorkspaceError> {
        let shown = PathBuf::from(name::shown(&item.name));
        // An object that we have stands for the content, if no filter is between them; of anything else we keep the content.
        let object = item.object.clone().filter(|object| {
            self.objects.contains_key(object) && !self.filtered.contains(&item.name)
        });
        // Looked at first: what changes from now on has another stamp.
        let stat = self.root.stat(&item.name).ok().flatten();
        if let Some(stat) = &stat
            && let Some((shipped, as_shipped)) = self.unchanged(&item.name)
        {
            let stamp = if as_shipped { manifest::Stamp::of(stat) } else { shipped.stamp };
            self.manifest.entries.insert(item.name.clone(), Shipped { stamp, ..shipped });
            return Ok(());
        }
        let (stat, content) = if item.link {
            let (Some(stat), Ok(target)) = (stat, self.root.read_link(&item.name)) else {
                return self.went(to, item);
            };
            at(&shown, to.link(&item.name, &target))?;
            if object.is_none() {
                at(&shown, self.spool.next(&item.name)?.write_all(&target))?;
            }
            let (size, hash) = at(&shown, digest(&mut target.as_slice()))?;
            (stat, Content { size, hash })
        } else {
            let Ok((file, stat)) = self.root.read(&item.name) else { return self.went(to, item) };
            let copy = if object.is_none() { Some(self.spool.next(&item.name)?) } else { None };
            let mut both = Both { file, copy };
            let content = at(&shown, to.file(&item.name, kind(&stat).1, &mut both))?;
            (stat, content)
        };
        self.files += 1;
        self.bytes += content.size;
        let shipped = Shipped { note: object.unwrap_or_default(), ..seen(&stat, content.hash) };
        self.manifest.entries.insert(item.name.clone(), shipped);
        Ok(())
    }

    /// What the guest has of this name, when the host has nothing else for it: what was shipped, or what came from the guest.
    /// And whether it is the former.
    fn unchanged(&self, name: &[u8]) -> Option<(Shipped, bool)> {
        let before = self.before?;
        let shipped = before.entries.get(name)?;
        let same = |manifest: &Manifest, entry: &Shipped| {
            manifest.now(&self.root, name, entry).is_ok_and(|now| now == Now::Same)
        };
        if same(before, shipped) {
            return Some((shipped.clone(), true));
        }
        let applied = self.applied.entries.get(name)?;
        same(&self.applied, applied).then(|| (shipped.clone(), false))
    }

    /// A file that went while we were on our way to it, or that cannot be read.
    fn went<W: Write>(&mut self, to: &mut Sender<W>, item: &Item) -> Result<(), WorkspaceError> {
        let shown = PathBuf::from(name::shown(&item.name));
        if let Some(stat) = at(&shown, self.root.stat(&item.name))?
            && kind(&stat).0 == FileType::RegularFile
        {
            at(&shown, self.root.read(&item.name))?;
        }
        if self.before.is_some_and(|before| before.entries.contains_key(&item.name)) {
            at(&shown, to.removed(&item.name))?;
            self.removed += 1;
        }
        Ok(())
    }
}

/// The tracked files that are not as git keeps them because a filter made them.
fn filtered(
    kept: &Kept,
    listing: &Listing,
    objects: &BTreeMap<String, u64>,
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let other = listing.items.iter().filter(|item| {
        let size = item.object.as_ref().and_then(|object| objects.get(object));
        size.is_some_and(|size| *size != item.size)
    });
    let names: Vec<&[u8]> = other.map(|item| item.name.as_slice()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    kept.git().filtered(&listing.repository.top, &names)
}

/// Reads on, and keeps a copy of what was read.
struct Both {
    file: File,
    copy: Option<File>,
}

impl Read for Both {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        if let Some(copy) = &mut self.copy {
            copy.write_all(&bytes[..count])?;
        }
        Ok(count)
    }
}

/// Contents on their way to become objects of our own repository.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    names: Vec<Vec<u8>>,
}

impl Spool {
    pub(crate) fn new(folder: PathBuf) -> Result<Self, WorkspaceError> {
        at(&folder, std::fs::create_dir(&folder))?;
        Ok(Self { folder, names: Vec::new() })
    }

    /// A file for the content of this name.
    pub(crate) fn next(&mut self, name: &[u8]) -> Result<File, WorkspaceError> {
        let path = self.folder.join(self.names.len().to_string());
        self.names.push(name.to_vec());
        at(&path, File::options().write(true).create_new(true).open(&path))
    }

    /// The objects of all, by name. The contents are gone afterwards.
    pub(crate) fn objects(&self, kept: &Kept) -> Result<Vec<(Vec<u8>, String)>, WorkspaceError> {
        if self.names.is_empty() {
            return Ok(Vec::new());
        }
        let paths: Vec<String> = (0..self.names.len())
            .map(|number| self.folder.join(number.to_string()).display().to_string())
            .collect();
        let input = (paths.join("\n") + "\n").into_bytes();
        let git = kept.git().set("core.looseCompression=1");
        let out = git.feed(&["hash-object", "-w", "--no-filters", "--stdin-paths"], input)?;
        let text = String::from_utf8_lossy(&out).into_owned();
        let objects: Vec<String> = text.lines().map(String::from).collect();
        if objects.len() != self.names.len() {
            return Err(WorkspaceError::Refused("git did not say what every file became".into()));
        }
        at(&self.folder, std::fs::remove_dir_all(&self.folder))?;
        Ok(self.names.iter().cloned().zip(objects).collect())
    }

    fn hash(&self, kept: &Kept, manifest: &mut Manifest) -> Result<(), WorkspaceError> {
        for (name, object) in self.objects(kept)? {
            if let Some(shipped) = manifest.entries.get_mut(&name) {
                shipped.note = object;
            }
        }
        Ok(())
    }
}
