//! A conversation with one registry about one repository: who we are, and tokens.

use super::credentials::{Credential, Credentials};
use super::http::{Failed, Http, TRIES, is_loopback, is_private, refused, shown};
use crate::fault::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

/// The largest answer to a request for a token, in bytes (R-N2).
const MAX_TOKEN: usize = 64 << 10;

/// One repository of one registry.
pub(super) struct Session {
    http: Http,
    /// As references name it: whose credentials go there.
    registry: String,
    base: Url,
    repository: String,
    credentials: Credentials,
    token: Mutex<Option<HeaderValue>>,
    /// How often something is tried here.
    tries: u32,
}

impl Session {
    /// At a host, which may be a mirror. `http` is spoken with this host's own loopback only, and only
    /// where `tls` is not asked for (R-N4).
    pub(super) fn new(
        http: Http,
        registry: &str,
        repository: &str,
        credentials: Credentials,
        tls: bool,
    ) -> Result<Self, Fault> {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let wrong = || Fault::user(format!("\"{registry}\" is not the host of a registry"));
        let mut base = Url::parse(&format!("https://{host}/v2/")).map_err(|_| wrong())?;
        if is_loopback(&base) && !tls {
            base = Url::parse(&format!("http://{host}/v2/")).map_err(|_| wrong())?;
        }
        if base.path() != "/v2/" || !base.username().is_empty() || base.query().is_some() {
            return Err(wrong());
        }
        let (registry, repository) = (registry.to_string(), repository.to_string());
        Ok(Self {
            http,
            registry,
            base,
            repository,
            credentials,
            token: Mutex::new(None),
            tries: TRIES,
        })
    }

    /// One that is not asked twice: there is another to ask.
    pub(super) fn into_mirror(self) -> Self {
        Self { tries: 1, ..self }
    }

    /// How often something is tried here.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// The registry's host, for people.
    pub(super) fn host(&self) -> &str {
        &self.registry
    }

    /// Something of the repository: `manifests/…` or `blobs/…`.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &str,
        range: Option<u64>,
        what: &str,
    ) -> Result<Response, Failed> {
        let url = self.base.join(&format!("{}/{path}", self.repository));
        let url = url.map_err(|_| Fault::user(format!("{path} is not an address")))?;
        let mut headers = HeaderMap::new();
        let accept = HeaderValue::from_str(accept).expect("media types are plain");
        headers.insert(ACCEPT, accept);
        if let Some(from) = range {
            let range = HeaderValue::from_str(&format!("bytes={from}-")).expect("plain");
            headers.insert(HeaderName::from_static("range"), range);
        }
        let response = self.authorized(&url, &headers).await?;
        if response.status().is_success() || response.status() == StatusCode::RANGE_NOT_SATISFIABLE
        {
            return Ok(response);
        }
        Err(refused(&self.base, &response, what))
    }

    /// Whether the registry knows us.
    pub(super) async fn log_in(&self, user: &str, password: &str) -> Result<(), Failed> {
        let credential =
            Credential::Password { user: user.to_string(), password: password.to_string() };
        let response = self.http.send(Method::GET, &self.base, &HeaderMap::new(), None).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let token = self.answer(&response, Some(credential)).await?;
            let headers = HeaderMap::from_iter([(AUTHORIZATION, token)]);
            let response = self.http.send(Method::GET, &self.base, &headers, None).await?;
            if !response.status().is_success() {
                let what = format!("{} does not know this user and password", self.registry);
                return Err(Fault::user(what).into());
            }
        } else if !response.status().is_success() {
            return Err(refused(&self.base, &response, "an answer"));
        }
        Ok(())
    }

    /// Sends a request, and once more with a new token when the first is not good enough or not good any more.
    async fn authorized(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Failed> {
        let mut headers = headers.clone();
        let known = self.token.lock().await.clone();
        if let Some(token) = known.clone() {
            headers.insert(AUTHORIZATION, token);
        }
        let response = self.http.send(Method::GET, url, &headers, None).await?;
        // Storage that a redirect led to asks for nothing of ours.
        if response.status() != StatusCode::UNAUTHORIZED || response.url().host() != url.host() {
            return Ok(response);
        }
        let mut token = self.token.lock().await;
        if *token == known {
            let credential = self.credentials.of(&self.registry).await?;
            *token = Some(self.answer(&response, credential).await?);
        }
        headers.insert(AUTHORIZATION, token.clone().expect("just set"));
        drop(token);
        self.http.send(Method::GET, url, &headers, None).await
    }

    /// What a registry wants to see, after its challenge.
    async fn answer(
        &self,
        response: &Response,
        credential: Option<Credential>,
    ) -> Result<HeaderValue, Failed> {
        let host = &self.registry;
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> =
            challenges.filter_map(|value| challenge(value.to_str().ok()?)).collect();
        if let Some(bearer) = challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case("bearer")) {
            return self.token(bearer, credential).await;
        }
        let basic = challenges.iter().any(|c| c.scheme.eq_ignore_ascii_case("basic"));
        match (basic, credential) {
            (true, Some(Credential::Password { user, password })) => {
                Ok(basic_auth(&user, &password))
            }
            (true, _) => Err(Fault::user(format!("{host} wants a user and a password"))
                .hint(format!("banger image login {host}"))
                .into()),
            (false, _) => {
                Err(Fault::host(format!("{host} wants credentials in a way that we do not know"))
                    .into())
            }
        }
    }

    async fn token(
        &self,
        challenge: &Challenge,
        credential: Option<Credential>,
    ) -> Result<HeaderValue, Failed> {
        let host = &self.registry;
        let realm = challenge.get("realm").and_then(|realm| Url::parse(realm).ok());
        let Some(mut realm) = realm else {
            return Err(Fault::host(format!("{host} does not say where tokens are")).into());
        };
        let local = is_loopback(&realm) && is_loopback(&self.base);
        if realm.scheme() != "https" && !local || !realm.username().is_empty() {
            return Err(Fault::host(format!(
                "{host} wants tokens from {realm}, which is not https"
            ))
            .into());
        }
        if is_private(&realm).await && !is_private(&self.base).await {
            let realm = shown(&realm);
            return Err(Fault::host(format!(
                "{host} wants tokens from {realm}, which is in a private network"
            ))
            .into());
        }
        if credential.is_some() && !belongs(&self.base, &realm) {
            return Err(Fault::host(format!(
                "{host} wants our password sent to {}, which is not its own; it was not sent",
                shown(&realm)
            ))
            .into());
        }
        let scope = format!("repository:{}:pull", self.repository);
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(challenge.get("service").map(|service| ("service", service)));
        if !self.repository.is_empty() {
            fields.push(("scope", &scope));
        }
        let response = match &credential {
            Some(Credential::Identity(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.as_str()),
                    ("client_id", "banger"),
                ]);
                self.http.send(Method::POST, &realm, &HeaderMap::new(), Some(&fields)).await?
            }
            other => {
                let mut headers = HeaderMap::new();
                if let Some(Credential::Password { user, password }) = other {
                    headers.insert(AUTHORIZATION, basic_auth(user, password));
                }
                realm.query_pairs_mut().extend_pairs(&fields);
                self.http.send(Method::GET, &realm, &headers, None).await?
            }
        };
        if !response.status().is_success() {
            return Err(refused(&self.base, &response, "a token"));
        }
        let body = super::body::read(response, MAX_TOKEN, "the token").await?;
        let token = serde_json::from_slice::<Token>(&body).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let header = token.and_then(|t| HeaderValue::from_str(&format!("Bearer {t}")).ok());
        header.map_or_else(
            || Err(Fault::host(format!("{host}'s tokens are not understood")).into()),
            |mut header| {
                header.set_sensitive(true);
                Ok(header)
            },
        )
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic_auth(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let mut header = HeaderValue::from_str(&text).expect("base64 is plain");
    header.set_sensitive(true);
    header
}

