//! Images, kernels and disks: files in our own folders.
//!
//! A recipe's file names the content that it led to; content is stored once under its digest. A sandbox's disk
//! carries in its name the image that it lies above, so that nothing has to be remembered beside it.

mod debian;
mod image;
mod initramfs;
mod kernel;
pub(crate) mod local;
mod modules;

pub use initramfs::ensure as ensure_initramfs;

use super::{Disk, DiskFacts, DiskRemoval, DiskTarget, Outcome, Progress};
use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use crate::registry::Registry;
use crate::snapshots;
use async_trait::async_trait;
use banger_plan::actual::{ArtifactFact, DiskFact, ImageConfig, Seen, VolumeFact};
use banger_plan::admit::LEAST_FREE_MIB;
use banger_plan::desired::{Desired, Origin};
use banger_schema::spec::{ImageSource, KernelSource};
use banger_wire::derive::{Role, process_mark};
use banger_wire::id::{Digest, InstallId, SandboxId, VolumeId};
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The real one.
pub struct Files {
    folders: Folders,
    install: InstallId,
    registry: Registry,
}

/// What a recipe led to: `recipes/<recipe>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    content: Digest,
    details: Vec<String>,
    #[serde(default)]
    config: ImageConfig,
}

impl Files {
    /// Works in these folders, and ends and removes what an earlier daemon left half made there.
    ///
    /// # Errors
    /// When the folders cannot be used.
    pub async fn new(
        folders: Folders,
        install: InstallId,
        registry: Registry,
    ) -> Result<Self, Fault> {
        let builds = crate::process::marked(&install).during(|| "looking at processes".into())?;
        let builds: Vec<_> =
            builds.into_iter().filter(|process| process.boot.starts_with(BUILD)).collect();
        let ended = crate::process::end(&builds, Duration::ZERO, Duration::from_secs(10)).await;
        ended.map_err(Fault::host)?;
        for entry in fs::read_dir(folders.scratch())
            .during(|| "reading the scratch folder".into())?
            .flatten()
        {
            folders::remove_tree(&entry.path())?;
        }
        for kind in [folders.kernels(), folders.images()] {
            folders::make(&kind.join("recipes"))?;
        }
        Ok(Self { folders, install, registry })
    }

    /// What a recipe led to, when its content is really there.
    fn made(
        &self,
        kind: &Path,
        recipe: &Digest,
        content_of: impl Fn(&Digest) -> PathBuf,
    ) -> Seen<ArtifactFact> {
        let read = || -> io::Result<Option<ArtifactFact>> {
            let text = match fs::read(kind.join("recipes").join(format!("{recipe}.json"))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let made: Made = serde_json::from_slice(&text)?;
            match size_on_disk(&content_of(&made.content)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
                Ok(bytes) => {
                    let Made { content, details, config } = made;
                    Ok(Some(ArtifactFact { content, bytes, details, config }))
                }
            }
        };
        seen(read())
    }

    fn record(&self, kind: &Path, recipe: &Digest, made: &Made) -> Result<(), Fault> {
        let path = kind.join("recipes").join(format!("{recipe}.json"));
        folders::write_whole(&path, &serde_json::to_vec_pretty(made).expect("plain values encode"))
    }

    fn own_disk(&self, id: &SandboxId) -> Seen<(PathBuf, DiskFact)> {
        disk_in(&self.folders.sandbox(id))
    }

    /// Whether there is room for something new.
    fn room(&self) -> Result<(), Fault> {
        let stat = nix::sys::statvfs::statvfs(self.folders.state())
            .during(|| "looking at the disk".into())?;
        let free = (stat.blocks_available() * stat.fragment_size()) >> 20;
        if free < LEAST_FREE_MIB {
            let place = self.folders.state().display();
            return Err(Fault::user(format!(
                "only {free} MiB are free at {place}, at least {LEAST_FREE_MIB} are needed"
            ))
            .hint("free some space, or: banger image list, banger image delete"));
        }
        Ok(())
    }

    /// Removes content that no recipe and no disk leads to any more.
    fn sweep(
        &self,
        kind: &Path,
        content_of: impl Fn(&Digest) -> PathBuf,
        content: &Digest,
    ) -> Result<(), Fault> {
        let recipes = fs::read_dir(kind.join("recipes")).during(|| "reading recipes".into())?;
        let used = recipes.flatten().any(|entry| {
            let made = fs::read(entry.path())
                .ok()
                .and_then(|text| serde_json::from_slice::<Made>(&text).ok());
            made.is_some_and(|made| made.content == *content)
        });
        let disks = fs::read_dir(self.folders.sandboxes()).during(|| "reading sandboxes".into())?;
        let lies_above = disks
            .flatten()
            .filter_map(|entry| SandboxId::new(entry.file_name().to_str()?).ok())
            .any(|id| {
                !matches!(self.own_disk(&id), Seen::Absent)
                    && self.own_disk(&id).present().is_none_or(|(_, fact)| fact.content == *content)
            });
        let below_a_snapshot = snapshots::contents(&self.folders)?.contains(content);
        if !used && !lies_above && !below_a_snapshot {
            folders::remove(&content_of(content))?;
        }
        Ok(())
    }
}

/// The disk in a folder, by its name.
pub(crate) fn disk_in(folder: &Path) -> Seen<(PathBuf, DiskFact)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Seen::Absent,
        Err(error) => return Seen::Unknown(error.to_string()),
        Ok(entries) => entries,
    };
    for entry in entries {
        let read = entry.and_then(|entry| {
            let name = entry.file_name();
            let Some((recipe, content, origin)) = name.to_str().and_then(parse_disk_name) else {
                return Ok(None);
            };
            let size = disk_size(&entry.path())?;
            Ok(Some((entry.path(), DiskFact { size, recipe, content, origin })))
        });
        match seen(read) {
            Seen::Absent => {}
            found @ (Seen::Present(_) | Seen::Unknown(_)) => return found,
        }
    }
    Seen::Absent
}

