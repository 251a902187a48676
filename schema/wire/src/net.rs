//! Numbers and words of the network: which subnet, which address, which way out. Addresses are derived here, once.

use crate::id::{IdError, SandboxId};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One of the subnets that banger may use, by its place in a fixed list: 0 to 15. Each is a /20.
///
/// The list stays clear of what Docker, Kubernetes, libvirt, Lima and common routers choose first, and is spread over
/// three private ranges: a tunnel may have a route to the whole of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Subnet(u8);

impl Subnet {
    /// The length of its prefix.
    pub const PREFIX: u8 = 20;
    /// How many there are.
    pub const COUNT: u8 = 16;
    /// The first two bytes of the subnets' addresses: four subnets for each.
    const NETWORKS: [[u8; 2]; 4] = [[10, 213], [10, 59], [172, 29], [198, 19]];

    /// Checks and wraps a place in the list.
    ///
    /// # Errors
    /// When it is 16 or more.
    pub fn new(place: u8) -> Result<Self, IdError> {
        if place < Self::COUNT {
            Ok(Self(place))
        } else {
            Err(IdError { what: "subnet", rule: format!("{place} is not below {}", Self::COUNT) })
        }
    }

    /// Every subnet, in the order of choosing.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Its first address.
    pub fn base(self) -> Ipv4Addr {
        let [first, second] = Self::NETWORKS[usize::from(self.0 / 4)];
        Ipv4Addr::new(first, second, 64 * (self.0 % 4), 0)
    }

    /// The host's own address in it, which is the guests' gateway.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base().to_bits() + 1)
    }

    /// A guest's address in it.
    pub fn address(self, host: HostNumber) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base().to_bits() + u32::from(host.0))
    }

    /// Whether another network has an address in common with it.
    pub fn overlaps(self, base: Ipv4Addr, prefix: u8) -> bool {
        let shorter = u32::from(prefix.min(Self::PREFIX));
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        (self.base().to_bits() & mask) == (base.to_bits() & mask)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base(), Self::PREFIX)
    }
}

impl TryFrom<u8> for Subnet {
    type Error = IdError;
    fn try_from(place: u8) -> Result<Self, IdError> {
        Self::new(place)
    }
}

impl From<Subnet> for u8 {
    fn from(subnet: Subnet) -> u8 {
        subnet.0
    }
}

/// The number of a guest in its subnet: 2 to 4094. 1 is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct HostNumber(u16);

impl HostNumber {
    /// The first that a guest may have.
    pub const FIRST: u16 = 2;
    /// The last.
    pub const LAST: u16 = 4094;

    /// Checks and wraps a number.
    ///
    /// # Errors
    /// When it is not between 2 and 4094.
    pub fn new(number: u16) -> Result<Self, IdError> {
        if (Self::FIRST..=Self::LAST).contains(&number) {
            Ok(Self(number))
        } else {
            Err(IdError { what: "host number", rule: format!("{number} is not a guest's") })
        }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for HostNumber {
    type Error = IdError;
    fn try_from(number: u16) -> Result<Self, IdError> {
        Self::new(number)
    }
}

impl From<HostNumber> for u16 {
    fn from(host: HostNumber) -> u16 {
        host.0
    }
}

/// Where a sandbox may connect to, besides the sandboxes on its networks.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// Nowhere.
    None,
    /// The internet: not the host, not its networks, no private or special address (R-V1).
    #[default]
    Public,
    /// Wherever the host may, but not the host itself.
    Open,
    /// As open, and the host itself.
    Host,
}

impl std::fmt::Display for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Egress::None => "none",
            Egress::Public => "public",
            Egress::Open => "open",
            Egress::Host => "host",
        })
    }
}

/// What the host enforces for its sandboxes: the whole of it, so that it can be replaced in one step. A port that it
/// does not name passes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// By id. At most [`Policy::MAX`].
    pub ports: Vec<PolicyPort>,
}

impl Policy {
    /// The most sandboxes: a bridge takes 1,023 ports.
    pub const MAX: usize = 1000;
    /// The most groups that one sandbox may be in.
    pub const MAX_GROUPS: usize = 16;
}

/// One sandbox in a [`Policy`]: its port, its address, its way out, and the groups whose members reach each other.
///
/// It is a tuple in JSON, because a message to the helper is short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyPort(pub SandboxId, pub HostNumber, pub Egress, pub Vec<u16>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_apart_and_their_addresses_inside() {
        let all: Vec<Subnet> = Subnet::all().collect();
        assert_eq!(all.len(), 16);
        for (at, subnet) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert!(!subnet.overlaps(other.base(), Subnet::PREFIX), "{subnet} and {other}");
            }
            let last = subnet.address(HostNumber::new(HostNumber::LAST).expect("good"));
            assert!(subnet.overlaps(last, 32) && subnet.overlaps(subnet.gateway(), 32));
        }
        assert_eq!(all[0].to_string(), "10.213.0.0/20");
        assert_eq!(all[15].to_string(), "198.19.192.0/20");
    }

    #[test]
    fn overlaps_go_by_the_shorter_prefix() {
        let subnet = Subnet::new(0).expect("good");
        for (base, prefix, overlaps) in [
            ([10, 0, 0, 0], 8, true),
            ([0, 0, 0, 0], 0, true),
            ([10, 213, 15, 255], 32, true),
            ([10, 213, 16, 0], 32, false),
            ([10, 213, 8, 0], 24, true),
            ([192, 168, 0, 0], 16, false),
        ] {
            assert_eq!(
                subnet.overlaps(Ipv4Addr::from(base), prefix),
                overlaps,
                "{base:?}/{prefix}"
            );
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for bad in ["0", "1", "4095", "65536", "-1"] {
            assert!(serde_json::from_str::<HostNumber>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Subnet>("16").is_err());
    }

    #[test]
    fn a_full_policy_fits_into_one_message() {
        let host = |n: usize| HostNumber::new(u16::try_from(n + 2).expect("fits")).expect("good");
        let port = |n| {
            PolicyPort(SandboxId::from_bits(n as u128), host(n), Egress::Public, vec![n as u16])
        };
        let policy = Policy { ports: (0..Policy::MAX).map(port).collect() };
        let text = serde_json::to_string(&policy).expect("encodes");
        assert!(text.len() + 200 < crate::helper::MAX_MESSAGE, "{}", text.len());
        assert!(text.starts_with(r#"{"ports":[["00000000000000000000000000",2,"public",[0]]"#));
    }
}
