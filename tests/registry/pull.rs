//! Pulls from a real registry: resumed, shared, private, mirrored, moved.

use super::{Proxy, Registry, can_run, images};
use crate::end_to_end::home::{Home, can_run as can_run_guests};
use std::fs;
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The digests and sizes of the blobs that are here.
fn blobs(home: &Home) -> u64 {
    let all = home.json(&["image", "cache", "list"]);
    all.as_array().expect("a list").iter().map(|blob| blob["bytes"].as_u64().expect("bytes")).sum()
}

/// Bytes of what came of blobs that are not whole.
fn parts(home: &Home) -> u64 {
    let parts = fs::read_dir(home.path().join("state/blobs/part")).into_iter().flatten().flatten();
    parts.filter_map(|part| part.metadata().ok()).map(|part| part.len()).sum()
}

/// Puts one of the real images where the reference `it:1` leads.
fn push(registry: &Registry, image: &str) {
    let to = format!("docker://127.0.0.1:{}/it:1", registry.port);
    let pushed = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
        .args([&format!("oci:{}:{image}", images().join("lay").display()), &to])
        .status();
    assert!(pushed.expect("skopeo").success());
}

#[test]
fn a_pull_that_is_cut_goes_on_where_it_was() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let home = Home::with_kernel();
    let whole = {
        let proxy = Proxy::before(registry.port);
        home.ok(&["image", "pull", &format!("127.0.0.1:{}/real/debian:1", proxy.port)]);
        proxy.bytes()
    };
    assert!(whole > 20 * MIB, "{whole}");
    // Fixed numbers that look random, over the whole length.
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20 {
        number =
            number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (number >> 20) % whole;
        home.ok(&["image", "cache", "prune"]);
        let proxy = Proxy::before(registry.port);
        proxy.cut_after(at);
        let name = format!("cut-{round}");
        let reference = format!("127.0.0.1:{}/real/debian:1", proxy.port);
        home.ok(&["image", "pull", &reference, "--name", &name]);
        let more = proxy.bytes().saturating_sub(whole);
        assert!(more <= MIB, "cut at {at} of {whole}: {more} bytes more");
    }
    let recipes = home.json(&["image", "list"]);
    let content = |image: &serde_json::Value| image["content"].as_str().map(String::from);
    let contents: std::collections::BTreeSet<_> =
        recipes.as_array().expect("a list").iter().filter_map(content).collect();
    assert_eq!(contents.len(), 1, "the same layers are the same image");
}

/// The process is killed within a download; the next daemon goes on.
#[test]
fn a_daemon_killed_within_a_download_does_not_begin_again() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let proxy = Proxy::before(registry.port);
    proxy.slow(20 * MIB);
    let home = Home::with_kernel();
    let reference = format!("127.0.0.1:{}/real/debian:1", proxy.port);
    let mut client = home
        .command(&["image", "pull", &reference])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    home.wait("some of it came", PATIENCE, |home| parts(home) > 8 * MIB);
    home.kill_daemon();
    client.wait().expect("ends");
    proxy.slow(0);
    let kept = parts(&home);
    let before = proxy.bytes();
    home.ok(&["image", "pull", &reference]);
    let all = blobs(&home);
    let after = proxy.bytes() - before;
    // What is left, and the manifests.
    assert!(after < all - kept + MIB, "{after} of {all} bytes came, and {kept} were here");
}

#[test]
fn fifty_pulls_of_one_image_are_one_download() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let proxy = Proxy::before(registry.port);
    let home = Home::with_kernel();
    let reference = format!("127.0.0.1:{}/real/debian:1", proxy.port);
    home.ok(&["version"]);
    let clients: Vec<_> = (0..50)
        .map(|number| {
            // Half under one name, half under names of their own.
            let name = if number % 2 == 0 { "one".to_string() } else { format!("n{number}") };
            home.command(&["image", "pull", &reference, "--name", &name])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("runs")
        })
        .collect();
    for client in clients {
        let said = client.wait_with_output().expect("ends");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    assert_eq!(proxy.asked("/blobs/"), 2, "the layer and the configuration, once each");
}

