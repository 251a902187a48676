//! Rules for nftables: two tables of ours, one for what is routed and one for what enters the bridge's ports.
//!
//! Every word of the text is a constant, a number, or a name that was derived here. Nothing of the caller's is in it.

use crate::answer::{At, Bad};
use crate::netlink::Route;
use banger_wire::derive;
use banger_wire::id::InstallId;
use banger_wire::net::{Egress, Policy, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Where distributions put it. Never looked for in a `PATH`.
const PROGRAMS: [&str; 2] = ["/usr/sbin/nft", "/sbin/nft"];

/// What is not the internet: private, special and local addresses (R-V1; the IANA special-purpose registry).
const NOT_PUBLIC: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

/// The program, where it is installed.
pub(crate) fn program() -> Option<&'static Path> {
    PROGRAMS.map(Path::new).into_iter().find(|path| path.is_file())
}

/// A set's elements, or nothing where there are none: an empty list is an error to nft.
fn elements<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}; ", items.join(", "))
    }
}

/// The whole text that replaces both tables in one transaction.
pub(super) fn render(
    table: &str,
    install: &InstallId,
    subnet: Subnet,
    policy: &Policy,
    on_link: &BTreeSet<Route>,
) -> String {
    let (bridge, taps) = (derive::bridge(install), derive::tap_prefix(install));
    let fresh = |family: &str| {
        format!(
            "table {family} {table} {{ }}\ndelete table {family} {table}\ntable {family} {table} {{\n"
        )
    };
    let mut text = fresh("inet");
    text.push_str(&sets(subnet, policy, on_link));
    text.push_str(&routed(&bridge, &taps, subnet, policy));
    text.push_str("}\n");
    text.push_str(&fresh("bridge"));
    text.push_str(&entering(install, &taps, subnet, policy));
    text.push_str("}\n");
    text
}

fn sets(subnet: Subnet, policy: &Policy, on_link: &BTreeSet<Route>) -> String {
    let with = |egress: &[Egress]| {
        elements(policy.ports.iter().filter(|p| egress.contains(&p.2)).map(|p| subnet.address(p.1)))
    };
    let near = on_link.iter().map(|route| format!("{}/{}", route.base, route.prefix));
    let closed = elements(NOT_PUBLIC.map(String::from).into_iter().chain(near));
    let mut text = format!(
        "set closed {{ type ipv4_addr; flags interval; auto-merge; {closed}}}\n\
         set open {{ type ipv4_addr; {}}}\n\
         set public {{ type ipv4_addr; {}}}\n\
         set host {{ type ipv4_addr; {}}}\n",
        with(&[Egress::Open, Egress::Host]),
        with(&[Egress::Public]),
        with(&[Egress::Host])
    );
    let mut groups: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for port in &policy.ports {
        for group in &port.3 {
            groups.entry(*group).or_default().push(subnet.address(port.1).to_string());
        }
    }
    for (group, members) in groups {
        text.push_str(&format!("set group{group} {{ type ipv4_addr; {}}}\n", elements(members)));
    }
    text
}

/// What the host routes. Each packet of a guest is held against its policy, also of connections that exist: a
/// policy that becomes stricter holds at once.
///
/// Frames to some group addresses go past the bridge, as if the port itself were an interface of the host: nothing that
/// comes in so is wanted.
fn routed(bridge: &str, taps: &str, subnet: Subnet, policy: &Policy) -> String {
    let groups: BTreeSet<u16> =
        policy.ports.iter().flat_map(|port| port.3.iter().copied()).collect();
    let peers: String = groups
        .iter()
        .map(|group| {
            format!("oifname \"{bridge}\" ip saddr @group{group} ip daddr @group{group} accept\n")
        })
        .collect();
    format!(
        "chain prerouting {{ type filter hook prerouting priority -300; policy accept;\n\
         iifname \"{taps}*\" drop\n}}\n\
         chain input {{ type filter hook input priority filter - 5; policy accept;\n\
         iifname \"{bridge}\" jump to_host\n}}\n\
         chain forward {{ type filter hook forward priority filter - 5; policy accept;\n\
         iifname \"{bridge}\" jump from_guest\n\
         oifname \"{bridge}\" iifname != \"{bridge}\" jump to_guest\n}}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n}}\n\
         chain to_host {{\n\
         ct state established,related accept\n\
         ip saddr @host accept\n\
         drop\n}}\n\
         chain from_guest {{\n\
         {peers}\
         oifname \"{bridge}\" drop\n\
         ip saddr @open accept\n\
         ip saddr @public ip daddr != @closed accept\n\
         drop\n}}\n\
         chain to_guest {{\n\
         ct state established,related accept\n\
         drop\n}}\n"
    )
}

