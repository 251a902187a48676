//! Figures, as ratios in one run: `cargo bench -p banger-tests`. Nothing here passes or fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[expect(dead_code, reason = "the tests use more of it")]
mod namespace;
#[path = "figures/templates.rs"]
mod templates;

const ROUNDS: usize = 7;

/// All of them, or those that are named: `cargo bench -p banger-tests -- workspaces`.
fn main() {
    let named: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: [(&str, fn()); 6] = [
        ("plans", plans),
        ("names", names),
        ("pulls", pulls),
        ("runs", runs),
        ("workspaces", workspaces),
        ("templates", templates::templates),
    ];
    for (name, figure) in all {
        if named.is_empty() || named.iter().any(|wanted| wanted == name) {
            figure();
        }
    }
}

/// A repository into a guest and its changed files back, against `rsync` over `ssh` with the same guest. So many MiB as
/// `BANGER_BENCH_MIB` says; 1,024 if it says nothing.
fn workspaces() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = root.join("target/end-to-end/home-4/state");
    let programs =
        std::env::var_os("BANGER_PROGRAMS").map_or(root.join("target/release"), PathBuf::from);
    if !built.is_dir() || !programs.join("banger").is_file() {
        return println!(
            "workspaces: run the tests first, and build the programs: cargo build --release"
        );
    }
    let size: usize =
        std::env::var("BANGER_BENCH_MIB").ok().and_then(|size| size.parse().ok()).unwrap_or(1024);
    let folder = tempfile::Builder::new().prefix("bw").tempdir_in("/tmp").expect("a folder");
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("a folder");
    for kind in ["kernels", "images"] {
        let copied = Command::new("cp").arg("-al").arg(built.join(kind)).arg(&state).status();
        assert!(copied.expect("cp").success());
    }
    let file = "project \"bench\"\nimage \"work\" { debian { packages \"busybox-static\" \"git\" \"rsync\"; }; }\n";
    std::fs::write(folder.path().join("Bangerfile"), file).expect("writes");
    let repo = folder.path().join("repo");
    std::fs::create_dir_all(repo.join("data")).expect("a folder");
    let mut number = 1u32;
    for name in 0..size {
        let content: Vec<u8> = (0..1 << 20)
            .map(|_| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (number >> 24) as u8
            })
            .collect();
        std::fs::write(repo.join(format!("data/{name}")), content).expect("writes");
    }
    let run = |command: &mut Command| {
        let start = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("runs").success(), "{command:?}");
        start.elapsed()
    };
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.compression=0"];
        run(command.arg("-C").arg(&repo).args(who).args(arguments));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "data"]);
    git(&["repack", "-adq"]);
    let here = folder.path().to_path_buf();
    let home = Home { folder, programs, namespace: Some(namespace::Namespace::new()) };
    let banger = |arguments: &[&str]| run(home.banger(arguments).current_dir(&here));
    let create = |name: &'static str, path: &[&'static str]| {
        let shape = ["--image", "work", "--disk", "20GiB"];
        banger(&[&["-p", "default", "vm", "create", name][..], path, &shape].concat())
    };
    let plain = create("plain", &[]);
    let ship = create("dev", &["repo"]).saturating_sub(plain);
    let config = home.banger(&["ssh-config", "--print"]).stdout(Stdio::piped()).output();
    let path = here.join("ssh.config");
    std::fs::write(&path, config.expect("runs").stdout).expect("writes");
    let rsync = |from: &str, to: &str| {
        let namespace = home.namespace.as_ref().expect("a namespace");
        let mut command = namespace.command("rsync");
        let ssh = format!("ssh -F {}", path.display());
        command.args(["-a", "-e", &ssh, from, to]).env("HOME", &here).env("BANGER_HOME", &here);
        command.env(
            "PATH",
            format!("{}:{}", home.programs.display(), std::env::var("PATH").unwrap_or_default()),
        );
        run(&mut command)
    };
    let rsync_in = rsync(&format!("{}/", repo.display()), "plain.vm:/rs/");
    let change = "for file in data/*; do echo changed >> $file; done";
    banger(&["-p", "default", "vm", "exec", "dev", "--", "/bin/sh", "-c", change]);
    let pull = banger(&["-p", "default", "vm", "workspace", "pull", "dev"]);
    let rsync_out = rsync("plain.vm:/rs/data/", &format!("{}/out/", here.display()));
    banger(&["-p", "default", "vm", "delete", "dev", "--yes"]);
    banger(&["-p", "default", "vm", "delete", "plain", "--yes"]);
    let show = |what: &str, ours: Duration, theirs: Duration| {
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!("{size} MiB {what}: {ours:?}, rsync over ssh {theirs:?}, ratio {ratio:.3}");
    };
    show("into a guest, with its repository", ship, rsync_in);
    show("of changed files back, as a commit", pull, rsync_out);
}

