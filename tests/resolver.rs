//! A real systemd-resolved and the helper: names of sandboxes are asked of us, by one link, and nothing else is (R-D4).

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the package is: installed, or unpacked by `examples/install-tools`. It is not installed for tests, since it
/// would take over the host's own resolver.
fn package() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/resolved");
    let unpacked = unpacked.canonicalize().ok().into_iter();
    let mut places = [PathBuf::from("/")].into_iter().chain(unpacked);
    places.find(|place| place.join("usr/bin/resolvectl").is_file())
}

#[test]
fn the_hosts_resolver_asks_for_names_of_sandboxes_and_no_others() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = root.join("../target/debug");
    let programs = std::env::var_os("BANGER_PROGRAMS").map_or(built, PathBuf::from);
    let helper = programs.join("banger-helper");
    let Some(package) = package().filter(|_| helper.is_file() && nix::unistd::geteuid().is_root())
    else {
        let why = "root, systemd-resolved and the helper are needed";
        assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "{why}");
        return eprintln!("SKIPPED: {why}");
    };
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
        .arg("bash")
        .arg(root.join("resolved/around"))
        .arg(package)
        .arg("python3")
        .arg(root.join("resolved/drive.py"))
        .arg(helper)
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "hello hello None\n\
        rules-check rules None\n\
        bridge-ensure changed None\n\
        rules-check rules False\n\
        dns-route changed None\n\
        dns-route changed None\n\
        rules-check rules True\n\
        web.vm True\n\
        asked ['web.vm']\n\
        rules-check rules False\n\
        dns-route changed None\n\
        rules-check rules True\n\
        bridge-remove changed None\n\
        rules-check rules None\n\
        left False\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