/// What every build's processes are marked with instead of a boot's key.
const BUILD: &str = "build-";

/// What marks the processes of a build.
fn build_mark(install: &InstallId, recipe: &Digest) -> String {
    let bits = u128::from_str_radix(&recipe.as_str()[..32], 16).expect("hex digits");
    let boot = format!("{BUILD}{}", recipe.short());
    process_mark(install, &SandboxId::from_bits(bits), Role::Build, &boot)
}

fn seen<T>(read: io::Result<Option<T>>) -> Seen<T> {
    match read {
        Ok(Some(fact)) => Seen::Present(fact),
        Ok(None) => Seen::Absent,
        Err(error) => Seen::Unknown(error.to_string()),
    }
}

/// The bytes that a file or folder takes up.
pub(crate) fn size_on_disk(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.blocks() * 512);
    }
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        total += size_on_disk(&entry?.path())?;
    }
    Ok(total)
}

fn disk_size(path: &Path) -> io::Result<Mib> {
    Mib::new(fs::metadata(path)?.len() >> 20).map_err(io::Error::other)
}

pub(crate) fn disk_name(recipe: &Digest, content: &Digest, origin: Option<&Origin>) -> String {
    match origin {
        Some(origin) => format!("root.{recipe}.{content}.{origin}.ext4"),
        None => format!("root.{recipe}.{content}.ext4"),
    }
}

fn parse_disk_name(name: &str) -> Option<(Digest, Digest, Option<Origin>)> {
    let mut parts = name.strip_prefix("root.")?.strip_suffix(".ext4")?.split('.');
    let (recipe, content) = (Digest::new(parts.next()?).ok()?, Digest::new(parts.next()?).ok()?);
    let origin = parts.next().map(str::parse).transpose().ok()?;
    parts.next().is_none().then_some((recipe, content, origin))
}

/// Makes an empty ext4 filesystem in a new sparse file, beside its place and then in it.
fn make_disk(scratch: &Path, path: &Path, size: Mib) -> Result<(), Fault> {
    // Of its own: disks of one image have the same name, and are made at the same time.
    let beside = scratch.join(format!("disk-{}.new", folders::unique()));
    let work = || {
        let file = File::create_new(&beside).during(|| format!("making {}", beside.display()))?;
        file.set_len(size.bytes()).during(|| format!("sizing {}", beside.display()))?;
        mke2fs(&beside, &["-E", "lazy_itable_init=1,lazy_journal_init=1", "-J", "size=16"])?;
        file.sync_all().during(|| format!("writing {}", beside.display()))?;
        place(&beside, path)
    };
    let outcome = work();
    if outcome.is_err() {
        folders::remove(&beside)?;
    }
    outcome
}

