use crate::spec::{Mode, Restart};
use crate::{Language, Report, Spec, format, grammar, parse};
use std::time::{Duration, Instant};

fn kdl(text: &str) -> Result<Spec, Report> {
    parse("Bangerfile", text, Language::Kdl)
}

/// The messages of a file that must not parse, as `line:column message (help)`.
fn faults(text: &str) -> Vec<String> {
    let report = kdl(text).expect_err("it must not parse");
    let line = |problem: &crate::Problem| {
        let (line, column) = report.place(problem);
        let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{line}:{column} {}{help}", problem.message)
    };
    report.problems.iter().map(line).collect()
}

const SHOP: &str = r#"
project "shop"
kernel "cloud" {
    debian "linux-image-cloud-amd64" suite="bookworm"
}
image "dev" {
    debian suite="bookworm" {
        packages "git" "curl"
    }
    kernel "cloud"
}
volume "data" size="10GiB"
sandbox "db" {
    image "debian-bookworm"
    mode "stopped"
}
sandbox "web" {
    image "dev"
    cpus 2
    memory "1GiB"
    disk "20GiB"
    after "db"
    volume "data" at="/var/lib/data"
    env RUST_LOG="debug" B="2"
    publish 8080 guest=80
    publish 9090
    provision "echo one" "echo two"
    command "sleep" "inf"
    ready { exec "true"; timeout "2m"; }
    restart "always"
    drift "report"
}
"#;

const SHOP_TOML: &str = r#"
project = "shop"
[kernel.cloud]
debian = { package = "linux-image-cloud-amd64", suite = "bookworm" }
[image.dev]
debian = { suite = "bookworm", packages = ["git", "curl"] }
kernel = "cloud"
[volume.data]
size = "10GiB"
[sandbox.db]
image = "debian-bookworm"
mode = "stopped"
[sandbox.web]
image = "dev"
cpus = 2
memory = "1GiB"
disk = "20GiB"
after = ["db"]
volume = [{ name = "data", at = "/var/lib/data" }]
env = { RUST_LOG = "debug", B = "2" }
publish = [{ host = 8080, guest = 80 }, { host = 9090 }]
provision = ["echo one", "echo two"]
command = ["sleep", "inf"]
ready = { exec = ["true"], timeout = "2m" }
restart = "always"
drift = "report"
"#;

#[test]
fn both_languages_give_the_same_spec() {
    let spec = kdl(SHOP).expect("KDL parses");
    let other = parse("Bangerfile.toml", SHOP_TOML, Language::Toml).expect("TOML parses");
    assert_eq!(spec, other);
    let web = &spec.sandboxes[&"web".parse().expect("a name")];
    assert_eq!((web.cpus, web.memory.get(), web.disk.get()), (2, 1024, 20 << 10));
    assert_eq!((web.restart, web.mode), (Restart::Always, Mode::Running));
    assert_eq!(
        web.publish.iter().map(|p| (p.host, p.guest)).collect::<Vec<_>>(),
        [(8080, 80), (9090, 9090)]
    );
    assert_eq!(web.provision, ["echo one", "echo two"]);
    assert_eq!(web.ready.as_ref().map(|r| r.timeout_secs), Some(120));
}

#[test]
fn the_canonical_form_survives_json() {
    let spec = kdl(SHOP).expect("parses");
    let text = serde_json::to_string(&spec).expect("encodes");
    assert_eq!(serde_json::from_str::<Spec>(&text).expect("decodes"), spec);
    assert!(serde_json::from_str::<Spec>(&text.replace("\"cpus\"", "\"cpu\"")).is_err());
}

#[test]
fn every_problem_of_a_file_is_reported_at_once() {
    let text = r#"
sandbox "web" {
    image "x"
    memry "1GiB"
    cpus "two"
    disk 10
    restart "allways"
    volume "d"
}
imge "x" {}
sandbox "Web" { image "x"; mode "running"; mode "stopped"; }
"#;
    assert_eq!(
        faults(text),
        [
            "4:5 \"sandbox\" has no node \"memry\" (did you mean \"memory\"?)",
            "5:10 expected a whole number from 1 to 32",
            "6:10 expected a size with its unit, like \"512MiB\" or \"10GiB\"",
            "7:13 expected one of always, on-failure, never (did you mean \"always\"?)",
            "8:5 \"volume\" needs at",
            "10:1 a Bangerfile has no node \"imge\" (did you mean \"image\"?)",
            "11:9 expected a name",
            "11:44 \"mode\" is given twice (keep one of them)",
        ]
    );
}

