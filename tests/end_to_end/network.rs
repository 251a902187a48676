//! Real guests on the network: who reaches whom, by address and by name; and that nothing is left of it.
//!
//! The "internet", the "LAN" and the "metadata service" are a namespace of the test's own with those addresses.

use super::home::{Home, NET_IMAGE, can_run, each};
use crate::namespace::Namespace;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a guest with egress "public" reaches: addresses of the internet, many next to a range that is not.
const PUBLIC: [&str; 22] = [
    "1.1.1.1",
    "8.8.8.8",
    "9.9.9.9",
    "9.255.255.254",
    "11.0.0.1",
    "93.184.216.34",
    "100.63.255.254",
    "100.128.0.1",
    "126.255.255.254",
    "128.0.0.1",
    "169.253.255.254",
    "169.255.0.1",
    "172.15.255.254",
    "172.32.0.1",
    "192.0.1.1",
    "192.0.3.1",
    "192.167.255.254",
    "192.169.0.1",
    "198.17.255.254",
    "198.20.0.1",
    "203.0.114.1",
    "223.255.255.254",
];

/// What it does not reach, although the same host behind it answers there.
const CLOSED: [&str; 24] = [
    "10.0.0.1",
    "10.213.16.1",
    "10.255.255.254",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.255.254",
    "172.16.0.1",
    "172.17.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.1.1",
    "192.168.255.254",
    "198.18.0.2",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    // A LAN may have addresses of the internet: this one is next door.
    "5.5.5.2",
    "5.5.5.77",
];

/// Addresses of the host itself, and those that no host has.
const HOST: [&str; 8] = [
    "10.213.0.1",
    "198.18.0.1",
    "5.5.5.1",
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
];

const PORT: u16 = 7777;

/// Connects to each address and says which answered "hello".
const PROBE: &str = r#"
import socket, sys, threading
def probe(address):
    s = socket.socket()
    s.settimeout(4)
    try:
        s.connect((address, int(sys.argv[1])))
        ok = s.recv(5) == b"hello"
    except OSError:
        ok = False
    print(address, "yes" if ok else "no", flush=True)
threads = [threading.Thread(target=probe, args=(a,)) for a in sys.argv[2:]]
[t.start() for t in threads]
[t.join() for t in threads]
"#;

/// Everything outside of the host.
struct World {
    namespace: Namespace,
    stop: Arc<AtomicBool>,
}

impl World {
    /// Behind the home's namespace: one cable to the internet, one to the LAN; and servers everywhere.
    fn around(home: &Home) -> Self {
        let namespace = Namespace::new();
        let stack = home.namespace();
        stack.connect(("wan", "198.18.0.1/30"), &namespace, ("wan", "198.18.0.2/30"));
        stack.connect(("lan", "5.5.5.1/24"), &namespace, ("lan", "5.5.5.2/24"));
        stack.run("ip", &["route", "add", "default", "via", "198.18.0.2"]);
        for address in PUBLIC.iter().chain(&CLOSED) {
            // Some are there already, as addresses of the cables.
            let cable = if address.starts_with("5.5.5.") { "lan" } else { "lo" };
            let _ = namespace
                .command("ip")
                .args(["addr", "add", address, "dev", cable])
                .stderr(Stdio::null())
                .status();
        }
        let world = Self { namespace, stop: Arc::default() };
        world.serve(&world.namespace);
        // A service of the host's own, on every address.
        world.serve(stack);
        world.resolve();
        world
    }

    /// Says "hello" to whoever connects, on every address of a namespace.
    fn serve(&self, namespace: &Namespace) {
        let listener = namespace.inside(|| TcpListener::bind(("0.0.0.0", PORT)).expect("listens"));
        listener.set_nonblocking(true).expect("a mode");
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let _ = stream.write_all(b"hello");
                        // Held open for as long as the other side wants.
                        std::thread::spawn(move || stream.read_to_end(&mut Vec::new()));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }

    /// A resolver of the internet at 9.9.9.9: every name has the address 93.184.216.34.
    fn resolve(&self) {
        let socket = self.namespace.inside(|| UdpSocket::bind(("9.9.9.9", 53)).expect("listens"));
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stop.load(Ordering::SeqCst) {
                let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
                let mut answer = buffer[..count].to_vec();
                answer[2] |= 0x80;
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 216, 34]);
                let _ = socket.send_to(&answer, from);
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Which addresses a sandbox reaches.
fn reaches(home: &Home, sandbox: &str, addresses: &[&str]) -> BTreeMap<String, bool> {
    let port = PORT.to_string();
    let mut arguments = vec!["vm", "exec", sandbox, "--", "python3", "-c", PROBE, &port];
    arguments.extend(addresses);
    let said = home.ok(&arguments);
    let line = |line: &str| {
        let (address, answer) = line.split_once(' ').expect("two words");
        (address.to_string(), answer == "yes")
    };
    said.lines().map(line).collect()
}

fn all(addresses: &[&str], reached: bool) -> BTreeMap<String, bool> {
    addresses.iter().map(|address| ((*address).to_string(), reached)).collect()
}

fn address(home: &Home, sandbox: &str) -> String {
    home.status(sandbox).expect("there")["address"].as_str().expect("an address").to_string()
}

#[test]
fn egress_is_what_the_file_says() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let world = World::around(&home);
    let file = |pub_egress: &str| {
        format!(
            "{NET_IMAGE}sandbox \"pub\" {{ image \"net\"; memory \"256MiB\"; egress \"{pub_egress}\"; }}\n\
             sandbox \"none\" {{ image \"net\"; memory \"256MiB\"; egress \"none\"; }}\n\
             sandbox \"open\" {{ image \"net\"; memory \"256MiB\"; egress \"open\"; }}\n\
             sandbox \"inward\" {{ image \"net\"; memory \"256MiB\"; egress \"host\"; }}\n"
        )
    };
    home.write(&file("public"));
    home.ok(&["apply"]);
    // The test's own probe works: the host reaches all of it.
    let listening = |address: &&str| {
        let connect = || {
            let to = (address.parse::<Ipv4Addr>().expect("an address"), PORT).into();
            std::net::TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok()
        };
        home.namespace().inside(connect)
    };
    assert!(PUBLIC.iter().chain(&CLOSED).all(listening));
    assert!(PUBLIC.len() + CLOSED.len() + HOST.len() >= 40, "R-V1");

    assert_eq!(reaches(&home, "pub", &PUBLIC), all(&PUBLIC, true));
    assert_eq!(reaches(&home, "pub", &CLOSED), all(&CLOSED, false));
    assert_eq!(reaches(&home, "pub", &HOST), all(&HOST, false));
    for addresses in [&PUBLIC[..], &CLOSED, &HOST] {
        assert_eq!(reaches(&home, "none", addresses), all(addresses, false));
    }
    assert_eq!(reaches(&home, "open", &PUBLIC), all(&PUBLIC, true));
    assert_eq!(reaches(&home, "open", &CLOSED), all(&CLOSED, true));
    assert_eq!(reaches(&home, "open", &HOST), all(&HOST, false));
    let other = address(&home, "none");
    // Only who says so reaches the host itself, and still no neighbour.
    assert_eq!(reaches(&home, "inward", &HOST[..3]), all(&HOST[..3], true));
    assert_eq!(reaches(&home, "inward", &CLOSED[..3]), all(&CLOSED[..3], true));
    assert_eq!(reaches(&home, "inward", &[&other]), all(&[&other], false));
    // Nor another sandbox, which nothing joins to it.
    assert_eq!(reaches(&home, "open", &[&other]), all(&[&other], false));