/// Renames a finished file into its place, durably.
pub(crate) fn place(from: &Path, to: &Path) -> Result<(), Fault> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    fs::rename(from, to)
        .and_then(|()| File::open(folder)?.sync_all())
        .during(|| format!("placing {}", to.display()))
}

/// Runs `mke2fs` on a file of ours that is still empty.
fn mke2fs(file: &Path, options: &[&str]) -> Result<(), Fault> {
    let program = crate::process::find_program("mke2fs")
        .ok_or_else(|| Fault::host("mke2fs is not installed").hint("apt install e2fsprogs"))?;
    let output = std::process::Command::new(program)
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args(options)
        .arg(file)
        .output()
        .during(|| "starting mke2fs".into())?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let fault = Fault::host(format!("mke2fs failed: {}", why.trim()));
        return Err(if why.contains("No space") {
            fault.hint("the disk is full: free some space")
        } else {
            fault
        });
    }
    Ok(())
}

/// Runs file work where it does not hold up the loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Fault::host(format!("file work: {error}")))?
}

#[async_trait]
impl Disk for Files {
    async fn observe(&self, desired: &Desired) -> DiskFacts {
        let (images, kernels) = (self.folders.images(), self.folders.kernels());
        let image =
            |recipe: &Digest| self.made(&images, recipe, |content| self.folders.image(content));
        let kernel =
            |recipe: &Digest| self.made(&kernels, recipe, |content| self.folders.kernel(content));
        let volume = |id: &VolumeId| {
            let size = disk_size(&self.folders.volume(id)).map(|size| Some(VolumeFact { size }));
            seen(size.or_else(|error| {
                if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
            }))
        };
        let disk = |id: &SandboxId| match self.own_disk(id) {
            Seen::Present((_, fact)) => Seen::Present(fact),
            Seen::Absent => Seen::Absent,
            Seen::Unknown(why) => Seen::Unknown(why),
        };
        DiskFacts {
            kernels: desired
                .kernels
                .keys()
                .map(|recipe| (recipe.clone(), kernel(recipe)))
                .collect(),
            images: desired.images.keys().map(|recipe| (recipe.clone(), image(recipe))).collect(),
            volumes: desired.volumes.keys().map(|id| (id.clone(), volume(id))).collect(),
            disks: desired.sandboxes.keys().map(|id| (id.clone(), disk(id))).collect(),
            folders: desired
                .sandboxes
                .keys()
                .filter(|id| self.folders.sandbox(id).exists())
                .cloned()
                .collect(),
            foreign: self.foreign(desired),
        }
    }

    async fn build_kernel(
        &self,
        recipe: &Digest,
        source: &KernelSource,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        if self
            .made(&self.folders.kernels(), recipe, |content| self.folders.kernel(content))
            .present()
            .is_some()
        {
            return Ok(Outcome::Unchanged);
        }
        self.room()?;
        kernel::build(self, recipe, source, progress).await?;
        Ok(Outcome::Changed)
    }

    async fn build_image(
        &self,
        recipe: &Digest,
        source: &ImageSource,
        progress: Progress,
    ) -> Result<Outcome, Fault> {
        if self
            .made(&self.folders.images(), recipe, |content| self.folders.image(content))
            .present()
            .is_some()
        {
            return Ok(Outcome::Unchanged);
        }
        self.room()?;
        image::build(self, recipe, source, progress).await?;
        Ok(Outcome::Changed)
    }

