//! The arguments of every command.

pub(crate) mod snapshot;
pub(crate) mod workspace;

use banger_wire::id::Name;
use banger_wire::machine::Backend;
use banger_wire::net::Egress;
use banger_wire::size::Mib;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Disposable development sandboxes as microVMs, described in a Bangerfile and kept true.
#[derive(Debug, Parser)]
#[command(name = "banger", version, propagate_version = true, infer_subcommands = false)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The project; the Bangerfile's, or its folder's, if not given
    #[arg(short, long, global = true)]
    pub(crate) project: Option<Name>,
    /// The Bangerfile; ./Bangerfile or ./Bangerfile.toml if not given
    #[arg(short, long, global = true)]
    pub(crate) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Command {
    /// Make what the Bangerfile says so
    Apply {
        /// Destroy data without asking
        #[arg(short, long)]
        yes: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
        /// Return once it is stored, without waiting until it is so
        #[arg(long)]
        no_wait: bool,
        /// Refuse whatever is not as Bangerfile.lock says
        #[arg(long)]
        frozen: bool,
        /// Go on with every change of the file, and ship every change of its workspaces, until interrupted
        #[arg(long, conflicts_with_all = ["dry_run", "no_wait"])]
        watch: bool,
    },
    /// Write down what the file's references led to, in Bangerfile.lock
    Lock {
        /// Take what this image's reference, or this build, leads to now
        #[arg(long, value_name = "NAME", value_parser = artifact)]
        update: Vec<Name>,
    },
    /// Show what apply would do: exit code 0 for nothing, 2 for something, 1 for a wrong file
    Plan,
    /// Show how everything is
    Status,
    /// Remove everything that the project made
    Destroy {
        /// Destroy data without asking
        #[arg(short, long)]
        yes: bool,
    },
    /// Check the Bangerfile, without a daemon
    Check,
    /// Lay the Bangerfile out in the standard way
    Fmt {
        /// Change nothing; exit code 1 when it would change
        #[arg(long)]
        check: bool,
    },
    /// Write a first Bangerfile
    Init,
    /// Sandboxes
    #[command(subcommand)]
    Vm(Vm),
    /// List all sandboxes
    Ps,
    /// Images
    #[command(subcommand)]
    Image(Image),
    /// Kernels
    #[command(subcommand)]
    Kernel(Kernel),
    /// Snapshots of sandboxes
    #[command(subcommand)]
    Snapshot(snapshot::Snapshots),
    /// Images and kernels by name, from the network
    #[command(subcommand)]
    Catalog(Catalog),
    /// Let plain `ssh NAME.vm`, `scp` and `rsync` reach sandboxes, by one line in ~/.ssh/config
    SshConfig {
        /// Take that line out again
        #[arg(long)]
        uninstall: bool,
        /// Only print the configuration
        #[arg(long, conflicts_with = "uninstall")]
        print: bool,
    },
    /// Carries the stream of `ssh`: its ProxyCommand
    #[command(hide = true)]
    SshProxy {
        /// Where to
        name: String,
    },
    /// Prints a sandbox's host key: the KnownHostsCommand of `ssh`
    #[command(hide = true)]
    SshHostKeys {
        /// Whose
        name: String,
        /// As `ssh` looks for it
        shown: String,
    },
    /// Check this host and this installation: exit code 0 when nothing failed, 1 when something did
    ///
    /// A check fails when sandboxes cannot run as they should, and warns when something is slower or cannot be had. One
    /// that cannot be told is left out. JSON is a list of objects: name, status ("ok", "warn" or "fail"), found, and
    /// hint, which is null where nothing is to be done. Names stay as they are.
    Doctor,
    /// Show the version of banger and of its daemon
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// Run a command in a fresh sandbox that is removed afterwards; in a repository's folder, if one is named
    Run {
        /// A git repository to ship into it. What was done there is kept below refs/banger/ when the sandbox goes
        path: Option<PathBuf>,
        #[command(flatten)]
        ship: workspace::Ship,
        /// Only list what would be shipped
        #[arg(long, requires = "path")]
        dry_run: bool,
        /// Ship every change of the repository for as long as the command runs
        #[arg(long, requires = "path")]
        sync: bool,
        /// Do not keep what was done there
        #[arg(long, requires = "path")]
        discard: bool,
        /// Leave the sandbox running, and print its name
        #[arg(short, long, conflicts_with_all = ["command", "sync", "discard", "env", "workdir", "user", "no_tty"])]
        detach: bool,
        /// Its name
        #[arg(long, requires = "detach", conflicts_with = "command")]
        name: Option<Name>,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        how: How,
        /// The command; a shell if not given
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Make a sandbox and start it
    Create {
        /// Its name
        name: Name,
        /// A git repository to ship into it
        path: Option<PathBuf>,
        #[command(flatten)]
        ship: workspace::Ship,
        #[command(flatten)]
        shape: Shape,
        /// Return at once
        #[arg(long)]
        no_wait: bool,
    },
    /// Start a sandbox
    Start(Target),
    /// Stop a sandbox in order; its disk stays
    Stop(Target),
    /// Keep a sandbox's memory and end its machine; it goes on from there when it is started
    Suspend(Target),
    /// Keep a sandbox's disk as it is now, and its memory where that is possible (`snapshot list`)
    Snapshot(snapshot::Take),
    /// Put a sandbox back to one of its snapshots
    Restore(snapshot::Restore),
    /// Make a sandbox that begins where another one is
    Fork(snapshot::Fork),
    /// Stop a sandbox and start it again
    Restart(Target),
    /// Stop a sandbox at once, as if by pulling its plug
    Kill(Target),
    /// Remove a sandbox and its disk
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        target: Target,
        /// Without asking
        #[arg(short, long)]
        yes: bool,
    },
    /// List sandboxes
    #[command(alias = "ls")]
    List,
    /// Show everything about a sandbox
    Show {
        /// Which
        name: Name,
    },
    /// Run a command in a sandbox
    Exec {
        /// Which
        name: Name,
        #[command(flatten)]
        how: How,
        /// The command; a shell if not given
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Open a shell in a sandbox by SSH, or run a command
    Ssh {
        /// Which
        name: Name,
        /// Arguments for ssh after the host: a command
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// What a sandbox did with the repository that was shipped into it, and the way back
    #[command(subcommand)]
    Workspace(workspace::Workspace),
    /// Copy files into a sandbox, or out of it
    Cp(workspace::Copy),
    /// Show which ports listen in a sandbox, and which are published
    Ports {
        /// Which
        name: Name,
    },
    /// Show what running sandboxes use
    Stats {
        /// Which; all if not given
        name: Option<Name>,
        /// Go on until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Show what a sandbox wrote to its console
    Logs {
        /// Which
        name: Name,
        /// Go on until interrupted
        #[arg(long)]
        follow: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Which
    pub(crate) name: Name,
    /// Return at once
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Everything that a flag can say, the file can say too.
#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// The image: the Bangerfile's, the catalog's, or a registry's, like docker.io/library/alpine:3.22
    #[arg(long, default_value = banger_schema::catalog::DEFAULT_IMAGE, value_parser = picture)]
    pub(crate) image: Picture,
    /// Another kernel than the image's
    #[arg(long, value_parser = artifact)]
    pub(crate) kernel: Option<Name>,
    /// The user of its service and commands, instead of the image's own
    #[arg(long = "as", value_name = "USER")]
    pub(crate) service_user: Option<String>,
    /// What its service begins with, instead of the image's own; "" for nothing
    #[arg(long, value_name = "WORD")]
    pub(crate) entrypoint: Vec<String>,
    /// What runs it: firecracker or qemu; what the host runs best if not given
    #[arg(long, value_parser = backend)]
    pub(crate) vmm: Option<Backend>,
    /// Boot it, even where it could start from the memory of one that booted before
    #[arg(long)]
    pub(crate) cold: bool,
    /// Processors, 1 to 32; 1 if not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) cpus: Option<u8>,
    /// Memory, with its unit; 512MiB if not given
    #[arg(long, value_parser = size)]
    pub(crate) memory: Option<Mib>,
    /// The size of its disk, with its unit; 10GiB if not given
    #[arg(long, value_parser = size)]
    pub(crate) disk: Option<Mib>,
    /// What it may read and write of each disk in a second, with its unit
    #[arg(long, value_parser = size)]
    pub(crate) disk_rate: Option<Mib>,
    /// What its network card may receive, and send, in a second, with its unit (Firecracker)
    #[arg(long, value_parser = size)]
    pub(crate) net_rate: Option<Mib>,
    /// A port of the host's loopback, 1024 or more, that leads to a port in the guest
    #[arg(long, value_name = "HOST[:GUEST]", value_parser = publish)]
    pub(crate) publish: Vec<banger_schema::spec::Publish>,
    /// A network that it is on
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Vec<Name>,
    /// Where it may connect to: none, public, open or host
    #[arg(long, value_parser = egress, default_value = "public")]
    pub(crate) egress: Egress,
    /// A shell line that runs once before it is ready
    #[arg(long, value_name = "LINE")]
    pub(crate) provision: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct How {
    /// A variable of the command's environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The command's folder
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) workdir: Option<String>,
    /// The command's user, by name or number
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Pipes even on a terminal
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// List images
    #[command(alias = "ls")]
    List,
    /// Show everything about an image
    Show {
        /// Its name, or the start of its recipe's digest
        image: String,
    },
    /// Bring an image here, with its kernel: of the catalog by name, or of a registry by reference
    Pull {
        /// Its name, or a reference like docker.io/library/alpine:3.22
        #[arg(value_parser = picture)]
        image: Picture,
        /// Another name for it
        #[arg(long, value_parser = artifact)]
        name: Option<Name>,
        /// Take the newer image when the reference moved
        #[arg(long)]
        update: bool,
        /// Let sandboxes lose their disks when their image changes
        #[arg(short, long)]
        yes: bool,
    },
    /// Make an image of files here: an OCI layout, a docker save archive, a tar archive or folder, or an ext4 image
    Register {
        /// Its name
        #[arg(value_parser = artifact)]
        name: Name,
        /// Where it is
        path: PathBuf,
        /// Its kernel, instead of the catalog's
        #[arg(long, value_parser = artifact)]
        kernel: Option<Name>,
    },
    /// Keep a project's image for all projects and commands, whatever becomes of that project
    Promote {
        /// Its name, project/name, or the start of its recipe's digest
        image: String,
        /// Another name for it
        #[arg(long, value_parser = artifact)]
        name: Option<Name>,
    },
    /// Let a registry know us
    Login {
        /// Its host; docker.io for Docker Hub
        registry: String,
        /// The user
        #[arg(short, long)]
        user: String,
        /// Read the password from standard input; it is asked for if not given
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget the password for a registry
    Logout {
        /// Its host
        registry: String,
    },
    /// What was downloaded
    #[command(subcommand)]
    Cache(Cache),
    /// Build an image of the Bangerfile or the catalog
    Build {
        /// Its name
        #[arg(value_parser = artifact)]
        image: Name,
    },
    /// Delete an image that nothing uses
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name, or the start of its recipe's digest
        image: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Catalog {
    /// Fetch the newest catalog. It is kept, and needs no network afterwards
    Update,
    /// Check a catalog and sign it: the signature is beside it, with .sig behind its name
    Sign {
        /// The catalog: a Bangerfile with images and kernels only
        file: PathBuf,
        /// The private key: P-256, PKCS #8, PEM
        #[arg(long)]
        key: PathBuf,
    },
    /// Check a catalog and its signature
    Verify {
        /// The catalog
        file: PathBuf,
        /// The public key: PEM
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List the blobs that are here
    List,
    /// Remove them: images that are built do not need them
    Prune {
        /// Only show what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Kernel {
    /// Bring a kernel here: of the Bangerfile or the catalog
    Pull {
        /// Its name
        #[arg(value_parser = artifact)]
        kernel: Name,
    },
    /// Make a kernel of a file here: an image, an archive or a folder with an image and its modules
    Import {
        /// Its name
        #[arg(value_parser = artifact)]
        name: Name,
        /// Where it is
        path: PathBuf,
    },
    /// List kernels
    #[command(alias = "ls")]
    List,
    /// Show everything about a kernel
    Show {
        /// Its name, or the start of its recipe's digest
        kernel: String,
    },
    /// Delete a kernel that nothing uses
    #[command(visible_alias = "delete")]
    Rm {
        /// Its name, or the start of its recipe's digest
        kernel: String,
    },
}

/// What stands where an image is named.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    /// A name of the Bangerfile or the catalog.
    Name(Name),
    /// An image of a registry.
    Oci(banger_schema::spec::OciImage),
}

impl Picture {
    /// The name that it has, or gets when it is declared: the last part and the tag.
    pub(crate) fn name(&self) -> Name {
        match self {
            Picture::Name(name) => name.clone(),
            Picture::Oci(image) => {
                let last = image.reference.rsplit('/').next().unwrap_or("image");
                let digest = image.digest.as_ref().and_then(|d| d.get(7..15));
                let text = match digest {
                    Some(digest) => format!("{last}-{digest}"),
                    None => last.to_string(),
                };
                Name::from_lossy(&text.replace([':', '.', '_'], "-"), "image")
            }
        }
    }
}

/// The name of an image or kernel: a dot counts as a dash.
pub(crate) fn artifact(text: &str) -> Result<Name, String> {
    Name::new(text.replace('.', "-")).map_err(|error| error.rule)
}

fn picture(text: &str) -> Result<Picture, String> {
    if banger_schema::reference::looks_like_one(text) {
        return banger_schema::reference::parse(text).map(Picture::Oci);
    }
    artifact(text).map(Picture::Name)
}

fn size(text: &str) -> Result<Mib, String> {
    Mib::parse(text).map_err(|error| error.rule)
}

fn backend(text: &str) -> Result<Backend, String> {
    Backend::parse(text).ok_or_else(|| "firecracker or qemu".to_string())
}

fn egress(text: &str) -> Result<Egress, String> {
    match text {
        "none" => Ok(Egress::None),
        "public" => Ok(Egress::Public),
        "open" => Ok(Egress::Open),
        "host" => Ok(Egress::Host),
        _ => Err("it is none, public, open or host".to_string()),
    }
}

fn publish(text: &str) -> Result<banger_schema::spec::Publish, String> {
    let (host, guest) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("\"{text}\" is not a port"));
    Ok(banger_schema::spec::Publish { host: port(host)?, guest: port(guest)? })
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no =")?;
    Ok((name.to_string(), value.to_string()))
}
