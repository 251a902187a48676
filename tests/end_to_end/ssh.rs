//! The system's own OpenSSH, rsync and sshfs against a guest whose image has no SSH server.

use super::home::{Home, NET_IMAGE, can_run, each, kernel_of_this_host};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a user may have in their own file, by mischance or by malice of somebody.
const HOSTILE: &str = "Host *\n  ForwardAgent yes\n  ForwardX11 yes\n  StrictHostKeyChecking no\n  \
    UserKnownHostsFile /dev/null\n  ProxyCommand false\n  User nobody\n  IdentityAgent /nowhere\n  \
    IdentitiesOnly no\n  PasswordAuthentication yes\n  HostKeyAlgorithms ssh-rsa\n  PermitLocalCommand yes\n  \
    LocalCommand touch HOME/pwned\n  UpdateHostKeys yes\n  Tunnel yes\n  ControlMaster auto\n  \
    ControlPath HOME/master\n  ProxyUseFdpass yes\n  SendEnv SECRET_*\n";

struct Lab {
    home: Home,
    config: String,
}

impl Lab {
    /// A program of the host, in the namespace of the test and with its home.
    fn command(&self, program: &str) -> Command {
        let mut command = self.home.namespace().command(program);
        let own = self.home.command(&[]);
        for (name, value) in own.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    fn ssh(&self) -> Command {
        let mut command = self.command("ssh");
        command.args(["-F", &self.config]);
        command
    }

    fn ok(&self, command: &mut Command) -> String {
        let output = command.output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {:?}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// How much longer everything takes where guests have an emulated kernel. What is only large is that much smaller there.
fn slowness() -> u32 {
    if kernel_of_this_host().is_some() { 10 } else { 1 }
}

/// How much is sent to a command, in MiB.
fn sent_mib() -> u32 {
    if slowness() == 1 { 16 } else { 4 }
}

/// Files with odd names, modes, times and links.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("in a folder/deep")).expect("folders");
    fs::write(at.join("plain"), "plain\n").expect("writes");
    fs::write(at.join("with a space"), [0xffu8; 3]).expect("writes");
    fs::write(at.join("new\nline"), "").expect("writes");
    let pattern: Vec<u8> = (0..(5u32 << 20) / slowness())
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(at.join("in a folder/large"), pattern).expect("writes");
    fs::write(at.join("in a folder/deep/run"), "#!/bin/sh\n").expect("writes");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(at.join("in a folder/deep/run"), fs::Permissions::from_mode(0o755))
        .expect("a mode");
}

fn same(one: &Path, other: &Path) {
    let diff = Command::new("diff").arg("-r").arg(one).arg(other).output().expect("diff");
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}

#[test]
fn the_systems_ssh_scp_and_rsync_reach_a_sandbox_by_name() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.write(&format!(
        "{NET_IMAGE}sandbox \"web\" {{ image \"net\"; memory \"256MiB\"; env FROM_FILE=\"yes\"; publish 18081 guest=7777; provision \"useradd -m -s /bin/sh dev\"; \
         command \"busybox\" \"httpd\" \"-f\" \"-p\" \"7777\" \"-h\" \"/etc\"; }}\n"
    ));
    home.ok(&["apply"]);
    let user = home.path().join(".ssh");
    fs::create_dir(&user).expect("a folder");
    let config = user.join("config");
    let hostile = HOSTILE.replace("HOME", &home.path().display().to_string());
    fs::write(&config, &hostile).expect("writes");
    let lab = Lab { config: config.display().to_string(), home };
    let said =
        lab.home.command(&["ssh-config"]).env("HOME", lab.home.path()).output().expect("runs");
    let hints = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.status.success() && hints.contains("sendenv SECRET_*"),
        "what cannot be undone is said: {hints}"
    );
    assert!(fs::read_to_string(&config).expect("reads").starts_with("Include "));

    settings(&lab);
    commands(&lab);
    slow_readers(&lab);
    files(&lab);
    forwarding(&lab);
    over_the_network(&lab);
    strangers(&lab);
    sessions(&lab);
    looks(&lab);

    lab.ok(lab.home.command(&["ssh-config", "--uninstall"]).env("HOME", lab.home.path()));
    assert_eq!(fs::read_to_string(&config).expect("reads"), hostile);
    assert!(!lab.home.path().join("pwned").exists());
    lab.home.ok(&["destroy", "--yes"]);
    lab.home.assert_nothing_left();
}

