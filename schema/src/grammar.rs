//! What may stand where in a Bangerfile. One table serves both languages, the checks, "did you mean" and the docs.
//!
//! **Architecture invariant:** every field says whether it touches the host (R-B1) and what a change of it costs.
//! Nothing here can run a program on the host, read a file or name an address.

/// What a change of a field costs a running sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It is applied while the sandbox runs.
    Live,
    /// The sandbox is stopped and started; its disk stays.
    Restart,
    /// The sandbox's disk is made anew; volumes stay. Needs a yes.
    Replace,
}

/// Whether a field has any effect outside banger's own folders and the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// None.
    Inert,
    /// It opens something on the host.
    Host,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    /// A name: a DNS label.
    Name,
    /// The name of an image or kernel: as a name, and a dot counts as a dash.
    Artifact,
    /// Any text.
    Text,
    /// A whole number between these bounds.
    Int(i128, i128),
    /// A size with its unit.
    Size,
    /// A time in seconds or minutes with its unit.
    Time,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One argument or property.
#[derive(Debug)]
pub struct Slot {
    /// Its name, which TOML writes and KDL shows in errors.
    pub name: &'static str,
    /// What it must be.
    pub ty: Ty,
    /// Whether it must be given.
    pub required: bool,
}

/// One node.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Arguments in order. Each may also be written as a property.
    pub args: &'static [Slot],
    /// Any number of further arguments of this type.
    pub rest: Option<Ty>,
    /// Properties.
    pub props: &'static [Slot],
    /// Whether any property is allowed, with a text as value.
    pub open_props: bool,
    /// Nodes below it.
    pub children: &'static [Rule],
    /// Whether it may stand more than once.
    pub many: bool,
    /// Whether TOML writes its first argument as a table's key.
    pub keyed: bool,
    /// What a change costs.
    pub class: Class,
    /// What it reaches.
    pub reach: Reach,
    /// One line for people.
    pub doc: &'static str,
}

impl Rule {
    /// The rule of a child.
    pub fn child(&self, name: &str) -> Option<&'static Rule> {
        self.children.iter().find(|rule| rule.name == name)
    }

    /// The argument or property of this name.
    pub fn slot(&self, name: &str) -> Option<&'static Slot> {
        self.args.iter().chain(self.props).find(|slot| slot.name == name)
    }
}

const fn slot(name: &'static str, ty: Ty, required: bool) -> Slot {
    Slot { name, ty, required }
}

const BASE: Rule = Rule {
    name: "",
    args: &[],
    rest: None,
    props: &[],
    open_props: false,
    children: &[],
    many: false,
    keyed: false,
    class: Class::Live,
    reach: Reach::Inert,
    doc: "",
};

/// Stands in for a node that the grammar does not know, so that its own name is the only problem reported.
pub(crate) const UNKNOWN: Rule = BASE;

/// A node with exactly one argument.
const fn one(name: &'static str, args: &'static [Slot], class: Class, doc: &'static str) -> Rule {
    Rule { name, args, class, doc, ..BASE }
}

/// The largest number of processors.
pub const MAX_CPUS: i128 = 32;

/// The signals that can ask a service to end.
pub const STOP_SIGNALS: &[&str] =
    &["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGKILL", "SIGUSR1", "SIGUSR2"];

const SUITE: Slot = slot("suite", Ty::Text, false);

/// The whole file.
pub static ROOT: Rule = Rule {
    children: &[
        one(
            "project",
            &[slot("name", Ty::Name, true)],
            Class::Live,
            "the project's name; the folder's if not given",
        ),
        KERNEL,
        IMAGE,
        Rule {
            name: "volume",
            args: &[slot("name", Ty::Name, true)],
            props: &[slot("size", Ty::Size, true)],
            many: true,
            keyed: true,
            doc: "a disk that outlives its sandbox",
            ..BASE
        },
        NETWORK,
        SANDBOX,
    ],
    ..BASE
};

const NETWORK: Rule = Rule {
    name: "network",
    args: &[slot("name", Ty::Name, true)],
    children: &[Rule {
        name: "scope",
        args: &[slot("scope", Ty::Choice(&["project", "host"]), true)],
        reach: Reach::Host,
        doc: "who is on it: this project's sandboxes, or those of every project whose network of this name says host too",
        ..BASE
    }],
    many: true,
    keyed: true,
    doc: "sandboxes that reach each other",
    ..BASE
};