    // A policy changes while its sandbox runs, also for connections that exist.
    let boots = home.boot_id("pub");
    let mut held = home
        .command(&["vm", "exec", "pub", "--", "python3", "-c", HELD, &PORT.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut out = held.stdout.take().expect("piped");
    let mut word = [0; 5];
    out.read_exact(&mut word).expect("the connection is there");
    home.write(&file("none"));
    let plan = home.banger(&["plan"]).out;
    assert!(plan.contains("(live)") && !plan.contains("restart"), "{plan}");
    home.ok(&["apply"]);
    assert_eq!(home.ok(&["apply"]), "no changes\n");
    assert_eq!(reaches(&home, "pub", &PUBLIC[..3]), all(&PUBLIC[..3], false));
    held.stdin.take().expect("piped").write_all(b"go\n").expect("writes");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("reads");
    assert_eq!(rest.trim(), "stalled", "what was said on the old connection did not get out");
    held.wait().expect("ends");
    home.write(&file("public"));
    home.ok(&["apply"]);
    assert_eq!(reaches(&home, "pub", &PUBLIC[..3]), all(&PUBLIC[..3], true));
    assert_eq!(home.boot_id("pub"), boots);

    // Rules that somebody flushes are back soon, and nothing was let through meanwhile.
    home.namespace().run("nft", &["flush", "ruleset"]);
    home.wait("the rules are back", Duration::from_secs(30), |home| {
        home.namespace().run("nft", &["list", "ruleset"]).contains("chain mark_")
            && home.json(&["status"])["sandboxes"]
                .as_array()
                .is_some_and(|all| all.iter().all(|s| s["settled"] == true))
    });
    assert_eq!(reaches(&home, "pub", &CLOSED), all(&CLOSED, false));
    assert_eq!(reaches(&home, "pub", &PUBLIC[..3]), all(&PUBLIC[..3], true));
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
    drop(world);
}

/// Connects, says so, waits for a line, and tells whether what it sends then is taken.
const HELD: &str = r#"
import socket, sys
s = socket.create_connection(("1.1.1.1", int(sys.argv[1])), 5)
s.recv(5)
sys.stdout.write("ready"); sys.stdout.flush()
sys.stdin.readline()
s.send(b"x" * 1000)
# Unacknowledged bytes of the socket: SIOCOUTQ.
import fcntl, struct, time
time.sleep(2)
left = struct.unpack("i", fcntl.ioctl(s, 0x5411, b"\0\0\0\0"))[0]
print("stalled" if left else "taken")
"#;

/// Asks for names, one line each.
const RESOLVE: &str = r#"
import socket, sys
for name in sys.argv[1:]:
    try:
        print(name, socket.gethostbyname(name))
    except OSError:
        print(name, "-")
"#;

fn resolve(home: &Home, sandbox: &str, names: &[&str]) -> Vec<String> {
    let mut arguments = vec!["vm", "exec", sandbox, "--", "python3", "-c", RESOLVE];
    arguments.extend(names);
    let said = home.ok(&arguments);
    said.lines().map(|line| line.split(' ').next_back().unwrap_or("").to_string()).collect()
}

#[test]
fn sandboxes_on_one_network_reach_each_other_by_name_and_others_do_not() {
    if !can_run() {
        return;
    }
    let mut home = Home::new();
    let world = World::around(&home);
    let resolvers = home.path().join("resolv.conf");
    std::fs::write(&resolvers, "nameserver 9.9.9.9\n").expect("writes");
    home.set("BANGER_RESOLV_CONF", &resolvers.display().to_string());
    let hello = "command \"python3\" \"-c\" \"import socket\\ns = socket.create_server(('', 7777))\\nwhile True: s.accept()[0].send(b'hello')\"";
    home.write(&format!(
        "{NET_IMAGE}network \"back\"\nnetwork \"team\" {{ scope \"host\"; }}\n\
         sandbox \"a\" {{ image \"net\"; memory \"256MiB\"; network \"back\"; {hello}; }}\n\
         sandbox \"b\" {{ image \"net\"; memory \"256MiB\"; network \"back\" \"team\"; egress \"none\"; {hello}; }}\n\
         sandbox \"c\" {{ image \"net\"; memory \"256MiB\"; {hello}; }}\n"
    ));
    home.ok(&["apply"]);
    // Another project, which is on the network "team" because both say so; its "b" is another one.
    let other = home.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    let file = other.join("Bangerfile");
    std::fs::write(&file, format!(
        "project \"other\"\n{NET_IMAGE}network \"team\" {{ scope \"host\"; }}\nnetwork \"back\"\n\
         sandbox \"d\" {{ image \"net\"; memory \"256MiB\"; network \"team\" \"back\"; {hello}; }}\n"
    )).expect("writes");
    home.ok(&["apply", "-f", &file.display().to_string()]);
    let addresses = ["a", "b", "c", "d"].map(|name| address(&home, name));
    let [a, b, c, d] = addresses.each_ref().map(String::as_str);

    // By name, in every form; what cannot be reached has no name.
    let names =
        ["b", "b.vm", "b.test.vm", "a", "c", "c.test.vm", "d", "d.other.vm", "www.example.org"];
    let (internet, none) = ("93.184.216.34", "-");
    assert_eq!(resolve(&home, "a", &names), [b, b, b, a, none, none, none, none, internet]);
    assert_eq!(resolve(&home, "c", &names), [none, none, none, none, c, c, none, none, internet]);
    // "none" is none: not even a question gets out.
    assert_eq!(resolve(&home, "b", &names), [b, b, b, a, none, none, d, d, none]);
    // By address.
    let everybody = [a, b, c, d];
    let expect = |reached: [bool; 4]| -> BTreeMap<String, bool> {
        everybody.iter().map(|s| (*s).to_string()).zip(reached).collect()
    };
    assert_eq!(reaches(&home, "a", &everybody), expect([true, true, false, false]));
    assert_eq!(reaches(&home, "b", &everybody), expect([true, true, false, true]));
    assert_eq!(reaches(&home, "c", &everybody), expect([false, false, true, false]));
    assert_eq!(reaches(&home, "d", &everybody), expect([false, true, false, true]));

    host_names(&home, [a, b, c, d]);
    spoofing(&home, a);
    stays_the_same(&home, a);
    home.ok(&["destroy", "--yes"]);
    home.ok(&["destroy", "--yes", "-f", &file.display().to_string()]);
    home.assert_nothing_left();
    drop(world);
}

/// The host's programs, with `dig` as the witness.
fn host_names(home: &Home, addresses: [&str; 4]) {
    let dig = |arguments: &[&str]| {
        let mut all = vec!["@127.0.0.1", "-p", "42069", "+tries=1", "+time=2"];
        all.extend(arguments);
        home.namespace().run("dig", &all)
    };
    for (name, address) in
        [("a.vm", 0), ("b.vm", 1), ("c.test.vm", 2), ("d.vm", 3), ("D.Other.VM", 3)]
    {
        assert_eq!(dig(&["+short", name]).trim(), addresses[address], "{name}");
        assert_eq!(dig(&["+short", "+tcp", name]).trim(), addresses[address], "{name} by TCP");
    }
    for (arguments, status) in [
        (&["nobody.vm"][..], "NXDOMAIN"),
        (&["example.org"], "REFUSED"),
        (&["a.vm", "ANY"], "REFUSED"),
        (&["a.vm", "AAAA"], "NOERROR"),
        (&["version.bind", "TXT", "CH"], "REFUSED"),
    ] {
        let said = dig(arguments);
        assert!(said.contains(&format!("status: {status}")), "{arguments:?}: {said}");
        assert!(!said.contains(" ra;") && !said.contains(" ra "), "no recursion: {said}");
    }
    // Nothing of it listens anywhere but on the loopback.
    let sockets = home.namespace().run("ss", &["-Hlntu"]);
    for line in sockets.lines().filter(|line| line.contains(":42069")) {
        assert!(line.contains("127.0.0.1:42069"), "{line}");
    }
}

/// Sends frames as root in a guest: numbered, each with a word that listeners look for.
const SPOOF: &str = r#"
import socket, struct, sys
mine, peer, gateway = [socket.inet_aton(a) for a in sys.argv[1:4]]
peer_mac = bytes.fromhex(sys.argv[4].replace(":", ""))
card = [n for i, n in socket.if_nameindex() if n != "lo"][0]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((card, 0))
mac = s.getsockname()[4]
all_ = b"\xff" * 6
gateway_mac = bytes.fromhex(open("/proc/net/arp").read().split("\n")[1].split()[3].replace(":", ""))
def checksum(b):
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def ip(to_mac, from_mac, source, to, word, sport=4000, dport=4001):
    udp = struct.pack("!HHHH", sport, dport, 8 + len(word), 0) + word
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, source, to)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return to_mac + from_mac + b"\x08\x00" + head + udp
def arp(from_mac, op, smac, sip, tip, word):
    return all_ + from_mac + b"\x08\x06" + struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, op, smac, sip, all_, tip) + word
