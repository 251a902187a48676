//! The tree to a [`Spec`]. First the grammar is held against every node, then the typed value is read.

use crate::check::Fault;
use crate::grammar::{self, Rule, Slot, Ty};
use crate::hint;
use crate::reference;
use crate::report::{Problem, did_you_mean};
use crate::spec::{
    DebianImage, Drift, ImageSource, ImageSpec, KernelSource, KernelSpec, LocalFile, Mode, Mount,
    NetworkSpec, OciImage, Publish, ReadySpec, Restart, SandboxSpec, Scope, Spec, VolumeSpec,
    WorkspaceSpec,
};
use crate::tree::{Data, Node, Span, Value};
use banger_wire::agent::Signal;
use banger_wire::id::Name;
use banger_wire::machine::Backend;
use banger_wire::net::Egress;
use banger_wire::size::Mib;
use std::collections::BTreeMap;

/// Where things stand in the file, by path.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<String, Span>);

impl Places {
    fn put(&mut self, path: String, span: &Span) {
        self.0.entry(path).or_insert_with(|| span.clone());
    }

    /// A fault of the value as a problem of the text: at its place, or at the closest one above it.
    pub(crate) fn locate(&self, fault: Fault) -> Problem {
        let mut path = fault.path.as_str();
        let span = loop {
            if let Some(span) = self.0.get(path) {
                break span.clone();
            }
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break 0..0,
            }
        };
        Problem { message: fault.message, span, label: None, help: fault.help }
    }
}

/// Reads a file's nodes. The value is only meaningful when there are no problems.
pub(crate) fn decode(nodes: &[Node], builtin: &Spec) -> (Spec, Places, Vec<Problem>) {
    let mut problems = Vec::new();
    let root = Node { children: nodes.to_vec(), ..Node::new("", 0..0) };
    validate(&root, &grammar::ROOT, &mut problems);
    let mut places = Places::default();
    let spec = if problems.is_empty() {
        read(&root, builtin, &mut places, &mut problems)
    } else {
        Spec::default()
    };
    (spec, places, problems)
}

/// Holds one node and all below it against its rule.
fn validate(node: &Node, rule: &Rule, problems: &mut Vec<Problem>) {
    validate_values(node, rule, problems);
    let mut seen: Vec<&str> = Vec::new();
    for child in &node.children {
        match rule.child(&child.name) {
            Some(below) => {
                if !below.many && seen.contains(&child.name.as_str()) {
                    let message = format!("\"{}\" is given twice", child.name);
                    problems
                        .push(Problem::new(message, child.span.clone()).help("keep one of them"));
                }
                validate(child, below, problems);
            }
            None => {
                let value = child.args.first();
                problems.push(unknown("node", child.name.as_str(), &child.span, value, rule));
            }
        }
        seen.push(&child.name);
    }
}

fn unknown(what: &str, name: &str, span: &Span, value: Option<&Value>, rule: &Rule) -> Problem {
    let place = if rule.name.is_empty() {
        "a Bangerfile".to_string()
    } else {
        format!("\"{}\"", rule.name)
    };
    let known = || {
        rule.children
            .iter()
            .map(|r| r.name)
            .chain(rule.args.iter().chain(rule.props).map(|s| s.name))
    };
    let problem =
        Problem::new(format!("{place} has no {what} \"{name}\""), span.clone()).label("unknown");
    if let Some(help) = hint::other_kind(rule, name, value) {
        return problem.help(help);
    }
    match did_you_mean(name, known()) {
        Some(close) => problem.help(format!("did you mean \"{close}\"?")),
        None if known().next().is_none() => problem,
        None => problem.help(format!("it may have: {}", known().collect::<Vec<_>>().join(", "))),
    }
}

