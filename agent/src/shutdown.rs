//! The orderly end: services stop, disks are synced, the machine goes off.

use crate::state::State;
use crate::{Error, exec};
use banger_wire::agent::{Phase, Reply, Signal as Wanted};
use banger_wire::stream::send_message as reply;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};

/// How long the image's own init may take. The host waits a little longer than this.
const INIT_GRACE: Duration = Duration::from_secs(8);
/// How long processes have between TERM and KILL when there is no other init.
const TERM_GRACE: Duration = Duration::from_secs(3);

pub(crate) async fn run(state: &State, write: &mut (impl AsyncWrite + Unpin)) -> Result<(), Error> {
    state.set_phase(Phase::Leaving, "");
    // The host sees the phase before the connection goes.
    sleep(Duration::from_millis(10)).await;
    if Path::new("/run/systemd/system").exists() {
        reply(write, &Reply::Done).await?;
        let asked = tokio::process::Command::new("systemctl")
            .args(["poweroff", "--no-wall"])
            .status()
            .await;
        if asked.is_ok_and(|status| status.success()) {
            sleep(INIT_GRACE).await;
        }
        power_off();
    }
    end_service(state).await;
    end_processes().await;
    sync();
    reply(write, &Reply::Done).await?;
    sleep(Duration::from_millis(10)).await;
    power_off();
}

/// The signal that the service wants to be asked with, where it is another than TERM; and time to end.
async fn end_service(state: &State) {
    let signal = state.identity().map_or(Wanted::Term, |identity| identity.stop_signal);
    let Some(service) = state.service().filter(|_| signal != Wanted::Term) else { return };
    let service = Pid::from_raw(i32::try_from(service).unwrap_or(i32::MAX));
    if kill(service, exec::to_signal(signal)).is_err() {
        return;
    }
    let start = Instant::now();
    while kill(service, None).is_ok() && start.elapsed() < TERM_GRACE {
        sleep(Duration::from_millis(10)).await;
    }
}

/// TERM to everybody but process 1 and us, and KILL to who is still there.
async fn end_processes() {
    // Process -1 is everybody that we may signal, without ourselves and process 1.
    let everybody = Pid::from_raw(-1);
    let _ = kill(everybody, Signal::SIGTERM);
    let start = Instant::now();
    while others() && start.elapsed() < TERM_GRACE {
        sleep(Duration::from_millis(10)).await;
    }
    let _ = kill(everybody, Signal::SIGKILL);
}

/// Whether there is any process besides process 1, us and the kernel's own.
fn others() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let us = std::process::id();
    entries.flatten().any(|entry| {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        pid.is_some_and(|pid| pid != 1 && pid != us)
            && fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty())
    })
}

/// Syncs, makes every disk read-only and ends the machine. The VMM is told not to reboot, so a restart is its end.
pub(crate) fn power_off() -> ! {
    sync();
    // `u` remounts everything read-only, whoever has files open; it works in the background.
    let _ = fs::write("/proc/sysrq-trigger", "u");
    std::thread::sleep(Duration::from_millis(30));
    let outcome: nix::Result<Infallible> = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("banger-agent: powering off: {outcome:?}");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
