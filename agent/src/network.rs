//! The guest's network card, set up as its identity says, and kept from the image's own network software.

use crate::{Error, at, sys};
use banger_wire::agent::Network;
use banger_wire::derive::show_mac;
use std::fs;
use std::path::Path;

/// Brings the loopback up, and the card when there is one to set up.
pub(crate) fn set_up(network: Option<&Network>) -> Result<(), Error> {
    at("loopback", sys::set_up("lo"))?;
    let Some(network) = network else { return Ok(()) };
    let name = card(network)?;
    leave_alone(&name);
    at("network address", sys::set_address(&name, network.address, network.prefix))?;
    at("network card", sys::set_up(&name))?;
    at("route to the gateway", sys::add_route(&name, Some(network.gateway), None))?;
    at("default route", sys::add_route(&name, None, Some(network.gateway)))
}

/// Makes the card of a guest that goes on from a memory another's: what it knew of its network holds no more.
pub(crate) fn change(before: &Network, network: &Network) -> Result<(), Error> {
    if before != network {
        at("network card", sys::set_down(&card(before)?))?;
        set_up(Some(network))?;
    }
    Ok(())
}

/// The name of the card with this hardware address. The only card gets it, when it has another: it is the one of the
/// machine whose memory this was.
fn card(network: &Network) -> Result<String, Error> {
    let mut cards = Vec::new();
    for entry in at("network cards", fs::read_dir("/sys/class/net"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // What has no device behind it is the kernel's own.
        if entry.path().join("device").exists() {
            let mac = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            cards.push((name, mac.trim().to_string()));
        }
    }
    let is_it = |mac: &str| network.mac.map(show_mac).is_none_or(|wanted| mac == wanted);
    if let Some((name, _)) = cards.iter().find(|(_, mac)| is_it(mac)) {
        return Ok(name.clone());
    }
    match (cards.as_slice(), network.mac) {
        ([(name, _)], Some(mac)) => {
            at("hardware address", sys::set_mac(name, mac))?;
            Ok(name.clone())
        }
        _ => Err("there is no network card".into()),
    }
}

/// Tells the network software that an image may have that this card is taken care of. What is not there is not told.
fn leave_alone(name: &str) {
    for (folder, file, text) in [
        (
            "/run/systemd/network",
            "00-banger.network",
            format!("[Match]\nName={name}\n\n[Link]\nUnmanaged=yes\n"),
        ),
        (
            "/run/NetworkManager/conf.d",
            "00-banger.conf",
            format!("[keyfile]\nunmanaged-devices=interface-name:{name}\n"),
        ),
    ] {
        let folder = Path::new(folder);
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(file), text));
    }
}
