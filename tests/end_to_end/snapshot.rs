//! Snapshots of real guests: a disk as it was, whoever wrote to it meanwhile; and others that begin there as somebody else. With
//! Firecracker the memory, too.

use super::home::{Home, IMAGE, can_run, firecracker};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const BOX: &str = "memory \"128MiB\"";

fn tell(home: &Home, name: &str, line: &str) -> String {
    home.ok(&["vm", "exec", name, "--", "sh", "-c", line])
}

/// The disk of the newest snapshot.
fn disk(home: &Home) -> PathBuf {
    let all = fs::read_dir(home.path().join("state/snapshots")).expect("reads").flatten();
    let newest = all.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).expect("told"));
    let files = fs::read_dir(newest.expect("one").path()).expect("reads").flatten();
    let is_disk = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "ext4");
    files.map(|entry| entry.path()).find(is_disk).expect("a disk")
}

/// Whether a copy of a filesystem is sound, after its journal was replayed.
fn is_sound(home: &Home) -> bool {
    let copy = home.path().join("copy.ext4");
    let copied = Command::new("cp").arg("--sparse=always").arg(disk(home)).arg(&copy).status();
    assert!(copied.expect("cp").success());
    let replay = Command::new("e2fsck").args(["-p", "-f"]).arg(&copy).output().expect("e2fsck");
    let check = Command::new("e2fsck").args(["-n", "-f"]).arg(&copy).output().expect("e2fsck");
    fs::remove_file(copy).expect("removes");
    replay.status.code().is_some_and(|code| code <= 1) && check.status.success()
}

fn snapshot(home: &Home, name: &str) -> serde_json::Value {
    let all = home.json(&["snapshot", "list"]);
    let found = all.as_array().expect("a list").iter().find(|one| one["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no {name} in {all}"))
}

#[test]
fn a_sandbox_goes_back_to_a_snapshot() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX}; egress \"none\"; }}\n"));
    home.ok(&["apply"]);
    // Somebody writes all the time.
    tell(
        &home,
        "a",
        "echo one > /data; setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n > /counter; echo line >> /log; sync; sleep 0.05; done' \
         > /dev/null 2>&1 < /dev/null & echo $! > /run/pid",
    );
    home.wait("it writes", LONG, |home| tell(home, "a", "cat /counter || echo 0").trim() != "0");
    let boot = home.boot_id("a");
    home.ok(&["vm", "snapshot", "a", "early"]);
    assert_eq!(home.boot_id("a"), boot, "it goes on");
    let taken = snapshot(&home, "early");
    assert_eq!(
        (&taken["taken"], &taken["memory"]),
        (&true.into(), &firecracker().into()),
        "{taken}"
    );
    assert!(is_sound(&home), "nothing is half written");
    let counted: u64 = tell(&home, "a", "cat /counter").trim().parse().expect("a number");
    tell(&home, "a", "echo two > /data; sync");
    assert_eq!(home.banger(&["vm", "snapshot", "a", "early"]).code, 1, "the name is taken");
    assert_eq!(home.banger(&["vm", "restore", "a", "early"]).code, 4, "nobody agreed");
    assert_eq!(tell(&home, "a", "cat /data"), "two\n");
    home.ok(&["vm", "restore", "a", "early", "--yes"]);
    assert_eq!(tell(&home, "a", "cat /data"), "one\n");
    let back: u64 = tell(&home, "a", "cat /counter").trim().parse().expect("a number");
    if firecracker() {
        assert_eq!(home.boot_id("a"), boot, "it goes on from its memory");
        home.wait("it goes on counting", LONG, |home| {
            tell(home, "a", "cat /counter").trim().parse::<u64>().is_ok_and(|now| now > back)
        });
    } else {
        assert_ne!(home.boot_id("a"), boot);
        assert!(back <= counted, "{back} was counted after {counted}");
    }
    assert_eq!(home.ok(&["apply"]).trim(), "no changes", "a file has no opinion of it");

    // One that does not run; and a daemon that ends while one is taken.
    home.ok(&["vm", "stop", "a"]);
    home.ok(&["vm", "snapshot", "a", "stopped"]);
    assert!(is_sound(&home) && snapshot(&home, "stopped")["memory"] == false);
    home.ok(&["vm", "start", "a"]);
    for (moment, name) in [(20, "first"), (150, "second")] {
        let mut taking = home.command(&["vm", "snapshot", "a", name]);
        let mut taking = taking.spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(moment));
        home.kill_daemon();
        let _ = taking.wait();
        home.ok(&["ps"]);
        let known = home.json(&["snapshot", "list"]).to_string().contains(name);
        // Before it was wanted, nothing was wanted; after that it is taken.
        home.wait("it is taken", LONG, |home| !known || snapshot(home, name)["taken"] == true);
        home.ok(&["apply"]);
        assert!(!known || is_sound(&home));
    }
    assert_eq!(tell(&home, "a", "cat /data"), "one\n");

    // They outlive their sandbox, and go when they are removed.
    home.ok(&["destroy", "--yes"]);
    home.write(IMAGE);
    home.ok(&["apply"]);
    home.ok(&["vm", "fork", "a", "b", "--snapshot", "stopped"]);
    assert_eq!(tell(&home, "b", "cat /data; hostname"), "one\nb\n");
    home.ok(&["destroy", "--yes"]);
    let all = home.json(&["snapshot", "list"]);
    assert_eq!(home.banger(&["snapshot", "delete", "early"]).code, 4, "nobody agreed");
    for one in all.as_array().expect("a list") {
        home.ok(&["snapshot", "delete", one["name"].as_str().expect("a name"), "--yes"]);
    }
    home.assert_nothing_left();
}