/// Two installations have nothing in common but the cache folder: across processes too.
#[test]
fn two_daemons_over_one_cache_download_once() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let proxy = Proxy::before(registry.port);
    proxy.slow(30 * MIB);
    let reference = format!("127.0.0.1:{}/real/debian:1", proxy.port);
    let (one, two) = (Home::with_kernel(), Home::with_kernel());
    fs::create_dir_all(one.path().join("state/blobs")).expect("a folder");
    std::os::unix::fs::symlink(one.path().join("state/blobs"), two.path().join("state/blobs"))
        .expect("links");
    let start = |home: &Home| {
        let mut command = home.command(&["image", "pull", &reference]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs")
    };
    let first = start(&one);
    one.wait("some of it came", PATIENCE, |home| parts(home) > 8 * MIB);
    let second = start(&two);
    std::thread::sleep(std::time::Duration::from_millis(300));
    // The leader fails; the follower takes over where it was.
    let kept = parts(&one);
    one.kill_daemon();
    let before = proxy.bytes();
    assert!(!first.wait_with_output().expect("ends").status.success());
    let said = second.wait_with_output().expect("ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let all = blobs(&two);
    let after = proxy.bytes() - before;
    assert!(after < all - kept + MIB, "{after} of {all} bytes came, and {kept} were here");
}

#[test]
fn a_private_registry_wants_a_login() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let hash = Command::new("python3")
        .args(["-Wignore", "-c", "import crypt; print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"])
        .output()
        .expect("python3");
    let hash = String::from_utf8_lossy(&hash.stdout).trim().to_string();
    fs::write(&users, format!("me:{hash}\n")).expect("writes");
    let auth = format!("auth: {{ htpasswd: {{ realm: here, path: {} }} }}\n", users.display());
    let registry =
        Registry::start(&images().join("storage"), &auth, |program| Command::new(program));
    registry.wait();
    let home = Home::with_kernel();
    let host = format!("127.0.0.1:{}", registry.port);
    let reference = format!("{host}/real/busybox:1");
    let said = home.banger(&["image", "pull", &reference]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("banger image login"), "{}", said.err);
    let login = |password: &str| {
        let line =
            format!("printf %s {password} | banger image login {host} -u me --password-stdin");
        home.shell(&line)
    };
    let wrong = login("wrong");
    assert!(wrong.code == 1 && wrong.err.contains("does not know"), "{}", wrong.err);
    let right = login("secret");
    assert_eq!(right.code, 0, "{}", right.err);
    let file = home.path().join("state/auth.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).expect("kept").permissions());
    assert_eq!(mode & 0o777, 0o600);
    home.ok(&["image", "pull", &reference]);
    assert!(!home.log().contains("secret"), "a password is in the log");
    home.ok(&["image", "logout", &host]);
    home.ok(&["image", "cache", "prune"]);
    assert_eq!(home.banger(&["image", "pull", &reference, "--name", "again"]).code, 1);
    // Docker's own configuration is as good.
    let docker = home.path().join("docker");
    fs::create_dir_all(&docker).expect("a folder");
    let config = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"bWU6c2VjcmV0\"}}}}}}");
    fs::write(docker.join("config.json"), config).expect("writes");
    let mut home = home;
    home.kill_daemon();
    home.set("DOCKER_CONFIG", &docker.display().to_string());
    home.ok(&["image", "pull", &reference, "--name", "again"]);
    // And so is a helper of Docker's.
    let helper = home.path().join("docker-credential-test");
    let script = "#!/bin/sh\nread -r host\necho \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"me\\\",\\\"Secret\\\":\\\"secret\\\"}\"\n";
    fs::write(&helper, script).expect("writes");
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("x");
    fs::write(docker.join("config.json"), "{\"credsStore\": \"test\"}").expect("writes");
    home.kill_daemon();
    let path = std::env::var("PATH").unwrap_or_default();
    home.set("PATH", &format!("{}:{path}", home.path().display()));
    home.ok(&["image", "cache", "prune"]);
    home.ok(&["image", "pull", &reference, "--name", "helped"]);
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let (mirror, origin) = (Proxy::before(registry.port), Proxy::before(registry.port));
    let home = Home::with_kernel();
    let host = format!("127.0.0.1:{}", origin.port);
    let write = |mirrors: &str| {
        let text = format!("[\"{host}\"]\nmirrors = [{mirrors}]\n");
        fs::write(home.path().join("state/registries.toml"), text).expect("writes");
    };
    write(&format!("\"127.0.0.1:{}\"", mirror.port));
    home.ok(&["image", "pull", &format!("{host}/real/busybox:1")]);
    assert_eq!((origin.bytes(), mirror.asked("/blobs/")), (0, 2));
    // One that is not there, and one that does not have it.
    write(&format!("\"127.0.0.1:1\", \"127.0.0.1:{}\"", super::free_port()));
    home.ok(&["image", "pull", &format!("{host}/real/layers:1")]);
    assert!(origin.asked("/blobs/") >= 2);
    write("3");
    let said = home.banger(&["image", "pull", &format!("{host}/real/zstd:1")]);
    assert!(said.code == 1 && said.err.contains("registries.toml"), "{}", said.err);
}