fn validate_values(node: &Node, rule: &Rule, problems: &mut Vec<Problem>) {
    for (index, value) in node.args.iter().enumerate() {
        match rule.args.get(index).map(|slot| slot.ty).or(rule.rest) {
            Some(ty) => problems.extend(mistyped(value, ty)),
            None => {
                let message = match rule.args.len() {
                    0 => format!("\"{}\" takes no argument", rule.name),
                    n => format!(
                        "\"{}\" takes {n} argument{}",
                        rule.name,
                        if n == 1 { "" } else { "s" }
                    ),
                };
                problems.push(Problem::new(message, value.span.clone()).label("one too many"));
            }
        }
    }
    for (at, (key, span, value)) in node.props.iter().enumerate() {
        if node.props[..at].iter().any(|(earlier, _, _)| earlier == key) {
            problems.push(Problem::new(format!("\"{key}\" is given twice"), span.clone()));
        }
        match rule.slot(key) {
            Some(slot) => problems.extend(mistyped(value, slot.ty)),
            None if rule.open_props => problems.extend(mistyped(value, Ty::Text)),
            None => problems.push(unknown("property", key, span, Some(value), rule)),
        }
    }
    let missing = |slot: &&Slot| slot.required && get(node, rule, slot.name).is_none();
    for slot in rule.args.iter().chain(rule.props).filter(missing) {
        let message = format!("\"{}\" needs {}", rule.name, slot.name);
        problems.push(Problem::new(message, node.span.clone()).label(describe(slot.ty)));
    }
    if rule.rest.is_some() && rule.args.is_empty() && node.args.is_empty() {
        let message = format!("\"{}\" needs at least one argument", rule.name);
        problems.push(Problem::new(message, node.span.clone()));
    }
}

fn describe(ty: Ty) -> String {
    match ty {
        Ty::Name | Ty::Artifact => "a name".to_string(),
        Ty::Text => "a text in quotes".to_string(),
        Ty::Int(low, high) => format!("a whole number from {low} to {high}"),
        Ty::Size => "a size with its unit, like \"512MiB\" or \"10GiB\"".to_string(),
        Ty::Time => "a time with its unit, like \"30s\" or \"5m\"".to_string(),
        Ty::Choice(words) => format!("one of {}", words.join(", ")),
    }
}

/// The problem with a value, if it is not what its slot takes.
fn mistyped(value: &Value, ty: Ty) -> Option<Problem> {
    let problem = judge(value, ty)?;
    let help = match &value.data {
        Data::Text(text) if problem.help.is_none() => hint::other_form(text, ty),
        Data::Text(_) | Data::Int(_) | Data::Other(_) => None,
    };
    Some(match help {
        Some(help) => problem.help(help),
        None => problem,
    })
}

fn judge(value: &Value, ty: Ty) -> Option<Problem> {
    let wrong = |why: String| {
        Some(Problem::new(format!("expected {}", describe(ty)), value.span.clone()).label(why))
    };
    match (&value.data, ty) {
        (Data::Text(text), Ty::Name) => Name::new(text.as_str()).err().and_then(|e| wrong(e.rule)),
        (Data::Text(text), Ty::Artifact) => {
            Name::new(text.replace('.', "-")).err().and_then(|e| wrong(e.rule))
        }
        (Data::Text(text), Ty::Size) => Mib::parse(text).err().and_then(|e| wrong(e.rule)),
        (Data::Text(text), Ty::Time) => seconds(text).err().and_then(|why| wrong(why.to_string())),
        (Data::Text(text), Ty::Text) => {
            if text.contains('\0') {
                wrong("a NUL character".to_string())
            } else {
                None
            }
        }
        (Data::Text(text), Ty::Choice(words)) => {
            if words.contains(&text.as_str()) {
                return None;
            }
            let problem = wrong("this is none of them".to_string())?;
            Some(match did_you_mean(text, words.iter().copied()) {
                Some(close) => problem.help(format!("did you mean \"{close}\"?")),
                None => problem,
            })
        }
        (Data::Int(number), Ty::Int(low, high)) => {
            if (low..=high).contains(number) {
                None
            } else {
                wrong(format!("{number} is out of bounds"))
            }
        }
        (Data::Text(_), Ty::Int(..)) => wrong("this is text".to_string()),
        (Data::Int(number), Ty::Size) => wrong(format!("{number} of what?")),
        (Data::Int(_), Ty::Name | Ty::Artifact | Ty::Text | Ty::Time | Ty::Choice(_)) => {
            wrong("this is a number".to_string())
        }
        (
            Data::Other(what),
            Ty::Name | Ty::Artifact | Ty::Text | Ty::Int(..) | Ty::Size | Ty::Time | Ty::Choice(_),
        ) => wrong(format!("this is {what}")),
    }
}

