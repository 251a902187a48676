//! An image with an init of its own: the agent hands over and stays beside it.

use super::home::{Home, can_run};
use std::fs;
use std::path::Path;

#[test]
fn systemd_takes_over_and_goes_in_order() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd.kdl");
    fs::copy(example, home.path().join("Bangerfile")).expect("copies");
    home.ok(&["apply"]);
    let sh = |line: &str| home.ok(&["vm", "exec", "box", "--", "sh", "-c", line]);
    assert_eq!(
        sh("cat /proc/1/comm; systemctl is-active multi-user.target; hostname"),
        "systemd\nactive\nbox\n"
    );
    // A service that wants to write something when it is stopped gets to do so.
    sh(
        "printf '[Service]\\nExecStart=/bin/sleep inf\\nExecStop=/bin/sh -c \"echo stopped in order > /witness\"\\n' > /etc/systemd/system/witness.service; systemctl start witness",
    );
    home.ok(&["vm", "restart", "box"]);
    assert_eq!(home.ok(&["vm", "exec", "box", "--", "cat", "/witness"]), "stopped in order\n");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
