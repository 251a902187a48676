//! A small netlink: it writes links, addresses and bridge ports, and reads what it must know before it writes.
//!
//! One request, one answer, in order; nothing here knows a name of ours.

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const NESTED: u16 = 0x8000;
const UP: u32 = 1;
const NOARP: u32 = 0x80;
/// The kernel's word that a list changed while it was told.
const INTERRUPTED: u16 = 0x10;
/// How often a list is asked for anew.
const TRIES: usize = 10;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: String,
    pub(crate) master: u32,
}

/// An IPv4 network that the host has a route to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) base: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Without a gateway: the network's hosts are next door.
    pub(crate) on_link: bool,
    pub(crate) interface: u32,
}

/// A message under construction, or a part of one.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("attributes are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn nest(&mut self, kind: u16, inner: &Bytes) -> &mut Self {
        self.attribute(kind | NESTED, &inner.0)
    }
}

/// The attributes in a payload.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((header, _)) = bytes.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let Some(value) = bytes.get(4..length) else { break };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_ne_bytes(*four))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> Bytes {
    let mut bytes = vec![family, 0, 0, 0];
    for word in [index, flags, change] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    Bytes(bytes)
}

/// Answers: the type and the payload of each.
type Answers = Vec<(u16, Vec<u8>)>;

