//! Images from a real registry, and from files: pulled, booted, and a command run in each.

use super::home::{Home, can_run, kernel_of_this_host};
use crate::registry::{self, Registry};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// A registry in the home's own namespace.
fn registry(home: &Home) -> Registry {
    let storage = registry::images().join("storage");
    let registry = Registry::start(&storage, "", |program| home.namespace().command(program));
    let url = format!("http://127.0.0.1:{}/v2/", registry.port);
    let probe = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])";
    home.wait("the registry answers", Duration::from_secs(20), |home| {
        let mut command = home.namespace().command("python3");
        command.args(["-c", probe, &url]).output().is_ok_and(|said| said.status.success())
    });
    registry
}

#[test]
fn every_kind_of_image_is_pulled_boots_and_runs() {
    if !can_run() || !registry::can_run() {
        return;
    }
    let home = Home::new();
    let registry = registry(&home);
    let reference = |name: &str| format!("127.0.0.1:{}/real/{name}:1", registry.port);
    let images = ["busybox", "debian", "layers", "platforms", "zstd"];
    let mut text = String::new();
    for image in images {
        text.push_str(&format!(
            "image \"{image}\" {{ oci \"{}\"; }}\nsandbox \"{image}\" {{ image \"{image}\"; memory \"256MiB\"; }}\n",
            reference(image)
        ));
    }
    home.write(&text);
    home.ok(&["apply"]);
    assert_eq!(home.ok(&["apply"]), "no changes\n");
    let sh = |name: &str, line: &str| home.ok(&["vm", "exec", name, "--", "sh", "-c", line]);
    assert_eq!(sh("busybox", "id -u; pwd; cat /etc/changed /etc/gone"), "0\n/\nfirst\nbelow\n");
    for debian in ["debian", "zstd"] {
        assert!(sh(debian, "cat /etc/os-release").contains("VERSION_CODENAME=bookworm"));
        // An emulated kernel takes minutes for all of them.
        let packages =
            if kernel_of_this_host().is_some() { "bash" } else { "bash perl-base libc6" };
        let line = format!("dpkg --verify {packages}; perl -e 'print 6 * 7'");
        assert_eq!(sh(debian, &line), "42");
    }
    // The index leads to the same image as its tag for this machine.
    for layered in ["layers", "platforms"] {
        let files = sh(layered, "cat /etc/changed; ls /etc/opaque; ls /etc/gone || true");
        assert_eq!(files, "second\nabove\n");
        // What the image says: its environment, user, folder and service.
        assert_eq!(
            sh(layered, "echo $FOO $BAR $(id -u):$(id -g); pwd"),
            "image image 1000:2000\n/srv/app/made\n"
        );
        assert_eq!(
            sh(layered, "until [ -s /srv/app/begin ]; do sleep 0.1; done; cat /srv/app/begin"),
            "image 1000:2000 /srv/app/made\n"
        );
    }
    // The service is asked to end by the signal that the image names, and its disk has what it wrote then.
    home.ok(&["vm", "restart", "layers"]);
    assert_eq!(sh("layers", "cat /srv/app/end"), "asked\n");
    let shared = home.json(&["image", "list"]);
    let contents: std::collections::BTreeSet<&str> = shared
        .as_array()
        .expect("a list")
        .iter()
        .filter(|image| image["names"][0].as_str().is_some_and(|name| name.starts_with("test/")))
        .filter_map(|image| image["content"].as_str())
        .collect();
    assert_eq!(contents.len(), 3, "one filesystem for the same layers, however packed: {shared}");
    let said = home.banger(&["image", "delete", "busybox"]);
    assert!(said.code == 4 && said.err.contains("is used by"), "{}", said.err);
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

#[test]
fn a_sandbox_overrides_what_its_image_says() {
    if !can_run() || !registry::can_run() {
        return;
    }
    let home = Home::new();
    let registry = registry(&home);
    home.write(&format!(
        "image \"it\" {{ oci \"127.0.0.1:{}/real/layers:1\"; }}\n\
         sandbox \"a\" {{\n image \"it\"\n memory \"256MiB\"\n env FOO=\"file\"\n user \"root\"\n workdir \"/tmp\"\n \
         command \"echo $FOO $BAR $(id -u) $(pwd) >/tmp/begin; sleep 1000\"\n}}\n\
         sandbox \"b\" {{\n image \"it\"\n memory \"256MiB\"\n user \"root\"\n entrypoint \"/bin/sleep\"\n command \"1000\"\n}}\n",
        registry.port
    ));
    home.ok(&["apply"]);
    let sh = |name: &str, line: &str| home.ok(&["vm", "exec", name, "--", "sh", "-c", line]);
    assert_eq!(
        sh("a", "until [ -s /tmp/begin ]; do sleep 0.1; done; cat /tmp/begin; id -u; pwd"),
        "file image 0 /tmp\n0\n/tmp\n"
    );
    assert_eq!(sh("b", "ps | grep -v grep | grep -c '/bin/sleep 1000'").trim(), "1");
    // By command, without a declaration; and as somebody else.
    let reference = format!("127.0.0.1:{}/real/busybox:1", registry.port);
    let run =
        ["vm", "run", "--memory", "256MiB", "--image", &reference, "-u", "app", "--", "id", "-un"];
    assert_eq!(home.ok(&run), "app\n");
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

#[test]
fn files_of_this_host_become_images() {
    if !can_run() || !registry::can_run() {
        return;
    }
    let home = Home::new();
    let real = registry::images();
    // Below the file's folder, as a file has to name them.
    let line = |line: &str| {
        let done = Command::new("sh").args(["-ec", line]).current_dir(home.path()).status();
        assert!(done.expect("sh").success(), "{line}");
    };
    let from = real.display();
    line(&format!(
        "mkdir layout; cp -al {from}/saved.tar .; gzip -1 <saved.tar >saved.tar.gz; \
         skopeo copy -q --insecure-policy oci:{from}/lay:busybox oci:layout:busybox; \
         skopeo copy -q --insecure-policy oci:{from}/lay:busybox oci-archive:archive.tar:busybox; \
         mkdir -p tree/bin; cp $(command -v busybox) tree/bin/; for n in sh cat id; do ln tree/bin/busybox tree/bin/$n; done; \
         mkdir tree/etc; echo tree >tree/etc/what; printf %032d 7 >tree/etc/machine-id; \
         mkdir -p tree/var/lib/dbus; cp tree/etc/machine-id tree/var/lib/dbus/; ln -s /etc/what tree/link; tar -czf rootfs.tgz -C tree ."
    ));
    let mut text = String::new();
    for (name, path) in [
        ("saved", "saved.tar"),
        ("packed", "saved.tar.gz"),
        ("layout", "layout"),
        ("archive", "archive.tar"),
        ("tree", "tree"),
        ("rootfs", "rootfs.tgz"),
    ] {
        text.push_str(&format!("image \"{name}\" {{ path \"{path}\"; }}\n"));
    }
    let sandbox =
        |name: &str| format!("sandbox \"{name}\" {{ image \"{name}\"; memory \"256MiB\"; }}\n");
    home.write(&format!("{text}{}{}{}", sandbox("saved"), sandbox("tree"), sandbox("rootfs")));
    home.ok(&["apply"]);
    let sh = |name: &str, line: &str| home.ok(&["vm", "exec", name, "--", "sh", "-c", line]);
    assert_eq!(sh("saved", "cat /etc/changed; id -u"), "second\n1000\n");
    for tree in ["tree", "rootfs"] {
        assert_eq!(sh(tree, "cat /link; id -u"), "tree\n0\n");
    }
    // The image's machine id is nobody's: each has one of its own, and keeps it.
    let machine = |name: &str| {
        let told = sh(name, "cat /etc/machine-id /var/lib/dbus/machine-id");
        let (id, again) = told.trim().split_once('\n').expect("two lines");
        assert_eq!(id, again, "one machine, one id");
        id.to_string()
    };
    let ids = ["tree", "rootfs"].map(machine);
    assert!(ids.iter().all(|id| id.len() == 32 && !id.starts_with("000000")), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
    home.ok(&["vm", "restart", "tree"]);
    assert_eq!(machine("tree"), ids[0]);
    let content = |name: &str| home.json(&["image", "show", name])["content"].to_string();
    assert_eq!(content("saved"), content("packed"));
    assert_eq!(content("layout"), content("archive"));
    // A filesystem that is made already, and one that was not unmounted.
    let own = home.path().join("state/images");
    let image =
        home.json(&["image", "show", "tree"])["content"].as_str().expect("built").to_string();
    fs::copy(own.join(format!("{image}.ext4")), home.path().join("own.ext4")).expect("copies");
    home.ok(&["image", "register", "own", "own.ext4"]);
    assert_eq!(
        home.ok(&["vm", "run", "--memory", "256MiB", "--image", "own", "--", "cat", "/link"]),
        "tree\n"
    );
    line(
        "chmod +w own.ext4; printf '\\004' | dd of=own.ext4 bs=1 seek=1121 conv=notrunc status=none; cp own.ext4 dirty.ext4; printf '\\106' | dd of=dirty.ext4 bs=1 seek=1120 conv=notrunc status=none",
    );
    let said = home.banger(&["image", "register", "dirty", "dirty.ext4"]);
    assert!(said.code == 1 && said.err.contains("not unmounted"), "{}", said.err);
    // Known to every project from now on, whatever becomes of the file that declared it.
    home.ok(&["image", "promote", "test/tree", "--name", "kept"]);
    home.ok(&["destroy", "--yes"]);
    let run = ["vm", "run", "--memory", "256MiB", "--image", "kept", "--", "cat", "/etc/what"];
    assert_eq!(home.ok(&run), "tree\n");
    home.assert_nothing_left();
}

/// What leads out of the file's folder is refused before anything happens (R-B3).
#[test]
fn paths_stay_below_the_file() {
    if !can_run() {
        return;
    }
    let home = Home::with_kernel();
    std::os::unix::fs::symlink("/etc/passwd", home.path().join("link")).expect("links");
    fs::create_dir_all(home.path().join(".git/x")).expect("a folder");
    for (path, why) in [
        ("/etc/passwd", "is not below"),
        ("../x", "is not below the Bangerfile's folder"),
        ("link", "is not below"),
        (".git/x", "is not below the Bangerfile's folder"),
        ("missing", "No such file"),
    ] {
        home.write(&format!("image \"x\" {{ path \"{path}\"; }}\n"));
        let said = home.banger(&["plan"]);
        assert_eq!(said.code, 1, "{path}: {}", said.err);
        assert!(said.err.contains(why), "{path}: {}", said.err);
    }
    assert!(home.daemon().is_none(), "nothing was started for it");
}