/// A pull from a registry, until the image can be booted, against `skopeo copy` and `umoci unpack`; and its memory.
fn pulls() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = root.join("target/end-to-end");
    let programs =
        std::env::var_os("BANGER_PROGRAMS").map_or(root.join("target/release"), PathBuf::from);
    let (storage, kernels) = (built.join("images-1/storage"), built.join("home-4/state/kernels"));
    if !storage.is_dir() || !kernels.is_dir() || !programs.join("banger").is_file() {
        return println!(
            "pulls: run the tests first, and build the programs: cargo build --release"
        );
    }
    let folder = tempfile::Builder::new().prefix("bp").tempdir_in("/tmp").expect("a folder");
    let config = folder.path().join("registry.yml");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = port.expect("a port").port();
    let text = format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
         http: {{ addr: \"127.0.0.1:{port}\" }}\n",
        std::fs::canonicalize(&storage).expect("there").display()
    );
    std::fs::write(&config, text).expect("writes");
    let mut registry = Command::new("docker-registry")
        .args(["serve".as_ref(), config.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts");
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("a folder");
    let copied = Command::new("cp").arg("-a").arg(&kernels).arg(&state).status();
    assert!(copied.expect("cp").success());
    let work = folder.path().join("work");
    let home = Home { folder, programs, namespace: None };
    assert!(home.banger(&["version"]).status().expect("runs").success());
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("runs").success(), "{program} {arguments:?}");
    };
    let reference = format!("127.0.0.1:{port}/real/debian:1");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work).expect("a folder");
        let at = |name: &str| format!("{}/{name}", work.display());
        let start = Instant::now();
        let from = format!("docker://{reference}");
        let to = format!("oci:{}:it", at("lay"));
        run("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &from, &to]);
        run("umoci", &["unpack", "--image", &format!("{}:it", at("lay")), &at("bundle")]);
        theirs.push(start.elapsed());
        let name = format!("n{round}");
        for arguments in [
            &["image", "cache", "prune"][..],
            &["image", "delete", &format!("n{}", round.max(1) - 1)],
        ] {
            let _ = home.banger(arguments).status();
        }
        let start = Instant::now();
        let pulled = home.banger(&["image", "pull", &reference, "--name", &name]).status();
        assert!(pulled.expect("runs").success());
        ours.push(start.elapsed());
    }
    let _ = registry.kill();
    let _ = registry.wait();
    let log = std::fs::read_to_string(state.join("bangerd.log")).unwrap_or_default();
    let peak = log
        .lines()
        .filter_map(|line| line.split(" with ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    let (ours, theirs) = (median(ours), median(theirs));
    println!("skopeo copy and umoci unpack: {theirs:?}");
    println!("image pull:                   {ours:?}");
    println!("ratio: {:.3}", ours.as_secs_f64() / theirs.as_secs_f64());
    println!("most memory of the unpacker:  {} KiB", peak.max().unwrap_or(0));
}

/// Answers for a sandbox's name in a second, against dnsmasq with the same name, by the same client.
fn names() {
    const QUESTIONS: usize = 60_000;
    const UNDER_WAY: usize = 16;
    const DNSMASQ: u16 = 42070;
    use banger_reconciler::names::{Server, serve_host};
    if Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("DNS: install dnsmasq-base");
    }
    let namespace = namespace::Namespace::new();
    namespace.inside(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::open().await.expect("opens");
                let (_keep, zone) = tokio::sync::watch::channel(std::sync::Arc::new(zone()));
                serve_host(server, zone).await;
            });
        });
    });
    let mut other = namespace
        .command("dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
        .args(["--user=root", "--bind-interfaces", "--listen-address=127.0.0.1", "--port"])
        .arg(DNSMASQ.to_string())
        .args(["--host-record=web.vm,10.213.0.2", "--pid-file="])
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsmasq starts");
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\x02vm\0\0\x01\0\x01";
    let rate = |port: u16| -> f64 {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.connect(("127.0.0.1", port)).expect("connects");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let mut buffer = [0; 512];
        let start = Instant::now();
        for number in 0..QUESTIONS + UNDER_WAY {
            if number < QUESTIONS {
                socket.send(question).expect("sends");
            }
            if number >= UNDER_WAY {
                let count = socket.recv(&mut buffer).expect("is answered");
                assert_eq!(buffer[count - 4..count], [10, 213, 0, 2]);
            }
        }
        QUESTIONS as f64 / start.elapsed().as_secs_f64()
    };
    namespace.inside(|| {
        std::thread::sleep(Duration::from_millis(500));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(rate(DNSMASQ));
            ours.push(rate(banger_wire::derive::DNS_PORT));
        }
        let middle = |mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (ours, theirs) = (middle(ours), middle(theirs));
        println!("DNS answers a second: {ours:.0}, dnsmasq {theirs:.0}");
        println!("ratio: {:.3}", ours / theirs);
    });
    let _ = other.kill();
    let _ = other.wait();
}

