//! What is kept beside a sandbox's disk about its workspace: what was shipped, and a repository of our own that everything
//! from the guest comes into.

use crate::git::Git;
use crate::{WorkspaceError, at};
use banger_tree::manifest::{self, Manifest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it may take until nobody else has a workspace.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was applied to the user's files.
const APPLIED: &str = "applied";
/// The repository of our own.
const REPOSITORY: &str = "git";
/// What was shipped.
const SHIPPED: &str = "shipped";
/// What is being shipped: it was, if the guest says so.
const SHIPPING: &str = "shipping";
/// Where it came from.
const ORIGIN: &str = "origin.json";

/// The folder of one workspace, held for as long as this lives.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    _lock: File,
}

/// Where a workspace came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The folder on the host.
    pub folder: PathBuf,
    /// The commit that it was at.
    pub head: Option<String>,
    /// The branch that it was on.
    pub branch: Option<String>,
    /// Who commits there.
    pub identity: (Option<String>, Option<String>),
    /// How its objects are named: `sha1` or `sha256`.
    pub format: String,
    /// Tracked files that a filter of the host's made of what git keeps.
    #[serde(default)]
    pub filtered: Vec<Vec<u8>>,
    /// What git tracks and is not there by intent: mode, object and name.
    pub sparse: Vec<(String, String, Vec<u8>)>,
    /// Names the copy in one guest: it is in its repository too.
    pub mark: String,
}

impl Origin {
    /// The name of no object.
    pub(crate) fn zero(&self) -> String {
        "0".repeat(if self.format == "sha256" { 64 } else { 40 })
    }
}

impl Kept {
    /// Opens the folder, which is made where it is not there, and waits a minute at most until nobody else has it.
    ///
    /// # Errors
    /// When that is not possible, or somebody else has it for longer.
    pub fn open(folder: &Path) -> Result<Self, WorkspaceError> {
        at(folder, fs::create_dir_all(folder))?;
        let path = folder.join("lock");
        let lock = at(&path, File::options().create(true).append(true).open(&path))?;
        let start = Instant::now();
        while let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
                return at(&path, Err(error.into()));
            }
            if start.elapsed() > PATIENCE {
                return Err(WorkspaceError::Refused(
                    "this workspace is in use by another command".into(),
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { folder: folder.to_path_buf(), _lock: lock })
    }

    /// Where it came from. `None` before it was shipped.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn origin(&self) -> Result<Option<Origin>, WorkspaceError> {
        let path = self.folder.join(ORIGIN);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => at(&path, read)?,
        };
        at(&path, serde_json::from_slice(&text).map(Some).map_err(Into::into))
    }

    pub(crate) fn keep_origin(&self, origin: &Origin) -> Result<(), WorkspaceError> {
        let (path, beside) = (self.folder.join(ORIGIN), self.folder.join("origin.new"));
        let text = at(&path, serde_json::to_vec(origin).map_err(Into::into))?;
        let write = || {
            fs::write(&beside, text)?;
            File::open(&beside)?.sync_all()?;
            fs::rename(&beside, &path)
        };
        at(&path, write())
    }

    /// What the guest has, as it was shipped. The revision is the guest's word: it tells whether the last ship reached it.
    ///
    /// # Errors
    /// When what the guest speaks of is not known here.
    pub fn shipped(&self, revision: u64) -> Result<Manifest, WorkspaceError> {
        let path = self.folder.join(SHIPPED);
        let known = at(&path, manifest::load(&path))?;
        if let Some(known) = known.as_ref().filter(|known| known.revision == revision) {
            return Ok(known.clone());
        }
        let path = self.folder.join(SHIPPING);
        let found = at(&path, manifest::load(&path))?.filter(|found| found.revision == revision);
        let mut found = found.ok_or_else(|| {
            WorkspaceError::Refused(
                "what was shipped into this sandbox is not known here any more".into(),
            )
        })?;
        // It got there, but what it left alone was not heard: of what differs nobody knows what the guest has. Nothing on the
        // host counts as that, so that nothing is overwritten for it.
        for (name, shipped) in &mut found.entries {
            let before = known.as_ref().and_then(|known| known.entries.get(name));
            if before.is_none_or(|before| before.hash != shipped.hash) {
                (shipped.hash, shipped.stamp) = Default::default();
            }
        }
        self.keep_shipped(&found)?;
        Ok(found)
    }

    /// What of the user's files is as `apply` made it. An entry with the note `gone` was removed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn applied(&self) -> Result<Manifest, WorkspaceError> {
        let path = self.folder.join(APPLIED);
        Ok(at(&path, manifest::load(&path))?.unwrap_or_default())
    }

    pub(crate) fn keep_applied(&self, manifest: &Manifest) -> Result<(), WorkspaceError> {
        at(&self.folder, manifest::save(&self.folder, APPLIED, manifest))
    }

    /// Where a change of the user's files is written down while it is made.
    pub(crate) fn stage_record(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// What is being shipped. From now on it counts if the guest says that it has it.
    pub(crate) fn keep_shipping(&self, manifest: &Manifest) -> Result<(), WorkspaceError> {
        at(&self.folder, manifest::save(&self.folder, SHIPPING, manifest))
    }

    /// What was shipped.
    pub(crate) fn keep_shipped(&self, manifest: &Manifest) -> Result<(), WorkspaceError> {
        at(&self.folder, manifest::save(&self.folder, SHIPPED, manifest))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The repository of our own.
    pub fn repository(&self) -> PathBuf {
        self.folder.join(REPOSITORY)
    }

    pub(crate) fn git(&self) -> Git {
        Git::at(&self.repository())
    }

    /// A folder for half-made things, empty. What an earlier one left there is removed.
    pub(crate) fn scratch(&self) -> Result<PathBuf, WorkspaceError> {
        let path = self.folder.join("scratch");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return at(&path, Err(error));
            }
            _ => {}
        }
        at(&path, fs::create_dir(&path))?;
        Ok(path)
    }
}
