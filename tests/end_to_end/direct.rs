//! An ordinary user, without root and without a helper: QEMU runs as that user, and everything else is the same.

use super::home::{Home, IMAGE, can_run, firecracker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

const USER: u32 = 60_104;

fn vmm(home: &Home) -> Option<Pid> {
    let mut guests = home.guests().into_iter();
    guests.find(|(_, name)| name == "qemu-system-x86").map(|(pid, _)| pid)
}

/// Writes to what a process says until nobody takes any more, or this much was taken. How much.
fn say(pid: Pid, most: usize) -> usize {
    let path = format!("/proc/{pid}/fd/2");
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut log = File::options().write(true).custom_flags(flags).open(path).expect("a FIFO");
    let (line, mut written, mut tries) = ([b'x'; 1024], 0, 0);
    while written < most && tries < 500 {
        match log.write(&line) {
            Ok(count) => (written, tries) = (written + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn an_ordinary_user_has_sandboxes_without_root() {
    if !can_run() {
        return;
    }
    if firecracker() {
        return eprintln!("NOT RUN: Firecracker needs the helper");
    }
    let home = Home::of_user(USER);
    let sandbox = |egress: &str| {
        format!("{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; {egress} }}\n")
    };
    // The internet needs rules, and those need root: it says so, and nothing is half made.
    home.write(&sandbox(""));
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.err.contains("not run as root") && said.err.contains("\"none\" needs no rules"));
    assert!(home.guests().is_empty());
    home.write(&sandbox("egress \"none\";"));
    home.ok(&["apply"]);
    home.ok(&["vm", "exec", "a", "--", "sh", "-c", "echo kept > /kept; sync"]);
    for (pid, name) in home.processes() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
        let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("its user");
        let all = [USER; 4].map(|user| user.to_string());
        assert_eq!(uid.split_whitespace().skip(1).collect::<Vec<_>>(), all, "{name}");
    }
    // What QEMU says is kept, a megabyte of it; and nobody waits for a daemon that is not there.
    let (before, runs) = (home.boot_id("a"), vmm(&home).expect("runs"));
    assert_eq!(say(runs, 3 << 20), 3 << 20, "the daemon reads it");
    home.kill_daemon();
    assert!(say(runs, 3 << 20) < 1 << 20, "nobody reads it");
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n");
    assert_eq!(home.boot_id("a"), before, "the next daemon finds it");
    let own = fs::read_dir(home.path().join("state/sandboxes")).expect("reads").flatten().next();
    let own = own.expect("a sandbox").path();
    // Its vsock device must not be used before the guest listens, and it said so.
    let console = fs::read_to_string(own.join("console")).expect("a console");
    assert_eq!(console.matches(banger_wire::agent::LISTENS).count(), 1, "{console}");
    let id = own.file_name().expect("an id");
    assert!(home.path().join("run/vm").join(id).join("listens").exists());
    home.wait("the rest is read", Duration::from_secs(10), |_| say(runs, 2 << 20) == 2 << 20);
    let size = |name| fs::metadata(own.join(name)).map_or(0, |meta| meta.len());
    let kept = size("vmm.log") + size("vmm.older");
    assert!((512 << 10..=1 << 20).contains(&kept), "{kept} bytes are kept");
    // One that dies is replaced, with its disk.
    kill(runs, Signal::SIGKILL).expect("kills");
    home.wait("another one is ready", Duration::from_secs(60), |home| {
        home.status("a").is_some_and(|status| {
            let boot = status["boot_id"].as_str();
            status["phase"] == "ready" && boot.is_some_and(|boot| boot != before)
        })
    });
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n");
    assert_eq!(
        home.banger(&[
            "vm", "run", "--memory", "256MiB", "--egress", "none", "--", "sh", "-c", "exit 7"
        ])
        .code,
        7
    );
    let doctor = home.banger(&["doctor"]);
    assert!(doctor.out.contains("root") || doctor.err.contains("root"), "{}", doctor.out);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
