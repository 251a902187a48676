//! Lets systemd-resolved ask the caller's DNS server for names below `vm`, by the link of its bridge and by nothing
//! else (R-D4). What it knows of a link goes with the link.

use crate::answer::{Answer, At, Bad};
use crate::link;
use crate::netlink::Netlink;
use crate::table::Caller;
use banger_wire::derive::{self, DNS_PORT};
use banger_wire::helper::Reply;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/bin/resolvectl";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where systemd-resolved keeps what it knows of links, a file for each. Only root can read it.
const STATE: &str = "/run/systemd/resolve";

/// Whether it asks the caller's server, by the link of its bridge. `None` where it does not run, or there is no bridge.
pub(crate) fn is_routed(caller: &Caller) -> Result<Option<bool>, Bad> {
    // Its folder outlives it; whoever listens is alive.
    let alive = UnixStream::connect(format!("{STATE}/io.systemd.Resolve")).is_ok();
    if !alive || !Path::new(PROGRAM).is_file() {
        return Ok(None);
    }
    let netlink = Netlink::route().at("opening netlink")?;
    let Some(bridge) = link::own(&netlink, caller, None)? else { return Ok(None) };
    let known = fs::read_to_string(format!("{STATE}/netif/{}", bridge.index)).unwrap_or_default();
    let has = |line: &str| known.lines().any(|known| known == line);
    Ok(Some(has(&format!("SERVERS=127.0.0.1:{DNS_PORT}")) && has("DOMAINS=~vm")))
}

pub(crate) fn run(caller: &Caller) -> Answer {
    let netlink = Netlink::route().at("opening netlink")?;
    link::own(&netlink, caller, None)?.ok_or(Bad::Refused("there is no bridge"))?;
    let bridge = derive::bridge(caller.install()?);
    // Exactly 127.0.0.1: other loopback addresses fail on a link.
    let server = format!("127.0.0.1:{DNS_PORT}");
    // First, so that it is never asked for other names; old versions do not know it and do not need it.
    tell(["default-route", &bridge, "false"])?;
    for arguments in [["dns", &bridge, &server], ["domain", &bridge, "~vm"]] {
        if !tell(arguments)? {
            return Err(Bad::Refused("the host's resolver does not take it"));
        }
    }
    Ok(Reply::Changed)
}

/// Tells the resolver; whether it took it.
fn tell(arguments: [&str; 3]) -> Result<bool, Bad> {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .at("starting resolvectl")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().at("waiting for resolvectl")? {
            return Ok(status.success());
        }
        if start.elapsed() > PATIENCE {
            child.kill().and_then(|()| child.wait()).at("ending resolvectl")?;
            return Ok(false);
        }
        sleep(Duration::from_millis(5));
    }
}