const KERNEL: Rule = Rule {
    name: "kernel",
    args: &[slot("name", Ty::Artifact, true)],
    children: &[
        Rule {
            name: "debian",
            args: &[slot("package", Ty::Text, false)],
            props: &[SUITE],
            class: Class::Restart,
            doc: "a kernel package of a Debian suite",
            ..BASE
        },
        Rule {
            name: "url",
            args: &[slot("url", Ty::Text, true)],
            props: &[slot("sha256", Ty::Text, true)],
            class: Class::Restart,
            doc: "a kernel image, or an archive with one and its modules, by https",
            ..BASE
        },
        Rule {
            name: "path",
            args: &[slot("path", Ty::Text, true)],
            class: Class::Restart,
            reach: Reach::Host,
            doc: "a kernel image, an archive or a folder with modules, below the file's folder",
            ..BASE
        },
        one(
            "catalog",
            &[slot("name", Ty::Artifact, true)],
            Class::Restart,
            "a kernel of the catalog, under another name",
        ),
    ],
    many: true,
    keyed: true,
    class: Class::Restart,
    doc: "a kernel for sandboxes to boot",
    ..BASE
};

const IMAGE: Rule = Rule {
    name: "image",
    args: &[slot("name", Ty::Artifact, true)],
    children: &[
        Rule {
            name: "debian",
            props: &[SUITE],
            children: &[Rule {
                name: "packages",
                rest: Some(Ty::Text),
                many: true,
                class: Class::Replace,
                doc: "packages besides the minimal system",
                ..BASE
            }],
            class: Class::Replace,
            doc: "a minimal Debian with packages, built by mmdebstrap",
            ..BASE
        },
        Rule {
            name: "oci",
            args: &[slot("reference", Ty::Text, true)],
            props: &[slot("digest", Ty::Text, false)],
            class: Class::Replace,
            doc: "an image of a registry, like \"docker.io/library/alpine:3.22\"",
            ..BASE
        },
        Rule {
            name: "path",
            args: &[slot("path", Ty::Text, true)],
            class: Class::Replace,
            reach: Reach::Host,
            doc: "an OCI layout, a docker save archive, a tar archive or folder of files, or an ext4 image, below the file's folder",
            ..BASE
        },
        one(
            "catalog",
            &[slot("name", Ty::Artifact, true)],
            Class::Replace,
            "an image of the catalog, under another name",
        ),
        one(
            "kernel",
            &[slot("name", Ty::Artifact, true)],
            Class::Restart,
            "the kernel its sandboxes boot",
        ),
    ],
    many: true,
    keyed: true,
    class: Class::Replace,
    doc: "a root filesystem that sandboxes share",
    ..BASE
};

