//! What the parts of a [`Spec`] say about each other. Run on the text's value, and again by the daemon.

use crate::reference;
use crate::report::did_you_mean;
use crate::spec::{ImageSource, KernelSource, LocalFile, SandboxSpec, Spec, WorkspaceSpec};
use banger_wire::id::Name;
use banger_wire::size::Mib;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which part, as `kind/name/field/value`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

fn fault(path: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault { path: path.into(), message: message.into(), help: None }
}

/// The largest number of sandboxes in one file.
pub const MAX_SANDBOXES: usize = 100;
/// The largest number of volumes in one sandbox: each is a device of the machine.
const MAX_VOLUMES: usize = 8;
/// The largest number of networks that one sandbox is on.
const MAX_NETWORKS: usize = banger_wire::net::Policy::MAX_GROUPS;
const MAX_LIST: usize = 256;
const MIN_MEMORY_MIB: u64 = 128;
const MIN_DISK_MIB: u64 = 64;

/// Every fault of a spec, beside the images and kernels that need no declaration. Empty means that it can be applied.
pub fn check(spec: &Spec, builtin: &Spec) -> Vec<Fault> {
    let mut faults = Vec::new();
    if spec.sandboxes.len() > MAX_SANDBOXES {
        let count = spec.sandboxes.len();
        let message =
            format!("{count} sandboxes are more than the {MAX_SANDBOXES} that one file may have");
        return vec![fault("sandbox", message)];
    }
    for (name, kernel) in &spec.kernels {
        check_kernel(name, &kernel.source, &mut faults);
    }
    for (name, image) in &spec.images {
        check_image(name, &image.source, &mut faults);
        faults.extend(
            image
                .kernel
                .as_ref()
                .and_then(|k| no_kernel(spec, builtin, format!("image/{name}/kernel/{k}"), k)),
        );
    }
    for (name, volume) in &spec.volumes {
        faults.extend(small(format!("volume/{name}/size"), volume.size, MIN_DISK_MIB));
    }
    for (name, sandbox) in &spec.sandboxes {
        check_sandbox(spec, builtin, name, sandbox, &mut faults);
    }
    faults.extend(shared_volumes(spec));
    faults.extend(shared_ports(spec));
    faults.extend(cycle(spec));
    faults
}

fn check_kernel(name: &Name, source: &KernelSource, faults: &mut Vec<Fault>) {
    match source {
        KernelSource::Debian { package, suite } => {
            faults.extend(package_fault(format!("kernel/{name}/debian"), package));
            faults.extend(suite_fault(format!("kernel/{name}/debian"), suite));
        }
        KernelSource::Url { url, sha256 } => {
            let at = format!("kernel/{name}/url");
            if !good_url(url) {
                let message = format!("\"{url}\" is not an https address");
                faults.push(fault(format!("{at}/{url}"), message));
            }
            if !reference::good_hex(sha256) {
                faults.push(fault(format!("{at}/{sha256}"), "sha256 is 64 hex digits"));
            }
        }
        KernelSource::Path(file) => faults.extend(path_fault(format!("kernel/{name}"), file)),
    }
}

fn check_image(name: &Name, source: &ImageSource, faults: &mut Vec<Fault>) {
    match source {
        ImageSource::Debian(debian) => {
            faults.extend(suite_fault(format!("image/{name}/debian"), &debian.suite));
            for package in &debian.packages {
                faults.extend(package_fault(format!("image/{name}/debian"), package));
            }
        }
        ImageSource::Oci(image) => {
            let at = format!("image/{name}/oci");
            let whole = match reference::parse(&image.reference) {
                Ok(whole) => whole.reference == image.reference || image.digest.is_some(),
                Err(_) => false,
            };
            if !whole {
                let message = format!("\"{}\" is not a whole reference", image.reference);
                faults.push(fault(at.clone(), message));
            }
            if let Some(digest) = image.digest.as_ref().filter(|d| !reference::good_digest(d)) {
                let message = format!("\"{digest}\" is not sha256: and 64 hex digits");
                faults.push(fault(format!("{at}/{digest}"), message));
            }
        }
        ImageSource::Path(file) => faults.extend(path_fault(format!("image/{name}"), file)),
    }
}

