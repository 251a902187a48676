//! Bad input: a clear error, the right exit code, a hint, and nothing half-made.

use super::home::{Home, IMAGE, can_run};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::time::{Duration, Instant};

#[test]
fn a_bad_file_is_refused_before_anything_happens() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let many: String = (0..10_000)
        .map(|n| format!("sandbox \"s{n}\" {{ image \"debian-bookworm\"; }}\n"))
        .collect();
    let nested = |open: &str, depth: usize| {
        format!("n {}{}", format!("{open}\n").repeat(depth), "}".repeat(depth))
    };
    let cases = [
        ("sandbox \"a\" { imag \"x\"; }".to_string(), "did you mean \"image\"?"),
        ("sandbox \"a\" { image \"debian-bookworm\"; after \"b\"; }\nsandbox \"b\" { image \"debian-bookworm\"; after \"a\"; }".into(), "wait for each other"),
        ("sandbox \"a\" { image \"nowhere\"; }".into(), "there is no image \"nowhere\""),
        (many, "bytes, more than"),
        (nested("/-{", 20), "/-{ is used more than 2 times"),
        (nested("n {", 400), "blocks nest more than 16 times"),
        ("/*".repeat(10_000), "comments nest more than 16 times"),
    ];
    for (text, expected) in cases {
        home.write(&text);
        for command in ["check", "plan", "apply"] {
            let start = Instant::now();
            let said = home.banger(&[command]);
            // Of a plan, 2 says that there are changes.
            assert_eq!(
                said.code,
                if command == "plan" { 1 } else { 2 },
                "{command}: {}{}",
                said.out,
                said.err
            );
            assert!(said.err.contains(expected), "{command}: {expected:?} is not in {}", said.err);
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{command} took {:?}",
                start.elapsed()
            );
        }
    }
    // 101 sandboxes fit into the size of a file, but not on a host.
    home.write(
        &(0..101)
            .map(|n| format!("sandbox \"s{n}\" {{ image \"debian-bookworm\"; }}\n"))
            .collect::<String>(),
    );
    assert!(home.banger(&["apply"]).err.contains("more than the 100"));
    // More memory than there is.
    home.write("sandbox \"a\" { image \"debian-bookworm\"; memory \"9TiB\"; }");
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 4);
    assert!(said.err.contains("hint:") && said.err.contains("less memory"), "{}", said.err);
    assert!(home.daemon().is_some() && home.guests().is_empty() && home.leftovers().is_empty());
    assert!(home.json(&["ps"]).as_array().is_some_and(Vec::is_empty), "nothing was stored");
    // Commands that name what is not there.
    for (arguments, code, expected) in [
        (&["vm", "exec", "ghost", "--", "true"][..], 1, "there is no sandbox ghost"),
        (&["vm", "stop", "ghost"], 1, "there is no sandbox ghost"),
        (&["vm", "run", "--image", "ghost", "--", "true"], 1, "there is no image \"ghost\""),
        (&["image", "delete", "ghost"], 1, "nothing here is called"),
        (&["vm", "create", "Ghost"], 2, "invalid value"),
        (&["vm", "run", "--memory", "512", "--", "true"], 2, "has no unit"),
        (&["vm", "run", "--memory", "1.5GiB", "--", "true"], 2, "is a fraction"),
        (&["vm", "run", "alpine"], 1, "hint: a folder is meant; an image is --image alpine"),
        (&["vm", "run", "--name", "x", "--", "true"], 2, "cannot be used with"),
        (&["vm", "exec", "ghost", "ls", "-la"], 1, "there is no sandbox ghost"),
        (&["vm", "exec", "ghost", "--nonsense", "ls"], 2, "unexpected argument '--nonsense'"),
        (
            &["vm", "exec", "ghost", "-T", "-e", "A=B", "--", "ls", "-la"],
            1,
            "there is no sandbox ghost",
        ),
    ] {
        let said = home.banger(arguments);
        assert_eq!(said.code, code, "{arguments:?}: {}", said.err);
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn a_package_that_does_not_exist_is_named() {
    if !can_run() {
        return;
    }
    let home = Home::outside();
    home.write("image \"x\" { debian { packages \"no-such-package-anywhere\"; }; }\nsandbox \"a\" { image \"x\"; mode \"stopped\"; }");
    let said = home.banger(&["apply"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(
        said.err.contains("Debian bookworm has no package no-such-package-anywhere"),
        "{}",
        said.err
    );
    assert!(said.err.contains("hint:"), "{}", said.err);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// A state folder with almost no room: a clear error, and everything that needs none still works.
#[test]
fn a_full_disk_is_named_and_nothing_is_half_made() {
    if !can_run() {
        return;
    }
    let home = Home::outside();
    let state = home.path().join("state");
    std::fs::create_dir(&state).expect("a folder");
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=32m"))
        .expect("mounts");
    let outcome = std::panic::catch_unwind(|| {
        home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; mode \"stopped\"; }}"));
        let said = home.banger(&["apply"]);
        assert_eq!(said.code, 1, "{}{}", said.out, said.err);
        assert!(said.err.contains("MiB are free at"), "{}", said.err);
        assert!(said.err.contains("hint: free some space"), "{}", said.err);
        assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
        // Not a byte is left for the database either.
        let filler = std::process::Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .arg(format!("of={}", state.join("filler").display()))
            .status();
        assert!(!filler.expect("dd").success());
        home.ok(&["status"]);
        home.write("sandbox \"other\" { image \"debian-bookworm\"; mode \"stopped\"; }");
        let said = home.banger(&["apply", "--yes"]);
        assert!(said.code != 0 && said.err.contains("full"), "{}: {}", said.code, said.err);
        std::fs::remove_file(state.join("filler")).expect("removes");
        home.ok(&["destroy", "--yes"]);
    });
    home.kill_daemon();
    // The daemon's helper has the log open until it notices that its daemon is gone.
    home.wait("the state folder is nobody's", Duration::from_secs(5), |_| {
        umount2(&state, MntFlags::empty()).is_ok()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_vmm_that_nobody_knows_is_named() {
    if !can_run() {
        return;
    }
    let mut home = Home::outside();
    home.set("BANGER_VMM", "bochs");
    let said = home.banger(&["ps"]);
    assert_eq!(said.code, 3, "{}", said.err);
    for part in ["BANGER_VMM is \"bochs\"", "hint: set it to firecracker or qemu"] {
        assert!(said.err.contains(part), "{}", said.err);
    }
}
