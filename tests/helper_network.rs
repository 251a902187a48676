//! The helper's network operations, in a namespace of the test's own; `ip` and `nft` are the witnesses.

use crate::helper::{Helper, start_in};
use crate::namespace::Namespace;
use banger_wire::derive;
use banger_wire::helper::{Reply, Request, Rules};
use banger_wire::id::{InstallId, SandboxId};
use banger_wire::net::{Egress, HostNumber, Policy, PolicyPort, Subnet};

fn sandbox(n: u128) -> SandboxId {
    SandboxId::from_bits(n)
}

fn subnet() -> Subnet {
    Subnet::new(0).expect("good")
}

fn policy(count: u16) -> Policy {
    let host = |n| HostNumber::new(n + 2).expect("good");
    let port = |n| PolicyPort(sandbox(u128::from(n)), host(n), Egress::Public, vec![n / 2]);
    Policy { ports: (0..count).map(port).collect() }
}

fn refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { .. })
}

fn rules(helper: &Helper, policy: Policy) -> Rules {
    let reply = helper.ask(&Request::RulesCheck { subnet: subnet(), policy }, &[]);
    if let Reply::Rules { rules, .. } = reply { rules } else { panic!("{reply:?}") }
}

#[test]
fn a_network_comes_and_goes_and_leaves_nothing() {
    let namespace = Namespace::new();
    // Somebody else's rules and links, which must stay as they are.
    namespace.run(
        "nft",
        &["add table inet other; add chain inet other c { type filter hook forward priority 0; }"],
    );
    namespace.run("ip", &["link", "add", "other0", "type", "veth", "peer", "name", "other1"]);
    let before = namespace.census();
    let Some(helper) = start_in(Some(&namespace)) else { return };
    let helper = helper.agreed();
    let ensure = Request::BridgeEnsure { subnet: subnet() };
    let apply = |policy| Request::RulesApply { subnet: subnet(), policy };

    assert_eq!(rules(&helper, policy(3)), Rules::Absent);
    assert!(refused(&helper.ask(&Request::TapEnsure { sandbox: sandbox(1) }, &[])), "no bridge");
    for _ in 0..3 {
        assert_eq!(helper.ask(&ensure, &[]), Reply::Changed);
        assert_eq!(helper.ask(&Request::TapEnsure { sandbox: sandbox(1) }, &[]), Reply::Changed);
    }
    let up = Request::TapSet { sandbox: sandbox(1), up: true };
    assert!(refused(&helper.ask(&up, &[])), "a port opens behind rules only");
    assert_eq!(helper.ask(&apply(policy(3)), &[]), Reply::Changed);
    assert_eq!(helper.ask(&up, &[]), Reply::Changed);
    assert_eq!(rules(&helper, policy(3)), Rules::Current);
    assert_eq!(rules(&helper, policy(4)), Rules::Older);

    let tap = derive::tap(&crate::helper::install(), &sandbox(1));
    let detail = namespace.run("ip", &["-d", "link", "show", &tap]);
    for wanted in
        ["isolated on", "learning off", "flood off", "NOARP", "UP", "user root", "alias banger:0:"]
    {
        assert!(detail.contains(wanted), "{wanted}: {detail}");
    }
    assert!(refused(&helper.ask(&Request::BridgeRemove {}, &[])), "it has a port");
    assert!(refused(&helper.ask(&Request::RulesRemove {}, &[])), "a port is behind them");
    for _ in 0..2 {
        let said = helper.ask(&Request::TapRemove { sandbox: sandbox(1) }, &[]);
        assert!(matches!(said, Reply::Changed | Reply::Unchanged), "{said:?}");
        let said = helper.ask(&Request::BridgeRemove {}, &[]);
        assert!(matches!(said, Reply::Changed | Reply::Unchanged), "{said:?}");
        let said = helper.ask(&Request::RulesRemove {}, &[]);
        assert!(matches!(said, Reply::Changed | Reply::Unchanged), "{said:?}");
    }
    assert_eq!(namespace.census(), before, "nothing is left, and nothing else was touched");
}