#[test]
fn a_reference_that_moved_is_shown_and_not_taken() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let storage = folder.path().join("storage");
    let registry = Registry::start(&storage, "", |program| Command::new(program));
    registry.wait();
    push(&registry, "busybox");
    let home = Home::with_kernel();
    let reference = format!("127.0.0.1:{}/it:1", registry.port);
    home.ok(&["image", "pull", &reference, "--name", "it"]);
    let manifest = |home: &Home| {
        let shown = home.json(&["image", "show", "it"]);
        shown["details"][0].as_str().expect("a manifest").to_string()
    };
    let first = manifest(&home);
    push(&registry, "layers");
    let said = home.banger(&["image", "pull", &reference, "--name", "it"]);
    assert_eq!(said.code, 0);
    assert!(said.err.contains("moved") && said.err.contains("--update"), "{}", said.err);
    assert_eq!(manifest(&home), first);
    // A file that names it means the one that is known.
    home.write(&format!("image \"x\" {{ oci \"{reference}\"; }}\n"));
    home.ok(&["apply"]);
    assert_eq!(home.json(&["image", "list"]).as_array().map(Vec::len), Some(1));
    home.ok(&["image", "pull", &reference, "--name", "it", "--update"]);
    assert_ne!(manifest(&home), first);
}

/// What a reference led to is written beside the file, and holds on another machine after the reference moved.
#[test]
fn a_lock_holds_what_a_reference_led_to() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let registry =
        Registry::start(&folder.path().join("storage"), "", |program| Command::new(program));
    registry.wait();
    push(&registry, "busybox");
    let text = format!("image \"it\" {{ oci \"127.0.0.1:{}/it:1\"; }}\n", registry.port);
    let one = Home::with_kernel();
    one.write(&text);
    let said = one.banger(&["apply", "--frozen"]);
    assert!(said.code == 4 && said.err.contains("banger lock"), "{} {}", said.code, said.err);
    one.ok(&["lock"]);
    one.ok(&["apply", "--frozen"]);
    one.ok(&["lock"]);
    let lock = fs::read_to_string(one.path().join("Bangerfile.lock")).expect("written");
    let content =
        one.json(&["image", "show", "it"])["content"].as_str().expect("built").to_string();
    assert!(lock.contains("digest = \"sha256:") && lock.contains(&content), "{lock}");
    assert!(lock.contains("agent = ") && lock.contains("QEMU"), "{lock}");

    push(&registry, "layers");
    let two = Home::with_kernel();
    two.write(&text);
    fs::write(two.path().join("Bangerfile.lock"), &lock).expect("writes");
    two.ok(&["apply", "--frozen"]);
    assert_eq!(two.json(&["image", "show", "it"])["content"].as_str(), Some(content.as_str()));
    // Whatever is not as it says is refused before anything is done.
    for (from, to, why) in [
        (content.as_str(), "0".repeat(64).as_str(), "image it is"),
        ("agent = \"", "agent = \"0", "the programs are"),
        ("/it:1\"", "/it:2\"", "image it was"),
        ("[images", "[what", "Bangerfile.lock"),
    ] {
        let changed = lock.replacen(from, to, 1);
        assert_ne!(changed, lock);
        fs::write(two.path().join("Bangerfile.lock"), changed).expect("writes");
        let said = two.banger(&["apply", "--frozen"]);
        assert!([1, 4].contains(&said.code) && said.err.contains(why), "{from}: {}", said.err);
    }
    fs::write(two.path().join("Bangerfile.lock"), &lock).expect("writes");
    assert_eq!(two.ok(&["lock"]), "", "nothing moves by itself");
    assert_eq!(fs::read_to_string(two.path().join("Bangerfile.lock")).expect("reads"), lock);
    let moved = two.ok(&["lock", "--update", "it"]);
    assert!(moved.contains("it: sha256:") && moved.contains('\u{2192}'), "{moved}");
    two.ok(&["apply", "--yes"]);
    assert_ne!(two.json(&["image", "show", "it"])["content"].as_str(), Some(content.as_str()));
}

