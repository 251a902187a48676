//! The bytes of an answer: bounded, and not slower than a person would wait for.

use super::http::{Failed, shown};
use crate::fault::Fault;
use reqwest::Response;
use std::time::{Duration, Instant};

/// A body that comes slower than this many bytes in [`WINDOW`] is given up (R-N2: 1 KiB/s over 60 s).
const LEAST: u64 = 60 << 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Chunks of a body, watched.
pub(super) struct Body {
    response: Response,
    host: String,
    since: Instant,
    come: u64,
}

impl Body {
    pub(super) fn new(response: Response) -> Self {
        let host = shown(response.url());
        Self { response, host, since: Instant::now(), come: 0 }
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, Failed> {
        let chunk = self.response.chunk().await.map_err(|error| {
            let why = if error.is_timeout() { "stands still" } else { "broke" };
            Failed::for_now(Fault::host(format!("the download from {} {why}", self.host)))
        })?;
        self.come += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.since.elapsed() > WINDOW {
            if self.come < LEAST {
                let what = format!("the download from {} is slower than 1 KiB/s", self.host);
                return Err(Failed::for_now(Fault::host(what)));
            }
            (self.since, self.come) = (Instant::now(), 0);
        }
        Ok(chunk)
    }
}

/// A whole body, when it is not larger than it may be.
pub(super) async fn read(response: Response, most: usize, what: &str) -> Result<Vec<u8>, Failed> {
    let host = shown(response.url());
    let too_large =
        || Failed::for_good(Fault::host(format!("{what} of {host} is larger than {most} bytes")));
    if response.content_length().is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let (mut body, mut bytes) = (Body::new(response), Vec::new());
    while let Some(chunk) = body.next().await? {
        if bytes.len() + chunk.len() > most {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
