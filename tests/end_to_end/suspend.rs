//! Suspended sandboxes on real guests: they go on where they were, once, and never with disks that changed since.
//! Run where Firecracker's binaries are (`BANGER_VMM=firecracker`).

use super::firecracker::{BOX, memories, runs, tell};
use super::home::{Home, IMAGE};
use banger_wire::helper::Purpose;
use std::fs;
use std::time::{Duration, SystemTime};

const LONG: Duration = Duration::from_secs(60);

fn phase(home: &Home) -> String {
    let status = home.status("a").expect("there");
    status["phase"].as_str().expect("a phase").to_string()
}

/// Memories of guests, which are somebody's.
fn kept(home: &Home) -> usize {
    memories(home, Purpose::Guest).len()
}

#[test]
fn a_suspended_guest_goes_on_where_it_was() {
    if !runs() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX} }}\n"));
    home.ok(&["apply"]);
    tell(
        &home,
        "a",
        "echo not-synced > /data; setsid sh -c 'n=0; while sleep 0.2; do n=$((n+1)); echo $n > /run/n; done' > /dev/null 2>&1 < /dev/null & \
         echo $! > /run/pid",
    );
    let boot = home.boot_id("a");
    home.wait("it counts", LONG, |home| {
        tell(home, "a", "cat /run/n 2>/dev/null || echo 0").trim() != "0"
    });
    home.ok(&["vm", "suspend", "a"]);
    assert_eq!(phase(&home), "suspended");
    assert!(home.guests().is_empty() && home.jails().is_empty(), "nothing of it runs");
    assert_eq!(kept(&home), 1);
    // Whoever comes next knows.
    home.kill_daemon();
    assert_eq!(phase(&home), "suspended");
    let refused = home.banger(&["vm", "exec", "a", "--", "true"]);
    assert_ne!(refused.code, 0, "{}", refused.out);
    home.ok(&["vm", "start", "a"]);
    assert_eq!((phase(&home), home.boot_id("a")), ("ready".into(), boot.clone()));
    assert_eq!(tell(&home, "a", "cat /data"), "not-synced\n");
    let before: u64 = tell(&home, "a", "cat /run/n").trim().parse().expect("a number");
    home.wait("it goes on counting", LONG, |home| {
        tell(home, "a", "cat /run/n").trim().parse::<u64>().is_ok_and(|now| now > before)
    });
    let told: u64 = tell(&home, "a", "date +%s").trim().parse().expect("a number");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs();
    assert!(now.abs_diff(told) < 30, "its clock is the host's: {told}, {now}");
    home.wait("its memory is dropped", LONG, |home| kept(home) == 0);

    // From the file, too; and a daemon that ends in the middle of it is no harm.
    for moment in [50, 400] {
        home.write(&format!(
            "{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX} mode \"suspended\"; }}\n"
        ));
        home.ok(&["apply", "--no-wait"]);
        std::thread::sleep(Duration::from_millis(moment));
        home.kill_daemon();
        home.ok(&["apply"]);
        assert_eq!(phase(&home), "suspended");
        home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX} }}\n"));
        home.ok(&["apply", "--no-wait"]);
        std::thread::sleep(Duration::from_millis(moment));
        home.kill_daemon();
        home.ok(&["apply"]);
        assert_eq!((phase(&home), home.boot_id("a")), ("ready".into(), boot.clone()), "{moment}");
    }

    // A disk that was written to since has other contents than the memory knows: it boots, and nothing of the disk is lost.
    tell(&home, "a", "echo more > /more");
    home.ok(&["vm", "suspend", "a"]);
    let folder = fs::read_dir(home.path().join("state/sandboxes")).expect("reads").flatten().next();
    let files = fs::read_dir(folder.expect("one").path()).expect("reads").flatten();
    let disk = files.map(|entry| entry.path()).find(|p| p.extension().is_some_and(|e| e == "ext4"));
    let disk = fs::File::options().write(true).open(disk.expect("a disk")).expect("opens");
    disk.set_modified(SystemTime::now()).expect("as if it was written to");
    home.ok(&["vm", "start", "a"]);
    assert_ne!(home.boot_id("a"), boot);
    assert_eq!(tell(&home, "a", "cat /data /more"), "not-synced\nmore\n");
    assert!(home.log().contains("its disks changed since"), "{}", home.log());

    // Stopped is stopped: the memory goes. Removed is removed.
    home.ok(&["vm", "suspend", "a"]);
    home.ok(&["vm", "stop", "a"]);
    assert_eq!(phase(&home), "stopped");
    home.wait("its memory is dropped", LONG, |home| kept(home) == 0);
    home.ok(&["vm", "start", "a"]);
    home.ok(&["vm", "suspend", "a"]);
    home.ok(&["destroy", "--yes"]);
    home.wait("its memory is dropped", LONG, |home| kept(home) == 0);
    home.assert_nothing_left();
}
