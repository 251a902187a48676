//! One layer applied to the tree: entries, whiteouts, opaque folders, hard links (R-I2).

use crate::archive::{Archive, Entry, Kind};
use crate::error::{Fault, refuse, shown};
use crate::ext4::blocks::Blocks;
use crate::limits::{self, Limits};
use crate::tree::{Body, Meta, Node, ROOT, Tree, Xattrs, parts};
use std::collections::BTreeMap;
use std::io::Read;

/// What was counted while layers were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries of all archives.
    pub entries: u64,
    /// Entries that took the place of an earlier one of the same layer.
    pub duplicates: u64,
    /// Devices that were left out: a guest makes its own (R-I4).
    pub devices: u64,
    /// Extended attributes that were left out: only `user.*` and `security.capability` are the image's business.
    pub xattrs: u64,
    /// Files and folders that whiteouts took away.
    pub whiteouts: u64,
}

/// The devices that an image may have: null, zero, full, random, urandom, tty, console, ptmx.
const DEVICES: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that an old union filesystem kept for itself.
const RESERVED: &[u8] = b".wh..wh.";

/// Layers on their way into the tree.
pub(crate) struct Applier<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) blocks: &'a mut Blocks,
    pub(crate) limits: &'a Limits,
    pub(crate) counts: &'a mut Counts,
    /// Bytes that are kept in memory beside names.
    pub(crate) kept: &'a mut u64,
}

