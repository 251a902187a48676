//! The host's bridge and its ports as netlink tells them, and its rules as the helper tells them.

use crate::drivers::{NetChange, Outcome};
use crate::fault::Fault;
use crate::helper::Helper;
use banger_plan::actual::{BridgeFact, NetworkFact, RulesFact, Seen, TapFact};
use banger_plan::desired::Desired;
use banger_plan::policy::policy;
use banger_wire::derive;
use banger_wire::helper::{NetworkSupport, Rules};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::net::Subnet;
use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The bridge of an installation.
pub(super) struct Bridge {
    install: InstallId,
    uid: u32,
    helper: Option<Helper>,
    /// Set once it was seen that the host lacks nothing.
    complete: OnceLock<()>,
    /// Set once the host's resolver did not take our names: it is left alone then.
    unroutable: AtomicBool,
}

/// An interface, as far as it matters here.
struct Interface {
    index: u32,
    name: String,
    alias: String,
    master: u32,
    up: bool,
    isolated: bool,
}

/// What all ports of sandboxes look like, or why it cannot be told.
type Taps = Result<BTreeMap<SandboxId, TapFact>, String>;

impl Bridge {
    pub(super) fn new(install: InstallId, helper: Option<Helper>) -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self { install, uid, helper, complete: OnceLock::new(), unroutable: AtomicBool::new(false) }
    }

    pub(super) async fn change(&self, change: NetChange) -> Result<Outcome, Fault> {
        let Some(helper) = self.helper.clone() else {
            return Err(Fault::host("the network cannot be changed without the root helper"));
        };
        let names = change == NetChange::RouteNames;
        // The helper runs other programs: a thread waits for it.
        let asked = tokio::task::spawn_blocking(move || helper.network(&change)).await;
        let outcome = asked.map_err(|error| Fault::host(format!("asking the helper: {error}")))?;
        if let (Err(fault), true) = (&outcome, names) {
            // Sandboxes run as well without names on the host.
            tracing::warn!("names are not routed: {}", fault.problem().message);
            self.unroutable.store(true, Ordering::Relaxed);
            return Ok(Outcome::Unchanged);
        }
        outcome
    }

    pub(super) async fn observe(&self, desired: &Desired) -> (Seen<NetworkFact>, Taps) {
        let missing = match self.support() {
            Ok(missing) => missing,
            Err(fault) => {
                let why = fault.problem().message;
                return (Seen::Unknown(why.clone()), Err(why));
            }
        };
        match self.look(desired, missing).await {
            Ok((network, taps)) => (Seen::Present(network), Ok(taps)),
            Err(fault) => {
                let why = fault.problem().message;
                (Seen::Unknown(why.clone()), Err(why))
            }
        }
    }

    /// What the host lacks.
    fn support(&self) -> Result<Option<String>, Fault> {
        if self.complete.get().is_some() {
            return Ok(None);
        }
        let Some(helper) = &self.helper else {
            return Ok(Some("banger does not run as root and has no helper".to_string()));
        };
        Ok(match helper.probe()?.network {
            NetworkSupport::Full => {
                self.complete.get_or_init(|| ());
                None
            }
            NetworkSupport::NoNft => Some("nft is not installed: apt install nftables".into()),
            NetworkSupport::NoTun => Some("there is no /dev/net/tun".into()),
            NetworkSupport::NoRight => Some("the helper may not change the network".into()),
        })
    }

    async fn look(
        &self,
        desired: &Desired,
        missing: Option<String>,
    ) -> Result<(NetworkFact, BTreeMap<SandboxId, TapFact>), Fault> {
        if missing.is_some() {
            let (bridge, rules) = (BridgeFact::Absent, RulesFact::Absent);
            let strangers = BTreeMap::new();
            let network = NetworkFact { missing, bridge, rules, strangers, names_routed: None };
            return Ok((network, BTreeMap::new()));
        }
        let netlink = connect()?;
        let interfaces = interfaces(&netlink).await?;
        let name = derive::bridge(&self.install);
        let found = interfaces.iter().find(|interface| interface.name == name);
        let bridge = match found {
            None => BridgeFact::Absent,
            Some(bridge) => {
                let right = bridge.up
                    && forwards()
                    && bridge.alias == derive::alias(self.uid, &self.install, None)
                    && match desired.subnet {
                        Some(subnet) => {
                            addresses(&netlink, bridge.index).await?.contains(&subnet.gateway())
                        }
                        None => false,
                    };
                if right { BridgeFact::Right } else { BridgeFact::Different }
            }
        };
        let taps = interfaces.iter().filter_map(|interface| {
            let sandbox = derive::parse_tap_alias(self.uid, &self.install, &interface.alias)?;
            let right = found.is_some_and(|bridge| interface.master == bridge.index)
                && interface.isolated
                && interface.name == derive::tap(&self.install, &sandbox);
            Some((sandbox, TapFact { up: interface.up, right }))
        });
        let taps: BTreeMap<SandboxId, TapFact> = taps.collect();
        let strangers = taps.iter().filter(|(id, _)| !desired.sandboxes.contains_key(id));
        let strangers = strangers.map(|(id, tap)| (id.clone(), *tap)).collect();
        // What cannot be read is not enforced: ports are closed, and can still be removed.
        let (rules, names_routed) = self.rules(desired).await.unwrap_or_else(|fault| {
            tracing::warn!("the rules cannot be read: {}", fault.problem().message);
            (RulesFact::Unreadable, None)
        });
        let names_routed = names_routed.filter(|_| !self.unroutable.load(Ordering::Relaxed));
        let network = NetworkFact { missing, bridge, rules, strangers, names_routed };
        Ok((network, taps))
    }

    /// How the rules are, and whether names are routed.
    async fn rules(&self, desired: &Desired) -> Result<(RulesFact, Option<bool>), Fault> {
        let (Some(helper), Some(subnet)) = (self.helper.clone(), desired.subnet) else {
            return Ok((RulesFact::Absent, None));
        };
        let policy = policy(desired);
        let asked = tokio::task::spawn_blocking(move || helper.rules(subnet, policy)).await;
        let (rules, names_routed) =
            asked.map_err(|error| Fault::host(format!("asking the helper: {error}")))??;
        let rules = match rules {
            Rules::Absent => RulesFact::Absent,
            Rules::Altered => RulesFact::Altered,
            Rules::Older => RulesFact::Older,
            Rules::Current => RulesFact::Current,
        };
        Ok((rules, names_routed))
    }
}