/// R-S1, R-S2: whatever `Host *` says.
fn settings(lab: &Lab) {
    let said = lab.ok(lab.ssh().args(["-G", "web.vm"]));
    for wanted in [
        "stricthostkeychecking true",
        "userknownhostsfile none",
        "forwardagent no",
        "forwardx11 no",
        "identitiesonly yes",
        "identityagent none",
        "passwordauthentication no",
        "permitlocalcommand no",
        "updatehostkeys false",
        "hostkeyalgorithms ssh-ed25519",
        "tunnel false",
        "controlmaster false",
        "proxyusefdpass no",
        "user root",
    ] {
        assert!(said.lines().any(|line| line == wanted), "{wanted} is not in {said}");
    }
    assert!(said.contains("ssh-proxy") && !said.contains("proxycommand false"), "{said}");
    // Other hosts are the user's business.
    assert!(lab.ok(lab.ssh().args(["-G", "example.org"])).contains("forwardagent yes"));
}

fn commands(lab: &Lab) {
    let run = |arguments: &[&str]| -> Output {
        lab.ssh().arg("web.vm").args(arguments).output().expect("runs")
    };
    let said = run(&["echo out; echo err >&2; echo $FROM_FILE $HOME $USER; exit 7"]);
    assert_eq!(said.status.code(), Some(7), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "out\nyes /root root\n");
    assert_eq!(String::from_utf8_lossy(&said.stderr), "err\n");
    // Every form of the name, and a name that is nobody's.
    assert_eq!(lab.ok(lab.ssh().args(["web.test.vm", "hostname"])), "web\n");
    let nobody = lab.ssh().args(["nobody.vm", "true"]).output().expect("runs");
    assert!(!nobody.status.success());
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("there is no sandbox nobody.vm"));
    // A signal's end, and a user of the image.
    assert_eq!(run(&["kill -KILL $$"]).status.code(), Some(255));
    assert_eq!(lab.ok(lab.ssh().args(["dev@web.vm", "id -un; pwd"])), "dev\n/home/dev\n");
    assert_eq!(
        lab.ssh().args(["ghost@web.vm", "true"]).output().expect("runs").status.code(),
        Some(255)
    );
    // A terminal of the size that the client has.
    let said = lab.ok(lab.ssh().args(["-tt", "web.vm", "stty size; test -t 0 && echo terminal"]));
    assert!(said.contains("terminal"), "{said}");
}

