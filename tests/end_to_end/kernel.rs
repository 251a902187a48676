//! Kernels of files and of the network: they boot, or are refused with what they lack.

use super::home::{Home, can_run, kernel_of_this_host};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a kernel says of itself.
fn version_of(elf: &[u8]) -> String {
    let start = b"Linux version ";
    let at = elf.windows(start.len()).position(|part| part == start).expect("a banner");
    let rest = &elf[at + start.len()..];
    let end = rest.iter().position(|byte| *byte == b' ').expect("its end");
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

/// A kernel and its modules, as a distribution lays them out.
fn lay_out_modules(stored: &Path, version: &str, to: &Path) {
    let tree = to.join("lib/modules").join(version);
    fs::create_dir_all(tree.join("kernel")).expect("a folder");
    fs::create_dir_all(to.join("boot")).expect("a folder");
    let image = to.join("boot").join(format!("vmlinuz-{version}"));
    fs::copy(stored.join("vmlinuz"), image).expect("copies");
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
}

/// The same of a kernel that has everything built in, and words of its own. Its version.
fn lay_out_whole(stored: &Path, elf: &[u8], to: &Path) -> String {
    let version = version_of(elf);
    let tree = to.join("lib/modules").join(&version);
    fs::create_dir_all(&tree).expect("a folder");
    fs::copy(stored.join("vmlinux"), to.join("vmlinux")).expect("copies");
    fs::copy(stored.join("cmdline"), to.join("cmdline")).expect("copies");
    let drivers = [
        "fs/ext4/ext4",
        "fs/overlayfs/overlay",
        "drivers/block/virtio_blk",
        "drivers/net/virtio_net",
        "drivers/virtio/virtio_mmio",
        "net/vmw_vsock/vmw_vsock_virtio_transport",
    ];
    let list: String = drivers.iter().map(|path| format!("kernel/{path}.ko\n")).collect();
    fs::write(tree.join("modules.builtin"), list).expect("writes");
    version
}

/// The image alone has its drivers as modules, which are not with it.
fn bare_image_is_refused(home: &Home, stored: &Path) {
    let bare = stored.join("vmlinuz").display().to_string();
    let said = home.banger(&["kernel", "import", "bare", &bare]);
    assert!(said.code == 1 && said.err.contains("has no driver virtio_mmio"), "{}", said.err);
    home.wait("it is not kept", Duration::from_secs(10), |home| {
        home.banger(&["kernel", "show", "bare"]).code == 1
    });
}

#[test]
fn kernels_of_files_and_of_the_network_boot_or_are_refused() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    home.ok(&["kernel", "pull", "debian-cloud"]);
    let shown = home.json(&["kernel", "show", "debian-cloud"]);
    let content = shown["content"].as_str().expect("built");
    let stored = home.path().join("state/kernels").join(content);
    let elf = fs::read(stored.join("vmlinux")).expect("unpacked");
    assert!(elf.starts_with(b"\x7fELF"), "no ELF");
    let k = home.path().join("k");
    let version = match kernel_of_this_host() {
        // Not the distribution's: nothing is told of it, and all that guests need is built in.
        Some(_) => lay_out_whole(&stored, &elf, &k),
        None => {
            let details = shown["details"].as_array().expect("a list");
            let details: Vec<&str> = details.iter().filter_map(|detail| detail.as_str()).collect();
            let version = details[0].strip_prefix("version: ").expect("its version");
            for fact in ["elf: yes", "driver virtio_blk: a module", "driver ext4: built in"] {
                assert!(details.contains(&fact), "{details:?}");
            }
            assert_eq!(version_of(&elf), version, "another kernel");
            lay_out_modules(&stored, version, &k);
            version.to_string()
        }
    };
    let builtin = k.join("lib/modules").join(&version).join("modules.builtin");
    home.ok(&["kernel", "import", "own", "k"]);
    if kernel_of_this_host().is_none() {
        let own = home.json(&["kernel", "show", "own"]);
        assert_eq!(own["content"].as_str(), Some(content), "the same kernel and modules");
    }
    let run = ["vm", "run", "--memory", "256MiB", "--kernel", "own", "--", "uname", "-r"];
    assert_eq!(home.ok(&run).trim(), version);

    if kernel_of_this_host().is_none() {
        bare_image_is_refused(&home, &stored);
    }
    fs::write(home.path().join("text"), "no kernel at all\n".repeat(100)).expect("writes");
    assert_eq!(home.banger(&["kernel", "import", "text", "text"]).code, 1);
    let listed = fs::read_to_string(&builtin).expect("reads");
    fs::write(&builtin, listed.replace("kernel/fs/ext4/ext4.ko\n", "")).expect("writes");
    let said = home.banger(&["kernel", "import", "less", "k"]);
    assert!(said.code == 1 && said.err.contains("has no driver ext4"), "{}", said.err);
    fs::write(&builtin, listed).expect("writes");

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
