//! Blobs by their digest: fetched once, resumed where they were cut, whole or not there under their name (R-N1, R-N8).
//!
//! Whoever fetches a blob holds a lock on it; others wait, and one of them goes on where a failed one stopped (R-R11).
//! The lock is the kernel's, so it holds between processes and ends with them.

use super::body::Body;
use super::http::{Failed, pause};
use super::session::Session;
use crate::fault::{During, Fault};
use crate::folders;
use banger_wire::id::Digest;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are kept in memory before they are written.
const CHUNK: usize = 1 << 20;
const WAIT: Duration = Duration::from_millis(50);

/// What a manifest says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Its SHA-256.
    pub(crate) digest: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// Told the bytes that came, as they come.
pub(super) type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// The folder of blobs.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// At `blobs` in the state folder.
    pub(crate) fn open(state: &Path) -> Result<Self, Fault> {
        let folder = state.join("blobs");
        folders::make(&folder.join("sha256"))?;
        folders::make(&folder.join("part"))?;
        Ok(Self { folder })
    }

    /// A blob's place, whether it is there or not.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("sha256").join(digest.as_str())
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.folder.join("part").join(digest.as_str())
    }

    /// A small blob that is there, as long as it is what its name says.
    pub(super) fn read(&self, digest: &Digest, most: usize) -> Option<Vec<u8>> {
        let meta = fs::metadata(self.path(digest)).ok()?;
        let bytes = (meta.len() <= most as u64).then(|| fs::read(self.path(digest)).ok())??;
        (Digest::from_bytes(&Sha256::digest(&bytes).into()) == *digest).then_some(bytes)
    }

    /// Keeps a small blob.
    pub(super) fn keep(&self, bytes: &[u8]) -> Result<Digest, Fault> {
        let digest = Digest::from_bytes(&Sha256::digest(bytes).into());
        let path = self.path(&digest);
        if self.read(&digest, bytes.len()).is_none() {
            folders::remove(&path)?;
            folders::write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Everything that is there: blobs and parts, with their sizes.
    pub(crate) fn list(&self) -> Vec<(Digest, u64, bool)> {
        let mut found = Vec::new();
        for (folder, whole) in [("sha256", true), ("part", false)] {
            for entry in fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten() {
                let digest = entry.file_name().to_str().and_then(|name| Digest::new(name).ok());
                let size = entry.metadata().map(|meta| meta.len());
                if let (Some(digest), Ok(size)) = (digest, size)
                    && (whole || size > 0)
                {
                    found.push((digest, size, whole));
                }
            }
        }
        found
    }

    /// Removes a blob and what there is of a part, unless somebody is fetching it. Whether it did.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<bool, Fault> {
        let Some(lock) = self.try_lock(digest)? else { return Ok(false) };
        folders::remove(&self.path(digest))?;
        folders::remove(&self.part(digest))?;
        drop(lock);
        Ok(true)
    }

    /// Removes those of these blobs whose bytes are not what their names say. How many.
    pub(super) fn quarantine(&self, blobs: &[Blob]) -> Result<usize, Fault> {
        let mut damaged = 0;
        for blob in blobs {
            let path = self.path(&blob.digest);
            let Ok(mut file) = File::open(&path) else { continue };
            let mut hash = Sha256::new();
            let read = std::io::copy(&mut file, &mut HashInto(&mut hash));
            read.during(|| format!("reading {}", path.display()))?;
            if Digest::from_bytes(&hash.finalize().into()) != blob.digest {
                tracing::warn!("{} is damaged, and removed", path.display());
                folders::remove(&path)?;
                damaged += 1;
            }
        }
        Ok(damaged)
    }

    fn try_lock(&self, digest: &Digest) -> Result<Option<Flock<File>>, Fault> {
        let path = self.part(digest);
        loop {
            let open =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = open.during(|| format!("opening {}", path.display()))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if is_still_there(&lock, &path) => return Ok(Some(lock)),
                // The one before finished, and its file was renamed away under us.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => {
                    return Err(error).during(|| format!("locking {}", path.display()));
                }
            }
        }
    }

    /// Makes a blob be there, fetching what is missing.
    pub(super) async fn ensure(
        &self,
        session: &Session,
        blob: &Blob,
        told: &Told,
    ) -> Result<PathBuf, Fault> {
        let place = self.path(&blob.digest);
        let lock = loop {
            if fs::metadata(&place).is_ok_and(|meta| meta.len() == blob.size) {
                told(blob.size);
                return Ok(place);
            }
            match self.try_lock(&blob.digest)? {
                Some(lock) => break lock,
                None => tokio::time::sleep(WAIT).await,
            }
        };
        // Somebody may have finished between the look and the lock.
        if fs::metadata(&place).is_ok_and(|meta| meta.len() == blob.size) {
            folders::remove(&self.part(&blob.digest))?;
            told(blob.size);
            return Ok(place);
        }
        let mut part = Part::resume(lock, blob).await?;
        told(part.have);
        self.fill(session, blob, &mut part, told).await?;
        let (digest, path, to) = (blob.digest.clone(), self.part(&blob.digest), place.clone());
        tokio::task::spawn_blocking(move || finish(part, &digest, &path, &to))
            .await
            .map_err(|error| Fault::host(format!("file work: {error}")))??;
        Ok(place)
    }

    /// Tries until the part is whole. A try that brought something does not count.
    async fn fill(
        &self,
        session: &Session,
        blob: &Blob,
        part: &mut Part,
        told: &Told,
    ) -> Result<(), Fault> {
        let (mut tried, mut wrong) = (1, 0);
        while part.have < blob.size || !part.is_right(&blob.digest) {
            let before = part.have;
            if part.have >= blob.size {
                part.restart()?;
                wrong += 1;
                let what = format!("{} sends other bytes than it should", session.host());
                if wrong > 1 {
                    return Err(
                        Fault::host(what).hint("its storage, or something on the way, is broken")
                    );
                }
            }
            let outcome = fetch(session, blob, part, told).await;
            part.flush()?;
            if let Err(failed) = outcome {
                let more = part.have > before + u64::try_from(CHUNK).expect("small");
                tried = if more { 1 } else { tried + 1 };
                match failed.again {
                    Some(asked) if tried <= session.tries() => {
                        tokio::time::sleep(pause(tried - 1, asked)).await;
                    }
                    _ => return Err(failed.fault),
                }
            }
        }
        Ok(())
    }
}

