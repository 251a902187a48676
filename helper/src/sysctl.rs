//! The kernel's settings for a bridge, and the one of the host that guests need. Only what differs is written.

use crate::answer::{At, Bad};
use std::fs;

/// No IPv6, no router's advertisements, no redirects, no answers for others, on this interface.
pub(crate) fn bridge(name: &str) -> Result<(), Bad> {
    for (path, value) in [
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/disable_ipv6"), "1"),
        (format!("net/ipv4/conf/{name}/accept_redirects"), "0"),
        (format!("net/ipv4/conf/{name}/send_redirects"), "0"),
        (format!("net/ipv4/conf/{name}/proxy_arp"), "0"),
        (format!("net/ipv4/conf/{name}/route_localnet"), "0"),
        (format!("net/ipv4/conf/{name}/rp_filter"), "1"),
    ] {
        set(&path, value)?;
    }
    Ok(())
}

/// A port is the bridge's: the host itself neither speaks nor listens there.
pub(crate) fn port(name: &str) -> Result<(), Bad> {
    for (path, value) in [
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/disable_ipv6"), "1"),
        (format!("net/ipv4/conf/{name}/rp_filter"), "1"),
        (format!("net/ipv4/conf/{name}/arp_ignore"), "8"),
    ] {
        set(&path, value)?;
    }
    Ok(())
}

/// Lets the host pass packets on. It stays so when banger is gone: others may rely on it by then.
pub(crate) fn forward() -> Result<(), Bad> {
    set("net/ipv4/ip_forward", "1")
}

/// A kernel without IPv6 has none of its settings.
fn set(path: &str, value: &str) -> Result<(), Bad> {
    let path = format!("/proc/sys/{path}");
    match fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => fs::write(&path, value).at("setting up forwarding"),
    }
}
