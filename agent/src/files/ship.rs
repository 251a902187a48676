//! Takes the workspace, or what changed of it since: what the guest changed itself is never overwritten.

use super::{MANIFEST, hidden_path, shipped, small, words};
use banger_tree::beneath::{Beneath, Owner, kind};
use banger_tree::manifest::{self, Manifest, Now, hash_of, seen};
use banger_tree::stream::{Entry, Receiver, Sender};
use banger_tree::take::plain;
use banger_tree::walk;
use rustix::fs::FileType;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Where the repository's own folder is put together.
const SEED: &[u8] = b".banger-stage-git";
/// The repository's own folder, and the file in it that says which one it is.
const GIT: &[u8] = b".git";
const MARK: &[u8] = b".git/banger";

/// Takes one stream. What is left alone goes into the other. Gives the new revision.
///
/// # Errors
/// When the stream broke off or something cannot be written: the next one goes on where this was.
pub(super) fn run(
    receiver: &mut Receiver<impl Read>,
    left: &mut Sender<impl Write>,
    hidden: &File,
    at: &str,
    owner: (u32, u32),
) -> Result<u64, String> {
    let owner = Some(owner);
    let manifest = shipped(hidden).map_err(|error| format!("what was shipped before: {error}"))?;
    let fresh = || Manifest { at: at.to_string(), ..Manifest::default() };
    let manifest = manifest.filter(|manifest| manifest.at == at).unwrap_or_else(fresh);
    let first = manifest.revision == 0;
    let root = folder(at, owner, first).map_err(|error| format!("{at}: {error}"))?;
    let mut taker = Taker { root: &root, manifest, owner, seed: false };
    let taken = clear_seed(&root)
        .map_err(|error| format!("{at}/.git: {error}"))
        .and_then(|()| take(&mut taker, receiver, left, first));
    let mut manifest = taker.manifest;
    manifest.revision += u64::from(taken.is_ok());
    // First what it speaks of, then the manifest. Also of a shipment that broke off: what is in its place came from the host,
    // and is not to be taken for the guest's.
    root.sync().map_err(|error| format!("{at}: {error}"))?;
    manifest.written = manifest::now_secs();
    manifest::save(&hidden_path(hidden), MANIFEST, &manifest)
        .map_err(|error| format!("keeping what was shipped: {error}"))?;
    taken.map(|()| manifest.revision)
}

/// Takes every record of a stream.
fn take(
    taker: &mut Taker<'_>,
    receiver: &mut Receiver<impl Read>,
    left: &mut Sender<impl Write>,
    first: bool,
) -> Result<(), String> {
    let (at, mut refused) = (taker.manifest.at.clone(), Vec::new());
    loop {
        let entry = receiver.next_entry().map_err(|error| words(&error))?;
        let Some(entry) = entry else { break };
        let name = entry.name().to_vec();
        let why = taker.take(receiver, entry)?;
        if let Some(why) = why {
            left.left_out(&name, &why).map_err(|error| error.to_string())?;
            refused.push(name);
        }
    }
    if let Some(why) = taker.place_seed()? {
        left.left_out(GIT, &why).map_err(|error| error.to_string())?;
        refused.push(GIT.to_vec());
    }
    if let (true, Some(one)) = (first, refused.first()) {
        // Half a workspace is none: whoever asked for it has to know.
        let (one, count) = (String::from_utf8_lossy(one), refused.len() - 1);
        let more = if count == 0 { String::new() } else { format!(" and {count} more") };
        return Err(format!("{at} has other files already: {one}{more}"));
    }
    Ok(())
}

/// The workspace's folder, which is made where it is not there. When it becomes one, it is its user's: an image may have
/// made it.
fn folder(at: &str, owner: Owner, first: bool) -> io::Result<Beneath> {
    std::fs::create_dir_all(at)?;
    if let (true, Some((user, group))) = (first, owner) {
        std::os::unix::fs::chown(at, Some(user), Some(group))?;
    }
    Beneath::open(Path::new(at))
}

struct Taker<'a> {
    root: &'a Beneath,
    manifest: Manifest,
    owner: Owner,
    /// Whether parts of a repository came.
    seed: bool,
}

