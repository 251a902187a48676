//! The DNS server of the host on its real sockets, in a namespace of the test's own: R-D1 to R-D3.

use crate::namespace::Namespace;
use banger_plan::actual::{SandboxFact, Seen, TapFact, VmmFact};
use banger_plan::zone::{Zone, host_zone};
use banger_reconciler::names::{Server, serve_host};
use banger_wire::derive::DNS_PORT;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A host with two sandboxes that run and one that does not.
pub(crate) fn zone() -> Zone {
    let mut lab = crate::lab::Lab::new();
    let line = |name| format!("sandbox \"{name}\" {{ image \"debian-bookworm\"; }}\n");
    lab.want("shop", &crate::lab::spec(&["db", "web", "off"].map(line).concat()), false);
    let mut up = SandboxFact::absent();
    let boot = "0123456789abcdef".to_string().try_into().expect("a key");
    let backend = String::new();
    up.vmm = Seen::Present(VmmFact {
        boot,
        uptime_secs: 1,
        whole: true,
        backend,
        lacks_template: false,
        can_suspend: false,
        is_suspended: false,
    });
    up.tap = Seen::Present(TapFact { up: true, right: true });
    let fact = |name: &str| if name == "off" { SandboxFact::absent() } else { up.clone() };
    let all = lab.desired.sandboxes.values();
    let sandboxes = all.map(|s| (s.id.clone(), fact(s.name.as_str()))).collect();
    host_zone(&lab.desired, &banger_plan::Actual { sandboxes, ..Default::default() })
}

/// Serves for as long as the test runs.
fn serve(namespace: &Namespace) {
    let (sender, receiver) = std::sync::mpsc::channel();
    namespace.inside(move || {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::open().await.expect("opens");
                sender.send(()).expect("the test waits");
                let (_keep, zone) = watch::channel(Arc::new(zone()));
                serve_host(server, zone).await;
            });
        });
        receiver.recv().expect("it serves");
    });
}

/// A question for the address of a name.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[test]
fn answers_are_small_and_only_about_sandboxes() {
    let namespace = Namespace::new();
    serve(&namespace);
    namespace.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let ask = |name: &str| {
            let question = question(name);
            socket.send_to(&question, ("127.0.0.1", DNS_PORT)).expect("sends");
            let mut buffer = [0; 1024];
            let (count, from) = socket.recv_from(&mut buffer).expect("answers");
            assert_eq!(from.port(), DNS_PORT);
            assert!(count <= 512 && count <= 2 * question.len(), "{name}: {count} bytes");
            buffer[..count].to_vec()
        };
        for (name, code, answers) in [
            ("web.vm", 0, 1),
            ("db.shop.vm", 0, 1),
            ("off.vm", 3, 0),
            ("x.vm", 3, 0),
            ("example.org", 5, 0),
        ] {
            let said = ask(name);
            assert_eq!((said[3] & 15, said[7]), (code, answers), "{name}");
            assert_eq!(said[3] & 0x80, 0, "no recursion");
            if answers == 1 {
                let ttl = u32::from_be_bytes(
                    said[said.len() - 10..said.len() - 6].try_into().expect("four"),
                );
                assert!(ttl <= 5, "{ttl}");
            }
        }
        // Whatever is asked of other names is refused, a thousand times (R-D4's second half).
        for number in 0..1000 {
            assert_eq!(ask(&format!("n{number}.example.com"))[3] & 15, 5);
        }
    });
    let sockets = namespace.run("ss", &["-Hlntu"]);
    assert_eq!(
        sockets.lines().filter(|line| line.contains("127.0.0.1:42069")).count(),
        2,
        "{sockets}"
    );
    assert_eq!(sockets.lines().count(), 2, "{sockets}");
}

/// Sixteen connections, five seconds each; whoever asks nothing holds nobody up for longer.
#[test]
fn connections_are_few_and_short() {
    let namespace = Namespace::new();
    serve(&namespace);
    namespace.inside(|| {
        let connect = || {
            let stream = TcpStream::connect(("127.0.0.1", DNS_PORT)).expect("connects");
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
            stream
        };
        let ask = |stream: &mut TcpStream| -> bool {
            let question = question("web.vm");
            let length = u16::try_from(question.len()).expect("short").to_be_bytes();
            let sent = stream.write_all(&[&length[..], &question].concat());
            let mut answer = [0; 64];
            sent.is_ok() && stream.read(&mut answer).is_ok_and(|count| count > 12)
        };
        assert!(ask(&mut connect()));
        // The server notices a moment later that the first is gone.
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        let mut idle: Vec<TcpStream> = (0..16).map(|_| connect()).collect();
        assert!(!ask(&mut connect()), "the seventeenth is closed");
        for stream in &mut idle {
            assert_eq!(stream.read(&mut [0; 1]).expect("ends"), 0);
        }
        let passed = start.elapsed();
        assert!((4..30).contains(&passed.as_secs()), "{passed:?}");
        assert!(ask(&mut connect()));
    });
}
