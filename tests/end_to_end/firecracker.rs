//! What only Firecracker has: its jailer's jail, and templates. Run where its binaries are (`BANGER_VMM=firecracker`).

use super::home::{Home, IMAGE, Said, can_run, firecracker};
use super::jail::look_at_descriptors;
use banger_wire::helper::Purpose;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whether this run is one with Firecracker.
pub(super) fn runs() -> bool {
    if !firecracker() {
        eprintln!(
            "NOT RUN: guests are run by QEMU here; Firecracker's part needs BANGER_VMM=firecracker"
        );
        return false;
    }
    can_run()
}

pub(super) const BOX: &str = "memory \"128MiB\"; egress \"none\";";

/// The folders of a home's kept memories for one purpose.
pub(super) fn memories(home: &Home, purpose: Purpose) -> Vec<PathBuf> {
    let below = |folder: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let is_it = |folder: &PathBuf| {
        let record = fs::read(folder.join("record")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        record["of"]["purpose"] == serde_json::to_value(purpose).expect("encodes")
    };
    let stores = below(home.path().join("jails"));
    let stores = stores.into_iter().filter(|path| path.to_string_lossy().ends_with("-memories"));
    stores.flat_map(below).filter(is_it).collect()
}

fn templates(home: &Home) -> Vec<PathBuf> {
    memories(home, Purpose::Template)
}

pub(super) fn tell(home: &Home, name: &str, line: &str) -> String {
    home.ok(&["vm", "exec", name, "--", "sh", "-c", line])
}

#[test]
fn firecracker_lives_in_the_jail_that_its_jailer_made() {
    if !runs() {
        return;
    }
    let home = Home::new();
    home.write(&format!("{IMAGE}sandbox \"a\" {{ image \"base\"; {BOX} }}\n"));
    home.ok(&["apply"]);
    let (pid, name) = home.guests().pop().expect("it runs");
    assert_eq!(name, "firecracker");
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("reads");
    let line: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    for never in ["--no-seccomp", "--seccomp-filter", "--enable-pci"] {
        assert!(!line.iter().any(|word| word.starts_with(never)), "{line:?}");
    }
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("reads").flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("reads");
        assert!(status.contains("Seccomp:\t2"), "every thread has a filter: {status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
        assert!(uid.split_whitespace().all(|id| id.parse::<u32>().expect("one") >= 0x7100_0000));
    }
    for (file, limit) in super::cgroup::limits(format!("/proc/{pid}").as_ref()) {
        match file {
            // One processor more than the guest's; 64 MiB more.
            "cpu.max" => assert_eq!(limit, "200000 100000"),
            "pids.max" => assert_eq!(limit, "64"),
            _ => assert_eq!(limit, (192u64 << 20).to_string()),
        }
    }
    let (_, root) = home.jails().pop().expect("a jail");
    let names: BTreeSet<String> = fs::read_dir(&root)
        .expect("reads")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let expected = [
        "api.sock",
        "console",
        "dev",
        "disk0",
        "disk1",
        "firecracker",
        "firecracker.pid",
        "initramfs",
        "kernel",
        "log",
        "metrics",
        "run",
        "v.sock",
    ];
    assert_eq!(names, expected.map(String::from).into());
    let process = PathBuf::from(format!("/proc/{pid}"));
    // As it sees them, with its mounts; FIFOs and sockets as they are.
    let places = [process.join("root"), root.clone()].map(|place| place.join("."));
    let files = places.iter().flat_map(|place| fs::read_dir(place).expect("reads").flatten());
    let files = files.filter_map(|entry| fs::metadata(entry.path()).ok());
    let own = files.map(|meta| (meta.dev(), meta.ino())).collect();
    assert!(look_at_descriptors(&process, &own) > 3);
    for file in fs::read_dir(&root).expect("reads").flatten() {
        let meta = file.metadata().expect("there");
        assert_eq!(meta.mode() & 0o6022, 0, "{}", file.path().display());
    }
    for kind in ["ns/ipc", "ns/mnt"] {
        let link = |of: &Path| fs::read_link(of.join(kind)).expect(kind);
        assert_ne!(link(&process), link("/proc/self".as_ref()), "{kind}");
    }
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}

/// A start from a template is a start like any other: its own identity, keys, machine, randomness and clock.
#[test]
fn a_start_from_a_template_is_as_good_as_a_boot() {
    if !runs() {
        return;
    }
    let mut home = Home::new();
    home.set("BANGER_LOG", "info");
    let one = |name: &str| {
        format!("sandbox \"{name}\" {{ image \"base\"; {BOX} env WHO=\"{name}\"; }}\n")
    };
    home.write(&format!("{IMAGE}{}", one("a")));
    let begun = Instant::now();
    home.ok(&["apply"]);
    let cold = begun.elapsed();
    assert_eq!(templates(&home).len(), 1, "the first start keeps one");
    home.write(&format!("{IMAGE}{}{}{}", one("a"), one("b"), one("c")));
    let begun = Instant::now();
    home.ok(&["apply"]);
    eprintln!("one boot {cold:?}, two starts from its template {:?}", begun.elapsed());
    assert_eq!(templates(&home).len(), 1, "and no other does");
    for what in [
        "cat /proc/sys/kernel/random/boot_id",
        "head -c 32 /dev/urandom | od -An -tx1",
        "cat /etc/hostname",
        "echo $WHO",
        "hostname",
    ] {
        let said: BTreeSet<String> =
            ["a", "b", "c"].iter().map(|name| tell(&home, name, what)).collect();
        assert_eq!(said.len(), 3, "{what}: {said:?}");
    }
    let keys = |name| home.ok(&["ssh-host-keys", &format!("{name}.test"), &format!("{name}.test")]);
    let keys: BTreeSet<String> = ["a", "b", "c"].into_iter().map(keys).collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    // Each clock is the host's, whenever the memory is from.
    for name in ["b", "c"] {
        let told: i64 = tell(&home, name, "date +%s").trim().parse().expect("a number");
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later");
        assert!((now.as_secs().cast_signed() - told).abs() < 30, "{name}: {told}");
    }
    // What one writes is on its disk and on no other.
    tell(&home, "b", "echo b > /mine; sync");
    assert_eq!(tell(&home, "c", "cat /mine 2>/dev/null || echo none"), "none\n");
    home.ok(&["vm", "restart", "b"]);
    assert_eq!(tell(&home, "b", "cat /mine"), "b\n");

    // Only root's word counts: a template that changed is not used, and goes.
    let memory = templates(&home).pop().expect("one").join("memory");
    let meta = fs::metadata(&memory).expect("there");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (0, 0o444));
    fs::OpenOptions::new()
        .write(true)
        .open(&memory)
        .expect("root may")
        .set_len(meta.len())
        .expect("sets");
    let file = fs::OpenOptions::new().write(true).open(&memory).expect("root may");
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 4096).expect("writes");
    drop(file);
    home.ok(&["vm", "restart", "c"]);
    assert!(home.log().contains("does not start from its template"), "{}", home.log());
    assert_eq!(tell(&home, "c", "cat /etc/hostname"), "c\n");

    // A run can do without.
    let Said { code, out, .. } = home.banger(&[
        "vm", "run", "--image", "base", "--memory", "128MiB", "--egress", "none", "--cold", "--",
        "hostname",
    ]);
    assert_eq!(code, 0);
    assert!(out.starts_with("run-"), "{out}");
    home.ok(&["destroy", "--yes"]);
    home.wait("nothing runs", Duration::from_secs(20), |home| home.guests().is_empty());
    assert!(home.jails().is_empty());
}