def raw(kind, word):
    return all_ + mac + kind + b"\0" * 20 + word
frames = [
    ip(gateway_mac, mac, peer, gateway, b"SPOOF-01"),
    ip(gateway_mac, peer_mac, mine, gateway, b"SPOOF-02"),
    ip(gateway_mac, peer_mac, peer, gateway, b"SPOOF-03"),
    ip(gateway_mac, mac, gateway, gateway, b"SPOOF-04"),
    ip(all_, gateway_mac, mine, b"\xff" * 4, b"SPOOF-05"),
    arp(mac, 2, mac, peer, gateway, b"SPOOF-06"),
    arp(mac, 2, mac, gateway, peer, b"SPOOF-07"),
    arp(mac, 2, peer_mac, mine, peer, b"SPOOF-08"),
    arp(peer_mac, 1, peer_mac, peer, gateway, b"SPOOF-09"),
    raw(b"\x86\xdd", b"SPOOF-10"),
    raw(b"\x81\x00", b"SPOOF-11"),
    raw(b"\x88\xcc", b"SPOOF-12"),
    raw(b"\x80\x35", b"SPOOF-13"),
    b"\x01\x80\xc2\0\0\0" + mac + struct.pack("!H", 38) + b"\x42\x42\x03" + b"\0" * 20 + b"SPOOF-14",
    ip(gateway_mac, mac, b"\0" * 4, b"\xff" * 4, b"SPOOF-15", 68, 67),
    # These have the right sender; they must not get to a neighbour.
    ip(peer_mac, mac, mine, peer, b"DIRECT-1"),
    ip(all_, mac, mine, b"\xff" * 4, b"DIRECT-2", 67, 68),
    ip(gateway_mac, mac, mine, gateway, b"HONEST-1"),
]
for frame in frames:
    s.send(frame)
