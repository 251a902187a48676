//! Kernels of files and of the network: they boot, or are refused with what they lack.

use super::home::{Home, can_run};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn kernels_of_files_and_of_the_network_boot_or_are_refused() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.ok(&["kernel", "pull", "debian-cloud"]);
    let shown = home.json(&["kernel", "show", "debian-cloud"]);
    let details: Vec<&str> =
        shown["details"].as_array().expect("a list").iter().filter_map(|d| d.as_str()).collect();
    let version = details[0].strip_prefix("version: ").expect("its version");
    for fact in ["elf: yes", "driver virtio_blk: a module", "driver ext4: built in"] {
        assert!(details.contains(&fact), "{details:?}");
    }
    let content = shown["content"].as_str().expect("built");
    let stored = home.path().join("state/kernels").join(content);
    let elf = fs::read(stored.join("vmlinux")).expect("unpacked");
    assert!(elf.starts_with(b"\x7fELF"), "no ELF");
    let banner = format!("Linux version {version}");
    assert!(elf.windows(banner.len()).any(|part| part == banner.as_bytes()), "another kernel");

    // As a distribution lays it out.
    let tree = home.path().join("k/lib/modules").join(version);
    fs::create_dir_all(tree.join("kernel")).expect("a folder");
    fs::create_dir_all(home.path().join("k/boot")).expect("a folder");
    fs::copy(stored.join("vmlinuz"), home.path().join(format!("k/boot/vmlinuz-{version}")))
        .expect("copies");
    let order = fs::read_to_string(stored.join("modules/order")).expect("an order");
    let (mut list, mut before) = (String::new(), Vec::new());
    for module in order.lines() {
        fs::copy(stored.join("modules").join(module), tree.join("kernel").join(module))
            .expect("copies");
        let needs: Vec<String> =
            before.iter().rev().map(|name| format!(" kernel/{name}")).collect();
        list.push_str(&format!("kernel/{module}:{}\n", needs.concat()));
        before.push(module.to_string());
    }
    fs::write(tree.join("modules.dep"), list).expect("writes");
    fs::write(tree.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").expect("writes");
    home.ok(&["kernel", "import", "own", "k"]);
    let own = home.json(&["kernel", "show", "own"]);
    assert_eq!(own["content"].as_str(), Some(content), "the same kernel and modules");
    let run = ["vm", "run", "--memory", "256MiB", "--kernel", "own", "--", "uname", "-r"];
    assert_eq!(home.ok(&run).trim(), version);

    // The image alone has its drivers as modules, which are not with it.
    let bare = stored.join("vmlinuz").display().to_string();
    let said = home.banger(&["kernel", "import", "bare", &bare]);
    assert!(said.code == 1 && said.err.contains("has no driver virtio_mmio"), "{}", said.err);
    home.wait("it is not kept", Duration::from_secs(10), |home| {
        home.banger(&["kernel", "show", "bare"]).code == 1
    });
    fs::write(home.path().join("text"), "no kernel at all\n".repeat(100)).expect("writes");
    assert_eq!(home.banger(&["kernel", "import", "text", "text"]).code, 1);
    fs::remove_file(tree.join("modules.builtin")).expect("removes");
    let said = home.banger(&["kernel", "import", "less", "k"]);
    assert!(said.code == 1 && said.err.contains("has no driver ext4"), "{}", said.err);
    fs::write(tree.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").expect("writes");

    // The same by https' stand-in on the loopback, held to its digest.
    let packed = Command::new("sh")
        .args(["-ec", "tar -czf k.tgz -C k .; sha256sum k.tgz | cut -d' ' -f1"])
        .current_dir(home.path())
        .output()
        .expect("sh");
    let sha256 = String::from_utf8_lossy(&packed.stdout).trim().to_string();
    let mut server = home
        .namespace()
        .command("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", "8099"])
        .current_dir(home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let probe = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8099/text')";
    home.wait("the server answers", Duration::from_secs(20), |home| {
        let mut command = home.namespace().command("python3");
        command.args(["-c", probe]).output().is_ok_and(|said| said.status.success())
    });
    let write = |sha256: &str| {
        home.write(&format!(
            "kernel \"net\" {{ url \"http://127.0.0.1:8099/k.tgz\" sha256=\"{sha256}\"; }}\n\
             sandbox \"a\" {{ image \"debian-bookworm\"; kernel \"net\"; memory \"256MiB\"; }}\n"
        ));
    };
    write(&"0".repeat(64));
    let said = home.banger(&["apply"]);
    assert!(said.code == 1 && said.err.contains(&sha256), "{}", said.err);
    write(&sha256);
    home.ok(&["apply"]);
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "uname", "-r"]).trim(), version);
    server.kill().and_then(|()| server.wait()).expect("ends");
    assert_eq!(home.banger(&["kernel", "rm", "net"]).code, 4, "it is used");
    home.ok(&["destroy", "--yes"]);
    home.ok(&["kernel", "rm", "own"]);
    home.assert_nothing_left();
}
