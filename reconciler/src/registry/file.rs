//! One file by its address and SHA-256: kernels, and a catalog's parts.

use super::body::Body;
use super::http::{Failed, Http, TRIES, is_loopback, refused, retry};
use crate::drivers::Progress;
use crate::fault::{During, Fault};
use banger_wire::id::Digest;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Fetches a file to a place in the scratch folder. What is wrong is removed with the folder's other half-made things.
pub(super) async fn fetch(
    http: &Http,
    url: &str,
    sha256: &str,
    to: &Path,
    progress: &Progress,
) -> Result<(), Fault> {
    let parsed = Url::parse(url).map_err(|_| Fault::user(format!("\"{url}\" is no address")))?;
    if parsed.scheme() != "https" && !is_loopback(&parsed) {
        return Err(Fault::user(format!("{url} is not https")));
    }
    retry(TRIES, || attempt(http, &parsed, sha256, to, progress)).await
}

/// A small text, at most so many bytes.
pub(super) async fn small(http: &Http, url: &str, most: usize) -> Result<String, Fault> {
    let parsed = Url::parse(url).map_err(|_| Fault::user(format!("\"{url}\" is no address")))?;
    if parsed.scheme() != "https" && !is_loopback(&parsed) {
        return Err(Fault::user(format!("{url} is not https")));
    }
    let bytes = retry(TRIES, || async {
        let response = http.send(Method::GET, &parsed, &HeaderMap::new(), None).await?;
        if !response.status().is_success() {
            return Err(refused(&parsed, &response, parsed.path()));
        }
        super::body::read(response, most, parsed.path()).await
    })
    .await?;
    String::from_utf8(bytes).map_err(|_| Fault::user(format!("{url} is no text")))
}

async fn attempt(
    http: &Http,
    url: &Url,
    sha256: &str,
    to: &Path,
    progress: &Progress,
) -> Result<(), Failed> {
    let response = http.send(Method::GET, url, &HeaderMap::new(), None).await?;
    if !response.status().is_success() {
        return Err(refused(url, &response, url.path()));
    }
    let total = response.content_length().unwrap_or(0);
    let too_large = || Failed::for_good(Fault::user(format!("{url} is larger than 1 GiB")));
    if total > MAX_FILE {
        return Err(too_large());
    }
    let writing = || format!("writing {}", to.display());
    let mut file = File::create(to).during(writing)?;
    let (mut body, mut hash, mut have) = (Body::new(response), Sha256::new(), 0);
    while let Some(chunk) = body.next().await? {
        have += chunk.len() as u64;
        if have > MAX_FILE {
            return Err(too_large());
        }
        hash.update(&chunk);
        file.write_all(&chunk).during(writing)?;
        progress(have, total);
    }
    let found = Digest::from_bytes(&hash.finalize().into());
    if found.as_str() != sha256 {
        let what = format!("{url} is not what the file says: its SHA-256 is {found}");
        return Err(Failed::for_good(
            Fault::user(what).hint("if it is the right file, write that digest"),
        ));
    }
    Ok(())
}
