//! A network namespace of a test's own: no way out but to other namespaces of the same test.
//!
//! It has no name and is held by a descriptor, so that it goes with the test, whatever happens.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// One namespace.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with only a loopback. Needs root.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
            File::open("/proc/thread-self/ns/net").expect("opens")
        });
        let namespace = Self(made.join().expect("a namespace"));
        namespace.run("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A program that will run in it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs a program in it, which has to succeed; what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Does something with sockets in it.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enters");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The processes in it, by number and name.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let own = self.0.metadata().expect("there");
        let inside = |path: &std::path::Path| {
            std::fs::metadata(path.join("ns/net"))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (own.dev(), own.ino()))
        };
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let found = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            inside(&entry.path()).then(|| (pid, name.trim().to_string()))
        });
        found.collect()
    }

    /// A cable to another namespace: this end has this name and address, the other its own.
    pub(crate) fn connect(&self, own: (&str, &str), other: &Namespace, theirs: (&str, &str)) {
        self.run(
            "ip",
            &[
                "link",
                "add",
                own.0,
                "type",
                "veth",
                "peer",
                "name",
                theirs.0,
                "netns",
                &other.path(),
            ],
        );
        self.run("ip", &["addr", "add", own.1, "dev", own.0]);
        self.run("ip", &["link", "set", own.0, "up"]);
        other.run("ip", &["addr", "add", theirs.1, "dev", theirs.0]);
        other.run("ip", &["link", "set", theirs.0, "up"]);
    }

    /// Everything of the network that must be as it was afterwards: links, rules of both tools.
    pub(crate) fn census(&self) -> String {
        let rules = self.command("iptables-save").output();
        let rules = rules.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        [
            self.run("ip", &["-j", "link"]),
            self.run("ip", &["-j", "addr"]),
            self.run("ip", &["-j", "route", "show", "table", "all"]),
            self.run("nft", &["-j", "list", "ruleset"]),
            rules.unwrap_or_default().lines().filter(|line| !line.starts_with('#')).collect(),
        ]
        .join("\n")
    }
}
