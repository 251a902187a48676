//! Holds the sandbox's own disk still, while the host copies it.
//!
//! Whoever writes waits meanwhile, maybe this server, too: a thread of its own lets go when nobody else does.

use crate::{Error, sys};
use banger_wire::agent::{HOLD_SECS, Reply};
use banger_wire::frame::Kind;
use banger_wire::stream::{Reader, send_message as reply};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) async fn run(
    disk: Option<Arc<File>>,
    mut reader: Reader<impl AsyncRead + Unpin>,
    mut write: impl AsyncWrite + Unpin,
) -> Result<(), Error> {
    let Some(disk) = disk else {
        let message = "the guest has no disk yet".to_string();
        return Ok(reply(&mut write, &Reply::Failed { message }).await?);
    };
    let (frozen, is_frozen) = tokio::sync::oneshot::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let (thawed, is_thawed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let outcome = sys::freeze(disk.as_fd(), true);
        let failed = outcome.is_err();
        if frozen.send(outcome).is_err() || failed {
            if !failed {
                let _ = sys::freeze(disk.as_fd(), false);
            }
            return;
        }
        let waited = wait.recv_timeout(Duration::from_secs(HOLD_SECS));
        // Whoever else let it go says so by an error.
        let held = sys::freeze(disk.as_fd(), false).is_ok();
        let _ = thawed.send(held && !matches!(waited, Err(RecvTimeoutError::Timeout)));
    });
    let outcome = is_frozen.await?;
    if let Err(error) = outcome {
        let message = format!("holding the disk: {error}");
        return Ok(reply(&mut write, &Reply::Failed { message }).await?);
    }
    reply(&mut write, &Reply::Done).await?;
    let asked = reader.next().await;
    drop(let_go);
    let held = is_thawed.await.unwrap_or(false);
    match asked {
        Ok(Some(frame)) if frame.kind == Kind::Stdin && held => {
            Ok(reply(&mut write, &Reply::Done).await?)
        }
        Ok(Some(_)) => {
            let message = "the disk was not held all the time".to_string();
            Ok(reply(&mut write, &Reply::Failed { message }).await?)
        }
        Ok(None) | Err(_) => Ok(()),
    }
}
