//! Changes the files of the user's working tree as the guest changed its own: all of them or none, and only where the host
//! still has what was shipped (R-P3, R-P7). Git is asked for contents only, from our own repository.

use crate::diff::Differing;
use crate::git::Git;
use crate::kept::Kept;
use crate::{WorkspaceError, at, diff};
use banger_tree::beneath::{Beneath, kind};
use banger_tree::manifest::{Manifest, Now, Shipped, hash_of, now_secs, seen};
use banger_tree::name;
use banger_tree::stage::{Expect, Mark, Stage, StageError};
use banger_tree::take::{digest, plain, stays_beneath};
use banger_wire::api::workspace::Returned;
use rustix::fs::FileType;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout};

/// What was changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Written, by name.
    pub written: Vec<Vec<u8>>,
    /// Removed, by name.
    pub removed: Vec<Vec<u8>>,
    /// Already so.
    pub same: u64,
}

/// Applies what came back; a dry run only says what would be done. Links are applied only when they were asked for and stay
/// beneath the tree.
///
/// # Errors
/// When a file moved on the host, something may not be written, or a change cannot be made. Nothing is changed then.
pub fn apply(returned: &Returned, links: bool, dry_run: bool) -> Result<Applied, WorkspaceError> {
    let kept = Kept::open(Path::new(&returned.kept))?;
    let manifest = kept.shipped(returned.revision)?;
    let folder = Path::new(&returned.folder);
    let root = at(folder, Beneath::open(folder))?;
    let mut differing = diff::between(&kept.repository(), &returned.base, &returned.files)?;
    let applied = kept.applied()?;
    differing.extend(taken_back(&applied, &manifest, &differing));
    let mut stage = match dry_run {
        true => None,
        false => Some(Stage::new(&root, None, Some(&kept.stage_record()))?),
    };
    let host = Host { root: &root, manifest, applied };
    let objects = differing.iter().filter(|file| is_content(file)).map(|file| file.object.as_str());
    let mut contents = Contents::open(kept.git().bounded(), objects)?;
    let (mut applied, mut refused, mut conflicts) = (Applied::default(), Vec::new(), Vec::new());
    for file in &differing {
        let name = &file.name;
        let content = if is_content(file) { Some(contents.next()?) } else { None };
        if let Err(why) = may_come(file, content.as_deref(), links) {
            refused.push((name.clone(), why));
            continue;
        }
        let expect = match host.compare(file, content.as_deref()) {
            Found::Done => {
                applied.same += 1;
                continue;
            }
            Found::Moved(why) => {
                conflicts.push((name.clone(), why));
                continue;
            }
            Found::AsShipped(expect) => expect,
        };
        match content {
            None => {
                if let Some(stage) = &mut stage {
                    stage.remove(name, expect);
                }
                applied.removed.push(name.clone());
            }
            Some(content) => {
                if let Some(stage) = &mut stage {
                    put(stage, file, &content, expect)?;
                }
                applied.written.push(name.clone());
            }
        }
    }
    if !refused.is_empty() {
        return Err(StageError::Refused(refused).into());
    }
    if !conflicts.is_empty() {
        return Err(StageError::Conflict(conflicts).into());
    }
    if let Some(stage) = stage {
        stage.commit()?;
        remember(&kept, host, &applied)?;
    }
    Ok(applied)
}

/// What was applied before and is in the guest again as it was shipped: it goes back here, too.
fn taken_back(applied: &Manifest, manifest: &Manifest, differing: &[Differing]) -> Vec<Differing> {
    let named: BTreeSet<&[u8]> = differing.iter().map(|file| file.name.as_slice()).collect();
    let others = applied.entries.iter().filter(|(name, _)| !named.contains(name.as_slice()));
    let back = others.map(|(name, _)| {
        let (mode, object) = match manifest.entries.get(name) {
            None => ("000000", String::new()),
            Some(shipped) if shipped.link => ("120000", shipped.note.clone()),
            Some(shipped) if shipped.executable => ("100755", shipped.note.clone()),
            Some(shipped) => ("100644", shipped.note.clone()),
        };
        let (name, mode_before) = (name.clone(), String::new());
        Differing { sign: 'M', name, mode_before, mode: mode.to_string(), object }
    });
    back.collect()
}

/// What the user's files are now as the guest had them: a later change of the guest's goes on from there.
fn remember(kept: &Kept, host: Host<'_>, applied: &Applied) -> Result<(), WorkspaceError> {
    let Host { root, applied: mut known, .. } = host;
    for name in &applied.written {
        // One that was changed again at once is the user's.
        let Ok(Some(stat)) = root.stat(name) else { continue };
        let link = kind(&stat).0 == FileType::Symlink;
        if let Ok(hash) = hash_of(root, name, link) {
            known.entries.insert(name.clone(), seen(&stat, hash));
        }
    }
    for name in &applied.removed {
        let gone = Shipped { note: GONE.to_string(), ..Shipped::default() };
        known.entries.insert(name.clone(), gone);
    }
    known.written = now_secs();
    kept.keep_applied(&known)
}

/// The note of what was removed.
const GONE: &str = "gone";

fn is_content(file: &Differing) -> bool {
    matches!(file.mode.as_str(), "100644" | "100755" | "120000")
}

