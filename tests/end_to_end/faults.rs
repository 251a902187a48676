//! VMMs that end, are ended or stand still, each while its guest boots and when it is ready: every one ends in the right
//! state, and nothing is left.

use super::cgroup::Narrow;
use super::home::{Home, IMAGE, can_run, firecracker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// The VMM's process, when there is one.
fn vmm(home: &Home) -> Option<Pid> {
    let names = ["qemu-system-x86", "firecracker"];
    home.guests().into_iter().find(|(_, name)| names.contains(&name.as_str())).map(|(pid, _)| pid)
}

fn phase(home: &Home) -> String {
    let status = home.status("a").expect("there");
    status["phase"].as_str().expect("a phase").to_string()
}

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_vmm_that_ends_is_started_again_in_every_state() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let spec = |restart: &str| {
        format!(
            "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; restart \"{restart}\"; }}\n"
        )
    };
    home.write(&spec("on-failure"));
    home.ok(&["apply"]);
    home.ok(&["vm", "exec", "a", "--", "sh", "-c", "echo kept > /kept; sync"]);
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGTERM] {
        let (before, victim) = (home.boot_id("a"), vmm(&home).expect("runs"));
        kill(victim, signal).expect("a signal");
        // As soon as another one is there, it goes too: its guest has not said a word.
        home.wait("another VMM", Duration::from_secs(30), |home| {
            vmm(home).is_some_and(|now| now != victim)
        });
        kill(vmm(&home).expect("runs"), signal).expect("a signal");
        home.wait("it is ready again", Duration::from_secs(200), |home| {
            phase(home) == "ready" && home.boot_id("a") != before
        });
        assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n", "{signal}");
        assert_eq!(home.jails().len(), 1, "one jail for one sandbox, after {signal}");
    }
    // One that stands still is not ready, and is when it goes on: nobody started it again for that.
    let (before, victim) = (home.boot_id("a"), vmm(&home).expect("runs"));
    kill(victim, Signal::SIGSTOP).expect("a signal");
    home.wait("it is not ready", Duration::from_secs(40), |home| phase(home) != "ready");
    kill(victim, Signal::SIGCONT).expect("a signal");
    home.wait("it is ready", Duration::from_secs(40), |home| phase(home) == "ready");
    assert_eq!(home.boot_id("a"), before);
    // One that stands still is no reason to wait for ever: it is stopped like any other.
    let victim = vmm(&home).expect("runs");
    kill(victim, Signal::SIGSTOP).expect("a signal");
    home.ok(&["vm", "kill", "a"]);
    assert_eq!(phase(&home), "stopped");
    assert!(is_gone(victim) && home.jails().is_empty() && home.guests().is_empty());

    // What is never to be restarted stays where it ended.
    home.write(&spec("never"));
    home.ok(&["apply"]);
    home.ok(&["vm", "start", "a"]);
    home.wait("it is ready", Duration::from_secs(60), |home| phase(home) == "ready");
    kill(vmm(&home).expect("runs"), Signal::SIGKILL).expect("a signal");
    home.wait("it has stopped", Duration::from_secs(30), |home| phase(home) == "stopped");
    home.ok(&["vm", "start", "a"]);
    home.wait("it is ready", Duration::from_secs(60), |home| phase(home) == "ready");
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// Out of memory: the kernel kills the VMM of a guest that uses what it was given, and it is started again.
#[test]
fn a_vmm_that_the_kernel_kills_for_memory_is_started_again() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; }}\n"
    ));
    home.ok(&["apply"]);
    home.ok(&["vm", "exec", "a", "--", "sh", "-c", "echo kept > /kept; sync"]);
    let (before, victim) = (home.boot_id("a"), vmm(&home).expect("runs"));
    let Some(narrow) = Narrow::around(victim) else {
        let why = "there is no memory controller whose limits can be set";
        assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "{why}");
        return eprintln!("SKIPPED: {why}");
    };
    let fill = "busybox head -c 100000000 /dev/zero > /dev/shm/fill; sleep 60";
    let said = home.banger(&["vm", "exec", "a", "--", "sh", "-c", fill]);
    assert_ne!(said.code, 0, "its guest went: {}{}", said.out, said.err);
    assert!(is_gone(victim));
    drop(narrow);
    home.wait("it is ready again", Duration::from_secs(60), |home| {
        phase(home) == "ready" && home.boot_id("a") != before
    });
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/kept"]), "kept\n");
    assert_eq!(home.jails().len(), 1);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

#[test]
fn a_vmm_that_cannot_start_says_why_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; }}\n"
    ));
    home.ok(&["apply"]);
    home.ok(&["vm", "stop", "a"]);
    // Its disk is no disk any more: something else has its name.
    let folder = home.path().join("state/sandboxes");
    let own = fs::read_dir(folder).expect("reads").flatten().next().expect("one").path();
    let disk = fs::read_dir(own).expect("reads").flatten().map(|entry| entry.path());
    let disk = disk.into_iter().find(|path| path.extension().is_some_and(|e| e == "ext4"));
    let disk = disk.expect("a disk");
    let aside = disk.with_extension("aside");
    fs::rename(&disk, &aside).expect("renames");
    fs::create_dir(&disk).expect("a folder");
    let said = home.banger(&["vm", "start", "a"]);
    assert_ne!(said.code, 0, "{}{}", said.out, said.err);
    assert!(!said.err.trim().is_empty());
    home.wait("nothing runs", Duration::from_secs(20), |home| home.guests().is_empty());
    assert!(home.jails().is_empty(), "{:?}", home.jails());
    fs::remove_dir(&disk).expect("removes");
    fs::rename(&aside, &disk).expect("renames");
    home.ok(&["vm", "start", "a"]);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// While it provisions, it provisions again; while it stops, it has stopped; while it is removed, it is gone.
