//! Who we are to a registry: by `banger image login`, else by Docker's configuration and its helpers.

use crate::fault::{During, Fault};
use crate::folders;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError as Missing, DockerCredential};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a credential helper may take.
const HELPER: Duration = Duration::from_secs(30);

/// What a registry is told.
#[derive(Clone)]
pub(super) enum Credential {
    /// A user and a password.
    Password { user: String, password: String },
    /// A token that others are got for.
    Identity(String),
}

/// The files that credentials are in.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    own: PathBuf,
}

impl Credentials {
    pub(super) fn new(folder: &Path) -> Self {
        Self { own: folder.join("auth.json") }
    }

    /// The credential for a registry and no other (R-N3).
    pub(super) async fn of(&self, registry: &str) -> Result<Option<Credential>, Fault> {
        let (own, key) = (self.own.clone(), key(registry));
        let find = tokio::task::spawn_blocking(move || {
            if let Ok(file) = std::fs::File::open(&own) {
                match docker_credential::get_credential_from_reader(file, &key) {
                    Ok(found) => return Ok(Some(found)),
                    Err(Missing::NoCredentialConfigured) => {}
                    Err(error) => return Err((own.display().to_string(), error)),
                }
            }
            if !docker_configuration().is_some_and(|file| file.exists()) {
                return Ok(None);
            }
            match docker_credential::get_credential(&key) {
                Ok(found) => Ok(Some(found)),
                Err(Missing::NoCredentialConfigured | Missing::ConfigNotFound) => Ok(None),
                // A helper that knows nothing says so by failing.
                Err(Missing::HelperFailure { stdout, stderr, .. })
                    if [stdout.as_str(), stderr.as_str()]
                        .concat()
                        .contains("credentials not found") =>
                {
                    Ok(None)
                }
                Err(error) => Err(("Docker's configuration".to_string(), error)),
            }
        });
        let found = tokio::time::timeout(HELPER, find).await.map_err(|_| {
            Fault::host(format!("Docker's credential helper for {registry} does not answer"))
        })?;
        let found =
            found.map_err(|error| Fault::host(format!("looking for credentials: {error}")))?;
        // The error's text has what a helper printed, which may be a secret.
        let found = found.map_err(|(place, error)| {
            let kind = match error {
                Missing::HelperCommunicationError => "its credential helper cannot be started",
                Missing::HelperFailure { .. } => "its credential helper failed",
                Missing::MalformedHelperResponse => "its credential helper says nonsense",
                Missing::CredentialDecodingError
                | Missing::CredentialMismatchError
                | Missing::NoCredentialConfigured
                | Missing::ConfigNotFound
                | Missing::ConfigReadError => "it cannot be read",
            };
            Fault::user(format!("the credential for {registry} in {place}: {kind}"))
                .hint(format!("banger image login {registry} needs no Docker"))
        })?;
        Ok(found.map(|found| match found {
            DockerCredential::IdentityToken(token) => Credential::Identity(token),
            DockerCredential::UsernamePassword(user, token) if user == "<token>" => {
                Credential::Identity(token)
            }
            DockerCredential::UsernamePassword(user, password) => {
                Credential::Password { user, password }
            }
        }))
    }

    /// Keeps a credential, readable by its owner only.
    pub(super) fn keep(&self, registry: &str, user: &str, password: &str) -> Result<(), Fault> {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        self.change(|auths| drop(auths.insert(key(registry), json!({ "auth": auth }))))
    }

    /// Forgets a credential.
    pub(super) fn forget(&self, registry: &str) -> Result<bool, Fault> {
        let mut there = false;
        self.change(|auths| there = auths.remove(&key(registry)).is_some())?;
        Ok(there)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<(), Fault> {
        let mut all: Value = match std::fs::read(&self.own) {
            Ok(text) => serde_json::from_slice(&text).map_err(|_| {
                Fault::host(format!("{} is broken", self.own.display())).hint("remove it")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({ "auths": {} }),
            Err(error) => return Err(error).during(|| format!("reading {}", self.own.display())),
        };
        if let Some(auths) = all["auths"].as_object_mut() {
            change(auths);
        }
        let text = serde_json::to_vec_pretty(&all).expect("plain values encode");
        folders::write_secret(&self.own, &text)
    }
}

/// Where Docker's client keeps its configuration.
fn docker_configuration() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    folder.or_else(home).map(|folder| folder.join("config.json"))
}

/// What Docker calls a registry.
fn key(registry: &str) -> String {
    match registry {
        "docker.io" => "https://index.docker.io/v1/".to_string(),
        other => other.to_string(),
    }
}
