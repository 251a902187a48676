//! An image from Debian packages: one archive, then one read-only filesystem.

use super::debian::{self, Variant, Wanted};
use super::writer::{self, Archive};
use super::{Files, Made, place};
use crate::drivers::Progress;
use crate::fault::Fault;
use crate::folders;
use banger_schema::spec::ImageSource;
use banger_wire::id::Digest;
use std::sync::Arc;

pub(super) async fn build(
    files: &Files,
    recipe: &Digest,
    source: &ImageSource,
    builder: &Digest,
    progress: Progress,
) -> Result<(), Fault> {
    let ImageSource::Debian(debian) = source;
    let path = debian::scratch(&files.folders.scratch(), recipe);
    let beside = files.folders.scratch().join(format!("{recipe}.ext4"));
    let outcome = async {
        let wanted = Wanted {
            variant: Variant::System,
            suite: &debian.suite,
            packages: &debian.packages,
            recipe,
            install: &files.install,
        };
        // The archive is the first half of the work, the filesystem the second.
        let first: Progress = {
            let progress = progress.clone();
            Arc::new(move |done, _| progress(done / 2, 100))
        };
        let content = debian::archive(&wanted, &path, &first).await?;
        let archive = Archive::measure(&path).await?;
        let second: Progress = {
            let total = archive.bytes.max(1);
            Arc::new(move |done, _| progress(50 + done * 50 / total, 100))
        };
        let there = files.folders.image(&content);
        if !there.exists() {
            writer::choose(files, recipe, builder).await?.write(&archive, &beside, second).await?;
            place(&beside, &there)?;
        }
        let details =
            vec![format!("suite: {}", debian.suite), format!("entries: {}", archive.entries)];
        files.record(&files.folders.images(), recipe, &Made { content, details })
    }
    .await;
    folders::remove(&path)?;
    folders::remove(&beside)?;
    outcome
}