/// An image takes little memory to unpack, however large it is (R-I6).
#[test]
fn unpacking_takes_little_memory() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let home = Home::with_kernel();
    let tree = home.path().join("tree");
    fs::create_dir_all(&tree).expect("a folder");
    let large = fs::File::create(tree.join("large")).expect("a file");
    large.set_len(1 << 30).expect("grows");
    let made = Command::new("sh")
        .args(["-ec", "for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch); done"])
        .current_dir(&tree)
        .status();
    assert!(made.expect("sh").success());
    home.ok(&["image", "register", "large", "tree"]);
    let log = home.log();
    let peak = log.split(" bytes with ").nth(1).and_then(|rest| rest.split(' ').next());
    let peak: u64 = peak.and_then(|kib| kib.parse().ok()).expect("a figure in the log");
    assert!(peak < 256 << 10, "{peak} KiB");
}

/// What reads a hostile archive opens nothing but the program's own libraries, whatever the archive says (R-I1).
#[test]
fn the_unpacker_opens_nothing() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let mut home = Home::with_kernel();
    let (trace, wrapper) = (home.path().join("trace"), home.path().join("traced"));
    let line = format!(
        "#!/bin/sh\nunset LD_LIBRARY_PATH\nexec strace -f -qq -s 200 -e trace=%process,%file,socket,connect -o {} {} \"$@\"\n",
        trace.display(),
        crate::end_to_end::home::programs().join("bangerd").display()
    );
    fs::write(&wrapper, line).expect("writes");
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("x");
    home.set("BANGER_DAEMON", &wrapper.display().to_string());
    let hostile = "import io, tarfile\n\
        t = tarfile.open('hostile.tar', 'w', format=tarfile.PAX_FORMAT)\n\
        def add(name, kind=tarfile.REGTYPE, link='', data=b'owned'):\n\
        \x20   i = tarfile.TarInfo(name); i.type, i.linkname = kind, link\n\
        \x20   i.size = len(data) if kind == tarfile.REGTYPE else 0\n\
        \x20   t.addfile(i, io.BytesIO(data))\n\
        add('/tmp/banger-was-here'); add('../../../../tmp/banger-was-here')\n\
        add('tmp-link', tarfile.SYMTYPE, '/tmp'); add('tmp-link/banger-was-here')\n\
        add('up', tarfile.SYMTYPE, '../../../../../tmp'); add('up/banger-was-here')\n\
        add('disk', tarfile.BLKTYPE); add('etc-link', tarfile.SYMTYPE, '/etc'); add('etc-link/passwd')\n\
        t.close()\n";
    let made = Command::new("python3").args(["-c", hostile]).current_dir(home.path()).status();
    assert!(made.expect("python3").success());
    home.ok(&["image", "register", "hostile", "hostile.tar"]);
    assert!(!std::path::Path::new("/tmp/banger-was-here").exists());
    home.kill_daemon();
    let text = fs::read_to_string(&trace).expect("a trace");
    let child = text.lines().find(|line| line.contains("execve(") && line.contains("\"unpack\""));
    let child = child.and_then(|line| line.split(' ').next()).expect("the unpacker was started");
    // It and its threads, from its start on.
    let mut threads = std::collections::BTreeSet::from([child]);
    let started = |line: &&str| !(line.starts_with(child) && line.contains("\"unpack\""));
    let mut own = Vec::new();
    for line in text.lines().skip_while(started).skip(1) {
        if !threads.contains(line.split(' ').next().unwrap_or("")) {
            continue;
        }
        if let Some(thread) = line.rsplit(" = ").next().filter(|_| line.contains("clone")) {
            threads.insert(thread);
        }
        own.push(line);
    }
    assert!(threads.len() > 2, "its threads were not seen: {threads:?}");
    assert!(!own.is_empty(), "nothing was traced");
    let known = [
        "/etc/ld.so",
        "/lib",
        "/usr/lib",
        "/proc/self",
        "/sys/fs/cgroup",
        "/sys/devices/system/cpu",
    ];
    for line in own {
        let path = line.split('"').nth(1).unwrap_or("");
        assert!(!line.contains("socket(") && !line.contains("connect("), "{line}");
        // The second half of a line that another thread's parted has no path; its first half was looked at.
        let opens = line.contains("open") && !line.contains(" resumed>");
        let writes = opens
            && (line.contains("O_WRONLY") || line.contains("O_RDWR") || line.contains("O_CREAT"));
        assert!(!writes, "{line}");
        assert!(!opens || known.iter().any(|start| path.starts_with(start)), "{line}");
        assert!(!line.contains("banger-was-here") && !line.contains("passwd"), "{line}");
    }
}

