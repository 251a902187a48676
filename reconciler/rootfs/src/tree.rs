//! The files of an image as a value: folders, names and what they lead to. No path of an archive leaves it (R-I1).

use crate::error::{Fault, refuse, shown};
use crate::limits;
use std::collections::{BTreeMap, HashMap};

/// A place in the tree's list of nodes.
pub(crate) type Id = u32;

/// The root folder.
pub(crate) const ROOT: Id = 0;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first block within the file.
    pub(crate) logical: u32,
    /// The first block within the image.
    pub(crate) physical: u32,
    pub(crate) blocks: u32,
}

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Child {
    pub(crate) id: Id,
    /// The layer that put it there, or said last what the folder is like.
    pub(crate) layer: usize,
}

#[derive(Debug)]
pub(crate) enum Body {
    Folder(BTreeMap<Box<[u8]>, Child>),
    File { size: u64, extents: Box<[Extent]> },
    Symlink(Box<[u8]>),
    Character(u32, u32),
    Fifo,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
}

impl Meta {
    /// Of a folder that no archive describes.
    pub(crate) const FOLDER: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
}

pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) meta: Meta,
    pub(crate) xattrs: Option<Box<Xattrs>>,
    /// Names that lead to it. A folder's is not counted.
    pub(crate) links: u32,
}