#[test]
fn what_parts_say_about_each_other_is_checked_at_its_place() {
    let text = r#"
image "dev" { debian suite="bookwrm" { packages "git" "--simulate"; }; }
volume "data" size="1GiB"
sandbox "a" { image "dve"; after "b"; volume "data" at="/d"; publish 8080; }
sandbox "b" { image "dev"; after "a" "c"; volume "data" at="../d"; publish 8080; }
"#;
    assert_eq!(
        faults(text),
        [
            "2:22 Debian has no suite \"bookwrm\" that banger knows (did you mean \"bookworm\"?)",
            "2:55 \"--simulate\" is not a package name (a package name has a-z, 0-9, +, . and - and starts with a letter or digit)",
            "4:21 there is no image \"dve\" (did you mean \"dev\"?)",
            "4:34 sandboxes wait for each other: a → b → a (remove one \"after\" of the round)",
            "5:38 there is no sandbox \"c\" (known: a, b)",
            "5:50 volume \"data\" is already in sandbox \"a\" (a disk can be written by one machine at a time)",
            "5:57 \"../d\" is not an absolute folder below /",
            "5:76 port 8080 is already published by \"a\"",
        ]
    );
}

#[test]
fn a_rendered_error_has_place_caret_and_help() {
    let report = kdl("sandbox \"web\" {\n    imag \"x\"\n}\n").expect_err("unknown node");
    let expected = "  × \"sandbox\" has no node \"imag\"
   ╭─[Bangerfile:2:5]
 1 │ sandbox \"web\" {
 2 │     imag \"x\"
   ·     ──┬─
   ·       ╰── unknown
 3 │ }
   ╰────
  help: did you mean \"image\"?
";
    assert_eq!(report.render(false), expected);
}

/// Mistakes that people make, and what they are told to write.
#[test]
fn a_mistake_that_is_known_is_answered_with_what_to_write() {
    let web = |line: &str| format!("sandbox \"web\" {{\nimage \"debian-bookworm\"\n{line}\n}}\n");
    for (text, help) in [
        (
            "sandbox \"web\" image=\"debian-bookworm\" {}",
            "write it inside the block: image \"debian-bookworm\"",
        ),
        (&web("ready exec=\"true\""), "write it inside the block: exec \"true\""),
        (&web("name \"w\""), "write it behind the word: sandbox \"w\""),
        (&web("env { A \"b\"; }"), "write it as a property: env A=\"b\""),
        (&web("publish \"8080:80\""), "write it as 8080 guest=80; in TOML as host and guest"),
        (&web("cpus \"2\""), "without quotes: 2"),
        ("volume \"v\" { size \"1GiB\"; }", "write it as a property: volume size=\"1GiB\""),
        (
            "sandbox \"w\" { image \"redis:8\"; }",
            "a name is meant; an image of a registry is declared with oci \"redis:8\"",
        ),
        (&web("memory 1GiB"), "put it in quotes: \"1GiB\""),
        (&web("env DEBUG=true"), "put it in quotes: DEBUG=\"true\""),
        (&web("cpus = 2"), "KDL has no = behind a node's name: cpus 2"),
        ("# web\n", "comments begin with //"),
        (
            "[sandbox.web]\nimage = \"x\"\n",
            "this is TOML; a file in TOML is called Bangerfile.toml",
        ),
    ] {
        let found = kdl(text).expect_err(text);
        let helps: Vec<_> = found.problems.iter().filter_map(|p| p.help.as_deref()).collect();
        assert!(helps.contains(&help), "{text}: {:?}", found.problems);
    }
    // Between quotes is text, also where one is missing.
    let open = kdl(&web("provision \"apt install 7zip")).expect_err("no end");
    assert!(
        open.problems.iter().all(|p| p.help.as_ref().is_none_or(|help| !help.contains("7zip")))
    );
    // One line, one problem.
    assert_eq!(faults(&web("cpus = 2")).len(), 1);
    let toml = parse("Bangerfile.toml", &web("cpus 2"), Language::Toml).expect_err("KDL");
    let help = toml.problems[0].help.as_deref();
    assert_eq!(help, Some("this is KDL; a file in KDL is called Bangerfile"));
}

/// What is shown stays where it is: line ends of other systems, characters that a terminal must not see, and the file's end.
#[test]
fn every_problem_has_its_place() {
    let text = "// a\u{1b}]0;x\u{7}\u{9b}\u{200b}\r\nsandbox \"w\" {\r\n  imag \"x\"\r\n}\r\n";
    let shown = kdl(text).expect_err("unknown node").render(false);
    assert!(shown.contains("─[Bangerfile:3:3]") && shown.contains("3 │   imag \"x\""), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{200b}', '\r']), "{shown:?}");
    for text in ["image =", "a = 1\n[sandbox.web", "a = \"x", "image \"x\"\n"] {
        let shown = parse("x.toml", text, Language::Toml).expect_err(text).render(false);
        assert!(shown.contains("─[x.toml:"), "{shown}");
    }
}

/// The three inputs that kill or stall the KDL parser, and the two further ones of the same kind (R-B10).
#[test]
fn hostile_files_are_refused_quickly() {
    let nested = |open: &str, depth: usize| {
        format!("n {}{}", format!("{open}\n").repeat(depth), "}".repeat(depth))
    };
    let hostile = [
        ("slashdash", nested("/-{", 20)),
        ("slashdash with space", nested("/- \n {", 20)),
        ("blocks", nested("n {", 400)),
        ("many blocks", nested("n {", 60_000)),
        ("comments", "/*".repeat(10_000)),
        ("errors", "n = = =\n".repeat(16_000)),
        ("braces hidden by strings", "n #\"\"\"\"# { ".repeat(3_000)),
        ("too large", "// comment\n".repeat(30_000)),
    ];
    for (name, text) in hostile {
        let start = Instant::now();
        let report = kdl(&text).expect_err(name);
        assert!(!report.problems.is_empty(), "{name}");
        // A tenth of that where nothing else runs. What stalls takes minutes, and more.
        let limit = if name == "errors" { 15 } else { 3 };
        assert!(start.elapsed() < Duration::from_secs(limit), "{name}: {:?}", start.elapsed());
    }
    let deep_toml = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse("x.toml", &deep_toml, Language::Toml).is_err());
}

