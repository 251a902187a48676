//! In a builder guest: a tar archive on the first disk becomes the filesystem on the second.
//!
//! The host never unpacks an archive (R-I1): whatever its paths and links say stays in this guest.

use crate::{Error, at};
use banger_wire::agent::Reply;
use banger_wire::stream::send_message as reply;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::sync;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

const TARGET: &str = "/target";
/// Bytes between two progress messages.
const STEP: u64 = 4 << 20;

pub(crate) async fn run(
    archive_bytes: u64,
    write: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    let (sender, mut progress) = watch::channel(0u64);
    let mut work = tokio::task::spawn_blocking(move || unpack(archive_bytes, &sender));
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome?,
            Ok(()) = progress.changed() => {
                let done = *progress.borrow_and_update();
                reply(write, &Reply::Progress { done }).await?;
            }
        }
    };
    let message = match outcome {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed { message: error.to_string() },
    };
    Ok(reply(write, &message).await?)
}

fn unpack(archive_bytes: u64, progress: &watch::Sender<u64>) -> Result<(), Error> {
    at(TARGET, fs::create_dir_all(TARGET))?;
    let mounted = mount(Some("/dev/vdb"), TARGET, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>);
    at("mounting the new disk", mounted)?;
    let disk = at("/dev/vda", File::open("/dev/vda"))?;
    let counted = Counted {
        inner: std::io::BufReader::with_capacity(1 << 20, disk).take(archive_bytes),
        done: 0,
        told: 0,
        progress,
    };
    let mut archive = tar::Archive::new(counted);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    at("unpacking", archive.unpack(TARGET))?;
    let _ = fs::remove_dir(Path::new(TARGET).join("lost+found"));
    sync();
    at("unmounting the new disk", umount2(TARGET, MntFlags::empty()))?;
    Ok(())
}

struct Counted<'a, R> {
    inner: R,
    done: u64,
    told: u64,
    progress: &'a watch::Sender<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.done - self.told >= STEP {
            self.told = self.done;
            // Nobody listens any more when the host is gone; the work is worth finishing all the same.
            let _ = self.progress.send(self.done);
        }
        Ok(count)
    }
}
