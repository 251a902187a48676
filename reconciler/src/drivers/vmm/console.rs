//! What guests write to their consoles: the last megabyte of it, in two halves (R-G5).

use banger_wire::id::SandboxId;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// The name of a console's newer half.
pub(super) const FILE: &str = "console";
/// Bytes in one half.
const HALF: u64 = 512 << 10;

/// Where the older half of a console is.
pub(super) fn older(file: &Path) -> PathBuf {
    file.with_extension("older")
}

/// The tasks that read consoles.
#[derive(Default)]
pub(super) struct Consoles(Mutex<BTreeMap<SandboxId, AbortHandle>>);

impl Consoles {
    /// Reads a console for as long as its VMM is there. Once per run.
    pub(super) fn follow(&self, id: &SandboxId, socket: &Path, file: &Path) {
        let mut tasks = self.0.lock().expect("no holder panics");
        if tasks.get(id).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let task = tokio::spawn(read(socket.to_path_buf(), file.to_path_buf()));
        tasks.insert(id.clone(), task.abort_handle());
    }

    /// Stops reading. What is there stays.
    pub(super) fn drop(&self, id: &SandboxId) {
        if let Some(task) = self.0.lock().expect("no holder panics").remove(id) {
            task.abort();
        }
    }
}

async fn read(socket: PathBuf, file: PathBuf) {
    // The VMM opens its socket a moment after it started.
    let mut stream = None;
    for _ in 0..200 {
        match UnixStream::connect(&socket).await {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; 64 << 10];
    let Ok(mut ring) = Ring::open(&file) else { return };
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        // A full disk must not stop the guest: what cannot be kept is lost.
        let _ = ring.write(&chunk[..count]);
    }
}

/// Two files that hold at least the last [`HALF`] and at most twice that.
struct Ring {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Ring {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, size })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.size + bytes.len() as u64 > HALF {
            fs::rename(&self.path, older(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_stays_within_a_megabyte_and_keeps_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let mut ring = Ring::open(&path).expect("opens");
        for number in 0..10_000u32 {
            ring.write(format!("{number:>1023}\n").as_bytes()).expect("writes");
        }
        let (new, old) = (fs::read(&path).expect("new"), fs::read(older(&path)).expect("old"));
        assert!(new.len() as u64 <= HALF && old.len() as u64 <= HALF);
        assert!(String::from_utf8_lossy(&new).trim_end().ends_with("9999"));
        assert!((new.len() + old.len()) as u64 > HALF, "at least one half is kept");
    }
}