#[test]
fn a_fork_is_somebody_else() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX}; publish 18181 guest=80; env WHO=\"a\"; }}\n"
    ));
    home.ok(&["apply"]);
    // As images with systemd have one, and as programs keep what they know in memory.
    tell(
        &home,
        "a",
        "od -An -N16 -tx1 /dev/urandom | tr -d ' \\n' > /etc/machine-id; echo mine > /data; echo kept > /run/kept",
    );
    home.ok(&["vm", "fork", "a", "b"]);
    home.ok(&["vm", "fork", "a", "c"]);
    assert_eq!(
        home.json(&["snapshot", "list"]),
        serde_json::json!([]),
        "what was only for that is gone"
    );
    let status = |name: &str| home.status(name).expect("there");
    assert_eq!(status("b")["ports"], serde_json::json!([]), "the host's ports are the first one's");
    for what in [
        "cat /etc/machine-id",
        "hostname; cat /etc/hostname",
        "head -c 32 /dev/urandom | od -An -tx1",
        "cat /sys/class/net/eth0/address",
        "grep -c . /proc/net/fib_trie; cat /proc/net/fib_trie | grep -B1 '/32 host LOCAL' | grep -v 127.0.0",
        "tail -n 1 /etc/hosts",
    ] {
        let said: BTreeSet<String> =
            ["a", "b", "c"].iter().map(|name| tell(&home, name, what)).collect();
        assert_eq!(said.len(), 3, "{what}: {said:?}");
    }
    let keys: BTreeSet<String> = ["a", "b", "c"]
        .iter()
        .map(|name| home.ok(&["ssh-host-keys", &format!("{name}.test"), &format!("{name}.test")]))
        .collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    for name in ["b", "c"] {
        assert_eq!(tell(&home, name, "cat /data"), "mine\n");
        let kept = tell(&home, name, "cat /run/kept 2>/dev/null || echo none");
        assert_eq!(kept, if firecracker() { "kept\n" } else { "none\n" });
        // Its own address works, behind rules that know its card and its address.
        let address = status(name)["address"].as_str().expect("an address").to_string();
        assert!(tell(&home, name, "cat /etc/hosts").contains(&address));
        tell(
            &home,
            name,
            "setsid sh -c 'while :; do busybox nc -l -p 7 -e echo hello; done' > /dev/null 2>&1 < /dev/null &",
        );
        let line = format!(
            "import socket; s = socket.create_connection(('{address}', 7), 20); print(s.recv(9))"
        );
        home.wait("it is reached", LONG, |home| {
            let said = home.namespace().command(Path::new("python3")).args(["-c", &line]).output();
            said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("hello"))
        });
    }
    tell(&home, "b", "echo b > /data; sync");
    assert_eq!(tell(&home, "c", "cat /data") + &tell(&home, "a", "cat /data"), "mine\nmine\n");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// A guest whose memory is kept forgets its connections: whoever is in a session is told, and does not wait for ever.
#[test]
fn a_session_ends_when_its_guest_forgets_it() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX} }}\n"));
    home.ok(&["apply"]);
    let session = || {
        let mut command =
            home.command(&["vm", "exec", "a", "--", "sh", "-c", "echo in; sleep 9999"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        let mut word = [0; 3];
        child.stdout.as_mut().expect("piped").read_exact(&mut word).expect("it is in");
        child
    };
    let mut first = session();
    home.ok(&["vm", "snapshot", "a", "one", "--disk-only"]);
    assert!(first.try_wait().expect("a child").is_none(), "a disk's is no reason");
    home.ok(&["vm", "snapshot", "a", "two"]);
    if firecracker() {
        home.wait("the session ends", Duration::from_secs(10), |_| {
            first.try_wait().expect("a child").is_some()
        });
        let ended = first.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            !ended.status.success() && said.contains("the connection to the guest broke"),
            "{said}"
        );
        first = session();
    }
    assert!(first.try_wait().expect("a child").is_none());
    home.ok(&["vm", "kill", "a"]);
    assert!(!first.wait().expect("ends").success());
    home.ok(&["destroy", "--yes"]);
    for snapshot in ["one", "two"] {
        home.ok(&["snapshot", "delete", snapshot, "--yes"]);
    }
    home.assert_nothing_left();
}