fn zone() -> banger_plan::zone::Zone {
    use banger_plan::actual::{Actual, SandboxFact, Seen, TapFact, VmmFact};
    let mut desired = banger_plan::Desired::empty(banger_wire::id::InstallId::from_bits(1));
    banger_plan::assign::choose_subnet(&mut desired, |_| true);
    let text = "sandbox \"web\" { image \"debian-bookworm\"; }";
    let spec = banger_schema::parse("x", text, banger_schema::Language::Kdl).expect("parses");
    let project = banger_wire::id::Name::new("shop").expect("a name");
    let desired = banger_plan::assign::assign(&desired, &project, &spec, false);
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
    let sandboxes = desired.sandboxes.keys().map(|id| (id.clone(), up.clone())).collect();
    banger_plan::zone::host_zone(&desired, &Actual { sandboxes, ..Actual::default() })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// `plan` for 1,000 sandboxes, pure.
fn plans() {
    use banger_plan::actual::{Actual, BridgeFact, NetworkFact, RulesFact, SandboxFact, Seen};
    use banger_plan::{Desired, assign::assign, plan};
    let mut desired = Desired::empty(banger_wire::id::InstallId::from_bits(1));
    for project in 0..10 {
        let text: String = (0..100)
            .map(|n| format!("sandbox \"s{n}\" {{ image \"debian-bookworm\"; }}\n"))
            .collect();
        let spec = banger_schema::parse("x", &text, banger_schema::Language::Kdl).expect("parses");
        let name = banger_wire::id::Name::new(format!("p{project}")).expect("a name");
        desired = assign(&desired, &name, &spec, false);
    }
    let actual = Actual {
        images: desired.images.keys().map(|recipe| (recipe.clone(), Seen::Absent)).collect(),
        kernels: desired.kernels.keys().map(|recipe| (recipe.clone(), Seen::Absent)).collect(),
        sandboxes: desired.sandboxes.keys().map(|id| (id.clone(), SandboxFact::absent())).collect(),
        network: Seen::Present(NetworkFact {
            missing: None,
            bridge: BridgeFact::Right,
            rules: RulesFact::Current,
            strangers: std::collections::BTreeMap::new(),
            names_routed: None,
        }),
        ..Actual::default()
    };
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        assert_eq!(plan(&desired, &actual).lists.len(), 1002);
        start.elapsed()
    });
    println!("plan of 1,000 sandboxes: {:?}", median(times.collect()));
}

struct Home {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// Where guests run: with no way out. Images are built outside of it.
    namespace: Option<namespace::Namespace>,
}

impl Home {
    fn banger(&self, arguments: &[&str]) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let agent = root.join("target/x86_64-unknown-linux-musl/agent/banger-agent");
        let program = self.programs.join("banger");
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        command.args(arguments).env("BANGER_HOME", self.folder.path()).env("BANGER_AGENT", agent);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The daemon ends by itself once nobody asks and nothing is desired.
    fn wait_for_its_end(&self) {
        let begun = Instant::now();
        while UnixStream::connect(self.folder.path().join("run/bangerd.sock")).is_ok()
            && begun.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What still runs in a folder makes parts of it again.
        self.wait_for_its_end();
    }
}

/// `vm run -- true` against the same kernel, initramfs and disks started by hand, to the same point.
fn runs() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let programs = std::env::var_os("BANGER_PROGRAMS").map_or(programs, PathBuf::from);
    if !programs.join("banger").is_file() {
        return println!("vm run: build the programs first: cargo build --release");
    }
    let folder = tempfile::Builder::new().prefix("bf").tempdir_in("/tmp").expect("a folder");
    let mut home = Home { folder, programs, namespace: None };
    println!("building the image …");
    assert!(home.banger(&["image", "build", "debian-bookworm"]).status().expect("runs").success());
    // The daemon that built it is outside.
    home.wait_for_its_end();
    home.namespace = Some(namespace::Namespace::new());
    assert!(home.banger(&["vm", "run", "--", "true"]).status().expect("runs").success());
    let state = home.folder.path().join("state");
    let first = |folder: &str, end: &str| {
        let entries =
            std::fs::read_dir(state.join(folder)).expect("a folder").flatten().map(|e| e.path());
        entries.into_iter().find(|path| path.to_string_lossy().ends_with(end)).expect("there")
    };
    let kernels =
        std::fs::read_dir(state.join("kernels")).expect("a folder").flatten().map(|e| e.path());
    let kernel = kernels
        .into_iter()
        .find(|path| path.join("vmlinuz").exists())
        .expect("a kernel")
        .join("vmlinuz");
    let (image, initramfs) = (first("images", ".ext4"), first("initramfs", ".cpio"));
    let (mut by_hand, mut by_banger) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        by_hand.push(start_by_hand(home.folder.path(), &kernel, &initramfs, &image));
        let start = Instant::now();
        assert!(home.banger(&["vm", "run", "--", "true"]).status().expect("runs").success());
        by_banger.push(start.elapsed());
        // The end of the last one is not to burden the next.
        std::thread::sleep(Duration::from_millis(700));
    }
    let (hand, ours) = (median(by_hand), median(by_banger));
    println!("by hand, until its agent answered and ran `true`: {hand:?}");
    println!("vm run -- true:                                  {ours:?}");
    println!("ratio: {:.3}", ours.as_secs_f64() / hand.as_secs_f64());
}

