//! The way to a guest's vsock device: a socket in the run's folder, or one in a jail that only the helper opens.

use crate::drivers::vmm::word;
use crate::fault::Fault;
use crate::folders::Folders;
use crate::helper::Helper;
use banger_wire::helper::Line;
use banger_wire::id::SandboxId;
use banger_wire::machine::AGENT;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixStream;

/// Leads to one guest and to no other.
#[derive(Debug, Clone)]
pub enum Way {
    /// This socket.
    Socket(PathBuf),
    /// The one in this sandbox's jail, whose run has this folder.
    Jail(Helper, SandboxId, PathBuf),
}

impl Way {
    /// The way to a sandbox's guest. Where there is a helper, guests are in jails; one that was started before there was one
    /// has its socket here.
    pub fn to(folders: &Folders, helper: Option<&Helper>, sandbox: &SandboxId) -> Self {
        let run = folders.vm(sandbox);
        let socket = run.join(AGENT);
        match helper {
            Some(helper) if !socket.exists() => Self::Jail(helper.clone(), sandbox.clone(), run),
            Some(_) | None => Self::Socket(socket),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there, or may not yet.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let run = match self {
            Self::Socket(socket) => socket.parent(),
            Self::Jail(_, _, run) => Some(run.as_path()),
        };
        if !run.is_none_or(word::listens) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "it is still starting"));
        }
        match self {
            Self::Socket(socket) => UnixStream::connect(socket).await,
            Self::Jail(helper, sandbox, _) => {
                let socket = helper.open(sandbox, Line::Agent).map_err(into_io)?;
                UnixStream::from_std(socket.into())
            }
        }
    }

    /// Remembers a connection, where it can be cut, for as long as what is returned is held.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn hold(&self, connection: &UnixStream) -> io::Result<Option<Arc<OwnedFd>>> {
        match self {
            Self::Socket(_) => Ok(None),
            Self::Jail(helper, sandbox, _) => {
                let other = connection.as_fd().try_clone_to_owned()?;
                Ok(Some(helper.lines().hold(sandbox, other)))
            }
        }
    }
}

fn into_io(fault: Fault) -> io::Error {
    io::Error::other(fault)
}
