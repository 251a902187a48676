//! The walls between the parts, as tests.

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_path_buf()
}

fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec();
    metadata.expect("cargo metadata").packages
}

#[test]
fn the_packages_depend_on_each_other_in_one_direction() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("banger-wire", &[][..]),
        ("banger-tree", &[]),
        ("banger-schema", &["banger-wire"]),
        ("banger-plan", &["banger-schema", "banger-wire"]),
        ("banger-rootfs", &[]),
        ("banger-workspace", &["banger-tree", "banger-wire"]),
        (
            "banger-reconciler",
            &[
                "banger-plan",
                "banger-rootfs",
                "banger-schema",
                "banger-tree",
                "banger-wire",
                "banger-workspace",
            ],
        ),
        (
            "banger-cli",
            &["banger-plan", "banger-schema", "banger-tree", "banger-wire", "banger-workspace"],
        ),
        ("banger-helper", &["banger-wire"]),
        ("banger-agent", &["banger-tree", "banger-wire"]),
        (
            "banger-tests",
            &[
                "banger-plan",
                "banger-reconciler",
                "banger-rootfs",
                "banger-schema",
                "banger-tree",
                "banger-wire",
                "banger-workspace",
            ],
        ),
    ]);
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "the eleven packages");
    for package in &packages {
        let ours = package.dependencies.iter().filter(|d| d.name.starts_with("banger-"));
        for dependency in ours {
            let arrow = format!("{} → {}", package.name, dependency.name);
            assert!(allowed[package.name.as_str()].contains(&dependency.name.as_str()), "{arrow}");
        }
    }
}

#[test]
fn the_pure_core_has_no_crate_that_can_do_anything() {
    let pure = ["serde", "serde_json", "sha2", "thiserror", "banger-schema", "banger-wire"];
    let packages = packages();
    let plan = packages.iter().find(|p| p.name.as_str() == "banger-plan").expect("there");
    for dependency in plan.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
        assert!(
            pure.contains(&dependency.name.as_str()),
            "banger-plan depends on {}",
            dependency.name
        );
    }
}

/// What reads hostile archives opens no file: it is given descriptors (R-I1).
#[test]
fn layers_never_meet_a_path_of_the_host() {
    for (path, text) in sources("reconciler/rootfs/src") {
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
        for never in
            ["File::open", "File::create", "OpenOptions", "std::fs::read", "PathBuf", "std::net"]
        {
            assert!(is_test || !text.contains(never), "{} has {never}", path.display());
        }
    }
}

/// Every crate behind a package, as it is built alone.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", package, "-e", "normal", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(String::from)
        .collect()
}

#[test]
fn the_helper_is_small() {
    let crates = tree("banger-helper");
    assert!(crates.len() <= 40, "{} crates: {crates:?}", crates.len());
    for never in ["tokio", "kdl", "toml", "hyper", "rustls", "rusqlite", "nix"] {
        assert!(!crates.contains(never), "the helper depends on {never}");
    }
    let lines: usize = sources("helper/src").iter().map(|(_, text)| text.lines().count()).sum();
    assert!(lines <= 4000, "{lines} lines");
    let sys: usize = sources("helper/src/sys").iter().map(|(_, text)| text.lines().count()).sum();
    assert!((1..=400).contains(&sys), "{sys} lines");
}

/// What the helper is asked and what its table says it does are one list.
#[test]
fn the_helpers_table_has_a_row_for_each_request() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("text");
    let (wire, table) = (read("schema/wire/src/helper.rs"), read("helper/src/table.rs"));
    let after = wire.split_once("pub enum Request {").expect("the requests").1;
    let body = after.split_once("\n}").expect("an end").0;
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.split_once(" {")?.0;
        name.starts_with(|first: char| first.is_ascii_uppercase()).then_some(name)
    });
    let kebab = |name: &str| {
        let lower = |letter: char| {
            let dash = if letter.is_ascii_uppercase() { "-" } else { "" };
            format!("{dash}{}", letter.to_ascii_lowercase())
        };
        name.chars().map(lower).collect::<String>().trim_start_matches('-').to_string()
    };
    let variants: Vec<String> = variants.map(kebab).collect();
    let rows = table.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(' ').next());
    let rows: Vec<String> = rows.skip(1).map(String::from).collect();
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&variants), set(&rows));
    assert_eq!((variants.len(), rows.len()), (19, 19), "each once; another needs two reviewers");
}

