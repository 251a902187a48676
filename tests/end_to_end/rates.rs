//! Rates of disks, as a guest sees them.

use super::home::{Home, IMAGE, can_run, firecracker, kernel_of_this_host};
use std::time::{Duration, Instant};

#[test]
fn a_disk_is_held_to_its_rate() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let file = |rest: &str| {
        format!(
            "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"128MiB\"; egress \"none\"; {rest} }}\n"
        )
    };
    home.write(&file("disk-rate \"2MiB\";"));
    home.ok(&["apply"]);
    // Twelve seconds' worth. What is free at first is one second's.
    let write = "dd if=/dev/zero of=/big bs=1M count=24 conv=fsync 2>/dev/null && rm /big";
    let write = || {
        let begun = Instant::now();
        home.ok(&["vm", "exec", "a", "--", "sh", "-c", write]);
        begun.elapsed()
    };
    let held = write();
    assert!(held > Duration::from_secs(8), "{held:?}");
    home.write(&file(""));
    let plan = home.banger(&["plan"]).out;
    assert!(plan.contains("disk-rate 2MiB → none (restart)"), "{plan}");
    home.ok(&["apply"]);
    let free = write();
    // An emulated kernel writes slower than any rate.
    let slow = kernel_of_this_host().is_some();
    assert!(slow || free * 2 < held, "{free:?} without a rate, {held:?} with it");
    // What cannot be held is not started.
    if !firecracker() {
        home.write(&file("net-rate \"1MiB\";"));
        let said = home.banger(&["apply"]);
        assert!(said.code == 1 && said.err.contains("only Firecracker"), "{}", said.err);
    }
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