/// Input that a command does not read holds nothing up and takes no memory; what it does read is exact.
fn slow_readers(lab: &Lab) {
    let (slow, mib) = (u64::from(slowness()), sent_mib());
    let bytes: Vec<u8> =
        (0..mib << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let input = lab.home.path().join("input");
    fs::write(&input, &bytes).expect("writes");
    let sum = Command::new("sha256sum").arg(&input).output().expect("runs").stdout;
    let sum = String::from_utf8_lossy(&sum)[..64].to_string();
    let file = || Stdio::from(fs::File::open(&input).expect("opens"));
    let said = lab.ok(lab.ssh().args(["web.vm", "sleep 2; sha256sum"]).stdin(file()));
    assert!(said.starts_with(&sum), "{said}");
    let echo = lab.ssh().args(["web.vm", "cat"]).stdin(file()).output().expect("runs");
    assert!(echo.status.success() && echo.stdout == bytes, "{} bytes came back", echo.stdout.len());
    // One that never reads, and another session of the same connection: it is served meanwhile, and neither takes
    // memory for what waits.
    let master = lab.home.path().join("m").display().to_string();
    let mut held = lab
        .ssh()
        .args(["-o", "ControlMaster=yes", "-S", &master, "-N", "web.vm"])
        .spawn()
        .expect("runs");
    lab.home.wait("the connection", Duration::from_secs(20), |_| Path::new(&master).exists());
    let shared = || {
        let mut command = lab.ssh();
        command.args(["-S", &master, "web.vm"]);
        command
    };
    let sleep = format!("sleep {}", 14 * slow);
    let mut never = shared().arg(sleep).stdin(file()).spawn().expect("runs");
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    lab.ok(shared().arg("true"));
    assert!(start.elapsed() < Duration::from_secs(8 * slow), "{:?}", start.elapsed());
    assert!(never.wait().expect("ends").success());
    let peak = "for f in $(grep -las ssh /proc/[0-9]*/cmdline); do grep -s VmHWM ${f%cmdline}status; done | sort -k2n | tail -1";
    let memory = lab.ok(shared().arg(peak));
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(kib < 12 << 10, "{mib} MiB wait, and not in memory: {memory}");
    held.kill().expect("kills");
    held.wait().expect("ends");
    hang_ups(lab);
}

/// A client that goes is a hang-up: what handles it may do so, and nothing of the connection stays.
fn hang_ups(lab: &Lab) {
    let line = "trap 'sleep 1; echo hung up > /root/hup; exit' HUP; echo ready; while :; do sleep 0.2; done";
    for terminal in ["-T", "-tt"] {
        let mut gone = lab
            .ssh()
            .args([terminal, "web.vm", line])
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut ready = [0; 5];
        gone.stdout.take().expect("piped").read_exact(&mut ready).expect("runs");
        gone.kill().expect("kills");
        gone.wait().expect("ends");
        lab.home.wait("the hang-up", Duration::from_secs(20), |home| {
            home.banger(&["vm", "exec", "web", "--", "rm", "/root/hup"]).code == 0
        });
    }
    let left = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep 'exe s[s]h'; done; true";
    lab.home.wait("no server is left", Duration::from_secs(20), |home| {
        home.ok(&["vm", "exec", "web", "--", "sh", "-c", left]).is_empty()
    });
    // All of a terminal's last words arrive, however slowly they are taken.
    let slow = format!(
        "ssh -F {} -tt web.vm 'seq {}; echo the end' | (sleep 3; tail -n 1)",
        lab.config,
        100_000 / slowness(),
    );
    assert_eq!(lab.ok(lab.command("bash").args(["-c", &slow])).trim(), "the end");
}

fn files(lab: &Lab) {
    let (out, back) = (lab.home.path().join("out"), lab.home.path().join("back"));
    fs::create_dir(&back).expect("a folder");
    tree(&out);
    let scp = |arguments: &[&str]| {
        lab.ok(lab.command("scp").args(["-F", &lab.config, "-q", "-rp"]).args(arguments));
    };
    scp(&[&out.display().to_string(), "web.vm:/root/by-scp"]);
    scp(&["web.vm:/root/by-scp", &back.display().to_string()]);
    same(&out, &back.join("by-scp"));
    let shell = format!("ssh -F {}", lab.config);
    let rsync = |arguments: &[&str]| {
        lab.ok(lab.command("rsync").args(["-a", "-e", &shell]).args(arguments))
    };
    std::os::unix::fs::symlink("plain", out.join("link")).expect("links");
    rsync(&[&format!("{}/", out.display()), "web.vm:/root/by-rsync"]);
    rsync(&["web.vm:/root/by-rsync", &back.display().to_string()]);
    same(&out, &back.join("by-rsync"));
    let again = rsync(&["-i", &format!("{}/", out.display()), "web.vm:/root/by-rsync"]);
    assert_eq!(again, "", "nothing is left to do");
    sshfs(lab, &out);
}

/// A folder of the guest as one of the host, where the host has FUSE.
fn sshfs(lab: &Lab, out: &Path) {
    if !Path::new("/dev/fuse").exists() || !Path::new("/usr/bin/sshfs").exists() {
        assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "sshfs and /dev/fuse are needed");
        return eprintln!("SKIPPED: sshfs needs /dev/fuse");
    }
    let at = lab.home.path().join("mounted");
    fs::create_dir(&at).expect("a folder");
    lab.ok(lab.command("sshfs").args(["-F", &lab.config, "web.vm:/root"]).arg(&at));
    let outcome = std::panic::catch_unwind(|| {
        same(&out.join("in a folder"), &at.join("by-scp/in a folder"));
        fs::write(at.join("written"), "by the host\n").expect("writes");
        fs::rename(at.join("written"), at.join("renamed")).expect("renames");
        assert_eq!(
            lab.home.ok(&["vm", "exec", "web", "--", "cat", "/root/renamed"]),
            "by the host\n"
        );
        fs::remove_file(at.join("renamed")).expect("removes");
    });
    let unmounted = Command::new("umount").arg(&at).status().expect("umount");
    assert!(unmounted.success());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn forwarding(lab: &Lab) {
    // To a port of the guest's loopback, and from one of the guest to the host's.
    let mut held = lab
        .ssh()
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", "127.0.0.1:18082:127.0.0.1:7777"])
        .args(["-R", "127.0.0.1:18083:127.0.0.1:18082", "web.vm"])
        .spawn()
        .expect("runs");
    let get = |port: &str| {
        let fetch = "exec 3<>/dev/tcp/127.0.0.1/$0; printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        lab.command("bash").args(["-c", fetch, port]).output().expect("runs")
    };
    lab.home.wait("the forwarded port", Duration::from_secs(20), |_| {
        String::from_utf8_lossy(&get("18082").stdout).ends_with("\r\n\r\nweb\n")
    });
    let inside = "import socket\ns = socket.create_connection(('127.0.0.1', 18083), 60)\ns.send(b'GET /hostname HTTP/1.0\\r\\n\\r\\n')\nprint(b''.join(iter(lambda: s.recv(99), b'')).decode()[-4:], end='')";
    assert_eq!(lab.home.ok(&["vm", "exec", "web", "--", "python3", "-c", inside]), "web\n");
    held.kill().expect("kills");
    held.wait().expect("ends");
}

/// Without our configuration, over the bridge: the key still has to be the right one.
fn over_the_network(lab: &Lab) {
    let status = lab.home.status("web").expect("there");
    let address = status["address"].as_str().expect("an address");
    let known = lab.home.path().join("known");
    fs::write(&known, lab.home.ok(&["ssh-host-keys", "web.vm", address])).expect("writes");
    let key = lab.home.path().join("state/ssh/id_ed25519");
    let ssh = |known: &Path, key: &Path| {
        let mut command = lab.command("ssh");
        command.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        command.arg("-i").arg(key).arg(format!("root@{address}")).arg("hostname");
        command
    };
    assert_eq!(lab.ok(&mut ssh(&known, &key)), "web\n");
    // Another client's key, and another host's.
    let other = lab.home.path().join("other");
    lab.ok(lab.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other));
    let start = Instant::now();
    let refused = ssh(&known, &other).output().expect("runs");
    assert_eq!(refused.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    assert!(start.elapsed() < Duration::from_secs(10) * slowness());
    let public = fs::read_to_string(other.with_extension("pub")).expect("reads");
    fs::write(&known, format!("{address} {public}")).expect("writes");
    let refused = ssh(&known, &key).output().expect("runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("IDENTIFICATION HAS CHANGED"));
}

/// Whoever connects and says nothing, or nonsense, costs nothing.
fn strangers(lab: &Lab) {
    let address =
        lab.home.status("web").expect("there")["address"].as_str().expect("an address").to_string();
    for nonsense in [
        &b"\0\xff\0\xff\0\xff\0\xff\0\xff"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let sent = lab.home.namespace().inside(|| {
            let mut stream =
                std::net::TcpStream::connect((address.as_str(), 22)).expect("connects");
            stream.write_all(nonsense)
        });
        sent.expect("is taken");
    }
    assert_eq!(lab.ok(lab.ssh().args(["web.vm", "echo still here"])), "still here\n");
}

/// `vm ssh`, and `vm run` on a terminal without a command.
fn sessions(lab: &Lab) {
    assert_eq!(lab.home.ok(&["vm", "ssh", "web", "--", "hostname"]), "web\n");
    let said = lab.home.banger(&["vm", "ssh", "web", "--", "exit 9"]);
    assert_eq!(said.code, 9);
    let own = lab.home.command(&["vm", "run", "--image", "net"]);
    let words: Vec<String> =
        own.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    // Without the nsenter in front: `script` is in the namespace already.
    let line = words[2..].iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
    let mut script = lab.command("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .current_dir(lab.home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = script.spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    lab.home.wait("a session", Duration::from_secs(60), |home| {
        home.json(&["ps"])
            .as_array()
            .is_some_and(|all| all.iter().any(|s| s["project"] == "run" && s["phase"] == "ready"))
    });
    stdin.write_all(b"echo in-$((40 + 2)); tty; exit 5\n").expect("writes");
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("in-42") && text.contains("/dev/pts/"), "{text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
    lab.home.wait("it is gone", Duration::from_secs(20), |home| {
        !home.json(&["ps"]).as_array().expect("a list").iter().any(|s| s["project"] == "run")
    });
}

/// `vm ports` and `vm stats`.
fn looks(lab: &Lab) {
    let ports = lab.home.json(&["vm", "ports", "web"]);
    let of =
        |port: u64| ports.as_array().expect("a list").iter().find(|p| p["port"] == port).cloned();
    let http = of(7777).unwrap_or_else(|| panic!("{ports}"));
    assert_eq!(
        (http["program"].as_str(), http["published"].as_u64()),
        (Some("busybox"), Some(18081))
    );
    assert!(of(22).is_some() && of(53).is_some(), "{ports}");
    let one =
        |all: serde_json::Value| all.as_array().and_then(|all| all.first().cloned()).expect("one");
    let before = one(lab.home.json(&["vm", "stats", "web"]));
    // More than what was sent before, and is free again: some of it needs new room.
    let bytes = u64::from(sent_mib()) << 20;
    let line = format!(
        "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; head -c {} /dev/zero > /x; sync",
        3 * bytes
    );
    lab.home.ok(&["vm", "exec", "web", "--", "sh", "-c", &line]);
    let after = one(lab.home.json(&["vm", "stats", "web"]));
    let grew = |field: &str, by: u64| {
        let (old, new) =
            (before[field].as_u64().expect("a number"), after[field].as_u64().expect("a number"));
        assert!(new >= old + by, "{field}: {old} and then {new}");
    };
    grew("cpu_ns", 50_000_000);
    grew("disk_bytes", bytes / 2);
    grew("at_ns", 1);
    assert_eq!(after["memory_limit_bytes"].as_u64(), Some(256 << 20));
    assert!(after["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 32 << 20), "{after}");
    assert!(after["net_sent_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{after}");
    assert_eq!(after["processes"], each());
    assert!(lab.home.ok(&["vm", "stats"]).contains("256 MiB"));
}