fn is_still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// One request for what is missing.
async fn fetch(session: &Session, blob: &Blob, part: &mut Part, told: &Told) -> Result<(), Failed> {
    let from = (part.have > 0).then_some(part.have);
    let path = format!("blobs/sha256:{}", blob.digest);
    let what = format!("blob {}", blob.digest.short());
    let response = session.get(&path, "*/*", from, &what).await?;
    let host = session.host().to_string();
    let wrong = |why: &str| Failed::for_now(Fault::host(format!("{host} {why}")));
    match (from, response.status()) {
        (None, StatusCode::OK) => {}
        // It does not know ranges, or does not feel like it: all over again.
        (Some(_), StatusCode::OK) => part.restart()?,
        (Some(from), StatusCode::PARTIAL_CONTENT) => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
            let start = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next());
            if start.and_then(|start| start.trim().parse().ok()) != Some(from) {
                part.restart()?;
                return Err(wrong("sends another part than it was asked for"));
            }
        }
        (Some(_), StatusCode::RANGE_NOT_SATISFIABLE) => {
            part.restart()?;
            return Err(wrong("does not have the rest of a blob"));
        }
        (_, status) => return Err(wrong(&format!("answers {status} when asked for {what}"))),
    }
    let missing = blob.size - part.have;
    let is_text = response
        .headers()
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/html"));
    if is_text {
        return Err(Failed::for_good(
            Fault::host(format!("a web page comes instead of a blob of {host}"))
                .hint("is this network's login page in the way?"),
        ));
    }
    if let Some(length) = response.content_length().filter(|length| *length != missing) {
        let what = format!("{host} would send {length} bytes where {missing} are missing");
        return Err(Failed::for_good(Fault::host(what)));
    }
    let mut body = Body::new(response);
    while let Some(chunk) = body.next().await? {
        if part.have + chunk.len() as u64 > blob.size {
            part.restart()?;
            return Err(Failed::for_good(Fault::host(format!(
                "{host} sends more than the {} bytes of {what}",
                blob.size
            ))));
        }
        part.add(&chunk)?;
        told(chunk.len() as u64);
    }
    if part.have < blob.size {
        return Err(wrong("ended a download early"));
    }
    Ok(())
}

/// A blob that is not whole yet.
struct Part {
    file: Flock<File>,
    hash: Sha256,
    /// Bytes that are there, and in the hash.
    have: u64,
    buffer: Vec<u8>,
}

impl Part {
    /// Takes up what an earlier try left, and hashes it again.
    async fn resume(file: Flock<File>, blob: &Blob) -> Result<Self, Fault> {
        let size = blob.size;
        let work = move || -> std::io::Result<Self> {
            let mut part = Self { file, hash: Sha256::new(), have: 0, buffer: Vec::new() };
            if part.file.metadata()?.len() > size {
                part.file.set_len(0)?;
            }
            let mut chunk = vec![0; CHUNK];
            loop {
                match part.file.read(&mut chunk)? {
                    0 => return Ok(part),
                    count => {
                        part.hash.update(&chunk[..count]);
                        part.have += count as u64;
                    }
                }
            }
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Fault::host(format!("file work: {error}")))?
            .during(|| "reading a part of a blob".into())
    }

    fn is_right(&self, digest: &Digest) -> bool {
        Digest::from_bytes(&self.hash.clone().finalize().into()) == *digest
    }

    fn restart(&mut self) -> Result<(), Fault> {
        (self.hash, self.have) = (Sha256::new(), 0);
        self.buffer.clear();
        let empty = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        empty.map(drop).during(|| "emptying a part of a blob".into())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.buffer.extend_from_slice(bytes);
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.file.write_all(&self.buffer).during(|| "writing a blob".into())?;
        self.buffer.clear();
        Ok(())
    }
}

/// Syncs a whole part and gives it its name. The lock goes with it.
fn finish(part: Part, digest: &Digest, path: &Path, place: &Path) -> Result<(), Fault> {
    let naming = || format!("keeping blob {}", digest.short());
    part.file.sync_all().during(naming)?;
    part.file.set_permissions(fs::Permissions::from_mode(0o444)).during(naming)?;
    fs::rename(path, place).during(naming)?;
    let folder = place.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).during(naming)
}

struct HashInto<'a>(&'a mut Sha256);

impl Write for HashInto<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