const SANDBOX: Rule = Rule {
    name: "sandbox",
    args: &[slot("name", Ty::Name, true)],
    children: &[
        one("image", &[slot("name", Ty::Artifact, true)], Class::Replace, "its image"),
        one(
            "kernel",
            &[slot("name", Ty::Artifact, true)],
            Class::Restart,
            "another kernel than its image's",
        ),
        one(
            "vmm",
            &[slot("name", Ty::Choice(&["firecracker", "qemu"]), true)],
            Class::Restart,
            "what runs it; what the host runs best if not given",
        ),
        one(
            "cpus",
            &[slot("count", Ty::Int(1, MAX_CPUS), true)],
            Class::Restart,
            "processors; 1 if not given",
        ),
        one(
            "memory",
            &[slot("size", Ty::Size, true)],
            Class::Restart,
            "memory; 512MiB if not given",
        ),
        one(
            "disk",
            &[slot("size", Ty::Size, true)],
            Class::Restart,
            "its own disk, which only grows; 10GiB if not given",
        ),
        one(
            "disk-rate",
            &[slot("size", Ty::Size, true)],
            Class::Restart,
            "what it may read and write of each disk in a second; no limit if not given",
        ),
        one(
            "net-rate",
            &[slot("size", Ty::Size, true)],
            Class::Restart,
            "what its card may receive, and send, in a second (Firecracker); no limit if not given",
        ),
        Rule {
            name: "after",
            rest: Some(Ty::Name),
            many: true,
            doc: "sandboxes that must be ready before it starts",
            ..BASE
        },
        Rule {
            name: "volume",
            args: &[slot("name", Ty::Name, true)],
            props: &[slot("at", Ty::Text, true)],
            many: true,
            class: Class::Restart,
            doc: "a volume and the folder where it is mounted",
            ..BASE
        },
        Rule {
            name: "env",
            open_props: true,
            many: true,
            doc: "environment of its commands",
            ..BASE
        },
        Rule {
            name: "network",
            rest: Some(Ty::Name),
            many: true,
            doc: "networks that it is on",
            ..BASE
        },
        Rule {
            name: "egress",
            args: &[slot("policy", Ty::Choice(&["none", "public", "open", "host"]), true)],
            reach: Reach::Host,
            doc: "where it may connect to: nowhere, the internet only, wherever the host may, or the host itself too; public if not given",
            ..BASE
        },
        Rule {
            name: "publish",
            args: &[slot("host", Ty::Int(1024, 65535), true)],
            props: &[slot("guest", Ty::Int(1, 65535), false)],
            many: true,
            reach: Reach::Host,
            doc: "a port on the host's loopback that leads to a port in the guest",
            ..BASE
        },
        Rule {
            name: "provision",
            rest: Some(Ty::Text),
            many: true,
            doc: "shell lines that run once in the guest before it is ready",
            ..BASE
        },
        Rule {
            name: "command",
            rest: Some(Ty::Text),
            doc: "its service, when the image has no init; what follows the entrypoint, instead of the image's own",
            class: Class::Restart,
            ..BASE
        },
        Rule {
            name: "entrypoint",
            rest: Some(Ty::Text),
            doc: "what its service begins with, instead of the image's own; \"\" for nothing",
            class: Class::Restart,
            ..BASE
        },
        one(
            "user",
            &[slot("user", Ty::Text, true)],
            Class::Restart,
            "the user of its service and commands, instead of the image's own",
        ),
        one(
            "workdir",
            &[slot("folder", Ty::Text, true)],
            Class::Restart,
            "the folder where its service and commands start, instead of the image's own",
        ),
        Rule {
            name: "workspace",
            args: &[slot("folder", Ty::Text, true)],
            props: &[slot("at", Ty::Text, false), slot("depth", Ty::Int(0, 1_000_000), false)],
            children: &[Rule {
                name: "include",
                rest: Some(Ty::Text),
                many: true,
                doc: "untracked files that go too, as git's patterns",
                ..BASE
            }],
            reach: Reach::Host,
            doc: "a git repository, below the file's folder, whose tracked files are shipped into it; at /work if not given, with one commit of history, and all of it for depth=0",
            ..BASE
        },
        one(
            "stop-signal",
            &[slot("signal", Ty::Choice(STOP_SIGNALS), true)],
            Class::Live,
            "the signal that asks its service to end, instead of the image's own",
        ),
        Rule {
            name: "ready",
            children: &[
                Rule {
                    name: "exec",
                    rest: Some(Ty::Text),
                    doc: "a command that succeeds when it is ready",
                    ..BASE
                },
                one(
                    "timeout",
                    &[slot("time", Ty::Time, true)],
                    Class::Live,
                    "when to give up; 60s if not given",
                ),
            ],
            doc: "when it counts as ready",
            ..BASE
        },
        one(
            "restart",
            &[slot("policy", Ty::Choice(&["always", "on-failure", "never"]), true)],
            Class::Live,
            "what to do when it ends; on-failure if not given",
        ),
        one(
            "drift",
            &[slot("policy", Ty::Choice(&["heal", "report"]), true)],
            Class::Live,
            "what to do when it is not as it should be; heal if not given",
        ),
        one(
            "mode",
            &[slot("state", Ty::Choice(&["running", "stopped", "suspended"]), true)],
            Class::Live,
            "whether it runs; running if not given; suspended keeps its memory (Firecracker)",
        ),
    ],
    many: true,
    keyed: true,
    doc: "a microVM",
    ..BASE
};
