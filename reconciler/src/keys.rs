//! SSH keys: one secret of the installation, and every key derived from it. None is stored beside it but the client's,
//! which OpenSSH reads as a file.

use crate::fault::Fault;
use crate::folders::{self, Folders};
use crate::host;
use banger_wire::agent::Ssh;
use banger_wire::derive::SSH_KEY;
use banger_wire::id::SandboxId;
use sha2::{Digest, Sha256};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// What a key is for, as a part of what it is derived from.
const CLIENT: &str = "banger ssh client key";
const HOST: &str = "banger ssh host key";

/// The secret, and the public half of the client's key.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    secret: [u8; 32],
    client: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the secret, or makes one; and writes the client's key where `ssh` finds it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the secret is not one.
    pub fn open(folders: &Folders) -> Result<Self, Fault> {
        let folder = folders.ssh();
        folders::make(&folder)?;
        let path = folder.join("secret");
        let secret = match std::fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| {
                Fault::host(format!("{} is not a secret of 32 bytes", path.display()))
                    .hint("restore it, or remove it: running sandboxes need a restart then")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secret: [u8; 32] = host::random();
                write_private(&path, &secret)?;
                secret
            }
            Err(error) => return Err(Fault::io(format!("reading {}", path.display()), error)),
        };
        let key = key(&derive(&secret, CLIENT, ""));
        let text = key.to_openssh(LineEnding::LF).map_err(unusable)?;
        let path = folder.join(SSH_KEY);
        let closed =
            std::fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0);
        if !closed || std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            write_private(&path, text.as_bytes())?;
        }
        let client = key.public_key().to_openssh().map_err(unusable)?;
        Ok(Self(Arc::new(Inner { secret, client })))
    }

    fn host_seed(&self, sandbox: &SandboxId) -> [u8; 32] {
        derive(&self.0.secret, HOST, sandbox.as_str())
    }

    /// What a sandbox's SSH server needs.
    pub fn of_guest(&self, sandbox: &SandboxId) -> Ssh {
        let seed = self.host_seed(sandbox);
        Ssh {
            host_key: seed.iter().map(|byte| format!("{byte:02x}")).collect(),
            authorized: vec![self.0.client.clone()],
        }
    }

    /// The public half of a sandbox's host key, as OpenSSH writes it: type and key.
    ///
    /// # Errors
    /// When it cannot be written so.
    pub fn host_key(&self, sandbox: &SandboxId) -> Result<String, Fault> {
        key(&self.host_seed(sandbox)).public_key().to_openssh().map_err(unusable)
    }
}

fn unusable(error: ssh_key::Error) -> Fault {
    Fault::host(format!("an SSH key: {error}"))
}

fn derive(secret: &[u8; 32], what: &str, of: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Each part ends with a byte that none of them has.
    for part in [what.as_bytes(), b"\0", secret, b"\0", of.as_bytes()] {
        hash.update(part);
    }
    hash.finalize().into()
}

fn key(seed: &[u8; 32]) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(seed))
}

/// Whole or not at all, and never readable for others.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    folders::write_secret(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_and_differ() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let folders = Folders::at(at("state"), at("run")).expect("folders");
        let (one, two) = (SandboxId::from_bits(1), SandboxId::from_bits(2));
        let keys = Keys::open(&folders).expect("opens");
        let (first, second) =
            (keys.host_key(&one).expect("a key"), keys.host_key(&two).expect("a key"));
        assert!(first.starts_with("ssh-ed25519 AAAA") && first != second);
        let again = Keys::open(&folders).expect("opens again");
        assert_eq!(again.host_key(&one).expect("a key"), first);
        assert_eq!(again.of_guest(&one), keys.of_guest(&one));
        for name in ["secret", SSH_KEY] {
            let meta = std::fs::metadata(folders.ssh().join(name)).expect("there");
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        }
        let text = std::fs::read_to_string(folders.ssh().join(SSH_KEY)).expect("reads");
        assert!(PrivateKey::from_openssh(&text).is_ok());
        assert!(!format!("{:?}", keys.of_guest(&one)).contains(&keys.of_guest(&one).host_key));
        std::fs::write(folders.ssh().join("secret"), b"short").expect("writes");
        assert!(Keys::open(&folders).is_err());
    }
}