/// Whatever somebody does to our rules is seen; other tools' changes are not ours.
#[test]
fn changed_rules_are_seen() {
    let namespace = Namespace::new();
    let Some(helper) = start_in(Some(&namespace)) else { return };
    let helper = helper.agreed();
    let table = derive::table(0, &crate::helper::install());
    let apply = || {
        let request = Request::RulesApply { subnet: subnet(), policy: policy(5) };
        assert_eq!(helper.ask(&request, &[]), Reply::Changed);
        assert_eq!(rules(&helper, policy(5)), Rules::Current);
    };
    apply();
    namespace.run("nft", &["add table inet other"]);
    assert_eq!(rules(&helper, policy(5)), Rules::Current, "another tool's table");
    for (change, wanted) in [
        (format!("flush chain inet {table} from_guest"), Rules::Altered),
        (format!("flush table inet {table}"), Rules::Altered),
        (format!("insert rule inet {table} from_guest accept"), Rules::Altered),
        (format!("add element inet {table} open {{ 10.213.0.2 }}"), Rules::Altered),
        (format!("delete element inet {table} closed {{ 10.0.0.0/8 }}"), Rules::Altered),
        (format!("delete table bridge {table}"), Rules::Altered),
        (format!("delete table inet {table}"), Rules::Absent),
        ("flush ruleset".to_string(), Rules::Absent),
    ] {
        namespace.run("nft", &[&change]);
        assert_eq!(rules(&helper, policy(5)), wanted, "{change}");
        apply();
    }
    // A route to a network next door belongs to the rules.
    let other = Namespace::new();
    namespace.connect(("near", "9.9.9.1/24"), &other, ("far", "9.9.9.2/24"));
    assert_eq!(rules(&helper, policy(5)), Rules::Older);
    apply();
    assert!(
        namespace.run("nft", &["list", "set", "inet", &table, "closed"]).contains("9.9.9.0/24")
    );
}

/// What looks like ours and is not is left alone; what is out of bounds is refused.
#[test]
fn what_only_looks_like_ours_and_nonsense_are_refused() {
    let namespace = Namespace::new();
    let Some(helper) = start_in(Some(&namespace)) else { return };
    let helper = helper.agreed();
    let bridge = derive::bridge(&crate::helper::install());
    let ensure = Request::BridgeEnsure { subnet: subnet() };
    namespace.run("ip", &["link", "add", &bridge, "type", "bridge"]);
    namespace.run("ip", &["link", "set", &bridge, "alias", "somebody else's"]);
    for request in
        [ensure.clone(), Request::BridgeRemove {}, Request::TapEnsure { sandbox: sandbox(1) }]
    {
        assert!(refused(&helper.ask(&request, &[])), "{request:?}");
    }
    namespace.run("ip", &["link", "del", &bridge]);
    // The name, but another kind of interface.
    namespace.run("ip", &["tuntap", "add", &bridge, "mode", "tap"]);
    assert!(refused(&helper.ask(&ensure, &[])));
    namespace.run("ip", &["link", "del", &bridge]);
    // A route of the host's in the subnet.
    let other = Namespace::new();
    namespace.connect(("vpn", "10.213.3.1/24"), &other, ("far", "10.213.3.2/24"));
    assert!(refused(&helper.ask(&ensure, &[])), "it overlaps");
    let free = Request::BridgeEnsure { subnet: Subnet::new(1).expect("good") };
    assert_eq!(helper.ask(&free, &[]), Reply::Changed);
    // Somebody's tap of the name.
    let tap = derive::tap(&crate::helper::install(), &sandbox(2));
    namespace.run("ip", &["tuntap", "add", &tap, "mode", "tap"]);
    namespace.run("ip", &["link", "set", &tap, "alias", "banger:1000:another"]);
    for request in [
        Request::TapEnsure { sandbox: sandbox(2) },
        Request::TapRemove { sandbox: sandbox(2) },
        Request::TapSet { sandbox: sandbox(2), up: true },
    ] {
        assert!(refused(&helper.ask(&request, &[])), "{request:?}");
    }
    assert!(namespace.run("ip", &["link", "show", &tap]).contains(&tap));
    let twice = Policy { ports: vec![policy(1).ports[0].clone(), policy(1).ports[0].clone()] };
    let group = Policy {
        ports: vec![PolicyPort(
            sandbox(1),
            HostNumber::new(2).expect("good"),
            Egress::Open,
            vec![u16::MAX],
        )],
    };
    for policy in [twice, group] {
        let request = Request::RulesApply { subnet: subnet(), policy };
        assert!(refused(&helper.ask(&request, &[])));
    }
    let other = Request::Hello {
        version: banger_wire::helper::PROTOCOL,
        install: InstallId::from_bits(99),
    };
    assert!(refused(&helper.ask(&other, &[])), "a caller is one installation");
    assert!(!namespace.run("nft", &["list", "ruleset"]).contains("banger"));
}

/// As many sandboxes as a bridge takes, in one message and one transaction.
#[test]
fn a_full_policy_is_applied_and_checked() {
    let namespace = Namespace::new();
    let Some(helper) = start_in(Some(&namespace)) else { return };
    let helper = helper.agreed();
    let full = policy(u16::try_from(Policy::MAX).expect("fits"));
    assert_eq!(
        helper.ask(&Request::RulesApply { subnet: subnet(), policy: full.clone() }, &[]),
        Reply::Changed
    );
    assert_eq!(rules(&helper, full), Rules::Current);
}

/// Sends frames as the guest behind a tap, and tells which words arrive at a socket of the host.
const INJECT: &str = r#"
import fcntl, os, socket, struct, subprocess, sys, time
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); listener.bind(("0.0.0.0", 4001)); listener.settimeout(2)
def tap(name):
    f = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(f, 0x400454CA, struct.pack("16sH22s", name.encode(), 0x5002, b""))
    return f
