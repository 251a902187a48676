//! Nothing that a guest, an image, a registry or a file says makes a terminal do anything but show it (R-G11): every
//! command that prints, on a terminal, with a daemon whose every text is hostile.

mod corpus;
mod daemon;
mod pty;
mod repository;

use crate::end_to_end::home::programs;
use banger_wire::text::{clean, clean_line, escape_json};
use corpus::{forbidden, texts};
use daemon::{Daemon, Mode};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn texts_are_cleaned() {
    let all = texts();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert!(distinct.len() >= 200 && distinct.len() == all.len(), "{} texts", distinct.len());
    for text in &all {
        for shown in [clean(text), clean_line(text)] {
            assert_eq!(forbidden(shown.as_bytes(), false), Vec::<String>::new(), "{text:?}");
            assert_eq!(
                shown.chars().count(),
                text.chars().count(),
                "each character stands for itself"
            );
        }
        assert!(!clean_line(text).contains(['\n', '\t']), "{text:?}");
        let json = escape_json(&serde_json::to_string(text).expect("JSON"));
        assert_eq!(forbidden(json.as_bytes(), false), Vec::<String>::new(), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), *text);
    }
}

/// What is wrong with a Bangerfile is shown with a piece of it.
#[test]
fn reports_are_cleaned() {
    let mut reports = 0;
    for text in texts() {
        let quoted = text.replace(['"', '\\'], "'");
        let files = [
            text.clone(),
            format!("sandbox \"a\" {{ image \"{quoted}\" }}\n"),
            format!("// {text}\nsandbox \"{quoted}\" {{ imag \"b\" }}\n"),
            format!("project \"p\"\n\"{quoted}\" 1\n/* {text} */ unknown {{ }}\n"),
            format!(
                "sandbox \"a\" {{ env \"{quoted}\"=1; publish \"{quoted}\"; egress \"{quoted}\" }}"
            ),
        ];
        for (language, file) in [
            (banger_schema::Language::Kdl, &files[..]),
            (
                banger_schema::Language::Toml,
                &[format!("[sandbox.\"{quoted}\"]\nimage = \"{quoted}\"\n{text}")][..],
            ),
        ]
        .into_iter()
        .flat_map(|(language, files)| files.iter().map(move |file| (language, file)))
        {
            let Err(report) = banger_schema::parse(&text, file, language) else { continue };
            reports += 1;
            for shown in [report.render(false), report.to_string()] {
                assert_eq!(forbidden(shown.as_bytes(), false), Vec::<String>::new(), "{file:?}");
            }
        }
    }
    assert!(reports > 1000, "{reports} reports");
}

/// One way to call a command.
struct Call {
    /// The command, as help names it.
    of: &'static str,
    arguments: Vec<String>,
    input: &'static str,
}

fn call(of: &'static str, rest: &[&str]) -> Call {
    let words = of.split(' ').chain(rest.iter().copied());
    Call { of, arguments: words.map(String::from).collect(), input: "" }
}

/// Every command that there is, by help; the hidden ones are known.
fn commands(lab: &Lab) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = ["ssh-proxy", "ssh-host-keys"].map(String::from).into();
    let mut todo = vec![String::new()];
    while let Some(path) = todo.pop() {
        let words: Vec<String> =
            path.split(' ').filter(|word| !word.is_empty()).map(String::from).collect();
        let output = lab.command(&words).arg("--help").stdin(Stdio::null()).output().expect("help");
        let text = String::from_utf8(output.stdout).expect("text");
        let Some((_, list)) = text.split_once("Commands:\n") else {
            found.insert(path);
            continue;
        };
        let names = list.lines().take_while(|line| line.starts_with("  "));
        let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        todo.extend(
            names
                .filter(|name| !name.is_empty() && *name != "help")
                .map(|name| format!("{path} {name}").trim().to_string()),
        );
    }
    found
}

/// A folder with a Bangerfile, and a daemon.
struct Lab {
    folder: tempfile::TempDir,
    daemon: Daemon,
    /// Commands that showed something that was cleaned.
    showed: BTreeSet<String>,
}

/// What a command is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// A terminal that knows no sequences.
    Plain,
    /// As this, for JSON.
    Json,
    /// A terminal on which bars are drawn.
    Bars,
}

const FILE: &str =
    "project \"p\"\nimage \"far\" { oci \"ghcr.io/a/b:1\"; }\nsandbox \"web\" { image \"far\"; }\n";