print(len(frames))
"#;

/// Prints the word of every frame that arrives on any card, until its input has ended and nothing came for two seconds.
const LISTEN: &str = r#"
import re, select, socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
if len(sys.argv) > 1: s.bind((sys.argv[1], 3))
print("ready", flush=True)
sources, last = [s, sys.stdin], time.time()
while len(sources) == 2 or time.time() < last + 2:
    found, _, _ = select.select(sources, [], [], 0.2)
    if sys.stdin in found: sources, last = [s], time.time()
    if s not in found: continue
    frame, where = s.recvfrom(4096)
    if where[2] == 4: continue
    for word in re.findall(rb"(?:SPOOF-|DIRECT-|HONEST-)\d+", frame):
        last = time.time()
        print(word.decode(), flush=True)
"#;

/// R-V3: from `c`, as `a` and as the gateway; on the host's bridge and in `a` and `b` nothing of it arrives.
fn spoofing(home: &Home, a: &str) {
    let bridge = home.namespace().run("ip", &["-br", "link"]);
    let bridge =
        bridge.lines().find(|l| l.starts_with("bgb")).and_then(|l| l.split_whitespace().next());
    let bridge = bridge.expect("a bridge").to_string();
    let listen = |mut command: std::process::Command| {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        let mut out = child.stdout.take().expect("piped");
        let mut ready = [0; 6];
        out.read_exact(&mut ready).expect("listens");
        (child, out)
    };
    let mut on_host = home.namespace().command("python3");
    on_host.args(["-c", LISTEN, &bridge]);
    let mut listeners = vec![listen(on_host)];
    listeners
        .extend(["a", "b"].map(|name| {
            listen(home.command(&["vm", "exec", name, "--", "python3", "-c", LISTEN]))
        }));
    let id = home.status("a").expect("there")["id"].as_str().expect("an id").to_string();
    let mac = banger_wire::derive::mac(&banger_wire::id::SandboxId::new(id).expect("an id"));
    let mac = banger_wire::derive::show_mac(mac);
    let mine = address(home, "c");
    let sent =
        home.ok(&["vm", "exec", "c", "--", "python3", "-c", SPOOF, &mine, a, "10.213.0.1", &mac]);
    assert_eq!(sent.trim(), "18", "R-V3 asks for twelve");
    let mut heard = Vec::new();
    for (mut child, mut out) in listeners {
        drop(child.stdin.take());
        let mut text = String::new();
        out.read_to_string(&mut text).expect("reads");
        child.wait().expect("ends");
        let mut words: Vec<String> = text.lines().map(String::from).collect();
        words.sort();
        words.dedup();
        heard.push(words);
    }
    assert!(heard[0].contains(&"HONEST-1".to_string()), "the listener works: {heard:?}");
    assert!(!heard.iter().flatten().any(|word| word.starts_with("SPOOF")), "{heard:?}");
    assert_eq!(heard[1..], [Vec::<String>::new(), Vec::new()], "neighbours hear nothing");
}

