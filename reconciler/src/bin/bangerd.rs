//! The owner's daemon. It takes no arguments (but one, by which it starts itself to unpack layers): where it works comes from the environment (`BANGER_HOME`).
//!
//! It ends by itself when nothing is desired and nobody asks; running sandboxes outlive it in any case.

use banger_plan::zone::{Zone, host_zone};
use banger_reconciler::api::{self, Context};
use banger_reconciler::drivers::Drivers;
use banger_reconciler::drivers::disk::Files;
use banger_reconciler::drivers::guest::VsockGuest;
use banger_reconciler::drivers::net::{self, HostNet};
use banger_reconciler::drivers::vmm::Processes;
use banger_reconciler::engine::Engine;
use banger_reconciler::fault::{During, Fault};
use banger_reconciler::folders::Folders;
use banger_reconciler::helper::Helper;
use banger_reconciler::host::{self, RealMoment};
use banger_reconciler::keys::Keys;
use banger_reconciler::names;
use banger_reconciler::registry::Registry;
use banger_reconciler::store::Store;
use banger_reconciler::unpack;
use banger_wire::id::InstallId;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How long it stays when nothing is desired and nobody asks.
const LINGER: Duration = Duration::from_secs(20);
/// How long until the DNS server's port is tried again.
const RETRY_NAMES: Duration = Duration::from_secs(5);
/// The exit code when another daemon holds the lock.
const ALREADY: u8 = 75;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == unpack::ARGUMENT) {
        return unpack::child();
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("BANGER_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info".into()))
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    // Away from the terminal and the group of whoever started us. A group's leader cannot, and need not.
    let _ = nix::unistd::setsid();
    // Streams of published ports have three descriptors each.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let outcome = runtime.during(|| "starting".into()).and_then(|runtime| {
        let outcome = runtime.block_on(serve());
        // Builds that are under way are left where they are; what they started ends with us.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(fault) => {
            let problem = fault.problem();
            tracing::error!("{}", problem.message);
            for hint in problem.hints {
                tracing::error!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<ExitCode, Fault> {
    let folders = Folders::from_environment()?;
    let lock = File::create(folders.lock()).during(|| "opening the lock".into())?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        return Ok(ExitCode::from(ALREADY));
    };
    let (wakes, woken) = mpsc::unbounded_channel();
    let fresh = || InstallId::from_bits(u128::from_be_bytes(host::random()));
    let store = Store::open(&folders.database(), fresh)?;
    let install = store.load()?.install;
    let helper = Helper::start(&beside("banger-helper", "BANGER_HELPER")?, &install)?;
    let agent = beside("banger-agent", "BANGER_AGENT")?;
    let free = net::is_free(&install).await?;
    let guest = Arc::new(VsockGuest::new(folders.clone(), helper.clone(), wakes.clone()));
    let net = Arc::new(HostNet::new(install.clone(), helper.clone(), guest.clone()));
    let vmm = Processes::new(
        folders.clone(),
        install.clone(),
        agent.clone(),
        helper.clone(),
        wakes.clone(),
    )?;
    let registry = Registry::open(folders.state())?;
    let drivers = Drivers {
        disk: Arc::new(Files::new(folders.clone(), install, registry.clone()).await?),
        vmm: Arc::new(vmm),
        guest: guest.clone(),
        net,
    };
    let keys = Keys::open(&folders)?;
    let moment = Box::new(RealMoment(keys.clone()));
    let engine = Engine::new(drivers, store, host::capacity(), moment, wakes, free).await?;
    serve_names(&engine, &guest);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(engine.clone().run(woken, stopped));
    let active = Arc::new(AtomicUsize::new(0));
    let context = Context {
        engine: engine.clone(),
        guest,
        folders: folders.clone(),
        keys,
        registry,
        agent,
        helper,
        active: active.clone(),
    };
    let listener = api::listen(&folders.socket())?;
    tracing::info!("ready at {}", folders.socket().display());
    let server = tokio::spawn(async move { axum::serve(listener, api::router(context)).await });
    until_the_end(&engine, &active).await?;
    // Whoever asks now is told at once that nobody is here, and starts the next one when this one is gone.
    std::fs::remove_file(folders.socket()).during(|| "removing the socket".into())?;
    server.abort();
    // The loop ends between two passes.
    let _ = stop.send(true);
    let _ = running.await;
    Ok(ExitCode::SUCCESS)
}

/// Answers for names of sandboxes, on the host and in guests, for as long as the daemon lives.
fn serve_names(engine: &Arc<Engine>, guest: &Arc<VsockGuest>) {
    tokio::spawn(names::serve_guests(engine.clone(), guest.clone()));
    let (zones, zone) = watch::channel(Arc::new(Zone::default()));
    let mut snapshots = engine.snapshots();
    tokio::spawn(async move {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let now = Arc::new(host_zone(&snapshot.desired, &snapshot.actual));
            zones.send_if_modified(|before| {
                let changed = **before != *now;
                *before = now;
                changed
            });
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut said = false;
        loop {
            match names::Server::open().await {
                Ok(server) => return names::serve_host(server, zone).await,
                Err(fault) if !said => tracing::warn!("{}", fault.problem().message),
                Err(_) => {}
            }
            said = true;
            tokio::time::sleep(RETRY_NAMES).await;
        }
    });
}

/// Returns when a signal says so, or when there was nothing to do for long enough.
async fn until_the_end(engine: &Engine, active: &AtomicUsize) -> Result<(), Fault> {
    let mut term = signal(SignalKind::terminate()).during(|| "listening to signals".into())?;
    let mut int = signal(SignalKind::interrupt()).during(|| "listening to signals".into())?;
    let mut idle_for = Duration::ZERO;
    let step = Duration::from_secs(1);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            () = tokio::time::sleep(step) => {}
        }
        let idle = engine.is_idle() && active.load(Ordering::SeqCst) == 0;
        idle_for = if idle { idle_for + step } else { Duration::ZERO };
        if idle_for >= LINGER {
            tracing::info!("nothing is desired and nobody asks");
            return Ok(());
        }
    }
}

/// A program of ours: named by the environment, beside this one, or where packages put it.
fn beside(name: &str, variable: &str) -> Result<PathBuf, Fault> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let own = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join(name)));
    let installed =
        ["/usr/local/lib/banger", "/usr/lib/banger"].map(|folder| PathBuf::from(folder).join(name));
    named.into_iter().chain(own).chain(installed).find(|path| path.is_file()).ok_or_else(|| {
        Fault::host(format!("{name} is not there"))
            .hint(format!("install it beside bangerd, or set {variable}"))
    })
}