#[test]
fn a_vmm_that_ends_on_the_way_ends_where_the_way_leads() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let line = "echo begun >> /begun; sync; touch /dev/shm/now; while [ ! -e /go ]; do sleep 0.2; done; echo done > /done";
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; provision \"{line}\"; \
         command \"sh\" \"-c\" \"trap '' TERM; while :; do sleep 1; done\"; }}\n"
    ));
    home.ok(&["apply", "--no-wait"]);
    let begun = |home: &Home, lines: usize| {
        let said = home.banger(&[
            "vm",
            "exec",
            "a",
            "--",
            "sh",
            "-c",
            "[ -e /dev/shm/now ] && cat /begun",
        ]);
        said.code == 0 && said.out.lines().count() == lines
    };
    for tries in 1..=2 {
        home.wait("it provisions", Duration::from_secs(60), |home| begun(home, tries));
        assert_eq!(phase(&home), "starting");
        kill(vmm(&home).expect("runs"), Signal::SIGKILL).expect("a signal");
    }
    home.wait("it provisions again", Duration::from_secs(60), |home| begun(home, 3));
    home.ok(&["vm", "exec", "a", "--", "touch", "/go"]);
    home.wait("it is ready", Duration::from_secs(60), |home| phase(home) == "ready");
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "sh", "-c", "cat /done; sync"]), "done\n");

    // Its service does not listen to the signal: a stop takes its time.
    home.ok(&["vm", "stop", "a", "--no-wait"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_ne!(phase(&home), "stopped", "it takes its time");
    kill(vmm(&home).expect("runs"), Signal::SIGKILL).expect("a signal");
    home.wait("it has stopped", Duration::from_secs(20), |home| phase(home) == "stopped");
    home.wait("nothing runs", Duration::from_secs(20), |home| {
        home.guests().is_empty() && home.jails().is_empty()
    });
    home.ok(&["vm", "start", "a"]);
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "cat", "/begun"]), "begun\n".repeat(3));

    home.ok(&["vm", "delete", "a", "--yes", "--no-wait"]);
    if let Some(victim) = vmm(&home) {
        // It may be on its way already.
        let _ = kill(victim, Signal::SIGKILL);
    }
    home.wait("it is gone", Duration::from_secs(20), |home| home.status("a").is_none());
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// A VMM that is gone before it boots anything, as if all were well or not: that is told, and tried again.
#[test]
fn a_vmm_that_ends_before_it_boots_is_told_and_tried_again() {
    if !can_run() {
        return;
    }
    if firecracker() {
        return eprintln!(
            "NOT RUN: Firecracker is asked for its version first, which no other program says"
        );
    }
    let mut home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; }}\n"
    ));
    for program in ["/usr/bin/true", "/usr/bin/false"] {
        home.set("BANGER_QEMU", program);
        let said = home.banger(&["apply"]);
        assert_eq!(said.code, 1, "{program}: {}{}", said.out, said.err);
        assert!(said.err.contains("error:") && said.err.contains("sandbox a"), "{}", said.err);
        assert_ne!(phase(&home), "ready");
        home.wait("nothing runs", Duration::from_secs(20), |home| home.guests().is_empty());
        home.kill_daemon();
        // Its helper may still be at what the daemon asked for last.
        home.wait("no jail is left", Duration::from_secs(10), |home| home.jails().is_empty());
    }
    home.set("BANGER_QEMU", "/usr/bin/qemu-system-x86_64");
    home.ok(&["ps"]);
    home.wait("it is ready", Duration::from_secs(60), |home| phase(home) == "ready");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// A daemon that ends while Firecracker waits for its machine leaves a VMM that is nothing yet; the next one does not take it
/// for a sandbox that runs.
#[test]
fn a_start_that_was_cut_off_is_begun_anew() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"a\" {{ image \"base\"; memory \"256MiB\"; egress \"none\"; }}\n"
    ));
    home.ok(&["apply"]);
    let (before, victim) = (home.boot_id("a"), vmm(&home).expect("runs"));
    home.kill_daemon();
    // As if the daemon had ended right before it wrote down that the machine was started.
    let run = fs::read_dir(home.path().join("run/vm")).expect("reads").flatten().next();
    fs::remove_file(run.expect("a run").path().join("started")).expect("removes");
    home.ok(&["ps"]);
    home.wait("another boot", Duration::from_secs(60), |home| {
        phase(home) == "ready" && home.boot_id("a") != before
    });
    assert!(is_gone(victim) && home.jails().len() == 1);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