/// An address is a sandbox's for as long as it lives.
fn stays_the_same(home: &Home, a: &str) {
    home.ok(&["vm", "stop", "a"]);
    assert!(
        home.namespace().run("dig", &["@127.0.0.1", "-p", "42069", "a.vm"]).contains("NXDOMAIN")
    );
    home.kill_daemon();
    home.ok(&["vm", "start", "a"]);
    assert_eq!(address(home, "a"), a);
    assert_eq!(resolve(home, "b", &["a"]), [a]);
}

/// Twenty come and go: links, addresses, routes and rules are as they were, byte for byte; other tools' too.
#[test]
fn twenty_sandboxes_leave_nothing_of_the_network() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let stack = home.namespace();
    stack.run("nft", &["add table inet other; add chain inet other forward { type filter hook forward priority 0; }; add rule inet other forward counter drop"]);
    stack.run("iptables", &["-N", "OTHER"]);
    stack.run("iptables", &["-A", "FORWARD", "-j", "OTHER"]);
    let before = stack.census();
    let file: String = (0..20)
        .map(|n| {
            format!("sandbox \"s{n}\" {{ image \"base\"; memory \"128MiB\"; disk \"1GiB\"; }}\n")
        })
        .collect();
    home.write(&format!("{}{file}", super::home::IMAGE));
    home.ok(&["apply"]);
    assert_eq!(home.guests().len(), 20 * each());
    let addresses: std::collections::BTreeSet<String> =
        (0..20).map(|n| address(&home, &format!("s{n}"))).collect();
    assert_eq!(addresses.len(), 20);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
    assert_eq!(stack.census(), before);
}
