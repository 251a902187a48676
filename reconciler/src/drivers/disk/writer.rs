//! A tar archive becomes a filesystem, without root and without a tree on the host (R-I1).
//!
//! `mke2fs` reads an archive itself from 1.47.1 on. Where it is older, a builder guest unpacks the archive onto a
//! disk that `mke2fs` made empty: whatever the archive's paths and links say stays in that guest.

use super::debian::build_id;
use super::{BUILD, Files, blocking, mke2fs};
use crate::drivers::Progress;
use crate::drivers::vmm::{Drive, Machine};
use crate::fault::{During, Fault};
use crate::folders;
use async_trait::async_trait;
use banger_plan::Seen;
use banger_plan::boot::Nic;
use banger_wire::agent::Request;
use banger_wire::id::{Cid, Digest};
use banger_wire::size::Mib;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a builder guest may take to come up.
const BOOT: Duration = Duration::from_secs(120);
/// How long it may say nothing while it unpacks.
const SILENCE: Duration = Duration::from_secs(120);
/// A builder guest's memory.
const MEMORY_MIB: u64 = 512;

/// An archive and what it takes to hold it.
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// Bytes of all files, each rounded up to a block.
    payload: u64,
}

impl Archive {
    /// Counts what is in an archive.
    pub(super) async fn measure(path: &Path) -> Result<Self, Fault> {
        let path = path.to_path_buf();
        blocking(move || {
            let reading = || format!("reading {}", path.display());
            let file = File::open(&path).during(reading)?;
            let bytes = file.metadata().during(reading)?.len();
            let mut tar = tar::Archive::new(std::io::BufReader::new(file));
            let (mut entries, mut payload) = (0, 0);
            for entry in tar.entries().during(reading)? {
                entries += 1;
                payload += entry.during(reading)?.size().div_ceil(4096) * 4096;
            }
            Ok(Self { path, bytes, entries, payload })
        })
        .await
    }

    /// A size that surely holds it: data, inodes, folders, and a tenth for the filesystem's own.
    fn filesystem_mib(&self) -> u64 {
        let needed = self.payload + self.entries * (512 + 1024);
        ((needed + needed / 10) >> 20) + 64
    }
}

/// Writes filesystems.
#[async_trait]
pub(super) trait Writer: Send + Sync {
    /// Writes the archive as an ext4 filesystem into a new file.
    async fn write(&self, archive: &Archive, to: &Path, progress: Progress) -> Result<(), Fault>;
}

/// The way that this host offers.
pub(super) async fn choose<'a>(
    files: &'a Files,
    recipe: &'a Digest,
    kernel: &Digest,
) -> Result<Box<dyn Writer + 'a>, Fault> {
    if mke2fs_reads_archives().await {
        return Ok(Box::new(Mke2fs));
    }
    let kernel =
        files.made(&files.folders.kernels(), kernel, |content| files.folders.kernel(content));
    match kernel {
        Seen::Present(fact) => Ok(Box::new(BuilderGuest { files, recipe, kernel: fact.content })),
        Seen::Absent | Seen::Unknown(_) => {
            Err(Fault::host("the kernel of the builder guest is not there"))
        }
    }
}

/// Whether `mke2fs` takes an archive: 1.47.1 or newer, and with the library that reads it.
async fn mke2fs_reads_archives() -> bool {
    let Some(program) = crate::process::find_program("mke2fs") else { return false };
    let Ok(output) = tokio::process::Command::new(program).arg("-V").output().await else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split_whitespace().nth(1).unwrap_or("");
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    numbers >= vec![1, 47, 1]
        && library.iter().any(|folder| Path::new(folder).join("libarchive.so.13").exists())
}

fn new_file(path: &Path, mib: u64) -> Result<File, Fault> {
    let size = Mib::new(mib).map_err(|error| Fault::user(error.to_string()))?;
    let file = File::create(path).during(|| format!("making {}", path.display()))?;
    file.set_len(size.bytes()).during(|| format!("sizing {}", path.display()))?;
    Ok(file)
}

fn options(archive: &Archive) -> Vec<String> {
    // It is read-only once it is made: no journal. Twice the inodes, for folders that the archive leaves out.
    let inodes = (archive.entries * 2 + 1024).to_string();
    ["-O", "^has_journal", "-N", &inodes].map(String::from).to_vec()
}

struct Mke2fs;

#[async_trait]
impl Writer for Mke2fs {
    async fn write(&self, archive: &Archive, to: &Path, _: Progress) -> Result<(), Fault> {
        let (mib, mut options) = (archive.filesystem_mib(), options(archive));
        options.extend(["-d".to_string(), archive.path.display().to_string()]);
        let to = to.to_path_buf();
        blocking(move || {
            let file = new_file(&to, mib)?;
            mke2fs(&to, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
            file.sync_all().during(|| format!("writing {}", to.display()))
        })
        .await
    }
}

struct BuilderGuest<'a> {
    files: &'a Files,
    recipe: &'a Digest,
    kernel: Digest,
}

#[async_trait]
impl Writer for BuilderGuest<'_> {
    async fn write(&self, archive: &Archive, to: &Path, progress: Progress) -> Result<(), Fault> {
        let (mib, path) = (archive.filesystem_mib(), to.to_path_buf());
        let options = options(archive);
        blocking(move || {
            new_file(&path, mib)?;
            mke2fs(&path, &options.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await?;
        let (launcher, id) = (&self.files.launcher, build_id(self.recipe));
        let machine = Machine {
            id: id.clone(),
            boot: format!("{BUILD}{}", self.recipe.short()),
            kernel: self.kernel.clone(),
            cpus: 1,
            memory: Mib::new(MEMORY_MIB).expect("in bounds"),
            cid: Cid::new(Cid::FIRST).expect("in bounds"),
            nic: Nic::None,
            drives: vec![
                Drive { path: archive.path.clone(), read_only: true, careless: false },
                Drive { path: to.to_path_buf(), read_only: false, careless: true },
            ],
        };
        let console = self.files.folders.scratch().join(format!("{}.console", self.recipe));
        launcher.start(&machine, &console).await?;
        let outcome = self.unpack(archive, &progress).await;
        let stopped = launcher.stop(&id, outcome.is_err()).await;
        launcher.forget(&id)?;
        let words = std::fs::read_to_string(&console).unwrap_or_default();
        folders::remove(&console)?;
        outcome.map_err(|fault| {
            let last =
                words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").to_string();
            fault.hint(format!("the builder guest's console ends with: {last}"))
        })?;
        stopped?;
        // What the guest wrote is in the host's cache until now.
        let file = File::open(to).during(|| format!("opening {}", to.display()))?;
        blocking(move || file.sync_all().during(|| "writing the image".into())).await
    }
}

impl BuilderGuest<'_> {
    async fn unpack(&self, archive: &Archive, progress: &Progress) -> Result<(), Fault> {
        let id = build_id(self.recipe);
        let mut guest = self
            .files
            .launcher
            .wait_for_guest(&id, &Request::Build { archive_bytes: archive.bytes }, BOOT)
            .await?;
        let told = |done| progress(done, archive.bytes);
        guest
            .done(SILENCE, &told)
            .await
            .map_err(|error| Fault::io("unpacking in the builder guest", error))?;
        let mut guest = self.files.launcher.wait_for_guest(&id, &Request::Shutdown, BOOT).await?;
        guest
            .done(SILENCE, &|_| {})
            .await
            .map_err(|error| Fault::io("ending the builder guest", error))
    }
}
