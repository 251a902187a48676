//! Data: kept when it should be, clean after a stop, gone only after a yes.

use super::home::{Home, IMAGE, can_run};
use std::process::Command;

fn with(extra: &str) -> String {
    format!(
        "{IMAGE}volume \"data\" size=\"256MiB\"\nsandbox \"a\" {{ image \"base\"; memory \"256MiB\"; volume \"data\" at=\"/srv/data\"; {extra}}}\n"
    )
}

#[test]
fn data_survives_stops_changes_and_growth() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&with("disk \"512MiB\"; provision \"echo once >> /provisioned\";"));
    home.ok(&["apply"]);
    let sh = |line: &str| home.ok(&["vm", "exec", "a", "--", "sh", "-c", line]);
    // Written and not synced: an orderly stop must not lose it.
    sh(
        "echo own > /own; echo shared > /srv/data/shared; echo 'id -u' > /usr/bin/whoami-script; chmod +x /usr/bin/whoami-script",
    );
    home.ok(&["vm", "stop", "a"]);
    for entry in std::fs::read_dir(home.path().join("state/sandboxes")).expect("a folder").flatten()
    {
        let disks = std::fs::read_dir(entry.path()).expect("a folder").flatten().map(|e| e.path());
        for disk in disks.filter(|path| path.extension().is_some_and(|e| e == "ext4")) {
            let fsck = Command::new("e2fsck").arg("-fn").arg(&disk).output().expect("e2fsck");
            assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        }
    }
    home.ok(&["vm", "start", "a"]);
    assert_eq!(
        sh("cat /own /srv/data/shared /provisioned"),
        "own\nshared\nonce\n",
        "provisioned once"
    );

    // A shrink is refused, and nothing changes.
    home.write(&with("disk \"256MiB\"; provision \"echo once >> /provisioned\";"));
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert!(said.err.contains("cannot shrink"), "{}", said.err);

    // Growth arrives in the guest.
    let blocks = |home: &Home| {
        let out =
            home.ok(&["vm", "exec", "a", "--", "sh", "-c", "df -m / | tail -1 | awk '{print $2}'"]);
        out.trim().parse::<u64>().unwrap_or_else(|_| panic!("{out}"))
    };
    let before = blocks(&home);
    home.write(
        &with("disk \"2GiB\"; provision \"echo once >> /provisioned\";")
            .replace("size=\"256MiB\"", "size=\"512MiB\""),
    );
    home.ok(&["apply"]);
    assert!(blocks(&home) > before * 3, "{} after {before}", blocks(&home));
    let sh = |line: &str| home.ok(&["vm", "exec", "a", "--", "sh", "-c", line]);
    assert!(
        sh("df -m /srv/data | tail -1 | awk '{print $2}'").trim().parse::<u64>().expect("a number")
            > 400
    );
    assert_eq!(sh("cat /own /srv/data/shared"), "own\nshared\n");

    // Another image destroys the sandbox's own disk: only after a yes. The volume stays.
    home.write(
        &with("disk \"2GiB\";")
            .replace("size=\"256MiB\"", "size=\"512MiB\"")
            .replace("image \"base\"; memory", "image \"debian-bookworm\"; memory"),
    );
    let boot = home.boot_id("a");
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert!(said.out.contains("destroy disk with its data"), "{}", said.out);
    assert_eq!(home.boot_id("a"), boot, "nothing was touched");
    home.ok(&["apply", "--yes"]);
    let sh = |line: &str| home.ok(&["vm", "exec", "a", "--", "sh", "-c", line]);
    assert_eq!(sh("cat /srv/data/shared; test -e /own || echo gone"), "shared\ngone\n");

    // A guest that calls for help in its provision is shown as such.
    home.write(
        &with("disk \"2GiB\"; provision \"echo all is lost; exit 9\";")
            .replace("size=\"256MiB\"", "size=\"512MiB\"")
            .replace("image \"base\"; memory", "image \"debian-bookworm\"; memory"),
    );
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("provision 1 of 1 ended with 9"), "{}", said.err);
    assert!(home.ok(&["vm", "logs", "a"]).contains("all is lost"));
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
