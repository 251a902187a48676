//! Jails: `<base>/<uid>-<install>/<sandbox>`, all of it root's. What is in one is the record of what was started, and the
//! folder that is the root of its processes, which belongs to the jail's own user. That folder is also how the processes
//! are known: nobody can leave it, and nobody else has it (the nearest peers looked for command lines, and lost guests).

mod clear;
mod furnish;
mod inside;
mod launch;
pub(crate) mod memory;
mod own;
mod users;
mod way;

pub(crate) use clear::clear;
pub(crate) use furnish::Furnish;
pub(crate) use inside::{Census, Role, end, inside};
pub(crate) use launch::{ARGUMENT, Launch, Mount, run as launched};
pub(crate) use own::lend;
pub(crate) use way::{connect, read_end};

use crate::answer::{At, Bad};
use crate::programs::not_roots;
use crate::table::Caller;
use banger_wire::helper::Started;
use banger_wire::id::SandboxId;
use banger_wire::machine::{Backend, Machine};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where jails are when nobody says otherwise. Not below `/run`: there are no devices there.
const BASE: &str = "/var/lib/banger-jails";
const RECORD: &str = "record";
/// The most jails of one owner (R-H10).
pub(crate) const MAX: usize = 100;

/// What was started in a jail, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The user and group of everything in it.
    pub(crate) uid: u32,
    /// The root of its processes, below the jail's folder.
    pub(crate) root: PathBuf,
    /// What.
    pub(crate) started: Started,
    /// The machine, when its memory can be kept.
    pub(crate) make: Option<memory::Make>,
    /// What it may use of the host's memory, in MiB.
    #[serde(default)]
    pub(crate) memory_mib: u32,
}

/// A jail.
#[derive(Debug)]
pub(crate) struct Jail {
    pub(crate) folder: PathBuf,
    /// None in one that was never finished.
    pub(crate) record: Option<Record>,
}

impl Jail {
    /// The root of its processes, and their user.
    pub(crate) fn root(&self) -> Option<(PathBuf, u32)> {
        self.record.as_ref().map(|record| (self.folder.join(&record.root), record.uid))
    }
}

/// The folder of all jails. It is made when it is not there, and refused when it is not root's alone.
pub(crate) fn base() -> Result<PathBuf, Bad> {
    let named = std::env::var_os("BANGER_JAILS").filter(|path| !path.is_empty());
    let base = named.map_or_else(|| PathBuf::from(BASE), PathBuf::from);
    make(&base)?;
    let base = fs::canonicalize(base).at("looking at the jails")?;
    match not_roots(&base) {
        None => Ok(base),
        Some(_) => Err(Bad::Refused("others than root can write where the jails are")),
    }
}

fn make(folder: &Path) -> Result<(), Bad> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).at("making a folder for jails")
}

/// The folder of the caller's jails.
fn of_caller(caller: &Caller) -> Result<PathBuf, Bad> {
    Ok(base()?.join(format!("{}-{}", caller.uid, caller.install()?)))
}

/// One of the caller's jails. Somebody else's looks as if it were not there.
pub(crate) fn find(caller: &Caller, sandbox: &SandboxId) -> Result<Option<Jail>, Bad> {
    let folder = of_caller(caller)?.join(sandbox.as_str());
    match fs::symlink_metadata(&folder) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Bad::Failed("looking at a jail", error)),
    }
    let record = match fs::read(folder.join(RECORD)) {
        // One that cannot be read says nothing about who lives there.
        Ok(bytes) => Some(serde_json::from_slice(&bytes).at("reading a jail's record")?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(Bad::Failed("reading a jail's record", error)),
    };
    Ok(Some(Jail { folder, record }))
}

/// One of the caller's jails that must be there and finished.
pub(crate) fn must(caller: &Caller, sandbox: &SandboxId) -> Result<(PathBuf, Record), Bad> {
    let jail = find(caller, sandbox)?.ok_or(Bad::Refused("there is no such jail"))?;
    let record = jail.record.ok_or(Bad::Refused("there is no such jail"))?;
    Ok((jail.folder.join(&record.root), record))
}

/// The sandboxes that the caller has jails of, in order.
pub(crate) fn list(caller: &Caller) -> Result<Vec<SandboxId>, Bad> {
    let entries = match fs::read_dir(of_caller(caller)?) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Bad::Failed("looking at the jails", error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let names = names.collect::<std::io::Result<Vec<_>>>().at("looking at the jails")?;
    let mut found: Vec<SandboxId> =
        names.into_iter().filter_map(|name| SandboxId::new(name).ok()).collect();
    found.sort();
    Ok(found)
}

/// Makes a jail with a user of its own and nothing in it but its record and its empty root. It must not be there yet.
pub(crate) fn create(
    caller: &Caller,
    sandbox: &SandboxId,
    root: &Path,
    machine: &Machine,
) -> Result<(Jail, Record), Bad> {
    let base = base()?;
    let lock = File::options().create(true).append(true).open(base.join("lock"));
    let lock = lock.at("opening the lock of jails")?;
    // Two helpers must not give out one user twice.
    flock(&lock, FlockOperation::LockExclusive).at("locking the jails")?;
    if count(&base, caller.uid) >= MAX {
        return Err(Bad::Refused("there are too many jails"));
    }
    let given: u64 = records(&base).iter().map(|record| u64::from(record.memory_mib)).sum();
    if host_memory_mib().is_some_and(|host| given + u64::from(machine.memory_mib) > host) {
        return Err(Bad::Refused("all machines together would have more memory than the host"));
    }
    let folder = of_caller(caller)?.join(sandbox.as_str());
    make(folder.parent().unwrap_or(&base))?;
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Bad::Refused("its jail is there already"));
        }
        other => other.at("making a jail")?,
    }
    let uid = users::next(&base)?;
    let started = Started {
        boot: machine.boot.clone(),
        backend: machine.backend,
        kvm: machine.kvm,
        from: machine.from.clone(),
    };
    let make_of = (machine.backend == Backend::Firecracker).then(|| memory::Make::of(machine));
    let (root_of, memory_mib) = (root.to_path_buf(), machine.memory_mib);
    let record = Record { uid, root: root_of, started, make: make_of, memory_mib };
    let beside = folder.join("record.new");
    let write = || {
        fs::write(&beside, serde_json::to_vec(&record)?)?;
        File::open(&beside)?.sync_all()?;
        fs::rename(&beside, folder.join(RECORD))?;
        File::open(&folder)?.sync_all()
    };
    write().at("writing a jail's record")?;
    make(&folder.join(root))?;
    std::os::unix::fs::chown(folder.join(root), Some(uid), Some(uid))
        .at("giving a jail its user")?;
    Ok((Jail { folder, record: Some(record.clone()) }, record))
}

/// The host's memory, in MiB, as far as the kernel tells.
fn host_memory_mib() -> Option<u64> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}

/// What is in a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// How many jails an owner has: it may call its installations what it likes. Memories are none.
fn count(base: &Path, uid: u32) -> usize {
    let own = format!("{uid}-");
    let is_own = |folder: &PathBuf| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&own) && !name.ends_with(memory::FOLDER)
    };
    below(base).into_iter().filter(is_own).map(|folder| below(&folder).len()).sum()
}

/// Every jail's record on this host, whoever owns it.
fn records(base: &Path) -> Vec<Record> {
    let jails = below(base).into_iter().flat_map(|owner| below(&owner));
    jails
        .filter_map(|jail| serde_json::from_slice(&fs::read(jail.join(RECORD)).ok()?).ok())
        .collect()
}
