//! Machines that this daemon lets stand still right now: nobody else lets them go on meanwhile.

use banger_wire::id::SandboxId;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Which they are.
#[derive(Clone, Default)]
pub(super) struct Still(Arc<Mutex<BTreeSet<SandboxId>>>);

/// One of them, until it is dropped.
pub(super) struct Hold(Still, SandboxId);

impl Still {
    /// Takes one for as long as the answer lives, unless somebody has it.
    pub(super) fn by(self, id: &SandboxId) -> Option<Hold> {
        let new = self.0.lock().expect("no holder panics").insert(id.clone());
        new.then(|| Hold(self, id.clone()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.lock().expect("no holder panics").remove(&self.1);
    }
}
