//! Files of this host that a Bangerfile names: made whole here, where the file's folder is known, and never outside of
//! it (R-B3).

use crate::failure::{FAILED, Failure};
use anyhow::Result;
use banger_schema::Spec;
use banger_schema::spec::{ImageSource, KernelSource, LocalFile};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 1_000_000;

/// Makes every path of a file whole.
///
/// # Errors
/// When one is not there, leads out of the folder, or is no file or folder.
pub(crate) fn complete(spec: &mut Spec, folder: &Path) -> Result<()> {
    complete_workspaces(spec, folder)?;
    let images = spec.images.values_mut().filter_map(|image| match &mut image.source {
        ImageSource::Path(file) => Some(file),
        ImageSource::Debian(_) | ImageSource::Oci(_) => None,
    });
    let kernels = spec.kernels.values_mut().filter_map(|kernel| match &mut kernel.source {
        KernelSource::Path(file) => Some(file),
        KernelSource::Debian { .. } | KernelSource::Url { .. } => None,
    });
    let mut files: Vec<&mut LocalFile> = images.chain(kernels).collect();
    if files.is_empty() {
        return Ok(());
    }
    let folder = fs::canonicalize(folder)?;
    for file in &mut files {
        let whole = whole(&folder.join(&file.path))?;
        if !whole.starts_with(&folder) || whole.strip_prefix(&folder)?.starts_with(".git") {
            let message = format!("{} is not below {}", file.path, folder.display());
            return Err(Failure::new(FAILED, message)
                .hint("a Bangerfile names what is beside it; or: banger image register NAME PATH")
                .into());
        }
        **file = stamped(&whole)?;
    }
    Ok(())
}

/// Makes the folders of workspaces whole. They are below the file's folder, or it.
fn complete_workspaces(spec: &mut Spec, folder: &Path) -> Result<()> {
    for workspace in spec.sandboxes.values_mut().filter_map(|sandbox| sandbox.workspace.as_mut()) {
        let folder = fs::canonicalize(folder)?;
        let whole = whole(&folder.join(&workspace.folder))?;
        if !whole.starts_with(&folder) {
            let message = format!("{} is not below {}", workspace.folder, folder.display());
            return Err(Failure::new(FAILED, message)
                .hint("a Bangerfile ships what is beside it; or: banger vm run PATH")
                .into());
        }
        let text = whole.to_str();
        let text =
            text.ok_or_else(|| Failure::new(FAILED, format!("{} is not UTF-8", whole.display())))?;
        workspace.folder = text.to_string();
    }
    Ok(())
}

/// A path that somebody wrote on the command line.
///
/// # Errors
/// When it is not there, or is no file or folder.
pub(crate) fn named(path: &Path) -> Result<LocalFile> {
    stamped(&whole(path)?)
}

fn whole(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", path.display())).into())
}

/// With the digest of sizes and times of all that is there.
fn stamped(path: &Path) -> Result<LocalFile> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() && !meta.is_dir() {
        let message = format!("{} is no file and no folder", path.display());
        return Err(Failure::new(FAILED, message).into());
    }
    let mut hash = Sha256::new();
    let mut todo = vec![path.to_path_buf()];
    let mut count = 0;
    while let Some(next) = todo.pop() {
        count += 1;
        if count > MAX_ENTRIES {
            let message = format!("{} has more than {MAX_ENTRIES} entries", path.display());
            return Err(Failure::new(FAILED, message).into());
        }
        let meta = fs::symlink_metadata(&next)?;
        hash.update(next.strip_prefix(path)?.as_os_str().as_encoded_bytes());
        let facts = (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        hash.update(format!("\0{facts:?}\0"));
        if meta.is_dir() {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(&next)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
            entries.sort();
            todo.extend(entries);
        } else {
            hash.update(meta.len().to_le_bytes());
        }
    }
    let text = path.to_str();
    let text =
        text.ok_or_else(|| Failure::new(FAILED, format!("{} is not UTF-8", path.display())))?;
    let stamp = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(LocalFile { path: text.to_string(), stamp: Some(stamp) })
}