/// A socket to the kernel.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// Speaks about interfaces.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Speaks about the firewall.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        Ok(Self(socket_with(kind.0, kind.1, kind.2, protocol)?))
    }

    /// Sends one message and takes every answer up to its end: type and payload.
    fn ask(&self, kind: u16, flags: u16, payload: &Bytes) -> io::Result<Answers> {
        for _ in 0..TRIES {
            if let Some(answers) = self.ask_once(kind, flags, payload)? {
                return Ok(answers);
            }
        }
        Err(io::Error::from_raw_os_error(rustix::io::Errno::AGAIN.raw_os_error()))
    }

    /// As [`Netlink::ask`]; `None` when the list that was told changed meanwhile.
    fn ask_once(&self, kind: u16, flags: u16, payload: &Bytes) -> io::Result<Option<Answers>> {
        let length = u32::try_from(payload.0.len() + 16).expect("messages are short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&payload.0);
        sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (count, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..count];
            while let Some((header, _)) = rest.split_at_checked(16) {
                let length = (number(header) as usize).clamp(16, rest.len());
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                interrupted |= u16::from_ne_bytes([header[6], header[7]]) & INTERRUPTED != 0;
                let body = &rest[16..length];
                match kind {
                    NLMSG_ERROR => {
                        return match i32::from_ne_bytes(number(body).to_ne_bytes()) {
                            0 => Ok(Some(answers)),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    NLMSG_DONE => {
                        // A list that could not be told to its end says so here.
                        let code = i32::from_ne_bytes(number(body).to_ne_bytes());
                        return match code {
                            0.. => Ok((!interrupted).then_some(answers)),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    kind => answers.push((kind, body.to_vec())),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    fn change(&self, kind: u16, flags: u16, payload: &Bytes) -> io::Result<()> {
        self.ask(kind, ACK | flags, payload).map(drop)
    }

    /// Every interface.
    pub(crate) fn links(&self) -> io::Result<Vec<Link>> {
        let answers = self.ask(GETLINK, DUMP, &link_header(0, 0, 0, 0))?;
        Ok(answers.iter().filter_map(|(_, body)| link(body)).collect())
    }

    /// The interface of this name.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge without spanning tree or multicast, down.
    pub(crate) fn add_bridge(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let (mut message, mut info, mut data) =
            (link_header(0, 0, 0, 0), Bytes::default(), Bytes::default());
        // IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING.
        data.attribute(5, &0u32.to_ne_bytes()).attribute(23, &[0]);
        info.text(1, "bridge").nest(2, &data);
        message.text(3, name).attribute(1, &mac).nest(18, &info);
        self.change(NEWLINK, CREATE | EXCLUSIVE, &message)
    }

    /// Names the owner of an interface.
    pub(crate) fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = link_header(0, index, 0, 0);
        message.text(20, alias);
        self.change(SETLINK, 0, &message)
    }

    /// Opens or closes an interface.
    pub(crate) fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        self.change(SETLINK, 0, &link_header(0, index, if up { UP } else { 0 }, UP))
    }

    /// Lets an interface take no part in ARP.
    pub(crate) fn without_arp(&self, index: u32) -> io::Result<()> {
        self.change(SETLINK, 0, &link_header(0, index, NOARP, NOARP))
    }

    /// Makes an interface an isolated port of a bridge that learns nothing: its one address is written down.
    pub(crate) fn make_port(&self, index: u32, bridge: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut message = link_header(0, index, 0, 0);
        message.attribute(10, &bridge.to_ne_bytes());
        self.change(SETLINK, 0, &message)?;
        let (mut message, mut port) = (link_header(AF_BRIDGE, index, 0, 0), Bytes::default());
        // IFLA_BRPORT_LEARNING, UNICAST_FLOOD, MCAST_FLOOD, ISOLATED.
        port.attribute(8, &[0]).attribute(9, &[0]).attribute(27, &[0]).attribute(33, &[1]);
        message.nest(12, &port);
        self.change(SETLINK, 0, &message)?;
        // `struct ndmsg`: a permanent entry (NUD_NOARP) of the port's bridge (NTF_MASTER).
        let mut entry = Bytes(vec![AF_BRIDGE, 0, 0, 0]);
        entry.0.extend_from_slice(&index.to_ne_bytes());
        entry.0.extend_from_slice(&[0x40, 0, 0x04, 0]);
        entry.attribute(2, &mac);
        self.change(NEWNEIGH, CREATE | REPLACE, &entry)
    }

    /// Gives an interface an address.
    pub(crate) fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Bytes(vec![AF_INET, prefix, 0, 0]);
        message.0.extend_from_slice(&index.to_ne_bytes());
        message.attribute(2, &address.octets()).attribute(1, &address.octets());
        self.change(NEWADDR, CREATE | REPLACE, &message)
    }

    /// The IPv4 addresses of an interface.
    pub(crate) fn addresses(&self, index: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let answers = self.ask(GETADDR, DUMP, &Bytes(vec![AF_INET, 0, 0, 0, 0, 0, 0, 0]))?;
        let of = |(_, body): &(u16, Vec<u8>)| {
            let (header, rest) = body.split_at_checked(8)?;
            let local = attributes(rest).into_iter().find(|(kind, _)| *kind == 2)?.1;
            let local: [u8; 4] = local.try_into().ok()?;
            (number(&header[4..]) == index).then(|| (Ipv4Addr::from(local), header[1]))
        };
        Ok(answers.iter().filter_map(of).collect())
    }

    /// Every IPv4 route of the main table but the default one.
    pub(crate) fn routes(&self) -> io::Result<Vec<Route>> {
        let mut header = Bytes(vec![AF_INET]);
        header.0.resize(12, 0);
        let answers = self.ask(GETROUTE, DUMP, &header)?;
        Ok(answers.iter().filter_map(|(_, body)| route(body)).collect())
    }

    /// Removes an interface.
    pub(crate) fn remove(&self, index: u32) -> io::Result<()> {
        self.change(DELLINK, 0, &link_header(0, index, 0, 0))
    }

    /// The number of the firewall's present generation: every change of any rule raises it.
    pub(crate) fn generation(&self) -> io::Result<u32> {
        // Subsystem 10 (nftables), message 16 (NFT_MSG_GETGEN); `struct nfgenmsg` is family, version, resource.
        let answers = self.ask((10 << 8) | 16, ACK, &Bytes(vec![0; 4]))?;
        let find = |(_, body): &(u16, Vec<u8>)| {
            let found = attributes(body.get(4..)?).into_iter().find(|(kind, _)| *kind == 1)?.1;
            found.first_chunk().map(|four| u32::from_be_bytes(*four))
        };
        answers.iter().find_map(find).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_at_checked(16)?;
    let mut link = Link {
        index: number(&header[4..]),
        name: String::new(),
        alias: String::new(),
        kind: String::new(),
        master: 0,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            3 => link.name = text(value),
            10 => link.master = number(value),
            18 => {
                let inner = attributes(value).into_iter().find(|(kind, _)| *kind == 1);
                link.kind = inner.map(|(_, value)| text(value)).unwrap_or_default();
            }
            20 => link.alias = text(value),
            _ => {}
        }
    }
    Some(link)
}

/// `struct rtmsg`: family, length, …, table at 4, type at 7.
fn route(body: &[u8]) -> Option<Route> {
    const MAIN: u8 = 254;
    const UNICAST: u8 = 1;
    let (header, rest) = body.split_at_checked(12)?;
    let (prefix, table, kind) = (header[1], header[4], header[7]);
    let found = attributes(rest);
    let get = |wanted: u16| found.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let base: [u8; 4] = get(1)?.try_into().ok()?;
    (table == MAIN && kind == UNICAST && prefix > 0).then(|| Route {
        base: Ipv4Addr::from(base),
        prefix,
        // Gateway, several ways, or a gateway of another family.
        on_link: [5, 9, 18].iter().all(|kind| get(*kind).is_none()),
        interface: get(4).map(number).unwrap_or_default(),
    })
}