/// The files of an image.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// Blocks of files that are gone again.
    pub(crate) dead: Vec<(u32, u32)>,
    /// Folders that have nothing of lower layers any more, and since which layer.
    hidden: HashMap<Id, usize>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let body = Body::Folder(BTreeMap::new());
        let root = Node { body, meta: Meta::FOLDER, xattrs: None, links: 1 };
        Self { nodes: vec![root], dead: Vec::new(), hidden: HashMap::new() }
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn children(&self, id: Id) -> &BTreeMap<Box<[u8]>, Child> {
        match &self.node(id).body {
            Body::Folder(children) => children,
            Body::File { .. } | Body::Symlink(_) | Body::Character(..) | Body::Fifo => {
                unreachable!("only folders are asked for children")
            }
        }
    }

    pub(crate) fn children_mut(&mut self, id: Id) -> &mut BTreeMap<Box<[u8]>, Child> {
        match &mut self.node_mut(id).body {
            Body::Folder(children) => children,
            Body::File { .. } | Body::Symlink(_) | Body::Character(..) | Body::Fifo => {
                unreachable!("only folders are asked for children")
            }
        }
    }

    pub(crate) fn is_folder(&self, id: Id) -> bool {
        matches!(self.node(id).body, Body::Folder(_))
    }

    /// Puts a new node under a name, in place of whatever was there.
    pub(crate) fn put(&mut self, parent: Id, name: &[u8], layer: usize, node: Node) -> Id {
        self.remove(parent, name);
        let id = Id::try_from(self.nodes.len()).expect("entries are bounded");
        self.nodes.push(node);
        self.children_mut(parent).insert(name.into(), Child { id, layer });
        id
    }

    /// Gives a node one more name.
    pub(crate) fn link(&mut self, parent: Id, name: &[u8], layer: usize, id: Id) {
        // In this order: the name may be the only one that led to it.
        self.node_mut(id).links += 1;
        self.remove(parent, name);
        self.children_mut(parent).insert(name.into(), Child { id, layer });
    }

    /// Takes a name away, with everything below it.
    pub(crate) fn remove(&mut self, parent: Id, name: &[u8]) {
        if let Some(child) = self.children_mut(parent).remove(name) {
            self.release(child.id);
        }
    }

    fn release(&mut self, id: Id) {
        let node = self.node_mut(id);
        node.links -= 1;
        if node.links > 0 {
            return;
        }
        match std::mem::replace(&mut node.body, Body::Fifo) {
            Body::Folder(children) => {
                for child in children.into_values() {
                    self.release(child.id);
                }
            }
            Body::File { extents, .. } => {
                self.dead.extend(extents.iter().map(|extent| (extent.physical, extent.blocks)));
            }
            Body::Symlink(_) | Body::Character(..) | Body::Fifo => {}
        }
    }

    /// Takes away what lower layers put into a folder; what this layer put there stays, in whatever order it came.
    pub(crate) fn hide_lower(&mut self, folder: Id, layer: usize) {
        if self.hidden.insert(folder, layer) == Some(layer) {
            return;
        }
        let names: Vec<(Box<[u8]>, Child)> =
            self.children(folder).iter().map(|(name, child)| (name.clone(), *child)).collect();
        for (name, child) in names {
            self.hide_lower_child(folder, &name, child, layer);
        }
    }

    pub(crate) fn hide_lower_child(&mut self, folder: Id, name: &[u8], child: Child, layer: usize) {
        let is_folder = self.is_folder(child.id);
        if is_folder {
            self.hide_lower(child.id, layer);
        }
        if child.layer == layer {
            return;
        }
        if is_folder && !self.children(child.id).is_empty() {
            // Only the way to what this layer put below: as if it had been made for that.
            let node = self.node_mut(child.id);
            (node.meta, node.xattrs) = (Meta::FOLDER, None);
            self.children_mut(folder).insert(name.into(), Child { layer, ..child });
            return;
        }
        self.remove(folder, name);
    }

    /// The folder at a path, with links followed inside the root. What is missing is made, or the answer is `None`.
    ///
    /// `..` at the root stays there.
    pub(crate) fn folder(
        &mut self,
        path: &[Vec<u8>],
        layer: usize,
        make: bool,
    ) -> Result<Option<Id>, Fault> {
        let mut way = vec![ROOT];
        let mut to_go: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let (mut hops, mut steps) = (0, 0);
        while let Some(part) = to_go.pop() {
            steps += 1;
            if steps > limits::STEPS {
                return refuse(format!("too many folders on the way to {}", shown(&part)));
            }
            let here = *way.last().expect("the root stays");
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    continue;
                }
                _ => {}
            }
            check_name(&part)?;
            let next = match self.children(here).get(part.as_slice()).map(|child| child.id) {
                Some(id) => id,
                None if !make => return Ok(None),
                None => self.put(here, &part, layer, new_folder()),
            };
            match &self.node(next).body {
                Body::Folder(_) => way.push(next),
                Body::Symlink(target) => {
                    hops += 1;
                    if hops > limits::HOPS {
                        return refuse(format!("too many links on the way to {}", shown(&part)));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    to_go.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
                }
                Body::File { .. } | Body::Character(..) | Body::Fifo if make => {
                    return refuse(format!("{} is in the way: it is no folder", shown(&part)));
                }
                Body::File { .. } | Body::Character(..) | Body::Fifo => return Ok(None),
            }
            if way.len() > limits::DEPTH + 1 {
                return Err(too_deep());
            }
        }
        Ok(way.last().copied())
    }
}

pub(crate) fn new_folder() -> Node {
    Node { body: Body::Folder(BTreeMap::new()), meta: Meta::FOLDER, xattrs: None, links: 1 }
}

fn too_deep() -> Fault {
    Fault::Budget(format!("a folder is more than {} deep", limits::DEPTH))
}

fn check_name(name: &[u8]) -> Result<(), Fault> {
    if name.len() > limits::NAME {
        let most = limits::NAME;
        return Err(Fault::Budget(format!("{} is longer than {most} bytes", shown(name))));
    }
    Ok(())
}

/// The parts of an archive's path: always below the root, without `.` and with `..` worked out.
pub(crate) fn parts(path: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    if path.len() > limits::PATH {
        let most = limits::PATH;
        return Err(Fault::Budget(format!("a path is longer than {most} bytes")));
    }
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => {
                check_name(name)?;
                parts.push(name.to_vec());
            }
        }
    }
    if parts.len() > limits::DEPTH {
        return Err(too_deep());
    }
    Ok(parts)
}
