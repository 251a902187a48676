//! `doctor` on the real host: with a daemon, without one, and with one of another release.

use super::home::{Home, can_run, programs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// What it found, by check, after the exit code was compared with it.
fn doctor(home: &Home) -> BTreeMap<String, Value> {
    let said = home.banger(&["doctor", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&said.out).expect("a list");
    let failed = all.iter().any(|finding| finding["status"] == "fail");
    assert_eq!(said.code, i32::from(failed), "{}{}", said.out, said.err);
    assert_eq!(said.err, "");
    for finding in &all {
        let keys: Vec<&String> = finding.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["found", "hint", "name", "status"]);
        let status = finding["status"].as_str().expect("a word");
        assert!(["ok", "warn", "fail"].contains(&status), "{finding}");
        assert!(finding["found"].as_str().is_some_and(|found| !found.is_empty()), "{finding}");
        assert_eq!(finding["hint"].is_null(), status == "ok", "{finding}");
    }
    let named = |finding: Value| (finding["name"].as_str().expect("a name").to_string(), finding);
    let count = all.len();
    let found: BTreeMap<String, Value> = all.into_iter().map(named).collect();
    assert_eq!(found.len(), count, "each check once");
    for always in ["daemon", "state-folder", "run-folder", "disk-space", "kvm", "mke2fs", "git"] {
        assert!(found.contains_key(always), "{always} can always be told");
    }
    found
}

/// Everything below a folder, in order.
fn below(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).into_iter().flatten().flatten().map(|entry| entry.path()) {
            found.push(path.strip_prefix(folder).expect("below").display().to_string());
            folders.extend(path.is_dir().then_some(path));
        }
    }
    found.sort();
    found
}

#[test]
fn doctor_tells_a_host_with_a_daemon_and_without_one() {
    if !can_run() {
        return;
    }
    let mut home = Home::outside();
    home.set("BANGER_DAEMON", "/bin/false");
    let without = doctor(&home);
    assert_eq!(without["daemon"]["status"], "fail");
    assert!(!without.contains_key("vmm"), "only a daemon knows");
    let text = home.banger(&["doctor"]);
    assert_eq!((text.code, text.err.as_str()), (1, ""));
    let hints = text.out.lines().filter(|line| line.trim_start().starts_with("hint: ")).count();
    let told = without.values().filter(|finding| finding["status"] != "ok").count();
    assert_eq!((text.out.lines().count(), hints), (without.len() + told, told), "{}", text.out);
    assert!(text.out.starts_with("fail  daemon "), "{}", text.out);
    assert_eq!(below(home.path()), ["state", "state/bangerd.log"], "as every command leaves it");
    assert!(home.processes().is_empty());

    home.set("BANGER_DAEMON", &programs().join("bangerd").display().to_string());
    let found = doctor(&home);
    for ours in ["daemon", "helper", "state-folder", "run-folder"] {
        assert_eq!(found[ours]["status"], "ok", "{}", found[ours]);
    }
    let version = home.json(&["version"]);
    let runs = version["daemon"]["vmm"].as_str().expect("words");
    let chosen = found["vmm"]["found"].as_str().expect("words");
    let first = |words: &str| words.split([' ', ':']).next().map(String::from);
    assert_eq!(first(runs), first(chosen), "{runs}; {chosen}");
    let daemon = home.daemon().expect("it runs");
    assert!(home.guests().is_empty() && home.leftovers().is_empty());

    let run = home.path().join("run");
    let close = |mode| fs::set_permissions(&run, Permissions::from_mode(mode)).expect("sets");
    close(0o755);
    let found = doctor(&home)["run-folder"].clone();
    assert_eq!(found["hint"], format!("chmod 700 {}", run.display()));
    close(0o700);
    home.set("PATH", "/nowhere");
    let found = doctor(&home);
    assert_eq!(found["git"]["status"], "warn", "it is the client's");
    assert_eq!(found["mke2fs"]["status"], "ok", "it is the daemon's");
    assert_eq!(home.daemon(), Some(daemon), "the same all along");
    home.kill_daemon();
    home.assert_nothing_left();
}

/// A bridge comes before the image of the first sandbox, which nobody can fetch here.
#[test]
fn doctor_tells_the_network_of_sandboxes() {
    if !can_run() {
        return;
    }
    let home = Home::empty();
    let fails =
        |name: &str| doctor(&home).get(name).is_some_and(|finding| finding["status"] == "fail");
    assert!(!doctor(&home).contains_key("rules"), "nobody needs them");
    home.write("sandbox \"a\" { image \"debian-bookworm\"; }");
    home.ok(&["apply", "--no-wait"]);
    home.wait("the bridge", Duration::from_secs(10), |home| doctor(home).contains_key("rules"));
    for well in ["network", "subnet", "forwarding", "rules"] {
        assert!(!fails(well), "{well}");
    }
    assert!(doctor(&home).contains_key("names"));
    let run = |line: &str| home.namespace().run("sh", &["-c", line]);
    run("ip route add 10.213.3.0/24 dev lo");
    assert!(fails("subnet"));
    run("ip route del 10.213.3.0/24 dev lo");
    assert!(!fails("subnet"));
    // The loop puts these right: it may be quicker than we are.
    home.wait("forwarding", Duration::from_secs(20), |_| {
        run("echo 0 > /proc/sys/net/ipv4/ip_forward");
        fails("forwarding")
    });
    home.wait("the rules", Duration::from_secs(20), |_| {
        run("nft flush ruleset");
        fails("rules")
    });
    home.wait("repair", Duration::from_secs(20), |_| !fails("rules") && !fails("forwarding"));
    home.ok(&["destroy", "--yes"]);
    home.wait("tear-down", Duration::from_secs(20), |home| !doctor(home).contains_key("rules"));
    home.assert_nothing_left();
}

/// One that knows nothing of what is asked, as older ones do not.
#[test]
fn doctor_tells_a_daemon_of_another_release() {
    if !can_run() {
        return;
    }
    let home = Home::outside();
    let run = home.path().join("run");
    DirBuilder::new().mode(0o700).create(&run).expect("a folder");
    let listener = UnixListener::bind(run.join("bangerd.sock")).expect("listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let _ = lines.find(String::is_empty);
            let (status, body) = match first.split(' ').nth(1) {
                Some("/v1/version") => (200, r#"{"version":"0.0.9","pid":1,"vmm":"qemu"}"#),
                _ => (404, ""),
            };
            let length = body.len();
            let _ = write!(
                &stream,
                "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    let found = doctor(&home);
    assert_eq!(found["daemon"]["status"], "warn");
    let said = found["daemon"]["found"].as_str().expect("words");
    assert!(said.starts_with("bangerd 0.0.9 (process 1) does not say what it sees: "), "{said}");
    assert!(!found.contains_key("vmm") && !found.contains_key("helper"), "it does not tell");
    assert_eq!(below(home.path()), ["run", "run/bangerd.sock"], "nothing was started");
}
