//! Guests that write without end and knock at every port: the host's disk and memory do not grow, and others are served.

use super::home::{Home, NET_IMAGE, can_run, kernel_of_this_host};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the guest writes to its console: twice what is kept. A port that a guest writes to byte by byte is slow under
/// emulation, and slower still where its kernel is emulated, too.
fn flood() -> u64 {
    if kernel_of_this_host().is_some() { 256 << 10 } else { 2 << 20 }
}

/// By how much what the host keeps may grow, besides disks (R-G5).
const DISK: u64 = 2 << 20;
/// By how much the daemon may grow.
const MEMORY: u64 = 8 << 20;

fn guest() -> String {
    format!("{NET_IMAGE}sandbox \"a\" {{ image \"net\"; memory \"256MiB\"; disk \"512MiB\"; }}\n")
}

/// Bytes on disk of everything of a home but disks, images and kernels.
fn kept(folder: &Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let large = ["images", "kernels"].iter().any(|name| path.ends_with(name));
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() && !large {
                todo.push(path);
            } else if meta.is_file() && path.extension().is_none_or(|extension| extension != "ext4")
            {
                sum += meta.blocks() * 512;
            }
        }
    }
    sum
}

/// The daemon's memory in bytes.
fn resident(home: &Home) -> u64 {
    let pid = home.daemon().expect("a daemon");
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn a_flooded_console_is_bounded() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&guest());
    home.ok(&["apply"]);
    let other = || home.ok(&["vm", "exec", "a", "--", "echo", "here"]);
    // Everything was used once before it is measured.
    assert_eq!(other(), "here\n");
    home.ok(&["vm", "logs", "a"]);
    let (disk, memory) = (kept(home.path()), resident(&home));
    let bytes = flood();
    let line = format!("yes $(seq -s. 100) | head -c {bytes} > /dev/ttyS0");
    let start = Instant::now();
    let mut flood = home
        .command(&["vm", "exec", "a", "--", "sh", "-c", &line])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let (mut most, mut answers) = ((0, 0), 0);
    let status = loop {
        if let Some(status) = flood.try_wait().expect("a child") {
            break status;
        }
        assert_eq!(other(), "here\n", "the guest is answered meanwhile");
        answers += 1;
        std::thread::sleep(Duration::from_secs(1));
        most = (most.0.max(kept(home.path())), most.1.max(resident(&home)));
        assert!(start.elapsed() < Duration::from_secs(180), "it takes too long");
    };
    assert!(status.success());
    most = (most.0.max(kept(home.path())), most.1.max(resident(&home)));
    let (disk, memory) = (most.0.saturating_sub(disk), most.1.saturating_sub(memory));
    eprintln!(
        "{bytes} bytes in {:?}: {disk} on disk, {memory} in memory, {answers} answers",
        start.elapsed()
    );
    assert!(disk <= DISK, "{disk} bytes more on disk");
    assert!(memory <= MEMORY, "{memory} bytes more in memory");
    assert!(answers > 0);
    // What is kept is the end of it.
    let logs = home.ok(&["vm", "logs", "a"]);
    assert!(
        ((bytes as usize / 5)..=1100 << 10).contains(&logs.len()),
        "{} bytes of console",
        logs.len()
    );
    assert!(logs.contains("1.2.3.4.5.6.7.8.9.10."));
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// Connects to 200 ports of the host, a few alone and all at once.
const KNOCK: &str = r"
import errno, select, socket, time
ports = list(range(1, 101)) + [1024 + n * 613 for n in range(60)] + [2**31 + n for n in range(20)] + [2**32 - 2 - n for n in range(20)]
def begin(port):
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.setblocking(False)
    s.connect_ex((2, port))
    return s
def end(s, until):
    select.select([], [s], [], max(0, until - time.time()))
    said = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    try:
        s.getpeername()
        said = 'open'
    except OSError:
        said = errno.errorcode.get(said, 'nothing')
    s.close()
    return said
for some in [[port] for port in ports[:3]] + [ports]:
    begun = [begin(port) for port in some]
    until = time.time() + 30
    for s in begun:
        print(end(s, until))
";

/// Nobody listens for guests: nothing that they connect to on the host opens (R-G10). Firecracker says so at once;
/// `vhost-device-vsock` says nothing, and the guest's kernel gives up.
#[test]
fn a_flood_of_knocks_finds_no_port() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&guest());
    home.ok(&["apply"]);
    let said = home.ok(&["vm", "exec", "a", "--", "python3", "-c", KNOCK]);
    assert_eq!(said.lines().count(), 203);
    let refused = ["ECONNRESET", "ETIMEDOUT"];
    let others: Vec<&str> = said.lines().filter(|line| !refused.contains(line)).collect();
    assert_eq!(others, Vec::<&str>::new());
    // The host's own way in is as it was.
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "echo", "here"]), "here\n");
    assert_eq!(home.status("a").expect("there")["phase"], "ready");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
