//! An image: from Debian packages, a registry or this host's files to one read-only filesystem.

use super::debian::{self, Variant, Wanted};
use super::local::{self, Local};
use super::{Files, Made, blocking, build_mark, place};
use crate::drivers::Progress;
use crate::fault::{During, Fault};
use crate::folders;
use crate::unpack::{self, Failure, Source, Unpacked};
use banger_plan::actual::ImageConfig;
use banger_schema::spec::{DebianImage, ImageSource, OciImage};
use banger_wire::id::Digest;
use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was made, and what people may want to know of it.
struct Image {
    content: Digest,
    details: Vec<String>,
    config: ImageConfig,
}

pub(super) async fn build(
    files: &Files,
    recipe: &Digest,
    source: &ImageSource,
    progress: Progress,
) -> Result<(), Fault> {
    let beside = files.folders.scratch().join(format!("{recipe}.ext4"));
    let built = match source {
        ImageSource::Debian(debian) => from_debian(files, recipe, debian, &beside, &progress).await,
        ImageSource::Oci(image) => from_registry(files, recipe, image, &beside, progress).await,
        ImageSource::Path(file) => {
            let path = PathBuf::from(&file.path);
            from_path(files, recipe, &path, &beside, progress).await
        }
    };
    let outcome = built.and_then(|image| {
        let there = files.folders.image(&image.content);
        if !there.exists() {
            place(&beside, &there)?;
        }
        let Image { content, details, config } = image;
        files.record(&files.folders.images(), recipe, &Made { content, details, config })
    });
    folders::remove(&beside)?;
    outcome
}

/// Unpacks layers into a new file beside its place, and syncs it.
async fn write(
    files: &Files,
    recipe: &Digest,
    layers: Vec<Source>,
    beside: &Path,
    progress: Progress,
) -> Result<Unpacked, Failure> {
    let (beside, mark) = (beside.to_path_buf(), build_mark(&files.install, recipe));
    let work = tokio::task::spawn_blocking(move || {
        folders::remove(&beside)?;
        let making = || format!("making {}", beside.display());
        let open = OpenOptions::new().read(true).write(true).create_new(true).open(&beside);
        let out = open.during(making)?;
        let unpacked = unpack::unpack(layers, &out, &mark, &|read| progress(read, 0))?;
        seal(&out, &beside)?;
        Ok(unpacked)
    });
    work.await.map_err(|error| Fault::host(format!("file work: {error}")))?
}

/// An image is only read from now on.
fn seal(file: &File, path: &Path) -> Result<(), Fault> {
    let sealed = file.set_permissions(Permissions::from_mode(0o444)).and_then(|()| file.sync_all());
    sealed.during(|| format!("writing {}", path.display()))
}

fn describe(unpacked: &Unpacked) -> Vec<String> {
    let mut details = vec![format!("entries: {}", unpacked.entries)];
    for (count, what) in [(unpacked.devices, "devices"), (unpacked.xattrs, "extended attributes")] {
        if count > 0 {
            details.push(format!("left out: {count} {what}"));
        }
    }
    details
}

async fn from_debian(
    files: &Files,
    recipe: &Digest,
    debian: &DebianImage,
    beside: &Path,
    progress: &Progress,
) -> Result<Image, Fault> {
    let wanted = Wanted {
        variant: Variant::System,
        suite: &debian.suite,
        packages: &debian.packages,
        recipe,
        install: &files.install,
    };
    let (archive, running) = debian::stream(&wanted, progress)?;
    let source = Source { file: archive, section: None, diff_id: None };
    let quiet: Progress = Arc::new(|_, _| {});
    let written = write(files, recipe, vec![source], beside, quiet).await;
    // When it failed, its archive was cut off; why is what counts.
    running.end(&wanted).await?;
    let unpacked = written.map_err(|failure| failure.fault)?;
    let mut details = vec![format!("suite: {}", debian.suite)];
    details.extend(describe(&unpacked));
    Ok(Image { content: unpacked.content, details, config: ImageConfig::default() })
}

async fn from_registry(
    files: &Files,
    recipe: &Digest,
    image: &OciImage,
    beside: &Path,
    progress: Progress,
) -> Result<Image, Fault> {
    // The download is the first half of the work, the filesystem the second.
    let first: Progress = {
        let progress = progress.clone();
        Arc::new(move |done, total| progress(done, total * 2))
    };
    let mut again = true;
    loop {
        let pulled = files.registry.pull(image, &first).await?;
        let total: u64 = pulled.layers.iter().map(|layer| layer.size).sum();
        let second: Progress = {
            let progress = progress.clone();
            Arc::new(move |done, _| progress(total + done, total * 2))
        };
        let sources: Result<Vec<_>, _> = pulled
            .layers
            .iter()
            .zip(&pulled.config.diff_ids)
            .map(|(layer, diff_id)| {
                let path = files.registry.cache().path(&layer.digest);
                let file = File::open(&path).during(|| format!("opening {}", path.display()))?;
                Ok::<_, Fault>(Source {
                    file: OwnedFd::from(file),
                    section: None,
                    diff_id: Some(diff_id.clone()),
                })
            })
            .collect();
        match write(files, recipe, sources?, beside, second).await {
            Ok(unpacked) => {
                let mut details = vec![
                    format!("manifest: {}", image.digest.as_deref().unwrap_or_default()),
                    format!("layers: {}", pulled.layers.len()),
                ];
                details.extend(describe(&unpacked));
                let config = pulled.config.run;
                return Ok(Image { content: unpacked.content, details, config });
            }
            // What was stored may have gone bad since it was verified (R-I12): then it is fetched again, once.
            Err(failure)
                if failure.damaged && again && files.registry.quarantine(&pulled.layers)? =>
            {
                again = false;
            }
            Err(failure) => return Err(failure.fault),
        }
    }
}

async fn from_path(
    files: &Files,
    recipe: &Digest,
    path: &Path,
    beside: &Path,
    progress: Progress,
) -> Result<Image, Fault> {
    let (at, scratch) = (path.to_path_buf(), files.folders.scratch().join(format!("{recipe}.tar")));
    let opened = {
        let scratch = scratch.clone();
        blocking(move || local::open(&at, &scratch)).await
    };
    let outcome = async {
        let (layers, diff_ids, config, kind) = match opened? {
            Local::Filesystem(file) => {
                let beside = beside.to_path_buf();
                let content = blocking(move || {
                    let out = local::copy(&file, &beside)?;
                    seal(&out, &beside)?;
                    banger_rootfs::digest(&out).during(|| "reading the image".into())
                });
                let content = Digest::from_bytes(&content.await?);
                let details = vec!["kind: ext4".to_string()];
                return Ok(Image { content, details, config: ImageConfig::default() });
            }
            Local::Folder(reader, kind) => {
                let whole = (reader, None);
                (vec![whole], vec![None], ImageConfig::default(), kind)
            }
            Local::Image { layers, config, kind } => {
                let ids = config.diff_ids.into_iter().map(Some).collect();
                let layers = layers.into_iter().map(|(file, part)| (OwnedFd::from(file), part));
                (layers.collect(), ids, config.run, kind)
            }
        };
        let sources = layers.into_iter().zip(diff_ids);
        let sources =
            sources.map(|((file, section), diff_id)| Source { file, section, diff_id }).collect();
        let written = write(files, recipe, sources, beside, progress).await;
        let unpacked = written.map_err(|failure| failure.fault)?;
        let mut details = vec![format!("kind: {kind}")];
        details.extend(describe(&unpacked));
        Ok(Image { content: unpacked.content, details, config })
    }
    .await;
    folders::remove(&scratch)?;
    outcome
}