/// Whether the host passes packets on.
pub fn forwards() -> bool {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    text.trim() == "1"
}

/// Opens netlink in the network namespace of this process.
fn connect() -> Result<Handle, Fault> {
    let fail = |error| Fault::io("opening netlink", error);
    let (connection, handle, _) = rtnetlink::new_connection().map_err(fail)?;
    // It ends with its last handle.
    tokio::spawn(connection);
    Ok(handle)
}

fn failed(what: &str) -> impl Fn(rtnetlink::Error) -> Fault {
    let what = what.to_string();
    move |error| Fault::host(format!("{what}: {error}"))
}

async fn interfaces(netlink: &Handle) -> Result<Vec<Interface>, Fault> {
    let links = netlink.link().get().execute().map_ok(interface);
    links.try_collect().await.map_err(failed("looking at interfaces"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has hundreds of attributes")]
fn interface(link: LinkMessage) -> Interface {
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        alias: String::new(),
        master: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        isolated: false,
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::IfAlias(alias) => found.alias = alias,
            LinkAttribute::Controller(index) => found.master = index,
            LinkAttribute::LinkInfo(parts) => {
                found.isolated = parts.iter().any(|part| {
                    matches!(part, LinkInfo::PortData(InfoPortData::BridgePort(port))
                        if port.contains(&InfoBridgePort::Isolated(true)))
                });
            }
            _ => {}
        }
    }
    found
}

async fn addresses(netlink: &Handle, index: u32) -> Result<Vec<Ipv4Addr>, Fault> {
    let mut all = netlink.address().get().set_link_index_filter(index).execute();
    let mut found = Vec::new();
    while let Some(message) = all.try_next().await.map_err(failed("looking at addresses"))? {
        found.extend(message.attributes.iter().filter_map(|attribute| {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                Some(*address)
            } else {
                None
            }
        }));
    }
    Ok(found)
}

/// Which subnets overlap no route of the host but the installation's own.
///
/// # Errors
/// When the routes cannot be read.
pub async fn is_free(install: &InstallId) -> Result<impl Fn(Subnet) -> bool + use<>, Fault> {
    let netlink = connect()?;
    let name = derive::bridge(install);
    let own = interfaces(&netlink).await?.into_iter().find(|i| i.name == name).map(|i| i.index);
    let wanted = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut routes = netlink.route().get(wanted).execute();
    let mut taken: Vec<(Ipv4Addr, u8)> = Vec::new();
    while let Some(route) = routes.try_next().await.map_err(failed("looking at routes"))? {
        taken.extend(destination(&route, own));
    }
    Ok(move |subnet: Subnet| !taken.iter().any(|(base, prefix)| subnet.overlaps(*base, *prefix)))
}

/// The bytes that each interface sent and received, by its name.
///
/// # Errors
/// When they cannot be read.
#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has hundreds of attributes")]
pub async fn traffic() -> Result<BTreeMap<String, (u64, u64)>, Fault> {
    let netlink = connect()?;
    let mut links = netlink.link().get().execute();
    let mut found = BTreeMap::new();
    while let Some(link) = links.try_next().await.map_err(failed("looking at interfaces"))? {
        let (mut name, mut bytes) = (String::new(), (0, 0));
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = text,
                LinkAttribute::Stats64(stats) => bytes = (stats.tx_bytes, stats.rx_bytes),
                _ => {}
            }
        }
        found.insert(name, bytes);
    }
    Ok(found)
}

/// The network that a route leads to, unless it is the default, a local one, or leads to our own bridge.
fn destination(route: &RouteMessage, own: Option<u32>) -> Option<(Ipv4Addr, u8)> {
    let prefix = route.header.destination_prefix_length;
    let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    let ours = route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(index) if Some(*index) == own));
    let base = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(base)) = attribute {
            Some(*base)
        } else {
            None
        }
    })?;
    (main && !ours && prefix > 0).then_some((base, prefix))
}