/// Whether it may be written here, or why not.
fn may_come(file: &Differing, content: Option<&[u8]>, links: bool) -> Result<(), String> {
    name::check(&file.name).map_err(|why| why.to_string())?;
    match (file.mode.as_str(), content) {
        ("000000" | "100644" | "100755", _) => Ok(()),
        ("120000", Some(target)) if !links => Err(format!(
            "a link to {}; --symlinks allows links that stay beneath",
            name::shown(target)
        )),
        ("120000", Some(target)) if !stays_beneath(&file.name, target) => {
            Err(format!("a link to {}, which is not beneath", name::shown(target)))
        }
        ("120000", Some(_)) => Ok(()),
        ("160000", _) => Err("a submodule".to_string()),
        (mode, _) => Err(format!("of an unknown kind, {mode}")),
    }
}

/// What the host has, and what is known of how it came there.
struct Host<'a> {
    root: &'a Beneath,
    manifest: Manifest,
    applied: Manifest,
}

/// What the host has in a change's place.
enum Found {
    /// What was shipped or applied before, or nothing where nothing was.
    AsShipped(Expect),
    /// What the change is to make.
    Done,
    /// Something else.
    Moved(String),
}

impl Host<'_> {
    fn compare(&self, file: &Differing, content: Option<&[u8]>) -> Found {
        let name = &file.name;
        let (shipped, applied) = (self.manifest.entries.get(name), self.applied.entries.get(name));
        // What was applied once is the user's now: the guest has nothing new for it.
        let has_it = match (applied, content) {
            (Some(applied), None) => applied.note == GONE,
            (Some(applied), Some(content)) => {
                applied.note != GONE
                    && applied.link == (file.mode == "120000")
                    && applied.executable == (file.mode == "100755")
                    && digest(&mut &*content).is_ok_and(|(_, hash)| hash == applied.hash)
            }
            (None, _) => false,
        };
        if has_it {
            return Found::Done;
        }
        let there = match self.root.stat(name) {
            Ok(there) => there,
            Err(_) => return Found::Moved("a link is on the way to it".to_string()),
        };
        let Some(stat) = there else {
            let removed = applied.is_some_and(|applied| applied.note == GONE);
            return match (shipped, content) {
                (_, None) => Found::Done,
                (Some(_), Some(_)) if !removed => Found::Moved("it was removed here".to_string()),
                (_, Some(_)) => Found::AsShipped(Expect::Nothing),
            };
        };
        let is = |manifest: &Manifest, entry: Option<&Shipped>| {
            let entry = entry.filter(|entry| entry.note != GONE);
            entry
                .is_some_and(|e| manifest.now(self.root, name, e).is_ok_and(|now| now == Now::Same))
        };
        if let Some(content) = content {
            let link = file.mode == "120000";
            let (found, mode) = kind(&stat);
            let executable = (plain(mode) == 0o755) == (file.mode == "100755");
            let alike = link && found == FileType::Symlink
                || !link && found == FileType::RegularFile && executable;
            let hash = digest(&mut &*content).map(|(_, hash)| hash);
            let now = hash_of(self.root, name, link);
            if alike && now.is_ok_and(|now| hash.is_ok_and(|hash| hash == now)) {
                return Found::Done;
            }
        }
        if is(&self.manifest, shipped) || is(&self.applied, applied) {
            return Found::AsShipped(Expect::This(Mark::of(&stat)));
        }
        Found::Moved(match shipped {
            Some(_) => "it changed here since it was shipped".to_string(),
            None => "another one is here".to_string(),
        })
    }
}

fn put(
    stage: &mut Stage<'_>,
    file: &Differing,
    content: &[u8],
    expect: Expect,
) -> Result<(), StageError> {
    if file.mode == "120000" {
        return stage.link(&file.name, content, expect);
    }
    let mode = if file.mode == "100755" { 0o755 } else { 0o644 };
    stage.file(&file.name, mode, expect, |to: &mut File| {
        to.write_all(content).map_err(|error| StageError::Io(file.name.clone(), error))
    })
}

/// Contents of our own repository, one after the other. At most one is in memory.
struct Contents {
    child: Child,
    from: BufReader<ChildStdout>,
}

impl Contents {
    fn open<'a>(git: Git, objects: impl Iterator<Item = &'a str>) -> Result<Self, WorkspaceError> {
        let input: String = objects.map(|object| format!("{object}\n")).collect();
        let mut child = git.start(&["cat-file", "--batch"], Cursor::new(input))?;
        let from = child
            .stdout
            .take()
            .ok_or_else(|| WorkspaceError::Refused("git says nothing".into()))?;
        Ok(Self { child, from: BufReader::new(from) })
    }

    fn next(&mut self) -> Result<Vec<u8>, WorkspaceError> {
        let bad = |why: String| WorkspaceError::Git { what: "cat-file".into(), said: why };
        let mut head = String::new();
        self.from.read_line(&mut head).map_err(|error| bad(error.to_string()))?;
        let mut fields = head.split_whitespace();
        let (_, found, size) = (fields.next(), fields.next(), fields.next());
        let size = size.filter(|_| found == Some("blob")).and_then(|size| size.parse::<u64>().ok());
        let size = size.ok_or_else(|| bad(format!("no file: {}", head.trim())))?;
        let mut content = Vec::new();
        (&mut self.from)
            .take(size)
            .read_to_end(&mut content)
            .map_err(|error| bad(error.to_string()))?;
        let mut end = [0];
        self.from.read_exact(&mut end).map_err(|error| bad(error.to_string()))?;
        Ok(content)
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        // It has nothing more to say that anybody would hear.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
