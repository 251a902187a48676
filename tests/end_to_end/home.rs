//! A home for one test: its own folders, daemon and sandboxes, with kernels and images built once for all.

use super::cgroup;
use crate::namespace::Namespace;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_path_buf()
}

/// The folder of the programs under test.
pub(crate) fn programs() -> PathBuf {
    std::env::var_os("BANGER_PROGRAMS").map_or_else(|| root().join("target/debug"), PathBuf::from)
}

fn agent() -> PathBuf {
    let built = root().join("target/x86_64-unknown-linux-musl/agent/banger-agent");
    std::env::var_os("BANGER_AGENT").map_or(built, PathBuf::from)
}

/// What is missing here to run guests. A test that cannot run says so, and fails where all must run.
pub(crate) fn can_run() -> bool {
    let tools = [
        "qemu-system-x86_64",
        "vhost-device-vsock",
        "mmdebstrap",
        "mke2fs",
        "depmod",
        "nft",
        "ip",
        "nsenter",
        "dig",
        "python3",
        "ssh",
        "rsync",
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| {
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        folders.map(|folder| folder.join(name)).any(|file| file.is_file())
    };
    let mut missing: Vec<String> =
        tools.iter().filter(|tool| !has(tool)).map(ToString::to_string).collect();
    let ours = ["banger", "bangerd", "banger-helper"].map(|name| programs().join(name));
    missing.extend(
        ours.into_iter().chain([agent()]).filter(|p| !p.is_file()).map(|p| p.display().to_string()),
    );
    for (variable, name) in [("BANGER_FIRECRACKER", "firecracker"), ("BANGER_JAILER", "jailer")] {
        let named = std::env::var_os(variable).is_some_and(|path| Path::new(&path).is_file());
        if firecracker() && !named && !has(name) {
            missing.push(name.to_string());
        }
    }
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "missing: {}", missing.join(", "));
    eprintln!("SKIPPED: missing: {}", missing.join(", "));
    false
}

/// Copies the programs under test, each with something at its end so that it is another file. An earlier copy is replaced as a
/// package's tool does it: by another file of that name.
pub(crate) fn install_programs(to: &Path, mark: &str) {
    fs::create_dir_all(to).expect("a folder");
    let ours = ["banger", "bangerd", "banger-helper"].map(|name| programs().join(name));
    for program in ours.into_iter().chain([agent()]) {
        let name = program.file_name().expect("a name").display().to_string();
        let beside = to.join(format!(".{name}"));
        fs::copy(&program, &beside).expect("copies");
        let mut file = File::options().append(true).open(&beside).expect("opens");
        file.write_all(mark.as_bytes()).expect("writes");
        fs::rename(beside, to.join(name)).expect("renames");
    }
}

/// A home that is removed at the end, with every process in it.
///
/// What runs in it runs in a network namespace with no way out, so that no packet of a guest leaves it.
pub(crate) struct Home {
    folder: PathBuf,
    namespace: Option<Namespace>,
    programs: PathBuf,
    environment: Vec<(String, String)>,
    /// Whose it is, when not root's.
    user: Option<u32>,
    /// Cgroups that somebody left behind before.
    idle: BTreeSet<PathBuf>,
    _temporary: tempfile::TempDir,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The image that most tests run.
pub(crate) const IMAGE: &str = "image \"base\" { debian { packages \"busybox-static\"; }; }\n";

/// An image whose guests can send any frame and ask any question. It has no SSH server.
pub(crate) const NET_IMAGE: &str =
    "image \"net\" { debian { packages \"busybox-static\" \"python3-minimal\" \"rsync\"; }; }\n";

/// An image whose guests have git, as those of people who let agents work in them do.
pub(crate) const WORK_IMAGE: &str =
    "image \"work\" { debian { packages \"busybox-static\" \"git\" \"rsync\"; }; }\n";

impl Home {
    /// With every kernel and image built already.
    pub(crate) fn new() -> Self {
        let home = Self::empty();
        home.take_over(&built(), &["kernels", "images"]);
        home
    }

    /// With nothing, and no way out: for what needs no guest.
    pub(crate) fn empty() -> Self {
        let mut home = Self::outside();
        home.namespace = Some(Namespace::new());
        home
    }