/// Seconds from `30s`, `5m` or `1h`: 1 to 3600.
fn seconds(text: &str) -> Result<u32, &'static str> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u32 = number.parse().map_err(|_| "it does not start with a whole number")?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("the unit must be s, m or h"),
    };
    number
        .checked_mul(factor)
        .filter(|total| (1..=3600).contains(total))
        .ok_or("it must be between 1s and 1h")
}

/// An argument or property by name.
fn get<'a>(node: &'a Node, rule: &Rule, name: &str) -> Option<&'a Value> {
    let at = rule.args.iter().position(|slot| slot.name == name);
    at.and_then(|index| node.args.get(index)).or_else(|| node.prop(name))
}

/// The text of a value that was validated.
fn text(value: &Value) -> String {
    match &value.data {
        Data::Text(text) => text.clone(),
        Data::Int(_) | Data::Other(_) => unreachable!("validated as text"),
    }
}

/// Only the names of images and kernels may have a dot.
fn name_of(value: &Value) -> Name {
    Name::new(text(value).replace('.', "-")).expect("validated as a name")
}

fn number(value: &Value) -> i128 {
    match &value.data {
        Data::Int(number) => *number,
        Data::Text(_) | Data::Other(_) => unreachable!("validated as a number"),
    }
}

/// The first argument of a child whose rule has exactly one, under either spelling.
fn only<'a>(node: &'a Node, child: &str) -> Option<&'a Value> {
    let child = node.child(child)?;
    child.args.first().or_else(|| child.props.first().map(|(_, _, value)| value))
}

fn rest(node: &Node, child: &str) -> Vec<String> {
    node.all(child).flat_map(|node| node.args.iter().map(text)).collect()
}

fn read(root: &Node, builtin: &Spec, places: &mut Places, problems: &mut Vec<Problem>) -> Spec {
    let mut spec = Spec { project: only(root, "project").map(name_of), ..Spec::default() };
    for node in &root.children {
        let Some(rule) = grammar::ROOT.child(&node.name).filter(|rule| rule.keyed) else {
            continue;
        };
        let key = get(node, rule, "name").expect("validated as required");
        let name = name_of(key);
        let path = format!("{}/{name}", node.name);
        if places.0.contains_key(&path) {
            let message = format!("{} \"{name}\" is there twice", node.name);
            problems.push(
                Problem::new(message, key.span.clone()).help("names are unique within a kind"),
            );
        }
        places.put(path.clone(), &key.span);
        for child in &node.children {
            // Packages stand a block deeper.
            let values = std::iter::once(child).chain(&child.children).flat_map(|node| {
                node.args.iter().chain(node.props.iter().map(|(_, _, value)| value))
            });
            for value in values {
                if let Data::Text(word) = &value.data {
                    places.put(format!("{path}/{}/{word}", child.name), &value.span);
                }
                if let Data::Int(number) = &value.data {
                    places.put(format!("{path}/{}/{number}", child.name), &value.span);
                }
            }
            places.put(format!("{path}/{}", child.name), &child.span);
        }
        match node.name.as_str() {
            "kernel" => drop(spec.kernels.insert(name, kernel(node, builtin, problems))),
            "image" => drop(spec.images.insert(name, image(node, builtin, problems))),
            "volume" => {
                let size = Mib::parse(&text(get(node, rule, "size").expect("required")))
                    .expect("validated");
                spec.volumes.insert(name, VolumeSpec { size });
            }
            "network" => drop(spec.networks.insert(name, network(node))),
            "sandbox" => drop(spec.sandboxes.insert(name, sandbox(node, rule, problems))),
            other => unreachable!("the grammar has a kind \"{other}\" that is not read"),
        }
    }
    spec
}

/// The suite that is used when none is named.
const SUITE: &str = "bookworm";
/// The kernel package that is used when none is named.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The one child that says what a thing is made from.
fn source<'a>(node: &'a Node, kinds: &[&str], problems: &mut Vec<Problem>) -> Option<&'a Node> {
    let mut found = node.children.iter().filter(|child| kinds.contains(&child.name.as_str()));
    let first = found.next();
    let known = kinds.join(", ");
    if let Some(second) = found.next() {
        let message = format!("this {} is made from two things", node.name);
        problems.push(Problem::new(message, second.span.clone()).help("keep one of them"));
    } else if first.is_none() {
        let message = format!("this {} does not say what it is made from", node.name);
        let problem = Problem::new(message, node.span.clone());
        problems.push(problem.help(format!("give it a source, one of: {known}")));
    }
    first
}

