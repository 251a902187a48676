//! What guests write to their consoles, and what their VMMs say: the last megabyte of it, in two halves (R-G5).

use super::word::Word;
use crate::fault::Fault;
use banger_wire::id::SandboxId;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;

/// The newer half of a console.
pub(super) const CONSOLE: &str = "console";
/// The newer half of what a VMM says.
pub(super) const LOG: &str = "vmm.log";
/// The newer half of what Firecracker measures.
pub(super) const METRICS: &str = "metrics";
/// Bytes in one half.
const HALF: u64 = 512 << 10;

/// Where the older half is.
pub(super) fn older(file: &Path) -> PathBuf {
    file.with_extension("older")
}

type Tasks = BTreeMap<(SandboxId, &'static str), AbortHandle>;

/// The tasks that read.
#[derive(Default)]
pub(super) struct Rings(Mutex<Tasks>);

impl Rings {
    /// Reads a console's socket for as long as its VMM is there. Once per run.
    pub(super) fn follow_socket(&self, id: &SandboxId, socket: &Path, file: PathBuf, run: &Path) {
        let (socket, word) = (socket.to_path_buf(), Word::of(run));
        self.follow(id, CONSOLE, || async move {
            // The VMM opens its socket a moment after it started.
            for _ in 0..200 {
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    return keep(stream, &file, Some(word)).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    /// Reads a FIFO for as long as somebody writes there. Once per run.
    pub(super) fn follow_fifo(
        &self,
        id: &SandboxId,
        name: &'static str,
        fifo: &Path,
        file: PathBuf,
    ) {
        let fifo = fifo.to_path_buf();
        self.follow(id, name, || async move {
            // Older programs made none.
            if let Ok(fifo) = pipe::OpenOptions::new().open_receiver(fifo) {
                keep(fifo, &file, None).await;
            }
        });
    }

    /// Reads a way out of a jail for as long as somebody writes there. Once per run.
    pub(super) fn follow_jail(
        &self,
        id: &SandboxId,
        name: &'static str,
        open: impl FnOnce() -> Result<OwnedFd, Fault>,
        file: PathBuf,
        run: &Path,
    ) {
        let word = (name == CONSOLE).then(|| Word::of(run));
        self.follow(id, name, || {
            // Opened before anything else is asked of the helper: there is nothing to wait for.
            let opened = open();
            async move {
                let Ok(descriptor) = opened else { return };
                match source(descriptor) {
                    Ok(Source::Fifo(fifo)) => keep(fifo, &file, word).await,
                    Ok(Source::Socket(socket)) => keep(socket, &file, word).await,
                    Err(error) => tracing::warn!("{}: {error}", file.display()),
                }
            }
        });
    }

    fn follow<F: Future<Output = ()> + Send + 'static>(
        &self,
        id: &SandboxId,
        name: &'static str,
        task: impl FnOnce() -> F,
    ) {
        let key = (id.clone(), name);
        let reads = |tasks: &Tasks| tasks.get(&key).is_some_and(|task| !task.is_finished());
        if reads(&self.0.lock().expect("no holder panics")) {
            return;
        }
        // Not under the lock: it may ask the helper.
        let task = task();
        let mut tasks = self.0.lock().expect("no holder panics");
        if !reads(&tasks) {
            tasks.insert(key, tokio::spawn(task).abort_handle());
        }
    }

    /// Stops reading. What is there stays.
    pub(super) fn drop(&self, id: &SandboxId) {
        let mut tasks = self.0.lock().expect("no holder panics");
        tasks.retain(|(owner, _), task| {
            if owner == id {
                task.abort();
            }
            owner != id
        });
    }
}

enum Source {
    Fifo(pipe::Receiver),
    Socket(UnixStream),
}

/// QEMU's console is a socket, everything else a FIFO.
fn source(descriptor: OwnedFd) -> io::Result<Source> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&descriptor)?.st_mode);
    if kind == rustix::fs::FileType::Fifo {
        return Ok(Source::Fifo(pipe::Receiver::from_owned_fd(descriptor)?));
    }
    Ok(Source::Socket(UnixStream::from_std(descriptor.into())?))
}

async fn keep(mut stream: impl AsyncRead + Unpin, file: &Path, mut word: Option<Word>) {
    let mut chunk = vec![0; 64 << 10];
    let Ok(mut ring) = Ring::open(file) else { return };
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        // A full disk must not stop the guest: what cannot be kept is lost.
        let _ = ring.write(&chunk[..count]);
        if let Some(word) = &mut word {
            word.read(&chunk[..count]);
        }
    }
}

/// Two files that hold at least the last [`HALF`] and at most twice that.
struct Ring {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Ring {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, size })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
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
        let path = folder.path().join(CONSOLE);
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
