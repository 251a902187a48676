//! `vm run` and `vm exec`: a fresh machine, exact streams and statuses, nothing left behind.

use super::home::{Home, IMAGE, can_run, kernel_of_this_host};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_run_gives_the_exit_status_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let said = home.banger(&["vm", "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (7, "out\n", "err\n"));
    home.assert_nothing_left();
    let said = home.banger(&["vm", "run", "--", "no-such-program"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no-such-program: not found in the guest"), "{}", said.err);
    home.assert_nothing_left();

    // The client is gone in the middle: so is the sandbox.
    let mut client = home
        .command(&["vm", "run", "--", "sleep", "1000"])
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    home.wait("the sandbox is ready", Duration::from_secs(60), |home| {
        home.json(&["ps"]).as_array().is_some_and(|all| all.iter().any(|s| s["phase"] == "ready"))
    });
    client.kill().expect("kills the client");
    client.wait().expect("ends");
    home.assert_nothing_left();

    // The daemon is killed in the middle: the next one removes what only the lost connection wanted.
    let mut client = home
        .command(&["vm", "run", "--", "sleep", "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    home.wait("the sandbox is ready", Duration::from_secs(60), |home| {
        home.json(&["ps"]).as_array().is_some_and(|all| all.iter().any(|s| s["phase"] == "ready"))
    });
    home.kill_daemon();
    let status = client.wait().expect("ends");
    assert!(!status.success());
    home.ok(&["ps"]);
    home.assert_nothing_left();
}

#[test]
fn exec_carries_streams_signals_and_statuses() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{IMAGE}sandbox \"box\" {{ image \"base\"; memory \"256MiB\"; env FROM_FILE=\"yes\"; }}"
    ));
    home.ok(&["apply"]);
    let exec = |arguments: &[&str]| {
        let mut all = vec!["vm", "exec", "box"];
        all.extend(arguments);
        home.banger(&all)
    };
    // Ten megabytes in and out, byte for byte; less where each byte is copied by an emulated kernel.
    let size = if kernel_of_this_host().is_some() { 256 << 10 } else { 10u32 << 20 };
    let bytes: Vec<u8> = (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = home
        .command(&["vm", "exec", "box", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let (mut stdin, sent) = (child.stdin.take().expect("piped"), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut back = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut back).expect("reads");
    writer.join().expect("joins").expect("writes");
    assert!(child.wait().expect("ends").success());
    assert!(back == bytes, "{} bytes came back of {}", back.len(), bytes.len());

    assert_eq!(exec(&["--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(exec(&["--", "sh", "-c", "exit 255"]).code, 255);
    let said = exec(&[
        "-e",
        "A=b c",
        "-w",
        "/tmp",
        "-u",
        "nobody",
        "--",
        "sh",
        "-c",
        "echo $A $FROM_FILE; pwd; id -un",
    ]);
    assert_eq!(said.out, "b c yes\n/tmp\nnobody\n");
    assert!(exec(&["-u", "nobody-here", "--", "true"]).err.contains("there is no user"));
    // A background child that holds the pipe does not hold the command.
    assert_eq!(exec(&["--", "sh", "-c", "sleep 1000 & echo done"]).out, "done\n");

    // A signal to the client is one to the command.
    let mut client = home
        .command(&[
            "vm",
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    // Not before it said that it listens.
    let mut ready = [0; 6];
    client.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("reads");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signals");
    let output = client.wait_with_output().expect("ends");
    let said = [&ready[..], &output.stdout].concat();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&said).as_ref()),
        (Some(3), "ready\ncaught\n")
    );

    // A real terminal: its size, its name, and what is typed.
    let script = format!(
        "stty rows 41 cols 97; TERM=vt100 {} vm exec box -- sh -c 'tty; stty size; echo $TERM; read x; echo got $x; exit 5'; echo status $?",
        programs()
    );
    let mut terminal = std::process::Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .current_dir(home.path())
        .env("BANGER_HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs");
    std::thread::sleep(Duration::from_secs(2));
    terminal.stdin.as_mut().expect("piped").write_all(b"typed\n").expect("writes");
    let output = terminal.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for part in ["/dev/pts/0\n", "41 97\n", "vt100\n", "got typed\n", "status 5\n"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }

    // What the guest writes to its console is kept, but not all of it.
    // (An emulated kernel writes some thousand characters a second.)
    let size = if kernel_of_this_host().is_some() { 100_000 } else { 6_000_000 };
    let flood = format!(
        "yes 0123456789abcdef | head -c {size} > /dev/console; echo the end > /dev/console"
    );
    assert_eq!(exec(&["--", "sh", "-c", &flood]).code, 0);
    home.wait("the console's end", Duration::from_secs(10), |home| {
        home.ok(&["vm", "logs", "box"]).contains("the end")
    });
    let kept = home.ok(&["vm", "logs", "box"]).len();
    assert!(kept <= 1 << 20, "{kept} bytes are kept");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

fn programs() -> String {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug");
    let folder = std::env::var_os("BANGER_PROGRAMS").map_or(own, std::path::PathBuf::from);
    folder.join("banger").display().to_string()
}
