//! A start from a template, against a boot and against the bare restore of the same memory: `cargo bench -p banger-tests --
//! templates`. Needs Firecracker and its jailer, and on a host whose KVM cannot run a stock kernel one that it can.

use super::{Home, agent, median, namespace};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;

pub(super) fn templates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = root.join("target/end-to-end/home-4/state");
    let programs =
        std::env::var_os("BANGER_PROGRAMS").map_or(root.join("target/release"), PathBuf::from);
    let Some(firecracker) = std::env::var_os("BANGER_FIRECRACKER").map(PathBuf::from) else {
        return println!(
            "templates: NOT RUN: BANGER_FIRECRACKER and BANGER_JAILER name no programs"
        );
    };
    if !built.is_dir() || !programs.join("banger").is_file() {
        return println!("templates: NOT RUN: run the tests first, and cargo build --release");
    }
    let folder = tempfile::Builder::new().prefix("bf").tempdir_in("/tmp").expect("a folder");
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("a folder");
    for kind in ["kernels", "images"] {
        let copied = Command::new("cp").arg("-al").arg(built.join(kind)).arg(&state).status();
        assert!(copied.expect("cp").success());
    }
    if let Some(kernel) = std::env::var_os("BANGER_TEST_KERNEL").map(PathBuf::from) {
        put_kernel(&state, &kernel);
    }
    let file = "project \"bench\"\nimage \"base\" { debian { packages \"busybox-static\"; }; }\n";
    std::fs::write(folder.path().join("Bangerfile"), file).expect("writes");
    let home = Home { folder, programs, namespace: Some(namespace::Namespace::new()) };
    let run = |name: &str, cold: bool| {
        let mut line =
            vec!["vm", "run", "-d", "--name", name, "--image", "base", "--memory", "128MiB"];
        line.extend(["--egress", "none", "--vmm", "firecracker", "--disk", "1GiB"]);
        line.extend(cold.then_some("--cold"));
        let mut command = home.banger(&line);
        command
            .current_dir(home.folder.path())
            .env("BANGER_JAILS", home.folder.path().join("jails"));
        let begun = Instant::now();
        assert!(command.status().expect("runs").success(), "{line:?}");
        begun.elapsed()
    };
    // The first one keeps the template. The daemon starts with it.
    run("first", false);
    let (mut cold, mut warm, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        cold.push(run(&format!("cold{round}"), true));
        warm.push(run(&format!("warm{round}"), false));
        bare.push(restore_by_hand(&home, &firecracker));
    }
    let (cold, warm, bare) = (median(cold), median(warm), median(bare));
    println!("boot, until it has its identity:                {cold:?}");
    println!("from a template, until it has its identity:     {warm:?}");
    println!("bare restore of the same, and its identity:     {bare:?}");
    println!("template / boot:         {:.3}", warm.as_secs_f64() / cold.as_secs_f64());
    println!("template / bare restore: {:.3}", warm.as_secs_f64() / bare.as_secs_f64());
    for name in (0..ROUNDS).flat_map(|n| [format!("cold{n}"), format!("warm{n}")]) {
        let _ = home
            .banger(&["-p", "default", "vm", "delete", &name, "--yes"])
            .current_dir(home.folder.path())
            .status();
    }
    let _ = home
        .banger(&["-p", "default", "vm", "delete", "first", "--yes"])
        .current_dir(home.folder.path())
        .status();
}

fn put_kernel(state: &Path, kernel: &Path) {
    for entry in std::fs::read_dir(state.join("kernels")).expect("reads").flatten() {
        let content = entry.path();
        if content.ends_with("recipes") {
            continue;
        }
        std::fs::remove_dir_all(&content).expect("removes");
        std::fs::create_dir_all(content.join("modules")).expect("a folder");
        std::fs::write(content.join("modules/order"), "").expect("writes");
        for (from, to) in [("vmlinux", "vmlinux"), ("vmlinux", "vmlinuz"), ("cmdline", "cmdline")] {
            std::fs::copy(kernel.join(from), content.join(to)).expect("copies");
        }
    }
}

/// The files of the template that the home has, and those of the image and of a disk as its guest saw them.
fn restore_by_hand(home: &Home, firecracker: &Path) -> Duration {
    let state = home.folder.path().join("state");
    let below = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let store = below(&home.folder.path().join("jails"))
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("-memories"))
        .expect("templates");
    let kept = below(&store).pop().expect("a template");
    let sandbox = below(&state.join("sandboxes")).into_iter().flat_map(|folder| below(&folder));
    let like = sandbox.into_iter().find(|path| path.extension().is_some_and(|e| e == "ext4"));
    let like = like.expect("a disk");
    let name = like.file_stem().expect("a name").to_string_lossy().into_owned();
    let images = below(&state.join("images"));
    let of_disk = |path: &&PathBuf| {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        path.is_file() && stem.is_some_and(|stem| name.contains(&stem))
    };
    let image = images.iter().find(of_disk).expect("its image");
    let run = tempfile::Builder::new().prefix("bf").tempdir_in("/tmp").expect("a folder");
    let link = |from: &Path, to: &str| {
        std::os::unix::fs::symlink(from, run.path().join(to)).expect("links");
    };
    link(&kept.join("state"), "state");
    link(&kept.join("memory"), "memory");
    link(image, "disk0");
    let begun = Instant::now();
    let disk = run.path().join("disk1");
    std::fs::File::create(&disk)
        .and_then(|file| file.set_len(std::fs::metadata(&like)?.len()))
        .expect("a disk");
    let options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
        "-J",
        "size=16",
    ];
    assert!(Command::new("mke2fs").args(options).arg(&disk).status().expect("mke2fs").success());
    let mut vmm = Command::new(firecracker)
        .args(["--id", "hand", "--api-sock", "api.sock"])
        .current_dir(run.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let api = run.path().join("api.sock");
    let mut stream = loop {
        match UnixStream::connect(&api) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let body = r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true}"#;
    let request = format!(
        "PUT /snapshot/load HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = [0; 1024];
    let count = stream.read(&mut answer).expect("answers");
    let said = String::from_utf8_lossy(&answer[..count]);
    assert!(said.contains(" 204 "), "{said}");
    let identity = format!(
        r#"{{"do":"identify","generation":1,"hostname":"hand","env":{{}},"volumes":[],"provision":[],"provision_digest":"","command":[],"ready":null,"clock_ns":1700000000000000000,"entropy":"{}"}}"#,
        "00".repeat(32)
    );
    let socket = run.path().join("v.sock");
    let patience = Instant::now();
    while agent(&socket, &identity, "\"done\"").is_none() {
        assert!(patience.elapsed() < Duration::from_secs(120), "the guest answers");
        std::thread::sleep(Duration::from_millis(2));
    }
    let time = begun.elapsed();
    let _ = vmm.kill();
    let _ = vmm.wait();
    time
}