impl Applier<'_> {
    /// Applies one archive. `layer` counts from 1.
    pub(crate) fn apply(&mut self, layer: usize, read: impl Read) -> Result<(), Fault> {
        let mut archive = Archive::new(read);
        while let Some(entry) = archive.next()? {
            self.counts.entries += 1;
            if self.counts.entries > self.limits.entries {
                return Err(self.too_many());
            }
            let attributes = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
            let map = entry.pieces.as_ref().map_or(0, |pieces| pieces.len() * 16);
            *self.kept += (entry.link.len() + attributes.sum::<usize>() + map) as u64;
            if *self.kept > limits::KEPT {
                let most = limits::KEPT;
                return Err(Fault::Budget(format!(
                    "links, attributes and maps of sparse files have more than {most} bytes"
                )));
            }
            self.entry(layer, entry, &mut archive)?;
        }
        archive.drain()
    }

    fn too_many(&self) -> Fault {
        Fault::Budget(format!("the image has more than {} entries", self.limits.entries))
    }

    fn entry<R: Read>(
        &mut self,
        layer: usize,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fault> {
        if entry.path.is_empty() {
            return refuse("an entry has no name");
        }
        let mut path = parts(&entry.path)?;
        let Some(name) = path.pop() else { return self.root(entry) };
        if path.iter().any(|part| part.starts_with(RESERVED)) {
            return Ok(());
        }
        if let Some(part) = path.iter().find(|part| part.starts_with(WHITEOUT)) {
            return refuse(format!("{} is a whiteout and has something below", shown(part)));
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(layer, &path, &name);
        }
        let parent = self.tree.folder(&path, layer, true)?.expect("it is made");
        if self.tree.len() as u64 > self.limits.entries {
            // Folders that no entry names take room too.
            return Err(self.too_many());
        }
        let before = self.tree.children(parent).get(name.as_slice()).copied();
        if before.is_some_and(|child| child.layer == layer) && entry.kind != Kind::Folder {
            self.counts.duplicates += 1;
        }
        let meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime };
        let body = match entry.kind {
            Kind::Hardlink => return self.hardlink(layer, parent, &name, &entry),
            Kind::Folder => {
                if let Some(child) = before.filter(|child| self.tree.is_folder(child.id)) {
                    let xattrs = self.keep_xattrs(&entry)?;
                    let node = self.tree.node_mut(child.id);
                    (node.meta, node.xattrs) = (meta, xattrs);
                    self.tree
                        .children_mut(parent)
                        .insert(name.into(), crate::tree::Child { layer, ..child });
                    return Ok(());
                }
                Body::Folder(BTreeMap::new())
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > limits::LINK {
                    let most = limits::LINK;
                    return refuse(format!(
                        "the link {} leads to nothing, or further than {most} bytes",
                        shown(&entry.path)
                    ));
                }
                Body::Symlink(entry.link.clone().into())
            }
            Kind::Character if DEVICES.contains(&entry.device) => {
                Body::Character(entry.device.0, entry.device.1)
            }
            Kind::Character | Kind::Block => {
                // What was there does not come back.
                self.counts.devices += 1;
                self.tree.remove(parent, &name);
                return Ok(());
            }
            Kind::Fifo => Body::Fifo,
            Kind::File => {
                if entry.size > MAX_FILE {
                    return refuse(format!("{} is too large for a file", shown(&entry.path)));
                }
                let extents = match &entry.pieces {
                    None => self.blocks.write_file(entry.size, archive)?,
                    Some(pieces) => self.blocks.write_sparse(pieces, archive)?,
                };
                Body::File { size: entry.size, extents }
            }
        };
        let xattrs = self.keep_xattrs(&entry)?;
        self.tree.put(parent, &name, layer, Node { body, meta, xattrs, links: 1 });
        Ok(())
    }

    fn root(&mut self, entry: Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Folder {
            return refuse("an entry takes the place of the root");
        }
        let xattrs = self.keep_xattrs(&entry)?;
        let node = self.tree.node_mut(ROOT);
        node.meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime };
        node.xattrs = xattrs;
        Ok(())
    }

    fn whiteout(&mut self, layer: usize, path: &[Vec<u8>], name: &[u8]) -> Result<(), Fault> {
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return refuse(format!("the whiteout {} hides nothing", shown(name)));
        }
        let Some(folder) = self.tree.folder(path, layer, false)? else { return Ok(()) };
        if name == OPAQUE {
            self.counts.whiteouts += 1;
            self.tree.hide_lower(folder, layer);
        } else if !name.starts_with(RESERVED)
            && let Some(child) = self.tree.children(folder).get(hidden).copied()
        {
            self.counts.whiteouts += 1;
            self.tree.hide_lower_child(folder, hidden, child, layer);
        }
        Ok(())
    }

    fn hardlink(
        &mut self,
        layer: usize,
        parent: crate::tree::Id,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), Fault> {
        let missing = || {
            let (from, to) = (shown(&entry.path), shown(&entry.link));
            refuse(format!("{from} is linked to {to}, which is not there"))
        };
        let mut target = parts(&entry.link)?;
        let Some(last) = target.pop() else { return missing() };
        let Some(folder) = self.tree.folder(&target, layer, false)? else { return missing() };
        let Some(child) = self.tree.children(folder).get(last.as_slice()).copied() else {
            return missing();
        };
        if self.tree.is_folder(child.id) {
            return refuse(format!("{} is linked to a folder", shown(&entry.path)));
        }
        if self.tree.node(child.id).links >= MAX_LINKS {
            return refuse(format!("{} has too many names", shown(&entry.link)));
        }
        self.tree.link(parent, name, layer, child.id);
        if !self.tree.is_folder(folder) {
            return refuse(format!(
                "{} takes the place of what it is linked to",
                shown(&entry.path)
            ));
        }
        Ok(())
    }

    fn keep_xattrs(&mut self, entry: &Entry) -> Result<Option<Box<Xattrs>>, Fault> {
        let mut kept: Xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            let ours = name == b"security.capability"
                || name.strip_prefix(b"user.").is_some_and(|rest| !rest.is_empty());
            if !ours || name.contains(&0) || name.len() > limits::NAME {
                self.counts.xattrs += 1;
                continue;
            }
            kept.push((name.clone(), value.clone()));
        }
        if !crate::ext4::xattr::fit(&kept) {
            return refuse(format!(
                "the extended attributes of {} do not fit into a block",
                shown(&entry.path)
            ));
        }
        Ok((!kept.is_empty()).then(|| Box::new(kept)))
    }
}

/// The largest file, in bytes: its blocks are counted with 32 bits.
const MAX_FILE: u64 = (u32::MAX as u64) << 12;
/// The most names that a file may have.
const MAX_LINKS: u32 = 65_000;
