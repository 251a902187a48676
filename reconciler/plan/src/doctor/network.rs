//! The network of guests.

use super::{Gathered, Helper, Said};
use banger_wire::api::facts::Bridge;
use banger_wire::derive::DNS_PORT;
use banger_wire::helper::NetworkSupport;
use banger_wire::net::Subnet;

pub(super) fn support(gathered: &Gathered) -> Option<Said> {
    let support = match gathered.helper() {
        Helper::Sees(facts) => facts.network,
        Helper::Unknown if !gathered.host.tun => NetworkSupport::NoTun,
        Helper::Unknown if gathered.lacks("nft") => NetworkSupport::NoNft,
        Helper::Unknown => NetworkSupport::Full,
        // The helper's check says it.
        Helper::None | Helper::Mute => return None,
    };
    let lacking = |what: &str| format!("{what}: only egress \"none\" and \"host\" can be had");
    match support {
        NetworkSupport::Full => Said::ok("nft and /dev/net/tun are there"),
        NetworkSupport::NoNft => Said::fail(lacking("nft is not there"), "apt install nftables"),
        NetworkSupport::NoTun => {
            Said::fail(lacking("/dev/net/tun is not there, or not for us"), "modprobe tun")
        }
        NetworkSupport::NoRight => Said::fail(
            lacking("the helper may not change the network"),
            "give this container CAP_NET_ADMIN",
        ),
    }
}

pub(super) fn subnet(gathered: &Gathered) -> Option<Said> {
    let facts = gathered.facts()?;
    let free = facts.free.as_ref().filter(|_| facts.helper.is_some())?;
    let Some(subnet) = facts.subnet else {
        let all: Vec<String> = Subnet::all().map(|subnet| subnet.to_string()).collect();
        return Said::fail(
            "every subnet that banger may use overlapped a route of the host when the daemon began",
            format!("free one of these, see: ip route; {}", all.join(", ")),
        );
    };
    if free.contains(&subnet) {
        return Said::ok(format!("{subnet} overlaps no route of the host"));
    }
    Said::fail(
        format!("{subnet} overlaps a route of the host: answers to sandboxes may go astray"),
        "remove that route, see: ip route; a daemon that begins without sandboxes takes another subnet",
    )
}

fn bridge(gathered: &Gathered) -> Option<Bridge> {
    gathered.facts()?.bridge
}

pub(super) fn forwarding(gathered: &Gathered) -> Option<Said> {
    if bridge(gathered)?.forwards {
        return Said::ok("the host passes on the packets of sandboxes");
    }
    Said::fail(
        "net.ipv4.ip_forward is 0: sandboxes reach nobody",
        "sysctl -w net.ipv4.ip_forward=1, and see who sets it to 0",
    )
}

pub(super) fn rules(gathered: &Gathered) -> Option<Said> {
    if bridge(gathered)?.enforced {
        return Said::ok("they are as they were written");
    }
    Said::fail(
        "they are not as they were written: ports of sandboxes close until they are again",
        "see who changes them: nft monitor",
    )
}

pub(super) fn names(gathered: &Gathered) -> Option<Said> {
    let hint =
        format!("let the host's resolver ask 127.0.0.1, port {DNS_PORT}, for names below vm");
    match bridge(gathered)?.names_routed {
        Some(true) => Said::ok("the host's resolver asks us for names below vm"),
        Some(false) => Said::warn("the host's resolver does not ask us for names below vm", hint),
        None => Said::warn(
            "the host has no systemd-resolved that would ask us for names below vm",
            hint,
        ),
    }
}