fn agent(socket: &Path, request: &str, until: &str) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(b"CONNECT 1024\n").ok()?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    reader.read_line(&mut line).ok()?;
    if !line.starts_with("OK ") {
        return None;
    }
    stream
        .write_all(&banger_wire::frame::encode(
            banger_wire::frame::Kind::Control,
            request.as_bytes(),
        ))
        .ok()?;
    let mut decoder = banger_wire::frame::Decoder::default();
    let mut chunk = [0; 4096];
    loop {
        while let Some(frame) = decoder.next_frame().ok()? {
            if String::from_utf8_lossy(&frame.payload).contains(until) {
                return Some(());
            }
        }
        let count = reader.read(&mut chunk).ok().filter(|count| *count > 0)?;
        decoder.push(&chunk[..count]);
    }
}

fn start_by_hand(folder: &Path, kernel: &Path, initramfs: &Path, image: &Path) -> Duration {
    let start = Instant::now();
    let run = folder.join("hand");
    let _ = std::fs::remove_dir_all(&run);
    std::fs::create_dir(&run).expect("a folder");
    let disk = run.join("disk.ext4");
    std::fs::File::create(&disk).expect("a disk").set_len(10 << 30).expect("sized");
    let options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
        "-J",
        "size=16",
    ];
    assert!(Command::new("mke2fs").args(options).arg(&disk).status().expect("mke2fs").success());
    let quiet = |command: &mut Command| -> Child {
        command
            .current_dir(&run)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts")
    };
    let mut device = quiet(
        Command::new("vhost-device-vsock")
            .args(["--vm", "guest-cid=3,uds-path=vsock.sock,socket=vhost.sock"]),
    );
    while !run.join("vhost.sock").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kvm =
        banger_reconciler::host::acceleration().0 == banger_reconciler::host::Acceleration::Kvm;
    let mut line = "console=ttyS0 quiet reboot=t panic=-1 random.trust_cpu=1".to_string();
    if let (false, Some(khz)) = (kvm, banger_reconciler::host::tsc_khz()) {
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    let (accelerator, cpu) =
        if kvm { ("kvm", "host") } else { ("tcg,tb-size=256,thread=multi", "max") };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args([
            "-machine",
            "microvm,memory-backend=memory",
            "-accel",
            accelerator,
            "-cpu",
            cpu,
            "-smp",
            "1",
            "-m",
            "512M",
        ])
        .args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on", "-append", &line])
        .args(["-serial", "null", "-chardev", "socket,id=vsock,path=vhost.sock"])
        .args(["-device", "vhost-user-vsock-device,chardev=vsock"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    for (index, (path, access)) in [(image, "on"), (disk.as_path(), "off")].into_iter().enumerate()
    {
        qemu.arg("-drive").arg(format!(
            "if=none,id=disk{index},format=raw,readonly={access},file={}",
            path.display()
        ));
        qemu.arg("-device").arg(format!("virtio-blk-device,drive=disk{index}"));
    }
    // The same devices: the guest's kernel takes its time for each.
    qemu.args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-device,netdev=net"]);
    let mut qemu = quiet(&mut qemu);
    let socket = run.join("vsock.sock");
    let identity = format!(
        r#"{{"do":"identify","generation":1,"hostname":"hand","env":{{}},"volumes":[],"provision":[],"provision_digest":"","command":[],"ready":null,"clock_ns":1700000000000000000,"entropy":"{}"}}"#,
        "00".repeat(32)
    );
    while agent(&socket, &identity, "\"done\"").is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    agent(&socket, r#"{"do":"exec","argv":["true"]}"#, "\"exit\"").expect("true ran");
    let time = start.elapsed();
    for child in [&mut qemu, &mut device] {
        let _ = child.kill();
        let _ = child.wait();
    }
    time
}