    /// With nothing, and in the host's own namespace: for building images. No sandbox may run in it.
    pub(crate) fn outside() -> Self {
        // A short path: sockets have short names only.
        let temporary = tempfile::Builder::new().prefix("bg").tempdir_in("/tmp").expect("a folder");
        let folder = temporary.path().to_path_buf();
        let environment = vec![("BANGER_AGENT".to_string(), agent().display().to_string())];
        let (programs, idle) = (programs(), cgroup::idle());
        let user = None;
        Self { folder, namespace: None, programs, environment, user, idle, _temporary: temporary }
    }

    /// An ordinary user's, who has no helper. With every kernel and image built already.
    pub(crate) fn of_user(user: u32) -> Self {
        let mut home = Self::empty();
        // Whatever is above our own programs may be closed to others.
        let programs = home.folder.join("programs");
        fs::create_dir_all(home.folder.join("state")).expect("a folder");
        fs::create_dir(&programs).expect("a folder");
        for program in ["banger", "bangerd", "banger-helper"] {
            fs::copy(home.programs.join(program), programs.join(program)).expect("copies");
        }
        fs::copy(agent(), programs.join("banger-agent")).expect("copies");
        // Cargo installs it where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        let vsock = std::env::split_paths(&path).map(|folder| folder.join("vhost-device-vsock"));
        let vsock = vsock.into_iter().find(|path| path.is_file()).expect("it was looked for");
        fs::copy(vsock, programs.join("vhost-device-vsock")).expect("copies");
        home.set("PATH", &format!("{}:{path}", programs.display()));
        for kind in ["kernels", "images"] {
            let from = built().join("state").join(kind);
            let to = home.folder.join("state");
            let copied = Command::new("cp").args(["-a", "--"]).arg(&from).arg(&to).status();
            assert!(copied.expect("cp").success());
        }
        let owner = format!("{user}:{user}");
        let owned = Command::new("chown").args(["-R", &owner]).arg(&home.folder).status();
        assert!(owned.expect("chown").success());
        home.use_programs(&programs);
        home.user = Some(user);
        home
    }

    /// In the host's own namespace, with the kernel that every image needs: for pulling images from the loopback. No
    /// sandbox may run in it.
    pub(crate) fn with_kernel() -> Self {
        let home = Self::outside();
        home.take_over(&built(), &["kernels"]);
        home
    }

    /// Runs a shell line with our programs at hand.
    pub(crate) fn shell(&self, line: &str) -> Said {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = self
            .program(Path::new("/bin/sh"), &["-c", line])
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .output()
            .expect("sh runs");
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Links the content of another home's kernels and images into this one.
    fn take_over(&self, other: &Path, kinds: &[&str]) {
        for kind in kinds {
            let from = other.join("state").join(kind);
            let to = self.folder.join("state");
            fs::create_dir_all(&to).expect("a folder");
            let copied =
                Command::new("cp").args(["-al", "--"]).arg(&from).arg(&to).status().expect("cp");
            assert!(copied.success());
        }
        if let Some(kernel) = kernel_of_this_host() {
            self.put_kernel(&kernel);
        }
    }

    /// Puts another kernel behind every recipe: the one that this host can run.
    fn put_kernel(&self, kernel: &Path) {
        let all = self.folder.join("state/kernels");
        for entry in fs::read_dir(all).into_iter().flatten().flatten() {
            let content = entry.path();
            if content.file_name().is_none_or(|name| name == "recipes") {
                continue;
            }
            fs::remove_dir_all(&content).expect("removes");
            fs::create_dir_all(content.join("modules")).expect("a folder");
            fs::write(content.join("modules/order"), "").expect("writes");
            for (from, to) in
                [("vmlinux", "vmlinux"), ("vmlinux", "vmlinuz"), ("cmdline", "cmdline")]
            {
                fs::copy(kernel.join(from), content.join(to)).expect("copies");
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.program(&self.programs.join("banger"), arguments)
    }

    fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let first = if self.user.is_some() { Path::new("/usr/bin/setpriv") } else { program };
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(first),
            None => Command::new(first),
        };
        if let Some(user) = self.user {
            let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
            command.args([&user, &group, "--clear-groups", "--no-new-privs"]).arg(program);
        }
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("BANGER_HOME", &self.folder)
            .env("BANGER_JAILS", self.folder.join("jails"))
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Uses programs that are installed in a folder from now on, with the agent beside them.
    pub(crate) fn use_programs(&mut self, folder: &Path) {
        self.programs = folder.to_path_buf();
        self.environment.retain(|(name, _)| name != "BANGER_AGENT");
    }

    /// Sets a variable of every command from now on, and of the daemon that the first one starts.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_string(), value.to_string()));
    }

    /// The namespace that everything runs in.
    pub(crate) fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("a home in a namespace")
    }