/// What may enter from a guest's port: its own address, by IPv4 or ARP, and nothing else (R-V3). Every port of the
/// installation is meant, by its name: one that the policy does not know may send nothing.
fn entering(install: &InstallId, taps: &str, subnet: Subnet, policy: &Policy) -> String {
    let tap = |id| format!("\"{}\"", derive::tap(install, id));
    let pins = elements(policy.ports.iter().map(|port| {
        let mac = derive::show_mac(derive::mac(&port.0));
        format!("{} . {mac} . {}", tap(&port.0), subnet.address(port.1))
    }));
    format!(
        "set pins {{ type ifname . ether_addr . ipv4_addr; {pins}}}\n\
         chain prerouting {{ type filter hook prerouting priority -300; policy accept;\n\
         iifname \"{taps}*\" jump guest\n}}\n\
         chain guest {{\n\
         ether type ip iifname . ether saddr . ip saddr @pins accept\n\
         ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation {{ request, reply }} \
         iifname . ether saddr . arp saddr ip @pins iifname . arp saddr ether . arp saddr ip @pins accept\n\
         drop\n}}\n"
    )
}

/// The chain that tells later what was written here.
pub(super) fn mark(table: &str, meant: &str, listed: &str) -> String {
    format!("add chain inet {table} mark_{meant}_{listed}\n")
}

/// Both tables as the kernel has them.
pub(super) struct Listed {
    /// Without the mark, in an order that does not depend on the kernel's.
    pub(super) rules: String,
    /// What was meant and what was listed when it was written.
    pub(super) mark: Option<(String, String)>,
}

/// Lists both tables. `None` when the first is not there.
pub(super) fn list(table: &str) -> Result<Option<Listed>, Bad> {
    // One after the other: nft 1.0 finds neither when it is asked for tables of two families at once.
    let list = |family| start(&["-s", "list", "table", family, table], "").at("listing the rules");
    let (inet, bridge) = (list("inet")?, list("bridge")?);
    if inet.status.success() && bridge.status.success() {
        let text = [inet.stdout, bridge.stdout].concat();
        return Ok(Some(read(&String::from_utf8_lossy(&text))));
    }
    let inet = format!("table inet {table}");
    // One of the two without the other is not what we wrote.
    let half = || Listed { rules: String::new(), mark: None };
    Ok(tables()?.contains(&inet).then(half))
}

/// The names of all tables, as `table inet NAME`.
pub(super) fn tables() -> Result<BTreeSet<String>, Bad> {
    let said = start(&["list", "tables"], "").at("listing the tables")?;
    if !said.status.success() {
        return Err(failed(&said));
    }
    Ok(String::from_utf8_lossy(&said.stdout).lines().map(|line| line.trim().to_string()).collect())
}

fn read(text: &str) -> Listed {
    let mut mark = None;
    let mut lines = Vec::new();
    let mut in_mark = false;
    let mut elements: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain mark_") {
            let digests = name.trim_end_matches([' ', '{']).split_once('_');
            mark = digests.map(|(meant, listed)| (meant.to_string(), listed.to_string()));
            in_mark = true;
        } else if in_mark {
            in_mark = line != "}";
        } else if let Some(more) = &mut elements {
            more.push_str(line);
        } else if line.starts_with("elements =") {
            elements = Some(line.to_string());
        } else if !line.is_empty() {
            lines.push(line.to_string());
        }
        if let Some(whole) = elements.take_if(|whole| whole.ends_with('}')) {
            let inner = whole.trim_start_matches("elements = {").trim_end_matches('}');
            let mut parts: Vec<&str> = inner.split(',').map(str::trim).collect();
            parts.sort_unstable();
            lines.push(parts.join(","));
        }
    }
    Listed { rules: lines.join("\n"), mark }
}

/// Removes both tables. Returns whether there was any.
pub(super) fn remove(table: &str) -> Result<bool, Bad> {
    let tables = tables()?;
    let ours = ["inet", "bridge"].map(|family| format!("table {family} {table}"));
    let found: Vec<&String> = ours.iter().filter(|own| tables.contains(*own)).collect();
    if !found.is_empty() {
        run(&found.iter().map(|table| format!("delete {table}\n")).collect::<String>())?;
    }
    Ok(!found.is_empty())
}

/// Gives nft a text: all of it takes effect, or nothing.
pub(super) fn run(text: &str) -> Result<(), Bad> {
    let said = start(&["-f", "-"], text).at("setting the rules")?;
    if said.status.success() { Ok(()) } else { Err(failed(&said)) }
}

fn failed(said: &Output) -> Bad {
    let words = String::from_utf8_lossy(&said.stderr);
    eprintln!("banger-helper: nft: {}", words.lines().next().unwrap_or("no reason"));
    Bad::Failed("nft", rustix::io::Errno::INVAL.into())
}

fn start(arguments: &[&str], input: &str) -> io::Result<Output> {
    let program = program().ok_or(io::ErrorKind::NotFound)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // nft reads all of its input before it writes, so neither waits for the other.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let said = child.wait_with_output()?;
    written.map(|()| said)
}

#[cfg(test)]
mod tests;
