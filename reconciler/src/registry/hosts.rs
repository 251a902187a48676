//! What the owner says about registries: mirrors, and certificates to trust. `registries.toml` in the state folder or,
//! for everybody, in `/etc/banger`.

use crate::fault::{During, Fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Host {
    /// Hosts that are asked first, in this order.
    pub(super) mirrors: Vec<String>,
    /// A file of certificates, as PEM, that are trusted besides the system's.
    pub(super) ca: Option<PathBuf>,
}

/// All that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hosts(BTreeMap<String, Host>);

impl Hosts {
    /// The first file that is there.
    ///
    /// # Errors
    /// When it cannot be read or understood: a mirror that is left out by mistake may be the only way.
    pub(super) fn read(state: &Path) -> Result<Self, Fault> {
        for folder in [state, Path::new("/etc/banger")] {
            let path = folder.join("registries.toml");
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let hosts = toml::from_str(&text).map_err(|error| {
                        let why = error.message().to_string();
                        Fault::user(format!("{}: {why}", path.display())).hint(
                            "it has tables like: [\"docker.io\"] mirrors = [\"mirror.example\"]",
                        )
                    })?;
                    return Ok(Self(hosts));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).during(|| format!("reading {}", path.display())),
            }
        }
        Ok(Self::default())
    }

    /// The hosts to ask for a registry's images, itself last.
    pub(super) fn order(&self, registry: &str) -> Vec<String> {
        let mirrors = self.0.get(registry).map(|host| host.mirrors.clone()).unwrap_or_default();
        mirrors.into_iter().chain([registry.to_string()]).collect()
    }

    /// Whether a registry of this host's loopback speaks TLS: one whose certificate is named does.
    pub(super) fn speaks_tls(&self, registry: &str) -> bool {
        self.0.get(registry).is_some_and(|host| host.ca.is_some())
    }

    /// Certificates to trust, as PEM.
    pub(super) fn certificates(&self) -> Result<Vec<Vec<u8>>, Fault> {
        let files = self.0.values().filter_map(|host| host.ca.as_ref());
        files
            .map(|file| std::fs::read(file).during(|| format!("reading {}", file.display())))
            .collect()
    }
}