/// A catalog from the network: signed or nothing, never an older one, and good without a network afterwards (R-N7).
#[test]
fn a_catalog_is_fetched_verified_and_kept() {
    if !can_run() || !can_run_guests() {
        return;
    }
    let registry = Registry::here();
    let mut home = Home::with_kernel();
    let at = |name: &str| home.path().join(name);
    let line = |line: &str| {
        let done =
            Command::new("sh").args(["-ec", line]).current_dir(home.path()).output().expect("sh");
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    line(
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub",
    );
    let layout = fs::read_to_string(images().join("lay/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&layout).expect("JSON");
    let named =
        |m: &&serde_json::Value| m["annotations"]["org.opencontainers.image.ref.name"] == "busybox";
    let digest =
        index["manifests"].as_array().and_then(|all| all.iter().find(named)).expect("there");
    let digest = digest["digest"].as_str().expect("a digest").to_string();
    let publish = |sequence: u32| {
        let text = format!(
            "// sequence {sequence} expires 2099-01-01\nimage \"tiny\" {{\n    oci \"127.0.0.1:{}/real/busybox:1\" digest=\"{digest}\"\n}}\n",
            registry.port
        );
        fs::write(at("catalog.kdl"), text).expect("writes");
        home.ok(&["catalog", "sign", "catalog.kdl", "--key", "key.pem"]);
        home.ok(&["catalog", "verify", "catalog.kdl", "--key", "key.pub"]);
    };
    publish(5);
    let port = super::free_port();
    let serve = || {
        let server = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
            .current_dir(home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3");
        let answers = |_: &Home| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        home.wait("the server answers", std::time::Duration::from_secs(10), answers);
        server
    };
    let mut server = serve();
    let key = fs::read_to_string(at("key.pub")).expect("made");
    assert!(home.banger(&["catalog", "update"]).err.contains("no catalog to fetch"));
    home.kill_daemon();
    let url = format!("http://127.0.0.1:{port}/catalog.kdl");
    home.set("BANGER_CATALOG_URL", &url);
    home.set("BANGER_CATALOG_KEY", &key);
    assert!(home.ok(&["catalog", "update"]).contains("catalog 5: 1 images"));
    let at = |name: &str| home.path().join(name);
    // What is signed by nobody, or changed on the way, is not taken, and what was here stays.
    let (text, signature) = (at("catalog.kdl"), at("catalog.kdl.sig"));
    let good = fs::read(&text).expect("reads");
    fs::write(&text, [good.as_slice(), b"\n"].concat()).expect("writes");
    assert!(home.banger(&["catalog", "update"]).err.contains("not this key's"));
    fs::write(&signature, "").expect("writes");
    assert!(home.banger(&["catalog", "update"]).err.contains("1 to 512 bytes"));
    // Nor an older one, though it is signed.
    fs::write(&text, String::from_utf8_lossy(&good).replace("sequence 5", "sequence 4"))
        .expect("writes");
    home.ok(&["catalog", "sign", "catalog.kdl", "--key", "key.pem"]);
    assert!(home.banger(&["catalog", "update"]).err.contains("is here already"));
    server.kill().and_then(|()| server.wait()).expect("ends");
    // Without the network of the catalog: by command and by a file that does not declare it.
    home.ok(&["image", "pull", "tiny"]);
    home.write("sandbox \"s\" { image \"tiny\"; mode \"stopped\"; }\n");
    home.ok(&["check"]);
    home.ok(&["apply"]);
    assert_eq!(home.ok(&["apply"]), "no changes\n");
    let kept = at("state/catalog.kdl");
    fs::write(&kept, String::from_utf8_lossy(&good).replace("busybox", "evil")).expect("writes");
    let said = home.banger(&["check"]);
    assert!(said.code != 0 && said.err.contains("not this key's"), "{}", said.err);
    fs::remove_file(&kept).expect("removes");
    home.ok(&["destroy", "--yes", "-p", "test"]);
}