def checksum(b):
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def udp(to_mac, mac, source, word):
    body = struct.pack("!HHHH", 4000, 4001, 8 + len(word), 0) + word
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("10.213.0.1"))
    return to_mac + mac + b"\x08\x00" + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
def arp(to_mac, mac, source):
    return to_mac + mac + b"\x08\x06" + struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, mac, socket.inet_aton(source), b"\0" * 6, socket.inet_aton("10.213.0.1"))
def advertise(to_mac, mac):
    source, to = socket.inet_pton(socket.AF_INET6, "fe80::66"), socket.inet_pton(socket.AF_INET6, "ff02::1")
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 9999, 9999, 0, socket.inet_pton(socket.AF_INET6, "2001:db8:66::"))
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    pseudo = source + to + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return to_mac + mac + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + to + body
bridge_mac = bytes.fromhex(sys.argv[1].replace(":", ""))
unlisted, listed = tap(sys.argv[2]), tap(sys.argv[3])
mac1, mac2 = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
for _ in range(200):
    if subprocess.run(["bridge", "link"], capture_output=True, text=True).stdout.count("state forwarding") >= 2: break
    time.sleep(0.1)
else: sys.exit("its ports do not forward")
groups = [bytes.fromhex("0180c20000%02x" % n) for n in range(16)]
for fd, mac, own in ((unlisted, mac1, "10.213.0.3"), (listed, mac2, "10.213.0.4")):
    name = b"1" if fd == unlisted else b"2"
    for n, group in enumerate(groups):
        for frame in (udp(group, mac, own, b"group-%d-own-" % n + name), udp(group, mac, "10.213.0.9", b"group-%d-any-" % n + name), arp(group, mac, own), advertise(group, mac)):
            os.write(fd, b"\0" * 10 + frame)
os.write(unlisted, b"\0" * 10 + udp(bridge_mac, mac1, "10.213.0.3", b"unlisted-own"))
os.write(unlisted, b"\0" * 10 + udp(bridge_mac, mac2, "10.213.0.4", b"unlisted-as-listed"))
os.write(unlisted, b"\0" * 10 + arp(b"\xff" * 6, mac1, "10.213.0.4"))
os.write(listed, b"\0" * 10 + advertise(bytes.fromhex("333300000001"), mac2))
os.write(listed, b"\0" * 10 + udp(bridge_mac, mac2, "10.213.0.4", b"honest"))
try:
    while True: print(listener.recvfrom(2048)[0].decode())
except socket.timeout: pass
"#;

/// Group addresses that go past a bridge, router advertisements, and a port that the policy does not name: the host
/// hears only the honest frame of the sandbox that may speak to it.
#[test]
fn nothing_goes_past_the_rules() {
    let namespace = Namespace::new();
    let Some(helper) = start_in(Some(&namespace)) else { return };
    let helper = helper.agreed();
    let install = crate::helper::install();
    let host = |n| HostNumber::new(n).expect("good");
    // Sandbox 1 has a port, and is in no policy.
    let policy = Policy { ports: vec![PolicyPort(sandbox(2), host(4), Egress::Host, vec![])] };
    let changed =
        |request: Request| assert_eq!(helper.ask(&request, &[]), Reply::Changed, "{request:?}");
    changed(Request::RulesApply { subnet: subnet(), policy });
    changed(Request::BridgeEnsure { subnet: subnet() });
    for n in [1, 2] {
        changed(Request::TapEnsure { sandbox: sandbox(n) });
        changed(Request::TapSet { sandbox: sandbox(n), up: true });
    }
    let mac = derive::show_mac(derive::bridge_mac(&install));
    let taps = [1, 2].map(|n| derive::tap(&install, &sandbox(n)));
    let heard = namespace.run("python3", &["-c", INJECT, &mac, &taps[0], &taps[1]]);
    // The first group is an ordinary address to a bridge without spanning tree: what is pinned holds for it too.
    assert_eq!(heard, "group-0-own-2\nhonest\n");
    let neighbours = namespace.run("ip", &["neigh"]);
    assert!(!neighbours.contains("02:00:00:00:00:01"), "{neighbours}");
    let addresses = namespace.run("ip", &["-6", "addr"]);
    assert!(!addresses.contains("2001:db8:66"), "{addresses}");
    let routes = namespace.run("ip", &["-6", "route"]);
    assert!(!routes.contains("proto ra"), "{routes}");
    // Nobody but its owner attaches to a tap, whoever may open the device.
    let attach = format!(
        "import os, fcntl, struct\nf = os.open('/dev/net/tun', os.O_RDWR)\nos.setuid(65534)\n\
         fcntl.ioctl(f, 0x400454CA, struct.pack('16sH22s', b'{}', 0x5002, b''))",
        taps[0]
    );
    let said = namespace.command("python3").args(["-c", &attach]).output().expect("runs");
    assert!(String::from_utf8_lossy(&said.stderr).contains("PermissionError"), "{said:?}");
}