impl Taker<'_> {
    /// One record. Gives why it was left alone, if it was.
    fn take(
        &mut self,
        receiver: &mut Receiver<impl Read>,
        entry: Entry,
    ) -> Result<Option<String>, String> {
        let name = entry.name().to_vec();
        let failed = |error: io::Error| format!("{}: {error}", String::from_utf8_lossy(&name));
        if let Some(inside) = name.strip_prefix(b".git/") {
            self.seed = true;
            return self.seed_part(receiver, &walk::join(SEED, inside), &entry).map(|()| None);
        }
        if let Some(why) = self.blocked(&name).map_err(failed)? {
            if let Entry::File { .. } = entry {
                receiver.content(&mut io::sink()).map_err(|error| words(&error))?;
            }
            return Ok(Some(why));
        }
        match entry {
            Entry::File { mode, .. } => {
                let mut new = self.root.create(&name, plain(mode), self.owner).map_err(failed)?;
                let content = receiver.content(&mut new.file).map_err(|error| words(&error))?;
                let executable = plain(mode) == 0o755;
                if let Some(why) =
                    self.in_the_way(&name, false, executable, &content.hash).map_err(failed)?
                {
                    return Ok(Some(why));
                }
                // One that is just so stays, with its times: nothing that was built from it has to be built again.
                let there = self.root.stat(&name).ok().flatten().filter(|stat| {
                    seen(stat, content.hash).executable == executable
                        && kind(stat).0 == FileType::RegularFile
                        && hash_of(self.root, &name, false).is_ok_and(|hash| hash == content.hash)
                });
                let stat = match there {
                    Some(stat) => stat,
                    None => new.keep().map_err(failed)?,
                };
                self.manifest.entries.insert(name, seen(&stat, content.hash));
            }
            Entry::Link { target, .. } => {
                let hash = Sha256::digest(&target).into();
                if let Some(why) = self.in_the_way(&name, true, false, &hash).map_err(failed)? {
                    return Ok(Some(why));
                }
                self.root.link(&name, &target, self.owner).map_err(failed)?;
                let stat = self.root.stat(&name).map_err(failed)?;
                let stat = stat.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                self.manifest.entries.insert(name, seen(&stat, hash));
            }
            Entry::Removed { .. } => {
                if let Some(shipped) = self.manifest.entries.get(&name) {
                    match self.manifest.now(self.root, &name, shipped).map_err(failed)? {
                        Now::Different => return Ok(Some("it changed in the sandbox".to_string())),
                        Now::Same => self.root.remove(&name).map_err(failed)?,
                        Now::Gone => {}
                    }
                    self.manifest.entries.remove(&name);
                }
            }
            Entry::Folder { mode, .. } => {
                self.root.folder(&name, mode | 0o700, self.owner).map_err(failed)?;
            }
            Entry::LeftOut { .. } => {}
        }
        Ok(None)
    }

    /// Why a name cannot be reached, when something of the sandbox's is in the way of a folder.
    fn blocked(&self, name: &[u8]) -> io::Result<Option<String>> {
        let Some(at) = name.iter().rposition(|byte| *byte == b'/') else { return Ok(None) };
        match self.root.folder(&name[..at], 0o755, self.owner) {
            Ok(()) => Ok(None),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(
                    rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::EXIST,
                ) => Ok(Some("the sandbox has something else in place of a folder".to_string())),
                _ => Err(error),
            },
        }
    }

    /// Why what is there must not be replaced by this, if it must not.
    fn in_the_way(
        &self,
        name: &[u8],
        link: bool,
        executable: bool,
        hash: &banger_tree::Hash,
    ) -> io::Result<Option<String>> {
        let known = self.manifest.entries.get(name);
        let there = self.root.stat(name)?;
        let now = match known {
            Some(shipped) => self.manifest.now(self.root, name, shipped)?,
            None if there.is_none() => Now::Same,
            None => Now::Different,
        };
        if now == Now::Same {
            return Ok(None);
        }
        let Some(stat) = there else {
            return Ok(Some("it was removed in the sandbox".to_string()));
        };
        let found = kind(&stat).0;
        let alike = found == FileType::Symlink && link
            || found == FileType::RegularFile
                && !link
                && seen(&stat, *hash).executable == executable;
        if alike && hash_of(self.root, name, link)? == *hash {
            return Ok(None);
        }
        Ok(Some(match known {
            Some(_) => "it changed in the sandbox".to_string(),
            None if found == FileType::Directory => "the sandbox has a folder there".to_string(),
            None => "the sandbox has another file there".to_string(),
        }))
    }

    /// A part of the repository's own folder, put together beside its place.
    fn seed_part(
        &self,
        receiver: &mut Receiver<impl Read>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", String::from_utf8_lossy(name));
        match entry {
            Entry::File { mode, .. } => {
                let mut new = self.root.create(name, *mode & 0o755, self.owner).map_err(failed)?;
                receiver.content(&mut new.file).map_err(|error| words(&error))?;
                new.keep().map(drop).map_err(failed)
            }
            Entry::Folder { .. } => self.root.folder(name, 0o755, self.owner).map_err(failed),
            Entry::Link { .. } | Entry::Removed { .. } | Entry::LeftOut { .. } => {
                Err("a repository has files and folders only".to_string())
            }
        }
    }

    /// Puts the repository's own folder in its place. One that is there already stays.
    fn place_seed(&self) -> Result<Option<String>, String> {
        if !self.seed {
            return Ok(None);
        }
        let failed = |error: io::Error| format!(".git: {error}");
        if self.root.stat(GIT).map_err(failed)?.is_none() {
            self.root.rename(SEED, GIT).map_err(failed)?;
            return Ok(None);
        }
        let ours = small(self.root, MARK);
        let same = ours.is_some() && ours == small(self.root, &walk::join(SEED, b"banger"));
        clear_seed(self.root).map_err(failed)?;
        Ok((!same).then(|| "the sandbox has a repository there".to_string()))
    }
}

/// Removes what was put together beside the repository's place.
fn clear_seed(root: &Beneath) -> io::Result<()> {
    let mut todo = vec![SEED.to_vec()];
    let mut folders = Vec::new();
    while let Some(folder) = todo.pop() {
        if !root.stat(&folder)?.is_some_and(|stat| kind(&stat).0 == FileType::Directory) {
            continue;
        }
        for part in walk::names(root, &folder)? {
            let name = walk::join(&folder, &part);
            match root.stat(&name)? {
                Some(stat) if kind(&stat).0 == FileType::Directory => todo.push(name),
                Some(_) => root.remove(&name)?,
                None => {}
            }
        }
        folders.push(folder);
    }
    for folder in folders.iter().rev() {
        root.prune(folder);
    }
    Ok(())
}
