//! What is in an image or in a folder, one line for each name.
//!
//! `a=text` is a file, `a/` a folder, `a->b` a link, `a|` a pipe, `a:1,3` a device, `a==b` another name of `b`. What
//! is not as usual follows: mode, `@uid:gid`, `xlinks`, `tseconds`, attributes.

use std::collections::HashMap;
use std::fmt::Write as _;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size: u64,
    /// Blocks that are not holes.
    pub(super) blocks: u64,
    /// All bytes, of short files.
    pub(super) short: Vec<u8>,
    pub(super) hash: [u8; 32],
}

impl Content {
    /// Files up to this size are shown as they are.
    pub(super) const SHORT: u64 = 40;
    /// Files above this are not read.
    pub(super) const LARGE: u64 = 1 << 30;
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File(Content),
    Folder,
    Symlink(Vec<u8>),
    Character(u32, u32),
    Fifo,
}

#[derive(Debug)]
pub(super) struct Item {
    /// Without a slash at the beginning; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
    /// Names of one file share it.
    pub(super) identity: u64,
    pub(super) empty: bool,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One line for each item. The root has none when there is nothing to say about it.
pub(super) fn lines(items: &[Item], with_times: bool) -> Vec<String> {
    let mut first: HashMap<u64, &[u8]> = HashMap::new();
    let mut lines = Vec::new();
    for item in items {
        let path = item.path.escape_ascii();
        if let Some(known) = first.get(&item.identity) {
            lines.push(format!("{path}=={}", known.escape_ascii()));
            continue;
        }
        first.insert(item.identity, &item.path);
        let line = format!("{path}{}{}", what(&item.what), rest(item, with_times));
        if line != "/" {
            lines.push(line);
        }
    }
    lines
}

fn what(what: &What) -> String {
    match what {
        What::File(content) if content.size <= Content::SHORT => {
            format!("={}", content.short.escape_ascii())
        }
        What::File(content) => format!("={}#{}", content.size, &hex(&content.hash)[..8]),
        What::Folder => "/".into(),
        What::Symlink(target) if target.len() > 60 => format!("->{} bytes", target.len()),
        What::Symlink(target) => format!("->{}", target.escape_ascii()),
        What::Character(major, minor) => format!(":{major},{minor}"),
        What::Fifo => "|".into(),
    }
}

fn rest(item: &Item, with_times: bool) -> String {
    let mut text = String::new();
    let usual = match item.what {
        What::Folder => 0o755,
        What::Symlink(_) => 0o777,
        What::File(_) | What::Character(..) | What::Fifo => 0o644,
    };
    if item.mode != usual {
        write!(text, " {:o}", item.mode).expect("writes");
    }
    if (item.uid, item.gid) != (0, 0) {
        write!(text, " @{}:{}", item.uid, item.gid).expect("writes");
    }
    if item.what != What::Folder && item.links != 1 {
        write!(text, " x{}", item.links).expect("writes");
    }
    if with_times && item.mtime != (0, 0) {
        write!(text, " t{}", item.mtime.0).expect("writes");
        if item.mtime.1 != 0 {
            write!(text, ".{:09}", item.mtime.1).expect("writes");
        }
    }
    for (name, value) in &item.xattrs {
        let (name, shown) = (name.escape_ascii(), value.escape_ascii());
        match value.len() {
            0..=40 => write!(text, " {name}={shown}"),
            length => write!(text, " {name}={length} bytes"),
        }
        .expect("writes");
    }
    text
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