    async fn ensure_disk(&self, target: &DiskTarget, size: Mib) -> Result<Outcome, Fault> {
        let path = match target {
            DiskTarget::Volume(id) => self.folders.volume(id),
            DiskTarget::Sandbox { sandbox, recipe, content, origin } => {
                folders::make(&self.folders.sandbox(sandbox))?;
                let name = disk_name(recipe, content, origin.as_ref());
                self.folders.sandbox(sandbox).join(name)
            }
        };
        let scratch = self.folders.scratch();
        match disk_size(&path) {
            Ok(now) if now >= size => Ok(Outcome::Unchanged),
            Ok(_) => {
                // The guest grows its filesystem into it at the next mount.
                let grow = File::options().write(true).open(&path).and_then(|file| {
                    file.set_len(size.bytes())?;
                    file.sync_all()
                });
                grow.during(|| format!("growing {}", path.display()))?;
                Ok(Outcome::Changed)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.room()?;
                if let DiskTarget::Sandbox { sandbox, origin: Some(origin), .. } = target {
                    let (folders, sandbox) = (self.folders.clone(), sandbox.clone());
                    let snapshot = origin.snapshot.clone();
                    let work = move || snapshots::begin(&folders, &snapshot, &sandbox, &path, size);
                    blocking(work).await?;
                } else {
                    blocking(move || make_disk(&scratch, &path, size)).await?;
                }
                Ok(Outcome::Changed)
            }
            Err(error) => Err(Fault::io(format!("looking at {}", path.display()), error)),
        }
    }

    async fn remove(&self, what: &DiskRemoval) -> Result<Outcome, Fault> {
        let removed = match what {
            DiskRemoval::Volume(id) => folders::remove(&self.folders.volume(id))?,
            DiskRemoval::Sandbox(id) => {
                let content = self.own_disk(id).present().map(|(_, fact)| fact.content.clone());
                let removed = folders::remove_tree(&self.folders.sandbox(id))?;
                self.sweep_image(content.as_ref())?;
                removed
            }
            DiskRemoval::Snapshot(id) => {
                let disk = disk_in(&self.folders.snapshot(id));
                let content = disk.present().map(|(_, fact)| fact.content.clone());
                let removed = snapshots::remove(&self.folders, id)?;
                self.sweep_image(content.as_ref())?;
                removed
            }
            DiskRemoval::Image(recipe) => {
                self.remove_made(&self.folders.images(), recipe, |content| {
                    self.folders.image(content)
                })?
            }
            DiskRemoval::Kernel(recipe) => {
                self.remove_made(&self.folders.kernels(), recipe, |content| {
                    self.folders.kernel(content)
                })?
            }
        };
        Ok(if removed { Outcome::Changed } else { Outcome::Unchanged })
    }
}

impl Files {
    /// Removes an image that nothing lies above any more.
    fn sweep_image(&self, content: Option<&Digest>) -> Result<(), Fault> {
        let of = |content: &Digest| self.folders.image(content);
        content.map_or(Ok(()), |content| self.sweep(&self.folders.images(), of, content))
    }

    fn remove_made(
        &self,
        kind: &Path,
        recipe: &Digest,
        content_of: impl Fn(&Digest) -> PathBuf,
    ) -> Result<bool, Fault> {
        let content =
            self.made(kind, recipe, &content_of).present().map(|fact| fact.content.clone());
        let removed = folders::remove(&kind.join("recipes").join(format!("{recipe}.json")))?;
        if let Some(content) = content {
            self.sweep(kind, content_of, &content)?;
        }
        Ok(removed)
    }

    /// Disks and volumes that nothing desired accounts for: their data may be somebody's, so they stay.
    fn foreign(&self, desired: &Desired) -> Vec<String> {
        let names = |folder: PathBuf| -> BTreeSet<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let known: BTreeMap<&str, Vec<String>> = BTreeMap::from([
            ("sandboxes", desired.sandboxes.keys().map(ToString::to_string).collect()),
            ("volumes", desired.volumes.keys().map(|id| format!("{id}.ext4")).collect()),
            ("snapshots", desired.snapshots.keys().map(ToString::to_string).collect()),
        ]);
        let mut foreign = Vec::new();
        for (kind, folder) in [
            ("sandboxes", self.folders.sandboxes()),
            ("volumes", self.folders.volumes()),
            ("snapshots", self.folders.snapshots()),
        ] {
            let strange =
                names(folder.clone()).into_iter().filter(|name| !known[kind].contains(name));
            foreign.extend(strange.map(|name| folder.join(name).display().to_string()));
        }
        foreign
    }
}
