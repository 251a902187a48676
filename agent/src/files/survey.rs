//! What changed in the workspace since it was shipped: by looking at files, never by asking the guest's git, whose index
//! and settings are the guest's own.
//!
//! What was shipped is compared one by one. What is new counts unless it is ignored, as git would ignore it.

use super::small;
use banger_tree::beneath::{Beneath, kind};
use banger_tree::manifest::{Manifest, Now};
use banger_tree::stream::{Limits, Sender};
use banger_tree::walk;
use gix_ignore::Search;
use gix_ignore::glob::pattern::Case;
use gix_ignore::search::Ignore;
use rustix::fs::{FileType, Stat};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders within folders that are looked into.
const DEEPEST: usize = 256;

/// Sends every change: removals, changed and new files.
///
/// # Errors
/// When something cannot be read or sent.
pub(super) fn run(
    to: &mut Sender<impl Write>,
    root: &Beneath,
    manifest: &Manifest,
) -> io::Result<()> {
    for (name, shipped) in &manifest.entries {
        let now = match manifest.now(root, name, shipped) {
            // It went while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Now::Gone,
            now => now?,
        };
        match now {
            Now::Same => {}
            Now::Gone => to.removed(name)?,
            Now::Different => match root.stat(name)? {
                Some(stat) if kind(&stat).0 != FileType::Directory => send(to, root, name, &stat)?,
                // A folder took its place: what is in it is new.
                Some(_) | None => to.removed(name)?,
            },
        }
    }
    let mut search = Search::default();
    if let Some(patterns) = small(root, b".git/info/exclude") {
        add(&mut search, &patterns, b"");
    }
    look(to, root, manifest, &mut search, b"", 0)
}

fn add(search: &mut Search, patterns: &[u8], folder: &[u8]) {
    let base = Path::new(OsStr::from_bytes(folder));
    let source = base.join(".gitignore");
    // Below the folder that the file is in; a pattern that is none is none for git too.
    let root = (!folder.is_empty()).then_some(Path::new(""));
    let _ = search.add_patterns_buffer(patterns, source, root, Ignore::default());
}

fn look(
    to: &mut Sender<impl Write>,
    root: &Beneath,
    manifest: &Manifest,
    search: &mut Search,
    folder: &[u8],
    depth: usize,
) -> io::Result<()> {
    let before = search.patterns.len();
    if let Some(patterns) = small(root, &walk::join(folder, b".gitignore")) {
        add(search, &patterns, folder);
    }
    // A folder that went meanwhile, or became a link, has nothing in it.
    for part in walk::names(root, folder).unwrap_or_default() {
        let name = walk::join(folder, &part);
        let Ok(Some(stat)) = root.stat(&name) else { continue };
        let is_folder = kind(&stat).0 == FileType::Directory;
        if part == b".git" || !is_folder && manifest.entries.contains_key(&name) {
            continue;
        }
        let matched = search.pattern_matching_relative_path(
            name.as_slice().into(),
            Some(is_folder),
            Case::Sensitive,
        );
        if matched.is_some_and(|matched| !matched.pattern.is_negative()) {
            continue;
        }
        if !is_folder {
            send(to, root, &name, &stat)?;
        } else if depth == DEEPEST {
            to.left_out(&name, "too deep")?;
        } else {
            look(to, root, manifest, search, &name, depth + 1)?;
        }
    }
    search.patterns.truncate(before);
    Ok(())
}

fn send(to: &mut Sender<impl Write>, root: &Beneath, name: &[u8], stat: &Stat) -> io::Result<()> {
    match kind(stat) {
        (FileType::RegularFile, _)
            if u64::try_from(stat.st_size).is_ok_and(|size| size > Limits::RETURN.file) =>
        {
            to.left_out(name, &format!("larger than {} MiB", Limits::RETURN.file >> 20))
        }
        // One that goes while it is looked at was never there.
        (FileType::RegularFile, mode) => match root.read(name) {
            Ok((mut file, _)) => to.file(name, mode, &mut file).map(drop),
            Err(error) => to.left_out(name, &error.to_string()),
        },
        (FileType::Symlink, _) => match root.read_link(name) {
            Ok(target) => to.link(name, &target),
            Err(error) => to.left_out(name, &error.to_string()),
        },
        _ => to.left_out(name, "no file, folder or link"),
    }
}