/// By https, or by http from this host itself.
fn good_url(url: &str) -> bool {
    let safe =
        |rest: &str| !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c == '@');
    let local = ["http://127.0.0.1", "http://localhost"];
    url.strip_prefix("https://").is_some_and(safe)
        || local.iter().any(|host| {
            url.strip_prefix(host).is_some_and(|rest| rest.starts_with([':', '/']) && safe(rest))
        })
}

/// Below the file's folder, as it is written; or absolute, as it is desired.
fn path_fault(at: String, file: &LocalFile) -> Option<Fault> {
    let path = &file.path;
    let below = path.split('/').all(|part| !matches!(part, ".." | ".git")) && !path.is_empty();
    let good = below && path.len() <= 1024 && !path.contains(char::is_control);
    (!good).then(|| Fault {
        help: Some("a path stays below the folder of the Bangerfile".into()),
        ..fault(
            format!("{at}/path/{path}"),
            format!("\"{path}\" is not below the Bangerfile's folder"),
        )
    })
}

fn package_fault(path: String, package: &str) -> Option<Fault> {
    let good = package.len() <= 128
        && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && package
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b));
    (!good).then(|| Fault {
        help: Some(
            "a package name has a-z, 0-9, +, . and - and starts with a letter or digit".into(),
        ),
        ..fault(format!("{path}/{package}"), format!("\"{package}\" is not a package name"))
    })
}

fn suite_fault(path: String, suite: &str) -> Option<Fault> {
    const SUITES: [&str; 5] = ["bookworm", "trixie", "forky", "sid", "bullseye"];
    (!SUITES.contains(&suite)).then(|| Fault {
        help: Some(match did_you_mean(suite, SUITES.into_iter()) {
            Some(close) => format!("did you mean \"{close}\"?"),
            None => format!("known suites: {}", SUITES.join(", ")),
        }),
        ..fault(
            format!("{path}/{suite}"),
            format!("Debian has no suite \"{suite}\" that banger knows"),
        )
    })
}

fn small(path: String, size: Mib, least: u64) -> Option<Fault> {
    (size.get() < least)
        .then(|| fault(path, format!("{size} is too small, at least {least}MiB is needed")))
}

fn missing<'a>(
    what: &str,
    path: String,
    name: &Name,
    known: impl Iterator<Item = &'a Name>,
) -> Fault {
    let known: Vec<&str> = known.map(Name::as_str).collect();
    let help = match did_you_mean(name.as_str(), known.iter().copied()) {
        Some(close) => format!("did you mean \"{close}\"?"),
        None if known.is_empty() => format!("declare it: {what} \"{name}\" …"),
        None => format!("known: {}", known.join(", ")),
    };
    Fault { help: Some(help), ..fault(path, format!("there is no {what} \"{name}\"")) }
}

fn no_kernel(spec: &Spec, builtin: &Spec, path: String, name: &Name) -> Option<Fault> {
    let known = || spec.kernels.keys().chain(builtin.kernels.keys());
    (!known().any(|k| k == name)).then(|| missing("kernel", path, name, known()))
}