/// The text of a property or argument of a node that has no rule at hand.
fn field(node: &Node, at: usize, name: &str) -> Option<String> {
    node.args.get(at).or_else(|| node.prop(name)).map(text)
}

fn local(node: &Node) -> LocalFile {
    LocalFile { path: field(node, 0, "path").expect("required"), stamp: None }
}

/// A reference is made whole here, so that one image has one recipe however it is written.
fn oci(node: &Node, problems: &mut Vec<Problem>) -> ImageSource {
    let reference = field(node, 0, "reference").expect("required");
    let digest = node.prop("digest").map(text);
    ImageSource::Oci(match reference::parse(&reference) {
        Ok(image) => OciImage { digest: digest.or(image.digest), ..image },
        Err(why) => {
            let message = format!("\"{reference}\" is not an image reference");
            let place = node.args.first().map_or(&node.span, |value| &value.span);
            problems.push(Problem::new(message, place.clone()).label(why));
            OciImage { reference, digest }
        }
    })
}

/// A name of the catalog stands for what the catalog says.
fn of_catalog<T>(
    node: &Node,
    kind: &str,
    known: &BTreeMap<Name, T>,
    problems: &mut Vec<Problem>,
) -> Option<Name> {
    let name = name_of(node.args.first().or_else(|| node.prop("name")).expect("required"));
    if known.contains_key(&name) {
        return Some(name);
    }
    let message = format!("the catalog has no {kind} \"{name}\"");
    let names: Vec<&str> = known.keys().map(Name::as_str).collect();
    let help = match did_you_mean(name.as_str(), names.iter().copied()) {
        Some(close) => format!("did you mean \"{close}\"?"),
        None => format!("it has: {}", names.join(", ")),
    };
    problems.push(Problem::new(message, node.span.clone()).help(help));
    None
}

fn kernel(node: &Node, builtin: &Spec, problems: &mut Vec<Problem>) -> KernelSpec {
    let found = source(node, &["debian", "url", "path", "catalog"], problems);
    let debian = |package: Option<String>, suite: Option<String>| KernelSource::Debian {
        package: package.unwrap_or_else(|| KERNEL.to_string()),
        suite: suite.unwrap_or_else(|| SUITE.to_string()),
    };
    let Some(found) = found else { return KernelSpec { source: debian(None, None) } };
    let source = match found.name.as_str() {
        "url" => KernelSource::Url {
            url: field(found, 0, "url").expect("required"),
            sha256: found.prop("sha256").map(text).expect("required"),
        },
        "path" => KernelSource::Path(local(found)),
        "catalog" => match of_catalog(found, "kernel", &builtin.kernels, problems) {
            Some(name) => builtin.kernels[&name].source.clone(),
            None => debian(None, None),
        },
        _ => debian(field(found, 0, "package"), found.prop("suite").map(text)),
    };
    KernelSpec { source }
}

fn image(node: &Node, builtin: &Spec, problems: &mut Vec<Problem>) -> ImageSpec {
    let mut kernel = only(node, "kernel").map(name_of);
    let found = source(node, &["debian", "oci", "path", "catalog"], problems);
    let debian = |found: Option<&Node>| {
        let mut packages = found.map(|debian| rest(debian, "packages")).unwrap_or_default();
        packages.sort();
        packages.dedup();
        let suite = found.and_then(|debian| debian.prop("suite")).map(text);
        let suite = suite.unwrap_or_else(|| SUITE.to_string());
        ImageSource::Debian(DebianImage { suite, packages })
    };
    let source = match found.map(|found| (found, found.name.as_str())) {
        Some((found, "oci")) => oci(found, problems),
        Some((found, "path")) => ImageSource::Path(local(found)),
        Some((found, "catalog")) => match of_catalog(found, "image", &builtin.images, problems) {
            Some(name) => {
                kernel = kernel.or_else(|| builtin.images[&name].kernel.clone());
                builtin.images[&name].source.clone()
            }
            None => debian(None),
        },
        Some((found, _)) => debian(Some(found)),
        None => debian(None),
    };
    ImageSpec { source, kernel }
}

