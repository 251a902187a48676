//! Ends every process in a sandbox's cgroup and removes it.

use crate::answer::{Answer, At, Bad};
use crate::cgroup;
use banger_wire::helper::Reply;
use banger_wire::id::SandboxId;
use std::fs;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(uid: u32, sandbox: &SandboxId) -> Answer {
    let (_, owner, own) = cgroup::folders(uid, sandbox)?;
    if !own.exists() {
        return Ok(Reply::Unchanged);
    }
    fs::write(own.join("cgroup.kill"), "1").at("killing the cgroup")?;
    let start = Instant::now();
    while !cgroup::members(&own)?.is_empty() {
        if start.elapsed() > PATIENCE {
            return Err(Bad::Refused("a process in it does not end"));
        }
        sleep(Duration::from_millis(5));
    }
    // A killed process leaves the list before it leaves the cgroup.
    while let Err(error) = fs::remove_dir(&own) {
        if error.kind() != ErrorKind::ResourceBusy || start.elapsed() > PATIENCE {
            return Err(Bad::Failed("removing the cgroup", error));
        }
        sleep(Duration::from_millis(5));
    }
    // Goes with the last sandbox; while there are others it stays.
    let _ = fs::remove_dir(&owner);
    Ok(Reply::Changed)
}