impl Lab {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bg").tempdir_in("/tmp").expect("a folder");
        let repository = repository::make(folder.path());
        let daemon = Daemon::start(&folder.path().join("home"), &repository);
        fs::create_dir(folder.path().join("here")).expect("a folder");
        let lab = Self { folder, daemon, showed: BTreeSet::new() };
        fs::write(lab.here("Bangerfile"), FILE).expect("writes");
        fs::write(lab.here("empty.txt"), "x").expect("writes");
        fs::write(lab.here(EVIL), "sandbox \"a\" {\nimage \"debian-bookworm\"}\n").expect("writes");
        fs::write(lab.here("bad.kdl"), format!("{}\nsandbox {{", texts().join("\n// ")))
            .expect("writes");
        lab
    }

    fn here(&self, name: &str) -> PathBuf {
        self.folder.path().join("here").join(name)
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(programs().join("banger"));
        command
            .args(arguments)
            .current_dir(self.here(""))
            .env("BANGER_HOME", self.folder.path().join("home"))
            .env("HOME", self.folder.path())
            .env("NO_COLOR", "1")
            .env("TERM", "dumb")
            .env("BANGER_CATALOG_KEY", "none");
        command
    }

    /// Runs a command; what of it reached the terminal and must not.
    fn run(&mut self, call: &Call, mode: Mode, how: How) -> Vec<String> {
        self.daemon.set(mode);
        let mut arguments = call.arguments.clone();
        if how == How::Json {
            arguments.insert(0, "--json".into());
        }
        let mut command = self.command(&arguments);
        if how == How::Bars {
            command.env("TERM", "xterm");
        }
        let (code, bytes) = pty::run(command, call.input.as_bytes());
        let mut shown = String::from_utf8_lossy(&bytes).into_owned();
        let bytes = if call.of == "vm ssh" {
            // The system's own ssh ends lines for terminals in raw mode.
            shown.replace("\r\r\n", "\r\n").into_bytes()
        } else {
            bytes
        };
        let mut found = forbidden(&bytes, how == How::Bars);
        if how == How::Bars && !shown.contains("\u{1b}[2K") {
            found.push("no bars".into());
        }
        if shown.contains('\u{fffd}') || how == How::Json && shown.contains("\\u009b") {
            self.showed.insert(call.of.to_string());
        }
        if code == 101 || code < 0 || shown.contains("panicked at") {
            shown.truncate(shown.floor_char_boundary(400));
            found.push(format!("it ended with {code}: {shown}"));
        }
        let calls = format!("{:?} {mode:?} {how:?}", call.arguments);
        found.into_iter().map(|what| format!("{calls}: {what}")).collect()
    }
}

/// A file name that sets a title.
const EVIL: &str = "evil\u{1b}]0;owned\u{7}\u{202e}.kdl";