fn network(node: &Node) -> NetworkSpec {
    let host = only(node, "scope").is_some_and(|scope| text(scope) == "host");
    NetworkSpec { scope: if host { Scope::Host } else { Scope::Project } }
}

fn workspace(node: &Node) -> WorkspaceSpec {
    let depth = node.prop("depth").map(|value| u32::try_from(number(value)).expect("validated"));
    WorkspaceSpec {
        folder: field(node, 0, "folder").expect("required"),
        at: node.prop("at").map_or_else(|| WorkspaceSpec::AT.to_string(), text),
        include: rest(node, "include"),
        depth,
    }
}

fn sandbox(node: &Node, rule: &Rule, problems: &mut Vec<Problem>) -> SandboxSpec {
    let Some(image) = only(node, "image").map(name_of) else {
        let problem = Problem::new("this sandbox has no image", node.span.clone());
        problems.push(problem.help("add a line like: image \"debian-bookworm\""));
        return SandboxSpec::new(Name::new("none").expect("a valid name"));
    };
    let mut spec = SandboxSpec::new(image);
    let size = |name| only(node, name).map(|value| Mib::parse(&text(value)).expect("validated"));
    spec.kernel = only(node, "kernel").map(name_of);
    spec.vmm = only(node, "vmm").and_then(|value| Backend::parse(&text(value)));
    if let Some(value) = only(node, "cpus") {
        spec.cpus = u8::try_from(number(value)).expect("validated");
    }
    spec.memory = size("memory").unwrap_or(spec.memory);
    spec.disk = size("disk").unwrap_or(spec.disk);
    (spec.disk_rate, spec.net_rate) = (size("disk-rate"), size("net-rate"));
    spec.after = node.all("after").flat_map(|after| after.args.iter().map(name_of)).collect();
    let mount = rule.child("volume").expect("in the grammar");
    spec.volumes = node
        .all("volume")
        .map(|node| Mount {
            volume: name_of(get(node, mount, "name").expect("required")),
            at: text(get(node, mount, "at").expect("required")),
        })
        .collect();
    for env in node.all("env") {
        for (key, span, value) in &env.props {
            if spec.env.insert(key.clone(), text(value)).is_some() {
                problems.push(Problem::new(format!("\"{key}\" is given twice"), span.clone()));
            }
        }
    }
    let publish = rule.child("publish").expect("in the grammar");
    spec.publish = node
        .all("publish")
        .map(|node| {
            let port = |name| {
                get(node, publish, name).map(|v| u16::try_from(number(v)).expect("validated"))
            };
            let host = port("host").expect("required");
            Publish { host, guest: port("guest").unwrap_or(host) }
        })
        .collect();
    let networks = node.all("network").flat_map(|network| network.args.iter().map(name_of));
    spec.networks = networks.collect();
    spec.provision = rest(node, "provision");
    spec.command = rest(node, "command");
    spec.entrypoint = rest(node, "entrypoint");
    spec.user = only(node, "user").map(text);
    spec.workdir = only(node, "workdir").map(text);
    spec.workspace = node.child("workspace").map(workspace);
    spec.stop_signal = only(node, "stop-signal").map(text).and_then(|word| Signal::parse(&word));
    spec.ready = node.child("ready").map(|ready| ReadySpec {
        exec: rest(ready, "exec"),
        timeout_secs: only(ready, "timeout").map_or(60, |v| seconds(&text(v)).expect("validated")),
    });
    let word = |name| only(node, name).map(text);
    spec.restart = match word("restart").as_deref() {
        Some("always") => Restart::Always,
        Some("never") => Restart::Never,
        _ => Restart::OnFailure,
    };
    spec.egress = match word("egress").as_deref() {
        Some("none") => Egress::None,
        Some("open") => Egress::Open,
        Some("host") => Egress::Host,
        _ => Egress::Public,
    };
    spec.drift =
        if word("drift").as_deref() == Some("report") { Drift::Report } else { Drift::Heal };
    spec.mode = match word("mode").as_deref() {
        Some("stopped") => Mode::Stopped,
        Some("suspended") => Mode::Suspended,
        _ => Mode::Running,
    };
    spec
}