    /// Runs a command to its end.
    pub(crate) fn banger(&self, arguments: &[&str]) -> Said {
        let Output { status, stdout, stderr } =
            self.command(arguments).output().expect("banger runs");
        Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Runs a command that has to succeed; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.banger(arguments);
        assert!(
            said.code == 0,
            "banger {arguments:?} ended with {}: {}{}",
            said.code,
            said.out,
            said.err
        );
        said.out
    }

    /// Writes the Bangerfile.
    pub(crate) fn write(&self, text: &str) {
        fs::write(self.folder.join("Bangerfile"), format!("project \"test\"\n{text}"))
            .expect("writes");
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// One sandbox's status, when there is one.
    pub(crate) fn status(&self, name: &str) -> Option<Value> {
        let all = self.json(&["ps"]);
        all.as_array().expect("a list").iter().find(|sandbox| sandbox["name"] == name).cloned()
    }

    pub(crate) fn boot_id(&self, name: &str) -> String {
        let status = self.status(name).expect("there");
        status["boot_id"].as_str().unwrap_or_else(|| panic!("no boot id: {status}")).to_string()
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, what: &str, limit: Duration, mut so: impl FnMut(&Self) -> bool) {
        // A guest whose kernel is emulated, as where KVM cannot run a stock one, takes its time.
        let limit = if kernel_of_this_host().is_some() { limit * 6 } else { limit };
        let start = Instant::now();
        while !so(self) {
            assert!(
                start.elapsed() < limit,
                "{what} did not come in {limit:?}\n{}{}",
                self.log(),
                self.consoles()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("state/bangerd.log")).unwrap_or_default()
    }

    /// The end of what each guest wrote to its console: where one stands still is seen there.
    fn consoles(&self) -> String {
        let all = fs::read_dir(self.folder.join("state/sandboxes")).into_iter().flatten().flatten();
        let end = |folder: PathBuf| {
            let text = fs::read(folder.join("console")).unwrap_or_default();
            let text =
                String::from_utf8_lossy(&text[text.len().saturating_sub(600)..]).into_owned();
            format!("--- the console of {}\n{text}\n", folder.display())
        };
        all.map(|entry| end(entry.path())).collect()
    }

    /// The running daemon's process.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        self.processes().into_iter().find(|(_, name)| name == "bangerd").map(|(pid, _)| pid)
    }

    /// The processes of this home: those whose environment or folder says so. By number and name.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let home = format!("BANGER_HOME={}", self.folder.display());
        let jails = self.jails();
        let jails = jails.iter().filter_map(|(_, root)| fs::metadata(root).ok());
        let jails: Vec<(u64, u64)> = jails.map(|meta| (meta.dev(), meta.ino())).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours =
                environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes());
            let inside = fs::read_link(entry.path().join("cwd"))
                .is_ok_and(|cwd| cwd.starts_with(self.folder.join("run")));
            // A jailed process has nothing of ours but its root.
            let inside = inside
                || fs::metadata(entry.path().join("root"))
                    .is_ok_and(|root| jails.contains(&(root.dev(), root.ino())));
            if ours || inside {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((Pid::from_raw(pid), name.trim().to_string()));
            }
        }
        found
    }

    /// The jails of this home: each folder, and the root of its processes.
    pub(crate) fn jails(&self) -> Vec<(PathBuf, PathBuf)> {
        let below = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        // Templates are kept on purpose, until nothing can start from them.
        let keeps = |path: &PathBuf| path.to_string_lossy().ends_with("-memories");
        let owners = below(&self.folder.join("jails")).into_iter();
        let owners = owners.filter(|path| path.is_dir() && !keeps(path));
        let jails = owners.flat_map(|owner| below(&owner));
        let root = |jail: PathBuf| {
            let own = below(&jail.join("firecracker")).pop().unwrap_or_else(|| jail.clone());
            (jail, own.join("root"))
        };
        jails.map(root).collect()
    }

    /// Processes besides the daemon and its helper.
    pub(crate) fn guests(&self) -> Vec<(Pid, String)> {
        let own = ["bangerd", "banger-helper", "banger"];
        self.processes().into_iter().filter(|(_, name)| !own.contains(&name.as_str())).collect()
    }

    /// Everything that sandboxes leave on disk: folders of runs and of sandboxes, volumes, half-made things, cgroups.
    pub(crate) fn leftovers(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in
            ["run/vm", "state/sandboxes", "state/snapshots", "state/volumes", "state/scratch"]
        {
            for entry in fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten() {
                found.insert(format!("{folder}/{}", entry.file_name().display()));
            }
        }
        found.extend(self.jails().iter().map(|(jail, _)| format!("jail {}", jail.display())));
        found
    }

    /// Nothing of any sandbox is left: no process, no file, no cgroup.
    pub(crate) fn assert_nothing_left(&self) {
        self.wait("nothing is left", Duration::from_secs(20), |home| {
            home.guests().is_empty() && home.leftovers().is_empty()
        });
        // Another test's may be there for the moment between its making and its first process.
        self.wait("no cgroup is left", Duration::from_secs(20), |home| {
            cgroup::idle().is_subset(&home.idle)
        });
        if let Some(namespace) = &self.namespace {
            self.wait("nothing is left of the network", Duration::from_secs(20), |_| {
                let links = namespace.run("ip", &["-br", "link"]);
                let rules = namespace.run("nft", &["list", "ruleset"]);
                !links.contains("bgr") && !links.contains("bgb") && !rules.contains("banger")
            });
        }
    }

    /// Ends the daemon as a crash would.
    pub(crate) fn kill_daemon(&self) {
        let Some(daemon) = self.daemon() else { return };
        kill(daemon, Signal::SIGKILL).expect("kills");
        // Its environment goes before its threads and sockets do: it is gone when nobody listens any more.
        let socket = self.folder.join("run/bangerd.sock");
        self.wait("the daemon is gone", Duration::from_secs(60), |home| {
            home.daemon().is_none() && std::os::unix::net::UnixStream::connect(&socket).is_err()
        });
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}{}", self.log(), self.consoles());
        }
        // A test that failed must not leave guests behind: by number, and only those of this home.
        let ids: Vec<_> = fs::read_dir(self.folder.join("run/vm"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for id in ids {
            let Some(own) = cgroup::of_this_user().map(|owner| owner.join(id)) else { continue };
            // A killed process is in it until somebody collects it.
            for _ in 0..100 {
                if fs::remove_dir(&own).is_ok() || !own.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The folder of a kernel (`vmlinux`, `cmdline`) that Firecracker can run on a host whose KVM cannot run a stock one.
pub(crate) fn kernel_of_this_host() -> Option<PathBuf> {
    firecracker().then(|| std::env::var_os("BANGER_TEST_KERNEL").map(PathBuf::from)).flatten()
}

/// The processes of one machine.
pub(crate) fn each() -> usize {
    if firecracker() { 1 } else { 2 }
}

/// Whether guests are run by Firecracker in this test run.
pub(crate) fn firecracker() -> bool {
    std::env::var_os("BANGER_VMM").is_some_and(|name| name == "firecracker")
}

/// Kernels and images for all tests, built once by the first that needs them.
fn built() -> PathBuf {
    let shared = root().join("target/end-to-end");
    fs::create_dir_all(&shared).expect("a folder");
    let lock =
        Flock::lock(File::create(shared.join("lock")).expect("a lock"), FlockArg::LockExclusive)
            .expect("locks");
    // The folder of sockets must be short; the content is moved to a place that lasts.
    let ready = shared.join("home-4");
    if !ready.join("done").exists() {
        let _ = fs::remove_dir_all(&ready);
        let home = Home::outside();
        home.write(&format!("{IMAGE}{NET_IMAGE}{WORK_IMAGE}"));
        home.ok(&["apply"]);
        home.ok(&["image", "build", "debian-bookworm"]);
        let systemd = root().join("examples/systemd.kdl");
        home.ok(&["image", "build", "-f", &systemd.display().to_string(), "system"]);
        for kind in ["kernels", "images"] {
            fs::create_dir_all(ready.join("state")).expect("a folder");
            let from = home.folder.join("state").join(kind);
            let copied = Command::new("cp")
                .args(["-a", "--sparse=always", "--"])
                .arg(from)
                .arg(ready.join("state"))
                .status();
            assert!(copied.expect("cp").success());
        }
        fs::write(ready.join("done"), "").expect("writes");
    }
    drop(lock);
    ready
}