fn calls(folder: &Path) -> Vec<Call> {
    let out = folder.join("out").display().to_string();
    let (yes, run) = (["--yes"], ["-T", "--", "true"]);
    let mut all = vec![
        call("apply", &yes),
        call("apply", &["--dry-run"]),
        call("lock", &[]),
        call("lock", &["--update", "far"]),
        call("apply", &["--no-wait", "--frozen"]),
        call("plan", &[]),
        call("plan", &["-f", "bad.kdl"]),
        call("status", &[]),
        call("destroy", &yes),
        call("check", &[]),
        call("check", &["-f", EVIL]),
        call("check", &["-f", "bad.kdl"]),
        call("fmt", &["-f", "bad.kdl"]),
        call("fmt", &["-f", EVIL]),
        call("init", &["-f", EVIL]),
        call("ps", &[]),
        call("vm create", &["new", "--image", "kept"]),
        call("vm create", &["new", "--image", "nothing"]),
        call("vm list", &[]),
        call("vm show", &["web"]),
        call("vm show", &["nobody"]),
        call("vm start", &["web"]),
        call("vm stop", &["web"]),
        call("vm restart", &["web"]),
        call("vm kill", &["web"]),
        call("vm suspend", &["web"]),
        call("vm snapshot", &["web"]),
        call("vm snapshot", &["web", "early"]),
        call("vm restore", &["web", "early", "--yes"]),
        call("vm fork", &["web", "other"]),
        call("vm fork", &["web", "other", "--snapshot", "early"]),
        call("snapshot list", &[]),
        call("snapshot delete", &["early", "--yes"]),
        call("snapshot delete", &["none", "--yes"]),
        call("vm delete", &["web", "--yes"]),
        call("vm exec", &["web", "-T", "--", "true"]),
        call("vm run", &run),
        call("vm run", &["../user", "--dry-run"]),
        call("vm run", &["--detach"]),
        call("vm ssh", &["web", "--", "true"]),
        call("vm ports", &["web"]),
        call("vm stats", &["web"]),
        call("vm logs", &["web"]),
        call("vm logs", &["web", "--follow"]),
        call("vm cp", &["empty.txt", "web:/tmp"]),
        call("vm cp", &["empty.txt", "web:/fail"]),
        call("vm cp", &["web:/fail", &out]),
        call("vm cp", &["web:/tmp/got", &out]),
        call("vm workspace status", &["web"]),
        call("vm workspace diff", &["web"]),
        call("vm workspace diff", &["web", "--stat"]),
        call("vm workspace export", &["web"]),
        call("vm workspace pull", &["web"]),
        call("vm workspace pull", &["web", "--as-branch", "new", "--yes"]),
        call("vm workspace apply", &["web", "--dry-run"]),
        call("vm workspace apply", &["web", "--yes"]),
        call("vm workspace apply", &["web", "--yes", "--symlinks"]),
        call("vm workspace push", &["web"]),
        call("image list", &[]),
        call("image show", &["base"]),
        call("image show", &["evil"]),
        call("image show", &["nothing"]),
        call("image pull", &["ghcr.io/a/base", "--name", "base"]),
        call("image pull", &["ghcr.io/a/base", "--name", "base", "--update"]),
        call("image register", &["base", "empty.txt"]),
        call("image promote", &["base"]),
        call("image logout", &["ghcr.io"]),
        call("image cache list", &[]),
        call("image cache prune", &["--dry-run"]),
        call("image build", &["far"]),
        call("image delete", &["base"]),
        call("kernel pull", &["debian-cloud"]),
        call("kernel pull", &["nothing"]),
        call("kernel import", &["base", "empty.txt"]),
        call("kernel list", &[]),
        call("kernel show", &["evil"]),
        call("kernel rm", &["base"]),
        call("catalog update", &[]),
        call("catalog sign", &[EVIL, "--key", "none"]),
        call("catalog verify", &[EVIL, "--key", "none"]),
        call("ssh-config", &["--print"]),
        call("ssh-config", &[]),
        call("ssh-proxy", &["web.p"]),
        call("ssh-host-keys", &["web.p", "web\u{1b}[6n.p"]),
        call("doctor", &[]),
        call("version", &[]),
    ];
    let groups = corpus::groups().len();
    all.extend((0..groups).map(|n| call("vm show", &["-p", "q", &format!("s{n}")])));
    all.push(Call {
        input: "secret\n",
        ..call("image login", &["ghcr.io", "-u", "me", "--password-stdin"])
    });
    all
}

/// What it says is all ours.
const SILENT: [&str; 1] = ["ssh-config"];

#[test]
fn commands_print_nothing_that_a_terminal_acts_on() {
    if !programs().join("banger").is_file() {
        assert!(std::env::var_os("BANGER_REQUIRE_ALL").is_none(), "banger is not built");
        return;
    }
    let mut lab = Lab::new();
    let calls = calls(lab.folder.path());
    let covered: BTreeSet<String> = calls.iter().map(|call| call.of.to_string()).collect();
    assert_eq!(covered, commands(&lab), "a command that prints is called here");
    let mut found = Vec::new();
    for call in &calls {
        for mode in [Mode::Due, Mode::Problem, Mode::Garbage, Mode::BadNames] {
            found.extend(lab.run(call, mode, How::Plain));
        }
        found.extend(lab.run(call, Mode::Due, How::Json));
    }
    for of in ["apply", "vm start", "vm run"] {
        let call = calls.iter().find(|call| call.of == of).expect("there");
        found.extend(lab.run(call, Mode::Due, How::Bars));
    }
    // Where a person is asked, the question is hostile too.
    for (of, rest, mode) in [
        ("apply", &[][..], Mode::Asks),
        ("destroy", &[], Mode::Asks),
        ("vm delete", &["web"], Mode::Due),
        ("vm restore", &["web", "early"], Mode::Due),
        ("snapshot delete", &["early"], Mode::Due),
        ("vm workspace pull", &["web", "--as-branch", "other"], Mode::Due),
        ("vm workspace apply", &["web"], Mode::Due),
    ] {
        found.extend(lab.run(&Call { input: "n\n", ..call(of, rest) }, mode, How::Plain));
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
    let silent: BTreeSet<String> = covered.difference(&lab.showed).cloned().collect();
    assert_eq!(
        silent,
        SILENT.map(String::from).into(),
        "every other command showed what was hostile"
    );
}
