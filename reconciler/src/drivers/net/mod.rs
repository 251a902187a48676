//! How guests are connected: `bridge` reads the host's bridge, its ports and its rules, and lets the helper change
//! them; `loopback` carries published ports over vsock, which needs no helper.

mod bridge;
mod loopback;

use super::guest::VsockGuest;
use super::{Net, NetChange, NetFacts, Outcome};
use crate::fault::Fault;
use crate::helper::Helper;
use async_trait::async_trait;
use banger_plan::desired::Desired;
use banger_wire::id::{InstallId, SandboxId};
use std::sync::Arc;

pub use bridge::{forwards, is_free, traffic};

/// The real one.
pub struct HostNet {
    bridge: bridge::Bridge,
    loopback: loopback::Loopback,
}

impl HostNet {
    /// Changes the network of the host through this helper; without one there is none.
    pub fn new(install: InstallId, helper: Option<Helper>, guest: Arc<VsockGuest>) -> Self {
        let loopback = loopback::Loopback::new(guest);
        Self { bridge: bridge::Bridge::new(install, helper), loopback }
    }
}

#[async_trait]
impl Net for HostNet {
    async fn observe(&self, desired: &Desired) -> NetFacts {
        let (network, taps) = self.bridge.observe(desired).await;
        NetFacts { network, taps, ports: self.loopback.observe() }
    }

    async fn change(&self, change: NetChange) -> Result<Outcome, Fault> {
        self.bridge.change(change).await
    }

    async fn publish(&self, sandbox: &SandboxId, host: u16, guest: u16) -> Result<Outcome, Fault> {
        self.loopback.publish(sandbox, host, guest).await
    }

    async fn unpublish(&self, sandbox: &SandboxId, host: u16) -> Result<Outcome, Fault> {
        Ok(self.loopback.unpublish(sandbox, host))
    }
}