#[test]
fn ten_thousand_sandboxes_are_refused() {
    let text: String =
        (0..10_000).map(|n| format!("sandbox \"s{n}\" {{ image \"i\"; }}\n")).collect();
    let report = kdl(&text).expect_err("far too many");
    assert!(report.to_string().contains("problem"), "{report}");
    let text: String =
        (0..101).map(|n| format!("sandbox \"s{n}\" {{ image \"debian-bookworm\"; }}\n")).collect();
    assert_eq!(
        faults(&text),
        ["0:0"].map(|_| "1:1 101 sandboxes are more than the 100 that one file may have")
    );
}

#[test]
fn shell_in_provision_does_not_trip_the_guard() {
    let text = "sandbox \"a\" {\n image \"debian-bookworm\"\n provision \"f() { echo '{{{{{{{{{{{{{{{{{{{{'; }\" #\"echo \"}\" \"#\n}";
    assert!(kdl(text).is_ok(), "{:?}", kdl(text));
}

#[test]
fn formatting_keeps_comments_and_meaning() {
    let untidy = "// top\nsandbox   \"a\"{\nimage \"debian-bookworm\" // why\n  cpus   2\n}\n";
    let tidy = format::format("Bangerfile", untidy, Language::Kdl).expect("formats");
    assert_eq!(
        tidy,
        "// top\nsandbox \"a\" {\n    image \"debian-bookworm\" // why\n    cpus 2\n}\n"
    );
    assert_eq!(format::format("Bangerfile", &tidy, Language::Kdl).expect("formats"), tidy);
    let lossy = "image \"i\" {\n    debian\n} // the parser drops this\n";
    assert!(
        format::format("Bangerfile", lossy, Language::Kdl).is_err(),
        "a comment would get lost"
    );
    let odd = "\n\nimage \"i\" { debian; kernel \"k\"; }\n\n\n\n/* a\n b */\nkernel \"k\" { // z\n  /-debian 1\n debian \"linux-image-amd64\" \\\n  suite=\"bookworm\" // end\n // last\n}\n// eof\n";
    let tidy = format::format("Bangerfile", odd, Language::Kdl).expect("formats");
    assert_eq!(
        tidy,
        "image \"i\" {\n    debian\n    kernel \"k\"\n}\n\n/* a\nb */\nkernel \"k\" {\n    // z\n    /-debian 1\n    debian \"linux-image-amd64\" suite=\"bookworm\" // end\n    // last\n}\n// eof\n"
    );
    assert_eq!(format::format("Bangerfile", &tidy, Language::Kdl).expect("formats"), tidy);
    assert!(format::format("Bangerfile.toml", "", Language::Toml).is_err());
}

#[test]
fn the_catalog_parses_and_has_its_defaults() {
    let catalog = crate::catalog::embedded();
    assert!(catalog.images.keys().any(|name| name.as_str() == crate::catalog::DEFAULT_IMAGE));
    assert!(catalog.kernels.keys().any(|name| name.as_str() == crate::catalog::DEFAULT_KERNEL));
}

/// R-B1: only fields that are known to reach the host do; a new one has to be added here on purpose.
#[test]
fn the_fields_that_reach_the_host_are_these() {
    fn walk(rule: &'static grammar::Rule, path: &str, out: &mut Vec<String>) {
        for child in rule.children {
            let path = format!("{path}/{}", child.name);
            assert!(!child.doc.is_empty(), "{path} has no doc");
            if child.reach == grammar::Reach::Host {
                out.push(path.clone());
            }
            walk(child, &path, out);
        }
    }
    let mut reaching = Vec::new();
    walk(&grammar::ROOT, "", &mut reaching);
    let known = [
        "/kernel/path",
        "/image/path",
        "/network/scope",
        "/sandbox/egress",
        "/sandbox/publish",
        "/sandbox/workspace",
    ];
    assert_eq!(reaching, known);
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "[a-z\"{}#/*= \\n\\\\-]{0,200}") {
        let _ = kdl(&text);
        let _ = parse("x.toml", &text, Language::Toml);
    }
}
