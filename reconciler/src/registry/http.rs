//! Requests to registries and their storage: bounded, patient, and careful where they are led (R-N2 to R-N4).

use crate::fault::Fault;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long nothing may come.
const STALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// The most hops to one thing.
const REDIRECTS: usize = 5;
/// The most tries of one request.
pub(super) const TRIES: u32 = 5;
/// The longest pause that a registry may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a request failed, and whether it may go better another time.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// When to try again, if at all.
    pub(super) again: Option<Duration>,
}

impl Failed {
    pub(super) fn for_good(fault: Fault) -> Self {
        Self { fault, again: None }
    }

    pub(super) fn for_now(fault: Fault) -> Self {
        Self { fault, again: Some(Duration::ZERO) }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::for_good(fault)
    }
}

/// Clients that follow no redirect by themselves.
#[derive(Clone)]
pub(super) struct Http {
    anywhere: Client,
    /// Reaches public addresses only: for where a public registry leads.
    public: Client,
}

impl Http {
    /// With more certificates to trust, as PEM.
    pub(super) fn new(extra: &[Vec<u8>]) -> Result<Self, Fault> {
        let build = |public: bool| {
            let mut builder = Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .read_timeout(STALL)
                .referer(false)
                .http1_only();
            for pem in extra {
                for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(unusable)? {
                    builder = builder.add_root_certificate(certificate);
                }
            }
            if public {
                builder = builder.dns_resolver(Arc::new(PublicOnly));
            }
            builder.build().map_err(unusable)
        };
        Ok(Self { anywhere: build(false)?, public: build(true)? })
    }

    /// One request, with every redirect followed. Credentials stay with the first host.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        form: Option<&[(&str, &str)]>,
    ) -> Result<Response, Failed> {
        let open = is_private(url).await;
        let (mut here, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=REDIRECTS {
            let same_host = here.host_str() == url.host_str();
            let client = if open || same_host { &self.anywhere } else { &self.public };
            let mut request = client.request(method.clone(), here.clone()).headers(headers.clone());
            if let Some(form) = form {
                request = request
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(encode_form(form));
            }
            let response = request.send().await.map_err(|error| lost(&here, &error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let next = next_hop(&here, &response, open)?;
            if (next.scheme(), next.host_str(), next.port_or_known_default())
                != (here.scheme(), here.host_str(), here.port_or_known_default())
            {
                headers.remove(AUTHORIZATION);
            }
            here = next;
        }
        let host = shown(url);
        Err(Fault::host(format!("{host} leads from one address to the next, and nowhere")).into())
    }
}

fn unusable(error: reqwest::Error) -> Fault {
    let mut fault = Fault::host("preparing connections to registries");
    fault.source = Some(Box::new(error));
    fault
}

fn encode_form(form: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://localhost/").expect("a plain address");
    url.query_pairs_mut().extend_pairs(form);
    url.query().unwrap_or_default().to_string()
}

/// A URL's host, for people.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("nowhere");
    url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

fn lost(url: &Url, error: &reqwest::Error) -> Failed {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    let what = if error.is_timeout() {
        format!("{} does not answer", shown(url))
    } else if text.is_empty() {
        format!("{}: the connection broke", shown(url))
    } else {
        format!("{}: {text}", shown(url))
    };
    Failed::for_now(Fault::host(what).hint("is the network there?"))
}

/// Where a redirect leads, when it may.
fn next_hop(here: &Url, response: &Response, open: bool) -> Result<Url, Failed> {
    let host = shown(here);
    let refuse = |why: String| Failed::for_good(Fault::host(why));
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| here.join(location).ok());
    let next = next.ok_or_else(|| refuse(format!("{host} leads to no address")))?;
    let safe = next.scheme() == "https" || next.scheme() == "http" && is_loopback(&next);
    if !safe || here.scheme() == "https" && next.scheme() != "https" {
        return Err(refuse(format!("{host} leads to {}, which is not https", shown(&next))));
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err(refuse(format!("{host} leads to an address with a password in it")));
    }
    if !open && literal(&next).is_some_and(|address| !is_public(address)) {
        return Err(refuse(format!(
            "{host} leads to {}, which is in a private network",
            shown(&next)
        )));
    }
    Ok(next)
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether an address is this host by its very name.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || literal(url).is_some_and(|address| address.is_loopback())
}

/// Whether a registry is in a private network itself, and may lead about there.
pub(super) async fn is_private(url: &Url) -> bool {
    if let Some(address) = literal(url) {
        return !is_public(address);
    }
    let (host, port) = (url.host_str().unwrap_or(""), url.port_or_known_default().unwrap_or(443));
    match tokio::net::lookup_host((host, port)).await {
        Ok(mut found) => found.any(|address| !is_public(address.ip())),
        Err(_) => false,
    }
}

/// Whether an address is somewhere on the internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_unspecified()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let first = v6.segments()[0];
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || first & 0xfe00 == 0xfc00
                    || first & 0xffc0 == 0xfe80)
            }
        },
    }
}

struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_string();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                return Err(format!("{host} is in a private network").into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// What an answer that is no success means.
pub(super) fn refused(url: &Url, response: &Response, what: &str) -> Failed {
    let (host, status) = (shown(url), response.status());
    let asked = response.headers().get(RETRY_AFTER).and_then(retry_after);
    let (fault, again) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            Fault::user(format!("{host} does not let us have {what}"))
                .hint(format!("is it private? banger image login {host}")),
            None,
        ),
        StatusCode::NOT_FOUND => (
            Fault::user(format!("{host} has no {what}"))
                .hint("is its name right? private ones look missing until: banger image login"),
            None,
        ),
        StatusCode::TOO_MANY_REQUESTS => (
            Fault::host(format!("{host} says that we ask too often"))
                .hint("try again later; who is logged in may ask more: banger image login"),
            Some(asked.unwrap_or_default()),
        ),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => (
            Fault::host(format!("{host} has trouble: it answers {status}")),
            Some(asked.unwrap_or_default()),
        ),
        status => (Fault::host(format!("{host} answers {status} when asked for {what}")), None),
    };
    Failed { fault, again }
}

/// Seconds; a date is taken as none.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// Tries until it works, fails for good, or was tried often enough. Pauses grow, and differ (R-R12).
pub(super) async fn retry<T, F>(tries: u32, mut work: impl FnMut() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Failed>>,
{
    let mut tried = 1;
    loop {
        match work().await {
            Ok(value) => return Ok(value),
            Err(failed) => match failed.again {
                Some(asked) if tried < tries => tokio::time::sleep(pause(tried, asked)).await,
                _ => return Err(failed.fault),
            },
        }
        tried += 1;
    }
}

/// The pause before another try: at least what was asked for, and a random part more.
pub(super) fn pause(tried: u32, asked: Duration) -> Duration {
    let base = Duration::from_millis(250) * 2u32.pow(tried.min(6));
    let share = u32::from(crate::host::random::<1>()[0]);
    asked + base / 2 + base * share / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!public(private), "{private}");
        }
        for good in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8"] {
            assert!(public(good), "{good}");
        }
    }

    fn answer(location: &str) -> Response {
        let answer = axum::http::Response::builder().status(302).header("location", location);
        Response::from(answer.body("").expect("an answer"))
    }

    #[test]
    fn a_public_registry_does_not_lead_into_private_networks() {
        let here = Url::parse("https://registry.example/v2/x").expect("an address");
        let lead =
            |to: &str, open: bool| next_hop(&here, &answer(to), open).map(|url| url.to_string());
        for to in [
            "https://169.254.169.254/latest",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "http://registry.example/",
            "http://127.0.0.1/",
            "ftp://registry.example/",
            "https://user@registry.example/",
        ] {
            assert!(lead(to, false).is_err(), "{to}");
        }
        assert_eq!(
            lead("/elsewhere", false).ok().as_deref(),
            Some("https://registry.example/elsewhere")
        );
        assert!(lead("https://storage.example/x", false).is_ok());
        assert!(lead("https://10.0.0.1/", true).is_ok(), "a private registry may");
    }
}
