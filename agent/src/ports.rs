//! Which ports the guest's programs listen on, as its kernel tells.

use banger_wire::agent::ListeningPort;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most that are told.
const MOST: usize = 1024;

/// All of them, each once.
pub(crate) fn listening() -> Vec<ListeningPort> {
    let programs = programs();
    let mut found = BTreeSet::new();
    // A TCP socket listens in state 0A; a UDP socket without a peer in state 07.
    for (table, protocol, state) in
        [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")]
    {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        found
            .extend(text.lines().skip(1).filter_map(|line| port(line, protocol, state, &programs)));
    }
    found.into_iter().take(MOST).collect()
}

fn port(
    line: &str,
    protocol: &str,
    state: &str,
    programs: &HashMap<String, String>,
) -> Option<ListeningPort> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != state {
        return None;
    }
    let program = programs.get(*fields.get(9)?).cloned().unwrap_or_default();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(ListeningPort { protocol: protocol.into(), address: ip(address)?, port, program })
}

/// Words of four bytes, each in the order of this processor.
fn ip(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The programs by the number of each of their sockets.
fn programs() -> HashMap<String, String> {
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let number = target.to_string_lossy().into_owned();
            if let Some(number) = number.strip_prefix("socket:[").and_then(|n| n.strip_suffix(']'))
            {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.insert(number.to_string(), name.trim().to_string());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let programs = HashMap::from([("4242".to_string(), "nginx".to_string())]);
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0";
        let found = port(line, "tcp", "0A", &programs).expect("listens");
        assert_eq!((found.address, found.port), (Ipv4Addr::LOCALHOST.into(), 8080));
        assert_eq!(found.program, "nginx");
        assert_eq!(port(line, "tcp", "07", &programs), None);
        assert_eq!(port("nonsense", "tcp", "0A", &programs), None);
        let six = ip("00000000000000000000000001000000").expect("an address");
        assert_eq!(six, IpAddr::from(Ipv6Addr::LOCALHOST));
    }
}
