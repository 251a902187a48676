//! What is put into a jail before anybody lives in it.

use super::{Mount, Record};
use crate::answer::{At, Bad};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// A jail's root that is being furnished, and the files that are lent to it.
pub(crate) struct Furnish {
    root: PathBuf,
    uid: u32,
    /// Inherited by whoever is started, for as long as this lives. There is one thread here, and it starts nothing else.
    inherited: Vec<OwnedFd>,
}

impl Furnish {
    pub(crate) fn new(folder: &Path, record: &Record) -> Self {
        Self { root: folder.join(&record.root), uid: record.uid, inherited: Vec::new() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// An empty file that waits for another to be mounted on it.
    pub(crate) fn file(
        &mut self,
        file: impl AsFd,
        name: &str,
        read_only: bool,
    ) -> Result<Mount, Bad> {
        let place = self.root.join(name);
        let made = File::options().write(true).create_new(true).mode(0o444).open(place);
        made.at("furnishing a jail")?;
        let copy = fcntl_dupfd_cloexec(file, 3).at("handing on a descriptor")?;
        fcntl_setfd(&copy, FdFlags::empty()).at("handing on a descriptor")?;
        let descriptor = copy.as_raw_fd();
        self.inherited.push(copy);
        Ok(Mount { descriptor, name: name.to_string(), read_only, executable: false })
    }

    /// A FIFO of the machine's. The descriptor reads and writes: whoever writes is never stopped by nobody listening, and
    /// what does not fit is lost.
    pub(crate) fn fifo(&self, name: &str) -> Result<OwnedFd, Bad> {
        let (path, mode) = (self.root.join(name), Mode::from_raw_mode(0o600));
        mknodat(CWD, &path, FileType::Fifo, mode, 0).at("furnishing a jail")?;
        chown(&path, Some(self.uid), Some(self.uid)).at("furnishing a jail")?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).at("furnishing a jail")
    }

    /// What a program with libraries needs: its devices, and the places of the host's folders that it reads.
    pub(crate) fn system(&self, kvm: bool) -> Result<Vec<PathBuf>, Bad> {
        let mut folders = Vec::new();
        for name in ["usr", "lib", "lib64"] {
            let (host, inside) = (Path::new("/").join(name), self.root.join(name));
            if let Ok(target) = fs::read_link(&host) {
                symlink(target, &inside).at("furnishing a jail")?;
            } else if host.is_dir() {
                fs::create_dir(&inside).at("furnishing a jail")?;
                folders.push(host);
            }
        }
        fs::create_dir(self.root.join("dev")).at("furnishing a jail")?;
        let devices = [("null", 1, 3), ("urandom", 1, 9), ("kvm", 10, 232)];
        for (name, major, minor) in devices.into_iter().take(if kvm { 3 } else { 2 }) {
            let (path, mode) = (self.root.join("dev").join(name), Mode::from_raw_mode(0o600));
            mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))
                .at("furnishing a jail")?;
            chown(&path, Some(self.uid), None).at("furnishing a jail")?;
        }
        Ok(folders)
    }
}