fn check_sandbox(
    spec: &Spec,
    builtin: &Spec,
    name: &Name,
    sandbox: &SandboxSpec,
    faults: &mut Vec<Fault>,
) {
    let at = format!("sandbox/{name}");
    let images = || spec.images.keys().chain(builtin.images.keys());
    if !images().any(|image| *image == sandbox.image) {
        faults.push(missing(
            "image",
            format!("{at}/image/{}", sandbox.image),
            &sandbox.image,
            images(),
        ));
    }
    faults.extend(
        sandbox
            .kernel
            .as_ref()
            .and_then(|k| no_kernel(spec, builtin, format!("{at}/kernel/{k}"), k)),
    );
    faults.extend(small(format!("{at}/memory"), sandbox.memory, MIN_MEMORY_MIB));
    faults.extend(small(format!("{at}/disk"), sandbox.disk, MIN_DISK_MIB));
    if !(1..=crate::grammar::MAX_CPUS).contains(&i128::from(sandbox.cpus)) {
        faults.push(fault(
            format!("{at}/cpus"),
            format!("{} processors are out of bounds", sandbox.cpus),
        ));
    }
    for after in &sandbox.after {
        if after == name {
            faults.push(fault(format!("{at}/after/{after}"), "a sandbox cannot come after itself"));
        } else if !spec.sandboxes.contains_key(after) {
            faults.push(missing(
                "sandbox",
                format!("{at}/after/{after}"),
                after,
                spec.sandboxes.keys(),
            ));
        }
    }
    let mut folders = BTreeSet::new();
    for mount in &sandbox.volumes {
        let path = format!("{at}/volume/{}", mount.volume);
        if !spec.volumes.contains_key(&mount.volume) {
            faults.push(missing("volume", path, &mount.volume, spec.volumes.keys()));
        }
        let path = format!("{at}/volume/{}", mount.at);
        if !good_folder(&mount.at) {
            let help = mount.at.strip_suffix('/').filter(|shorter| good_folder(shorter));
            faults.push(Fault {
                help: help.map(|shorter| format!("without the / at its end: \"{shorter}\"")),
                ..fault(path, format!("\"{}\" is not an absolute folder below /", mount.at))
            });
        } else if !folders.insert(&mount.at) {
            faults.push(fault(path, format!("two volumes are mounted at {}", mount.at)));
        }
    }
    if sandbox.volumes.len() > MAX_VOLUMES {
        faults.push(fault(
            format!("{at}/volume"),
            format!("at most {MAX_VOLUMES} volumes fit into one sandbox"),
        ));
    }
    if let Some(workspace) = &sandbox.workspace {
        check_workspace(&at, workspace, faults);
    }
    for network in sandbox.networks.iter().filter(|name| !spec.networks.contains_key(*name)) {
        let path = format!("{at}/network/{network}");
        faults.push(missing("network", path, network, spec.networks.keys()));
    }
    if sandbox.networks.len() > MAX_NETWORKS {
        let message = format!("a sandbox is on at most {MAX_NETWORKS} networks");
        faults.push(fault(format!("{at}/network"), message));
    }
    for key in sandbox.env.keys() {
        let good = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            faults.push(fault(
                format!("{at}/env"),
                format!("\"{key}\" is not the name of a variable"),
            ));
        }
    }
    if sandbox.ready.as_ref().is_some_and(|ready| ready.exec.is_empty()) {
        faults.push(fault(format!("{at}/ready"), "it does not say what to run; add exec"));
    }
    let lists =
        [sandbox.provision.len(), sandbox.command.len(), sandbox.env.len(), sandbox.publish.len()];
    if lists.iter().any(|count| *count > MAX_LIST) {
        faults.push(fault(at, format!("a list has more than {MAX_LIST} entries")));
    }
}

/// Folders of a guest that are its kernel's or its machine's.
const SYSTEM: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/boot"];
/// The most patterns of a workspace.
const MAX_INCLUDES: usize = 64;

