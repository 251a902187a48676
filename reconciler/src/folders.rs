//! Where everything is on disk. State survives a reboot, run does not have to.

use crate::fault::{During, Fault};
use banger_wire::id::{Digest, SandboxId, SnapshotId, VolumeId};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The two roots.
#[derive(Debug, Clone)]
pub struct Folders {
    state: PathBuf,
    run: PathBuf,
}

impl Folders {
    /// Below `BANGER_HOME` if that is set; else the system's folders for root, and the user's own for others.
    ///
    /// # Errors
    /// When there is no home, the run folder's path is too long for sockets, or a folder cannot be made.
    pub fn from_environment() -> Result<Self, Fault> {
        let is_root = nix::unistd::geteuid().is_root();
        let roots = banger_wire::derive::roots(|name| std::env::var_os(name), is_root);
        let (state, run) = roots.ok_or_else(|| Fault::user("HOME is not set"))?;
        Self::at(state, run)
    }

    /// These two roots. Makes them, readable by their owner only.
    ///
    /// # Errors
    /// When the run folder's path is too long for sockets, or a folder cannot be made.
    pub fn at(state: PathBuf, run: PathBuf) -> Result<Self, Fault> {
        let folders = Self { state, run };
        if !banger_wire::derive::sockets_fit(&folders.run) {
            let run = folders.run.display();
            return Err(Fault::user(format!(
                "the path {run} is too long for the sockets below it"
            ))
            .hint("set BANGER_HOME to a shorter path"));
        }
        for folder in [
            folders.state.clone(),
            folders.run.clone(),
            folders.run.join("vm"),
            folders.kernels(),
            folders.images(),
            folders.volumes(),
            folders.sandboxes(),
            folders.snapshots(),
            folders.initramfs(),
            folders.scratch(),
        ] {
            make(&folder)?;
        }
        // Whoever made them first may have been less careful.
        for folder in [&folders.state, &folders.run] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(folder, mode).during(|| format!("closing {}", folder.display()))?;
        }
        Ok(folders)
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.state.join("banger.db")
    }
    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join(banger_wire::derive::SOCKET)
    }
    /// The file that the one daemon holds a lock on. It is beside the database: there is one daemon for each, whatever
    /// its run folder is.
    pub fn lock(&self) -> PathBuf {
        self.state.join("bangerd.lock")
    }
    /// Kernels: `recipes/<recipe>.json` and `<content>/`.
    pub fn kernels(&self) -> PathBuf {
        self.state.join("kernels")
    }
    /// Images: `recipes/<recipe>.json` and `<content>.ext4`.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }
    /// Volumes: `<id>.ext4`.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }
    /// One volume's disk.
    pub fn volume(&self, id: &VolumeId) -> PathBuf {
        self.volumes().join(format!("{id}.ext4"))
    }
    /// Sandboxes: a folder each.
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }
    /// What a sandbox keeps while it does not run: its disk and its console.
    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }
    /// Snapshots: a folder each.
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }
    /// One snapshot: its record and its disk.
    pub fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(id.as_str())
    }
    /// What is kept about its workspace. It goes with its disk.
    pub fn workspace(&self, id: &SandboxId) -> PathBuf {
        self.sandbox(id).join("workspace")
    }
    /// An image's filesystem.
    pub fn image(&self, content: &Digest) -> PathBuf {
        self.images().join(format!("{content}.ext4"))
    }
    /// A kernel and its modules.
    pub fn kernel(&self, content: &Digest) -> PathBuf {
        self.kernels().join(content.as_str())
    }
    /// Archives that guests boot from, by the digest of what is in them.
    pub fn initramfs(&self) -> PathBuf {
        self.state.join("initramfs")
    }
    /// Half-made things. Emptied when the daemon starts.
    pub fn scratch(&self) -> PathBuf {
        self.state.join("scratch")
    }
    /// The folder of a sandbox's run.
    pub fn vm(&self, id: &SandboxId) -> PathBuf {
        self.run.join("vm").join(id.as_str())
    }
    /// The folder of all runs.
    pub fn vms(&self) -> PathBuf {
        self.run.join("vm")
    }
    /// SSH keys, and the configuration that uses them.
    pub fn ssh(&self) -> PathBuf {
        self.state.join(banger_wire::derive::SSH_FOLDER)
    }
    /// The root of what survives a reboot.
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// Makes a folder that only its owner may read, and its parents.
///
/// # Errors
/// When that is not possible.
pub fn make(folder: &Path) -> Result<(), Fault> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .during(|| format!("making the folder {}", folder.display()))
}

/// A number that no other call in this daemon gets, and no other daemon either.
pub fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Writes a file whole or not at all: beside it, synced, renamed into place, and the folder synced.
///
/// # Errors
/// When any of that fails; then the old content is still there.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), Fault> {
    write_with(path, content, 0o644)
}

/// As [`write_whole`], and only its owner can read it, from its first moment.
///
/// # Errors
/// When any of that fails; then the old content is still there.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), Fault> {
    write_with(path, content, 0o600)
}

fn write_with(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    let beside = path.with_extension(format!("{}.new", unique()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let open = || File::options().write(true).create_new(true).mode(mode).open(&beside);
        let mut file = open()?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    write().during(|| format!("writing {}", path.display()))
}

/// Removes a file or folder. What is not there is no error.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<bool, Fault> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Fault::io(format!("removing {}", path.display()), error)),
    }
}

/// Removes a folder and all below it, without following a link and without leaving its filesystem.
///
/// # Errors
/// When something cannot be removed, or another filesystem is mounted below.
pub fn remove_tree(path: &Path) -> Result<bool, Fault> {
    use std::os::unix::fs::MetadataExt;
    let Ok(top) = fs::symlink_metadata(path) else { return Ok(false) };
    if !top.is_dir() {
        return remove(path);
    }
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).during(|| format!("reading {}", folder.display()))?.flatten()
        {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                let mounted = entry.path();
                return Err(Fault::host(format!("something is mounted at {}", mounted.display()))
                    .hint(format!("umount {}", mounted.display())));
            }
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    remove(path)
}
