//! From an identity to ready: the image's init, the provision commands, the ready probe; and the service.

use crate::exec;
use crate::state::State;
use banger_wire::agent::{Identity, Phase};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// How long systemd may take until it answers.
const INIT_DEADLINE: Duration = Duration::from_secs(90);
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// Brings the sandbox up. Every outcome is a phase that the host sees.
pub(crate) async fn bring_up(state: State, hidden: Arc<File>, has_init: bool) {
    let Some(identity) = state.identity() else { return };
    if has_init {
        wait_for_init().await;
    }
    if identity.workspace.as_ref().is_some_and(|at| !crate::files::has_workspace(&hidden, at)) {
        // The host sees this and ships it; then it goes on from the start.
        return state.set_phase(Phase::Shipping, "");
    }
    if let Err(why) = provision(&state, &identity, &hidden).await {
        return state.set_phase(Phase::Failed, why);
    }
    // Not before: what is provisioned may bring a server of its own.
    if identity.ssh.is_some() && !state.serves_ssh() {
        tokio::spawn(crate::ssh::listen(state.clone()));
    }
    if let Err(why) = probe(&state, &identity).await {
        return state.set_phase(Phase::Failed, why);
    }
    state.set_phase(Phase::Ready, "");
}

/// Waits until systemd takes commands; another init is taken as it is.
async fn wait_for_init() {
    let start = Instant::now();
    let is_systemd = fs::read_link("/sbin/init").is_ok_and(|target| target.ends_with("systemd"));
    while is_systemd
        && start.elapsed() < INIT_DEADLINE
        && !Path::new("/run/systemd/private").exists()
    {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Runs the provision commands unless this disk has seen just these.
async fn provision(state: &State, identity: &Identity, hidden: &File) -> Result<(), String> {
    if identity.provision.is_empty() {
        return Ok(());
    }
    // The folder is not below our root any more; its descriptor still leads there.
    let marker = format!("/proc/self/fd/{}/provisioned", hidden.as_raw_fd());
    if fs::read_to_string(&marker).is_ok_and(|done| done == identity.provision_digest) {
        return Ok(());
    }
    let count = identity.provision.len();
    for (index, line) in identity.provision.iter().enumerate() {
        let step = format!("{} of {count}", index + 1);
        state.set_phase(Phase::Provisioning, step.clone());
        let argv = ["/bin/sh".to_string(), "-c".to_string(), line.clone()];
        match to_console(identity, &argv).await {
            Ok(0) => {}
            Ok(code) => return Err(format!("provision {step} ended with {code}: {line}")),
            Err(error) => return Err(format!("provision {step} did not start: {error}")),
        }
    }
    let written = fs::write(&marker, &identity.provision_digest)
        .and_then(|()| File::open(&marker)?.sync_all());
    written.map_err(|error| format!("remembering the provision: {error}"))
}

async fn probe(state: &State, identity: &Identity) -> Result<(), String> {
    let Some(ready) = &identity.ready else { return Ok(()) };
    let limit = Duration::from_secs(u64::from(ready.timeout_secs));
    let start = Instant::now();
    state.set_phase(Phase::Probing, "");
    let mut last;
    loop {
        let left = limit.saturating_sub(start.elapsed());
        last = match timeout(left, silently(identity, &ready.exec)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(code)) => format!("it ended with {code}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not end".to_string(),
        };
        if start.elapsed() >= limit {
            break;
        }
        sleep(PROBE_PAUSE).await;
    }
    Err(format!("not ready after {} s: {}: {last}", limit.as_secs(), ready.exec.join(" ")))
}

/// Keeps the service running. It writes to the console, and a pause between tries grows to half a minute.
pub(crate) async fn keep_running(state: State) {
    let mut pause = Duration::from_millis(500);
    loop {
        let Some(identity) = state.identity() else { return };
        if state.phase() == Phase::Leaving {
            return;
        }
        // The service may need what the provision makes.
        while matches!(state.phase(), Phase::Shipping | Phase::Provisioning | Phase::Identifying) {
            sleep(PROBE_PAUSE / 5).await;
        }
        let start = Instant::now();
        match serve(&state, &identity).await {
            // An image's own is often a shell, which has nothing to read and ends well.
            Ok(0) if identity.image_service => return,
            Ok(code) => eprintln!("banger-agent: the service ended with {code}"),
            Err(error) => eprintln!("banger-agent: the service did not start: {error}"),
        }
        if start.elapsed() > Duration::from_secs(60) {
            pause = Duration::from_millis(500);
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Runs the service once. Its number is known as long as it runs, for whoever asks it to end.
async fn serve(state: &State, identity: &Identity) -> std::io::Result<i32> {
    let mut command = exec::service(identity).map_err(std::io::Error::other)?;
    let mut child = on_console(&mut command).spawn()?;
    state.set_service(child.id());
    let status = child.wait().await;
    state.set_service(None);
    Ok(exec::code(status?))
}

async fn to_console(identity: &Identity, argv: &[String]) -> std::io::Result<i32> {
    let mut command = exec::plain(identity, argv);
    Ok(exec::code(on_console(&mut command).status().await?))
}

fn on_console(command: &mut Command) -> &mut Command {
    let console = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/console")
            .map_or_else(|_| Stdio::null(), Stdio::from)
    };
    command.stdin(Stdio::null()).stdout(console()).stderr(console())
}

async fn silently(identity: &Identity, argv: &[String]) -> std::io::Result<i32> {
    let mut command = exec::plain(identity, argv);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(exec::code(command.status().await?))
}
