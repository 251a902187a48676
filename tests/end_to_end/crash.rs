//! Crashes: of the daemon at any moment, of the VMM, of the guest.

use super::home::{Home, IMAGE, can_run, each, firecracker, install_programs};
use nix::sys::signal::{Signal, kill};
use std::process::Stdio;
use std::time::Duration;

const TWO: &str = "volume \"v\" size=\"256MiB\"\nsandbox \"a\" { image \"base\"; memory \"256MiB\"; volume \"v\" at=\"/v\"; }\nsandbox \"b\" { image \"base\"; memory \"256MiB\"; after \"a\"; publish 18081 guest=80; }\n";

/// At ten moments between nothing and ready, the daemon is killed and the same apply is done again.
#[test]
fn a_killed_daemon_is_no_harm_at_any_moment() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}{TWO}"));
    let mut ready_before: Option<(String, String)> = None;
    for moment in 0..10u64 {
        let mut client = home
            .command(&["apply"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        std::thread::sleep(Duration::from_millis(30 + moment * 550));
        // What is ready now must be the same machine after all that follows.
        let before = home.json(&["ps"]);
        home.kill_daemon();
        client.wait().expect("ends");
        let ready: Vec<(String, String)> = before
            .as_array()
            .expect("a list")
            .iter()
            .filter(|s| s["phase"] == "ready")
            .map(|s| {
                (
                    s["name"].as_str().unwrap_or("").into(),
                    s["boot_id"].as_str().unwrap_or("").into(),
                )
            })
            .collect();
        home.ok(&["apply"]);
        for (name, boot) in &ready {
            assert_eq!(
                home.boot_id(name),
                *boot,
                "{name} was ready at moment {moment} and was restarted"
            );
        }
        assert_eq!(home.guests().len(), 2 * each(), "moment {moment}: {:?}", home.guests());
        assert_eq!(home.leftovers().len(), 7, "moment {moment}: {:?}", home.leftovers());
        ready_before = Some((home.boot_id("a"), home.boot_id("b")));
        if moment % 2 == 0 {
            // The next moment begins with nothing again; the others with everything.
            home.ok(&["destroy", "--yes"]);
            home.assert_nothing_left();
        }
    }
    assert_eq!(ready_before, Some((home.boot_id("a"), home.boot_id("b"))));

    // A daemon that ends in order and one that is killed are the same to a guest.
    let boots = (home.boot_id("a"), home.boot_id("b"));
    let daemon = home.daemon().expect("runs");
    kill(daemon, Signal::SIGTERM).expect("signals");
    home.wait("the daemon is gone", Duration::from_secs(5), |home| home.daemon().is_none());
    assert_eq!(home.guests().len(), 2 * each(), "guests outlive their daemon");
    assert_eq!(
        home.ok(&["apply"]),
        "no changes\n",
        "but for its own listeners, nothing is to be done"
    );
    assert_eq!((home.boot_id("a"), home.boot_id("b")), boots);

    // Killed in the middle of the removal.
    let mut client = home
        .command(&["destroy", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    std::thread::sleep(Duration::from_millis(300));
    home.kill_daemon();
    client.wait().expect("ends");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

#[test]
fn a_vmm_that_dies_is_replaced_and_a_guest_that_leaves_is_not() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; }}\n"));
    home.ok(&["apply"]);
    home.ok(&["vm", "exec", "a", "--", "sh", "-c", "echo kept > /kept; sync"]);
    let victims: &[&str] =
        if firecracker() { &["firecracker"] } else { &["qemu-system-x86", "vhost-device-vs"] };
    for victim in victims {
        let before = home.boot_id("a");
        let found = home.guests().into_iter().find(|(_, name)| name.starts_with(victim));
        kill(
            found.unwrap_or_else(|| panic!("{victim} runs: {:?}", home.guests())).0,
            Signal::SIGKILL,
        )
        .expect("kills");
        home.wait("another boot", Duration::from_secs(60), |home| {
            let status = home.status("a").expect("there");
            status["phase"] == "ready" && status["boot_id"] != before.as_str()
        });
        assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n");
        assert_eq!(home.guests().len(), each(), "{:?}", home.guests());
    }
    // The guest powers itself off, in order: restart is "on-failure", so it stays off until it is started.
    // Firecracker knows no power-off of the kernel's, only a reset.
    let letter = if firecracker() { "b" } else { "o" };
    let line = format!("echo {letter} > /proc/sysrq-trigger; sleep 5");
    let said = home.banger(&["vm", "exec", "a", "--", "sh", "-c", &line]);
    assert_ne!(said.code, 0);
    // By the kernel alone nobody says goodbye: that is a failure, and it comes back.
    home.wait("it is back", Duration::from_secs(60), |home| {
        home.status("a").expect("there")["phase"] == "ready"
    });
    home.ok(&["vm", "stop", "a"]);
    assert_eq!(home.status("a").expect("there")["phase"], "stopped");
    assert!(home.guests().is_empty());
    home.ok(&["vm", "start", "a"]);
    let before = home.boot_id("a");
    home.ok(&["vm", "restart", "a"]);
    assert_ne!(home.boot_id("a"), before);
    home.ok(&["vm", "kill", "a"]);
    assert!(home.guests().is_empty());
    assert_eq!(home.banger(&["vm", "exec", "a", "--", "true"]).code, 1);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// Killed while an image is built: nothing half-made stays, and the next apply builds it.
#[test]
fn a_daemon_killed_while_it_builds_leaves_nothing_half_made() {
    if !can_run() {
        return;
    }
    let home = Home::outside();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; mode \"stopped\"; }}\n"));
    // In the fetch of the kernel, and in the making of the archive, which is unpacked meanwhile.
    for until in ["fetch debian", "build debian"] {
        let mut client = home
            .command(&["apply"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        home.wait(until, Duration::from_secs(180), |home| {
            home.log().contains(until) && !home.guests().is_empty()
        });
        std::thread::sleep(Duration::from_millis(700));
        home.kill_daemon();
        client.wait().expect("ends");
        let images =
            std::fs::read_dir(home.path().join("state/images")).expect("a folder").flatten();
        let half: Vec<_> = images.map(|e| e.file_name()).filter(|name| name != "recipes").collect();
        assert!(half.is_empty(), "{until}: {half:?}");
    }
    home.ok(&["apply"]);
    assert!(home.guests().is_empty(), "{:?}", home.guests());
    let images = std::fs::read_dir(home.path().join("state/images")).expect("a folder").flatten();
    assert_eq!(images.filter(|e| e.file_name() != "recipes").count(), 1, "it is built");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// Other programs come while a guest runs: the daemon that runs goes on with its own, and the next one goes on with the guest.
#[test]
fn an_update_of_the_programs_is_no_harm_to_a_guest() {
    if !can_run() {
        return;
    }
    let mut home = Home::new();
    let folder = home.path().join("programs");
    install_programs(&folder, "first");
    home.use_programs(&folder);
    std::fs::create_dir(home.path().join("tree")).expect("a folder");
    std::fs::write(home.path().join("tree/file"), "text").expect("writes");
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; }}\n"));
    home.ok(&["apply"]);
    let boot = home.boot_id("a");
    let runs = |home: &Home| {
        let daemon = home.daemon().expect("runs");
        std::fs::read_link(format!("/proc/{daemon}/exe")).expect("a link").display().to_string()
    };
    let own = folder.join("bangerd").display().to_string();
    assert_eq!(runs(&home), own);

    install_programs(&folder, "second");
    assert_eq!(runs(&home), format!("{own} (deleted)"), "it was replaced");
    // Images are unpacked by a child of the daemon's own program, which has no name any more.
    home.ok(&["image", "register", "late", "tree"]);
    home.ok(&["vm", "exec", "a", "--", "true"]);
    home.ok(&["vm", "create", "b", "--memory", "256MiB"]);
    let boots = [boot, home.boot_id("b")];

    // As a package's script does it: in order, and killed.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        kill(home.daemon().expect("runs"), signal).expect("signals");
        home.wait("the daemon is gone", Duration::from_secs(5), |home| home.daemon().is_none());
        assert_eq!(home.ok(&["apply"]), "no changes\n");
        assert_eq!(runs(&home), own, "the new one");
        // The other one is in a project that nobody waited for.
        home.wait("it is heard again", Duration::from_secs(20), |home| {
            ["a", "b"].iter().all(|name| home.status(name).expect("there")["phase"] == "ready")
        });
        assert_eq!(["a", "b"].map(|name| home.boot_id(name)), boots);
        home.ok(&["vm", "exec", "a", "--", "true"]);
    }
    home.ok(&["vm", "restart", "a"]);
    assert_ne!(home.boot_id("a"), boots[0]);
    home.ok(&["vm", "exec", "a", "--", "true"]);
    home.ok(&["destroy", "--yes"]);
    home.ok(&["-p", "default", "vm", "delete", "b", "--yes"]);
    home.assert_nothing_left();
}
