//! What the guest says about itself, and the identity it has. One value, watched by every connection.

use banger_wire::agent::{GuestState, Identity, Phase};
use banger_wire::id::Generation;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

/// Shared by everything in the server.
#[derive(Clone)]
pub(crate) struct State {
    guest: Arc<watch::Sender<GuestState>>,
    identity: Arc<RwLock<Option<Identity>>>,
    serves_ssh: Arc<AtomicBool>,
    service: Arc<Mutex<Option<u32>>>,
}

impl State {
    /// A guest that waits for its identity.
    pub(crate) fn new() -> Self {
        let guest = GuestState {
            version: env!("CARGO_PKG_VERSION").to_string(),
            boot_id: String::new(),
            generation: Generation(0),
            phase: Phase::Waiting,
            detail: String::new(),
        };
        let (guest, identity) = (Arc::new(watch::channel(guest).0), Arc::new(RwLock::new(None)));
        Self { guest, identity, serves_ssh: Arc::default(), service: Arc::default() }
    }

    /// Whether the network's SSH server was started before. It is from now on.
    pub(crate) fn serves_ssh(&self) -> bool {
        self.serves_ssh.swap(true, Ordering::SeqCst)
    }

    /// The service's process, as long as it runs.
    pub(crate) fn service(&self) -> Option<u32> {
        *self.service.lock().expect("no holder panics")
    }

    pub(crate) fn set_service(&self, process: Option<u32>) {
        *self.service.lock().expect("no holder panics") = process;
    }

    /// Says which boot this is. Not before there is an identity: until then the memory may be the beginning of many guests.
    pub(crate) fn set_boot_id(&self) {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.guest.send_modify(|guest| guest.boot_id = boot_id.trim().to_string());
    }

    /// Sees every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<GuestState> {
        self.guest.subscribe()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.guest.borrow().phase
    }

    pub(crate) fn set_phase(&self, phase: Phase, detail: impl Into<String>) {
        let detail = detail.into();
        self.guest.send_modify(|guest| {
            // Nothing comes back from the way out.
            if guest.phase != Phase::Leaving {
                guest.phase = phase;
                guest.detail = detail;
            }
        });
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity.read().expect("no writer panics").clone()
    }

    /// Takes on an identity: what the host sees is this generation from now on.
    pub(crate) fn set_identity(&self, identity: Identity, phase: Phase) {
        let generation = identity.generation;
        *self.identity.write().expect("no writer panics") = Some(identity);
        self.guest.send_modify(|guest| {
            guest.generation = generation;
            if guest.phase != Phase::Leaving {
                guest.phase = phase;
                guest.detail.clear();
            }
        });
    }
}