/// Whether a realm is the registry's own: on its host, or on its registrable domain (CVE-2020-15157).
fn belongs(registry: &Url, realm: &Url) -> bool {
    let (Some(own), Some(other)) = (registry.host_str(), realm.host_str()) else { return false };
    if own == other {
        return true;
    }
    if is_loopback(registry) || own.parse::<std::net::IpAddr>().is_ok() {
        return false;
    }
    let domain = |host: &str| -> String {
        let labels: Vec<&str> = host.split('.').collect();
        // Below a country, the second label may be anybody's: `co.uk`, `com.au`.
        let general = ["co", "com", "net", "org", "ac", "gov", "edu", "or", "ne", "go"];
        let last = labels.last().copied().unwrap_or("");
        let second = labels.len().checked_sub(2).map_or("", |at| labels[at]);
        let keep = if last.len() == 2 && general.contains(&second) { 3 } else { 2 };
        labels[labels.len().saturating_sub(keep)..].join(".")
    };
    // Storage services give every customer a name below theirs.
    let shared = ["amazonaws.com", "azurecr.io", "cloudfront.net", "github.io", "windows.net"];
    let same = domain(own);
    same == domain(other) && same.contains('.') && !shared.contains(&same.as_str())
}

/// One challenge of `WWW-Authenticate`.
struct Challenge {
    scheme: String,
    fields: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// `Bearer realm="…",service="…"`: quoted values may have commas.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let mut fields = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_string();
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        fields.push((name, value.trim().to_string()));
    }
    (!scheme.is_empty()).then(|| Challenge { scheme: scheme.to_string(), fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_to_the_domain_of_their_registry_only() {
        let to = |registry: &str, realm: &str| {
            let url = |host: &str| Url::parse(&format!("https://{host}/")).expect("a host");
            belongs(&url(registry), &url(realm))
        };
        assert!(to("registry-1.docker.io", "auth.docker.io"));
        assert!(to("ghcr.io", "ghcr.io") && to("registry.gitlab.com", "gitlab.com"));
        assert!(!to("ghcr.io", "evil.io") && !to("registry.example.co.uk", "evil.co.uk"));
        assert!(!to("a.azurecr.io", "b.azurecr.io") && !to("127.0.0.1", "localhost"));
        assert!(!to("10.0.0.1", "20.0.0.1") && !to("docker.io.evil.com", "auth.docker.io"));
    }

    #[test]
    fn challenges() {
        let it = challenge(r#"Bearer realm="https://a/t",service="s, with comma", scope=x"#)
            .expect("a challenge");
        assert_eq!(it.scheme, "Bearer");
        assert_eq!(it.get("realm"), Some("https://a/t"));
        assert_eq!(it.get("Service"), Some("s, with comma"));
        assert_eq!(it.get("scope"), Some("x"));
        assert!(challenge("").is_none() && challenge("Basic").is_some());
        assert!(challenge("Bearer realm=\"open").is_none());
    }
}