fn check_workspace(sandbox: &str, workspace: &WorkspaceSpec, faults: &mut Vec<Fault>) {
    let at = format!("{sandbox}/workspace");
    let WorkspaceSpec { folder, at: target, include, depth: _ } = workspace;
    let below = folder.split('/').all(|part| !matches!(part, ".." | ".git")) && !folder.is_empty();
    if !below || folder.len() > 1024 || folder.contains(char::is_control) {
        faults.push(Fault {
            help: Some("a workspace is the Bangerfile's folder or below it".into()),
            ..fault(
                format!("{at}/{folder}"),
                format!("\"{folder}\" is not below the Bangerfile's folder"),
            )
        });
    }
    let system = SYSTEM.iter().any(|folder| std::path::Path::new(target).starts_with(folder));
    if !good_folder(target) || system {
        let message = format!("\"{target}\" is not an absolute folder that a workspace can have");
        faults.push(fault(format!("{at}/{target}"), message));
    }
    let bad = |pattern: &&String| pattern.is_empty() || pattern.contains(char::is_control);
    if let Some(pattern) = include.iter().find(bad) {
        faults.push(fault(at.clone(), format!("{pattern:?} is not a pattern")));
    }
    if include.len() > MAX_INCLUDES {
        faults.push(fault(at, format!("at most {MAX_INCLUDES} patterns can be named")));
    }
}

/// Absolute, below the root, without `.`, `..`, empty parts or control characters.
fn good_folder(path: &str) -> bool {
    path.len() <= 1024
        && path.strip_prefix('/').is_some_and(|below| {
            below
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.contains(char::is_control))
        })
}

fn shared_volumes(spec: &Spec) -> Vec<Fault> {
    let mut owners: BTreeMap<&Name, &Name> = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, sandbox) in &spec.sandboxes {
        for mount in &sandbox.volumes {
            if let Some(first) = owners.insert(&mount.volume, name) {
                let message =
                    format!("volume \"{}\" is already in sandbox \"{first}\"", mount.volume);
                faults.push(Fault {
                    help: Some("a disk can be written by one machine at a time".into()),
                    ..fault(format!("sandbox/{name}/volume/{}", mount.volume), message)
                });
            }
        }
    }
    faults
}

fn shared_ports(spec: &Spec) -> Vec<Fault> {
    let mut owners: BTreeMap<u16, &Name> = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, sandbox) in &spec.sandboxes {
        for publish in &sandbox.publish {
            let path = format!("sandbox/{name}/publish/{}", publish.host);
            if publish.host < 1024 || publish.guest == 0 {
                faults.push(fault(
                    path.clone(),
                    "a published port is 1024 to 65535, a guest's 1 to 65535",
                ));
            }
            if let Some(first) = owners.insert(publish.host, name) {
                faults.push(fault(
                    path,
                    format!("port {} is already published by \"{first}\"", publish.host),
                ));
            }
        }
    }
    faults
}

/// The first cycle in `after`, if there is one.
fn cycle(spec: &Spec) -> Option<Fault> {
    let mut done: BTreeSet<&Name> = BTreeSet::new();
    for start in spec.sandboxes.keys() {
        let mut path: Vec<&Name> = Vec::new();
        if let Some(round) = visit(spec, start, &mut path, &mut done) {
            let first = round[0];
            let shown: Vec<&str> = round.iter().map(|name| name.as_str()).collect();
            return Some(Fault {
                help: Some("remove one \"after\" of the round".into()),
                ..fault(
                    format!("sandbox/{first}/after/{}", round.get(1).unwrap_or(&first)),
                    format!("sandboxes wait for each other: {} → {first}", shown.join(" → ")),
                )
            });
        }
    }
    None
}

/// Depth-first; at most [`MAX_SANDBOXES`] deep.
fn visit<'a>(
    spec: &'a Spec,
    name: &'a Name,
    path: &mut Vec<&'a Name>,
    done: &mut BTreeSet<&'a Name>,
) -> Option<Vec<&'a Name>> {
    if let Some(at) = path.iter().position(|earlier| *earlier == name) {
        // A sandbox after itself is reported where it stands.
        return (path.len() - at > 1).then(|| path[at..].to_vec());
    }
    let sandbox = spec.sandboxes.get(name)?;
    if !done.insert(name) {
        return None;
    }
    path.push(name);
    let found = sandbox.after.iter().find_map(|next| visit(spec, next, path, done));
    path.pop();
    found
}
