//! Images of registries: what a reference means, and its blobs.
//!
//! References, manifests and their types are those of the OCI client crate. Transfers are our own, over the same HTTP
//! client: the crate's client reads answers of any size, follows any redirect and sends passwords to any realm
//! (R-N2 to R-N4).

mod body;
pub(crate) mod cache;
mod credentials;
mod file;
mod hosts;
mod http;
pub(crate) mod manifest;
mod session;

use crate::fault::Fault;
use banger_schema::spec::OciImage;
use banger_wire::id::Digest;
use cache::{Blob, Cache, Told};
use credentials::Credentials;
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};
use hosts::Hosts;
use http::{Failed, Http, retry};
use manifest::{Config, Document, MAX_CONFIG, MAX_INDEXES, MAX_MANIFEST};
use session::Session;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blobs that are fetched at once.
const AT_ONCE: usize = 3;

/// Every registry, as this installation knows them.
#[derive(Clone)]
pub struct Registry {
    state: PathBuf,
    cache: Cache,
    credentials: Credentials,
}

/// An image whose blobs are all here.
pub(crate) struct Pulled {
    /// Its layers, lowest first.
    pub(crate) layers: Vec<Blob>,
    /// Its configuration.
    pub(crate) config: Config,
}

impl Registry {
    /// Keeps blobs and credentials in the state folder.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn open(state: &Path) -> Result<Self, Fault> {
        // Another part of the program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (cache, credentials) = (Cache::open(state)?, Credentials::new(state));
        Ok(Self { state: state.to_path_buf(), cache, credentials })
    }

    /// The blobs.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The sessions to try for an image, mirrors first.
    fn sessions(&self, image: &OciImage) -> Result<(Vec<Arc<Session>>, String), Fault> {
        let reference = match &image.digest {
            Some(digest) => format!("{}@{digest}", image.reference),
            None => image.reference.clone(),
        };
        let parsed: oci_distribution::Reference = reference
            .parse()
            .map_err(|error| Fault::user(format!("\"{reference}\" is no reference: {error}")))?;
        let hosts = Hosts::read(&self.state)?;
        let http = Http::new(&hosts.certificates()?)?;
        let sessions = hosts.order(parsed.registry()).into_iter().map(|host| {
            let (tls, repository) = (hosts.speaks_tls(&host), parsed.repository());
            let credentials = self.credentials.clone();
            let session = Session::new(http.clone(), &host, repository, credentials, tls)?;
            let is_last = host == parsed.registry();
            Ok(Arc::new(if is_last { session } else { session.into_mirror() }))
        });
        let name = match &image.digest {
            Some(digest) => digest.clone(),
            None => parsed.tag().unwrap_or("latest").to_string(),
        };
        Ok((sessions.collect::<Result<_, Fault>>()?, name))
    }

    /// The digest that a reference leads to now.
    ///
    /// # Errors
    /// When the registry cannot be asked or has no such image.
    pub async fn resolve(&self, reference: &str) -> Result<String, Fault> {
        let image = OciImage { reference: reference.to_string(), digest: None };
        let (sessions, tag) = self.sessions(&image)?;
        let bytes = first(&sessions, |session| {
            let (tag, reference) = (tag.clone(), image.reference.clone());
            async move { document(&session, &tag, &reference).await }
        })
        .await?;
        Ok(format!("sha256:{}", self.cache.keep(&bytes)?))
    }

    /// Brings every blob of an image here, and builds nothing: for whoever wants to have it at hand.
    ///
    /// # Errors
    /// When the registry cannot be asked, or what it sends is not what it should be.
    pub async fn fetch(&self, image: &OciImage) -> Result<(), Fault> {
        let quiet: crate::drivers::Progress = Arc::new(|_, _| {});
        self.pull(image, &quiet).await.map(drop)
    }

    /// Brings every blob of an image here. `progress` is told bytes: so much, of so much.
    pub(crate) async fn pull(
        &self,
        image: &OciImage,
        progress: &crate::drivers::Progress,
    ) -> Result<Pulled, Fault> {
        let (sessions, _) = self.sessions(image)?;
        let digest =
            image.digest.as_deref().ok_or_else(|| Fault::user("an image has no digest"))?;
        let (config, layers) = self.manifest(&sessions, digest, image).await?;
        let total: u64 = layers.iter().map(|layer| layer.size).sum();
        self.room(&layers)?;
        let quiet: Told = Arc::new(|_| {});
        let file = self.ensure(&sessions, config, quiet).await?;
        let bytes =
            std::fs::read(&file).map_err(|error| Fault::io("reading a configuration", error))?;
        let read = manifest::config(&bytes[..bytes.len().min(MAX_CONFIG)], layers.len())?;
        let done = Arc::new(AtomicU64::new(0));
        let told: Told = {
            let progress = progress.clone();
            Arc::new(move |bytes| {
                let before = done.fetch_add(bytes, Ordering::Relaxed);
                progress(before + bytes, total);
            })
        };
        let fetches: Vec<_> = layers
            .iter()
            .map(|layer| self.ensure(&sessions, layer.clone(), told.clone()).boxed())
            .collect();
        futures_util::stream::iter(fetches)
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(Pulled { layers, config: read })
    }

    /// Makes a blob be there.
    async fn ensure(
        &self,
        sessions: &[Arc<Session>],
        blob: Blob,
        told: Told,
    ) -> Result<PathBuf, Fault> {
        first(sessions, |session| {
            let (cache, blob, told) = (self.cache.clone(), blob.clone(), told.clone());
            async move { cache.ensure(&session, &blob, &told).await.map_err(Failed::for_good) }
        })
        .await
    }

    /// Fetches one file whose SHA-256 is known.
    pub(crate) async fn download(
        &self,
        url: &str,
        sha256: &str,
        to: &Path,
        progress: &crate::drivers::Progress,
    ) -> Result<(), Fault> {
        let http = Http::new(&Hosts::read(&self.state)?.certificates()?)?;
        file::fetch(&http, url, sha256, to, progress).await
    }

    /// The catalog at the address that is part of the program, and its signature file.
    pub(crate) async fn catalog(&self) -> Result<(String, String, String), Fault> {
        // A build for tests may be told another.
        let told = cfg!(debug_assertions).then(|| std::env::var("BANGER_CATALOG_URL").ok());
        let address =
            told.flatten().or_else(|| option_env!("BANGER_CATALOG_URL").map(String::from));
        let address =
            address.ok_or_else(|| Fault::user("this build of bangerd has no catalog to fetch"))?;
        let http = Http::new(&Hosts::read(&self.state)?.certificates()?)?;
        let text = file::small(&http, &address, 64 << 10).await?;
        let signature = file::small(&http, &format!("{address}.sig"), 512).await?;
        Ok((address, text, signature))
    }

    /// Follows indexes to the manifest for this machine.
    async fn manifest(
        &self,
        sessions: &[Arc<Session>],
        digest: &str,
        image: &OciImage,
    ) -> Result<(Blob, Vec<Blob>), Fault> {
        let mut digest = manifest::digest(digest)?;
        for _ in 0..=MAX_INDEXES {
            let bytes = match self.cache.read(&digest, MAX_MANIFEST) {
                Some(bytes) => bytes,
                None => {
                    let name = format!("sha256:{digest}");
                    let bytes = first(sessions, |session| {
                        let (name, reference) = (name.clone(), image.reference.clone());
                        let wanted = digest.clone();
                        async move {
                            let bytes = document(&session, &name, &reference).await?;
                            if Digest::from_bytes(&Sha256::digest(&bytes).into()) == wanted {
                                return Ok(bytes);
                            }
                            let host = session.host();
                            let what = format!("{host} sends another manifest than was asked for");
                            Err(Failed::for_good(Fault::host(what)))
                        }
                    })
                    .await?;
                    self.cache.keep(&bytes)?;
                    bytes
                }
            };
            match manifest::read(&bytes, None)? {
                Document::Index(next) => digest = next,
                Document::Image { config, layers } => return Ok((config, layers)),
            }
        }
        Err(Fault::user(format!("the image's index leads on more than {MAX_INDEXES} times")))
    }

    /// Whether there is room for layers that are not here yet.
    fn room(&self, layers: &[Blob]) -> Result<(), Fault> {
        let missing = layers.iter().filter(|layer| !self.cache.path(&layer.digest).exists());
        let missing: u64 = missing.map(|layer| layer.size).sum();
        let free = nix::sys::statvfs::statvfs(&self.state)
            .map_err(|error| Fault::io("looking at the disk", error.into()))?;
        let free = free.blocks_available() * free.fragment_size();
        if missing > free {
            let (missing, free) = (missing >> 20, free >> 20);
            return Err(Fault::user(format!(
                "the image needs {missing} MiB to be downloaded, and {free} MiB are free"
            ))
            .hint("free some space: banger image cache prune"));
        }
        Ok(())
    }

    /// Removes blobs whose bytes went bad. Whether there were any.
    pub(crate) fn quarantine(&self, blobs: &[Blob]) -> Result<bool, Fault> {
        Ok(self.cache.quarantine(blobs)? > 0)
    }

    /// Asks a registry whether it knows a user, and keeps the password if so.
    ///
    /// # Errors
    /// When it cannot be asked, or does not.
    pub async fn log_in(&self, registry: &str, user: &str, password: &str) -> Result<(), Fault> {
        let hosts = Hosts::read(&self.state)?;
        let http = Http::new(&hosts.certificates()?)?;
        let tls = hosts.speaks_tls(registry);
        let session = Session::new(http, registry, "", self.credentials.clone(), tls)?;
        retry(session.tries(), || session.log_in(user, password)).await?;
        self.credentials.keep(registry, user, password)
    }

    /// Forgets the password for a registry. Whether there was one.
    ///
    /// # Errors
    /// When the file of passwords cannot be read or written.
    pub fn log_out(&self, registry: &str) -> Result<bool, Fault> {
        self.credentials.forget(registry)
    }
}

/// The first session that works; the last one's trouble if none does.
async fn first<T, F>(
    sessions: &[Arc<Session>],
    work: impl Fn(Arc<Session>) -> F,
) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Failed>>,
{
    let mut last = None;
    for session in sessions {
        match retry(session.tries(), || work(session.clone())).await {
            Ok(value) => return Ok(value),
            Err(fault) => {
                if let Some(earlier) = last.replace(fault) {
                    tracing::warn!("a mirror: {}", Fault::problem(&earlier).message);
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Fault::user("there is no registry to ask")))
}

/// A manifest or index that can be read, by tag or digest.
async fn document(session: &Session, name: &str, reference: &str) -> Result<Vec<u8>, Failed> {
    let what = format!("image {reference}");
    let path = format!("manifests/{name}");
    let response = session.get(&path, manifest::ACCEPT, None, &what).await?;
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let kind = kind.map(String::from).filter(|kind| !kind.starts_with("text/html"));
    let bytes = body::read(response, MAX_MANIFEST, "the manifest").await?;
    manifest::read(&bytes, kind.as_deref())?;
    Ok(bytes)
}
