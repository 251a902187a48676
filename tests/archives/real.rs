//! Real images: what is in ours is what umoci unpacks.

use super::case::{fsck, make};
use super::differential::{shell, walk};
use super::image;
use super::listing::{Item, lines};
use crate::registry;
use banger_rootfs::Limits;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The layers of one image of a layout, as they are stored.
fn layers(layout: &Path, name: &str) -> Vec<Vec<u8>> {
    let blob = |digest: &Value| {
        let digest = digest.as_str().expect("a digest").trim_start_matches("sha256:");
        fs::read(layout.join("blobs/sha256").join(digest)).expect("a blob")
    };
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let index = read(&fs::read(layout.join("index.json")).expect("an index"));
    let manifests = index["manifests"].as_array().expect("a list");
    let named = manifests.iter().find(|manifest| {
        manifest["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(name)
    });
    let manifest = read(&blob(&named.expect("the image")["digest"]));
    manifest["layers"].as_array().expect("layers").iter().map(|l| blob(&l["digest"])).collect()
}

/// Without times, which a folder gets from whatever is unpacked into it, and without what is ours alone.
fn comparable(items: Vec<Item>) -> Vec<String> {
    let own = |item: &Item| item.path == b"lost+found" || item.path.is_empty();
    let items: Vec<Item> = items
        .into_iter()
        .filter(|item| !own(item))
        .map(|item| Item { xattrs: Vec::new(), ..item })
        .collect();
    lines(&items, false)
}

#[test]
fn real_images_are_as_umoci_unpacks_them() {
    if !registry::can_run() {
        return;
    }
    let layout = registry::images().join("lay");
    for name in ["busybox", "layers", "debian"] {
        let folder = tempfile::tempdir().expect("a folder");
        let from = layout.display();
        shell(folder.path(), &format!("umoci unpack --image {from}:{name} bundle"));
        let layers = layers(&layout, name);
        let (built, file) = make(&layers, &Limits::default()).expect("builds");
        fsck(file.path()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let ours = comparable(image::read(&file.reopen().expect("opens")));
        let theirs = comparable(walk(&folder.path().join("bundle/rootfs")));
        let ours_only: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
        let theirs_only: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
        assert!(ours == theirs, "{name}\nours {ours_only:#?}\ntheirs {theirs_only:#?}");
        assert!(built.counts.entries >= 10 && ours.len() >= 10, "{name}: {}", ours.len());
    }
}