#[test]
fn the_agent_has_no_surprises() {
    let crates = tree("banger-agent");
    for never in ["kdl", "toml", "hyper", "axum", "rusqlite", "rustls", "banger-schema"] {
        assert!(!crates.contains(never), "the agent depends on {never}");
    }
    assert!(crates.contains("tokio-vsock"), "{crates:?}");
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["schema", "reconciler", "helper", "agent", "tests"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect()
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in all_sources() {
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
        assert!(is_test || text.starts_with("//!"), "{} does not", path.display());
    }
}

#[test]
fn unsafe_is_in_two_sys_folders_only() {
    // Put together here, so that this file does not count.
    let word = ["un", "safe {"].concat();
    for (path, text) in all_sources() {
        let allowed =
            ["agent/src/sys/mod.rs", "helper/src/sys/mod.rs"].iter().any(|own| path.ends_with(own));
        assert!(allowed || !text.contains(&word), "{} has an unsafe block", path.display());
        if allowed {
            assert_eq!(
                text.matches(&word).count(),
                text.matches("SAFETY:").count(),
                "each with its reason"
            );
        }
    }
}

#[test]
fn every_test_file_is_wired_in() {
    let all = std::fs::read_to_string(root().join("tests/all.rs")).expect("text");
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("text");
    let inner = ["archives", "end_to_end", "hostile_guest", "registry", "returns", "terminal"]
        .map(|name| read(&format!("tests/{name}/mod.rs")))
        .concat();
    let figures = read("tests/figures.rs");
    for (path, _) in sources("tests") {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let known = ["all", "lib", "figures", "mod"].contains(&name.as_str());
        let wired = all.contains(&format!("mod {name};"))
            || inner.contains(&format!("mod {name};"))
            || figures.contains(&format!("mod {name};"));
        assert!(known || wired, "{} is in no test binary", path.display());
    }
}

#[test]
fn every_example_parses() {
    let mut files = vec![root().join("Bangerfile.example")];
    files.extend(
        std::fs::read_dir(root().join("examples"))
            .expect("examples")
            .flatten()
            .map(|e| e.path())
            .filter(|path| {
                path.extension().is_some_and(|extension| extension == "kdl" || extension == "toml")
            }),
    );
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).expect("text");
        let language = banger_schema::Language::of_file(&name);
        let spec = match banger_schema::parse(&name, &text, language) {
            Ok(spec) => spec,
            Err(report) => panic!("{}", report.render(false)),
        };
        // What it names is there, so that whoever tries it is not told of a folder that is not.
        let folder = path.parent().expect("a folder");
        for workspace in spec.sandboxes.values().filter_map(|sandbox| sandbox.workspace.as_ref()) {
            assert!(folder.join(&workspace.folder).is_dir(), "{name}: {}", workspace.folder);
        }
        if language == banger_schema::Language::Kdl {
            assert_eq!(
                banger_schema::format::format(&name, &text, language).expect("formats"),
                text,
                "{name}"
            );
        }
    }
}

/// The two languages say the same: the pair in `examples` is held equal.
#[test]
fn the_pair_of_examples_is_equal() {
    let read = |name: &str| {
        let text = std::fs::read_to_string(root().join("examples").join(name)).expect("text");
        banger_schema::parse(name, &text, banger_schema::Language::of_file(name)).expect("parses")
    };
    assert_eq!(read("pair.kdl"), read("pair.toml"));
}
