//! A real registry with real images, and a proxy before it that counts and cuts.

mod fake;
mod pull;
mod torture;

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Debian's registry, over a folder of its own.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// Over this storage, started by `command`, which may enter a namespace.
    pub(crate) fn start(storage: &Path, auth: &str, command: impl Fn(&str) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let config = folder.path().join("config.yml");
        let storage = storage.display();
        let text = format!(
            "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {storage} }}, maintenance: {{ uploadpurging: {{ enabled: false }} }} }}\n\
             http: {{ addr: \"127.0.0.1:{port}\" }}\n{auth}"
        );
        fs::write(&config, text).expect("writes");
        let child = command("docker-registry")
            .args(["serve", &config.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        Self { child, port, _folder: folder }
    }

    /// In this process's own namespace, with the real images.
    pub(crate) fn here() -> Self {
        let registry = Self::start(&images().join("storage"), "", |program| Command::new(program));
        registry.wait();
        registry
    }

    /// Waits until it answers. Only for one that is not in another namespace.
    pub(crate) fn wait(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// What is missing here to make images and serve them.
pub(crate) fn can_run() -> bool {
    let missing: Vec<&str> = ["docker-registry", "skopeo", "umoci", "busybox", "mmdebstrap"]
        .into_iter()
        .filter(|name| {
            let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
            !folders.iter().any(|folder| Path::new(folder).join(name).is_file())
        })
        .collect();
    assert!(
        missing.is_empty() || std::env::var_os("BANGER_REQUIRE_ALL").is_none(),
        "missing: {missing:?}"
    );
    if !missing.is_empty() {
        eprintln!("SKIPPED: missing: {missing:?}");
    }
    missing.is_empty()
}

/// The folder of the real images: `storage` for a registry, `lay` as OCI layout, `saved.tar`, `debian.tar`. Made once.
pub(crate) fn images() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent");
    let shared = root.join("target/end-to-end");
    fs::create_dir_all(&shared).expect("a folder");
    let file = File::create(shared.join("images-lock")).expect("a lock");
    let lock = Flock::lock(file, FlockArg::LockExclusive).expect("locks");
    let ready = shared.join("images-1");
    if !ready.join("done").exists() {
        let _ = fs::remove_dir_all(&ready);
        fs::create_dir_all(ready.join("storage")).expect("a folder");
        let registry = Registry::start(&ready.join("storage"), "", |program| Command::new(program));
        registry.wait();
        let filled = Command::new(root.join("tests/registry/fill"))
            .arg(registry.port.to_string())
            .current_dir(&ready)
            .output()
            .expect("runs");
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        fs::write(ready.join("done"), "").expect("writes");
    }
    drop(lock);
    ready
}

/// A proxy before a registry: counts what comes from it, notes what is asked, and may cut a blob's connection.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    bytes: AtomicU64,
    asked: Mutex<Vec<String>>,
    /// Cuts the next answer with a large blob after so many bytes.
    cut: Mutex<Option<u64>>,
    /// Bytes a second, when it is slow.
    slow: AtomicU64,
}

impl Proxy {
    pub(crate) fn before(registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::<ProxyState>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || {
                    let server = TcpStream::connect(("127.0.0.1", registry)).expect("connects");
                    carry(client, server, &state);
                });
            }
        });
        Self { port, state }
    }

    /// Bytes that came from the registry so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// Cuts the next connection that has carried so many bytes.
    pub(crate) fn cut_after(&self, bytes: u64) {
        *self.state.cut.lock().expect("no holder panics") = Some(bytes);
    }

    /// Carries only so many bytes a second.
    pub(crate) fn slow(&self, bytes: u64) {
        self.state.slow.store(bytes, Ordering::SeqCst);
    }

    /// The request lines that had this in them.
    pub(crate) fn asked(&self, part: &str) -> usize {
        let asked = self.state.asked.lock().expect("no holder panics");
        asked.iter().filter(|line| line.contains(part)).count()
    }
}

fn carry(client: TcpStream, server: TcpStream, state: &Arc<ProxyState>) {
    let (mut from_client, mut to_server) =
        (client.try_clone().expect("clones"), server.try_clone().expect("clones"));
    let asked = state.clone();
    std::thread::spawn(move || {
        let mut chunk = [0; 16 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut chunk) {
            let text = String::from_utf8_lossy(&chunk[..count]);
            let lines = text.lines().filter(|line| line.ends_with("HTTP/1.1")).map(String::from);
            asked.asked.lock().expect("no holder panics").extend(lines);
            if to_server.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let (mut chunk, mut carried, begun) = (vec![0; 4 << 10], 0, Instant::now());
    while let Ok(count @ 1..) = from_server.read(&mut chunk) {
        let mut most = count;
        let mut cut = false;
        {
            let mut after = state.cut.lock().expect("no holder panics");
            if let Some(limit) = *after
                && carried + count as u64 > limit
            {
                most = usize::try_from(limit.saturating_sub(carried)).unwrap_or(0).min(count);
                (cut, *after) = (true, None);
            }
        }
        carried += most as u64;
        state.bytes.fetch_add(most as u64, Ordering::SeqCst);
        if to_client.write_all(&chunk[..most]).is_err() || cut {
            break;
        }
        // From where it was on: a rate is held on the whole, whatever one sleep takes.
        let rate = state.slow.load(Ordering::SeqCst);
        if let Some(due) = (carried * 1_000_000).checked_div(rate) {
            std::thread::sleep(Duration::from_micros(due).saturating_sub(begun.elapsed()));
        }
    }
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = from_server.shutdown(Shutdown::Both);
}
