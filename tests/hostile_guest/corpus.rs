//! What a hostile guest does, and what of the host it is done to.

use super::guest::{Act, At, message, ready, tree, workspace};
use banger_wire::agent::{GuestState, Phase, Reply};
use banger_wire::frame::{HEADER, Kind, MAX_CHUNK, MAX_CONTROL, encode};
use banger_wire::id::Generation;

/// What the host does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Observe,
    Identify,
    ShutDown,
    Ship,
    Fetch,
    Ports,
    Ssh,
    Exec,
    Copy,
    Names,
}

/// How it has to end for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// With an error.
    Error,
    /// With a value, which is bounded.
    Value,
    /// With either.
    Either,
}

pub(super) struct Case {
    pub(super) name: String,
    pub(super) call: Call,
    pub(super) at: At,
    pub(super) acts: Vec<Act>,
    pub(super) want: Want,
}

fn send(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Send(bytes.into())
}

/// A frame whose header says what it likes.
fn framed(length: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[kind], payload].concat()
}

fn control(text: impl AsRef<[u8]>) -> Vec<u8> {
    encode(Kind::Control, text.as_ref())
}

fn failed(text: &str) -> Vec<u8> {
    message(&Reply::Failed { message: text.into() })
}

fn state(change: impl FnOnce(&mut GuestState)) -> Vec<u8> {
    let mut said = ready(1);
    change(&mut said);
    message(&Reply::State(said))
}

/// Instead of the line of the vsock device.
fn lines() -> Vec<(&'static str, Vec<Act>)> {
    vec![
        ("no line", vec![Act::Silence]),
        ("an end instead of a line", vec![]),
        ("a line without an end", vec![Act::Repeat(b"OK 1111111111111111".to_vec())]),
        (
            "a hundred kilobytes before the end of a line",
            vec![send([&[b'1'; 100_000][..], b"\n"].concat())],
        ),
        ("an error", vec![send("ERR 1\n"), Act::Silence]),
        ("small letters", vec![send("ok 1\n"), Act::Silence]),
        ("an empty line", vec![send("\n"), Act::Silence]),
        ("a line of zeros", vec![send([0; 15]), send("\n"), Act::Silence]),
        ("a line of no text", vec![send(b"\xff\xfe\xfdOK 1\n"), Act::Silence]),
        ("a line a byte a second", vec![Act::Drip(b"OK 1073741824\n".to_vec())]),
        ("half a line", vec![send("OK 1"), Act::Silence]),
        ("half a line and an end", vec![send("OK 1")]),
        ("a line and an end", vec![send("OK 1\n")]),
        (
            "an answer before the question",
            vec![send([b"OK 1\n", &failed("early")[..]].concat()), Act::Silence],
        ),
        ("a frame instead of a line", vec![send(failed("no line")), Act::Silence]),
        ("a flood instead of a line", vec![Act::Repeat(vec![b'\n'; 4096])]),
    ]
}

/// Instead of a message, whatever was asked.
fn broken() -> Vec<(String, Vec<Act>)> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let good = failed("a message like any other");
    let half = &good[..good.len() / 2];
    let values: Vec<(&str, Vec<Act>)> = vec![
        ("a length of 4 GiB", vec![send(framed(u32::MAX, 0, b"{}")), Act::Silence]),
        (
            "a length just over the limit",
            vec![send(framed(MAX_CONTROL as u32 + 1, 0, b"{}")), Act::Silence],
        ),
        (
            "a chunk just over the limit",
            vec![send(framed(MAX_CHUNK as u32 + 1, 2, b"{}")), Act::Silence],
        ),
        ("a kind that is none", vec![send(framed(2, 4, b"{}")), Act::Silence]),
        ("the last kind that is none", vec![send(framed(2, 255, b"{}")), Act::Silence]),
        (
            "a length in the other order",
            vec![send([2u32.to_le_bytes().as_slice(), b"\0{}"].concat()), Act::Silence],
        ),
        ("half a header", vec![send(&good[..HEADER - 2]), Act::Silence]),
        ("half a header and an end", vec![send(&good[..HEADER - 2])]),
        ("half a frame", vec![send(half), Act::Silence]),
        ("half a frame and an end", vec![send(half)]),
        (
            "a whole megabyte that lacks a byte",
            vec![send(framed(MAX_CONTROL as u32, 0, &vec![b' '; MAX_CONTROL - 1])), Act::Silence],
        ),
        ("a byte a second", vec![Act::Drip(failed(&"x".repeat(2000)))]),
        ("silence", vec![Act::Silence]),
        ("an end", vec![]),
        ("no bytes", vec![send(control("")), Act::Silence]),
        ("no JSON", vec![send(control("hello")), Act::Silence]),
        ("zeros", vec![send(control([0; 64])), Act::Silence]),
        (
            "no text",
            vec![
                send(control(b"{\"is\":\"failed\",\"message\":\"\xff\xed\xa0\x80\"}")),
                Act::Silence,
            ],
        ),
        ("a half pair", vec![send(control(r#"{"is":"failed","message":"\ud800"}"#)), Act::Silence]),
        ("a megabyte of spaces", vec![send(control(vec![b' '; MAX_CONTROL])), Act::Silence]),
        ("arrays 10,000 deep", vec![send(control(deep("[", "]"))), Act::Silence]),
        ("objects 10,000 deep", vec![send(control(deep("{\"is\":", "}"))), Act::Silence]),
        (
            "a message that holds 100 deep",
            vec![
                send(control(format!(
                    "{{\"x\":{}1{},\"is\":\"done\"}}",
                    "[".repeat(100),
                    "]".repeat(100)
                ))),
                Act::Silence,
            ],
        ),
        (
            "half a million values",
            vec![
                send(control(format!("{{\"x\":[{}0],\"is\":\"done\"}}", "0,".repeat(500_000)))),
                Act::Silence,
            ],
        ),
        (
            "a hundred thousand keys",
            vec![
                send(control(format!("{{{}\"is\":\"done\"}}", "\"a\":0,".repeat(100_000)))),
                Act::Silence,
            ],
        ),
        (
            "a key twice",
            vec![
                send(control(r#"{"is":"failed","is":"done","message":"a","message":"b"}"#)),
                Act::Silence,
            ],
        ),
        (
            "a message twice",
            vec![send(control(r#"{"is":"failed","message":"a","message":"b"}"#)), Act::Silence],
        ),
        (
            "a key too much",
            vec![send(control(r#"{"is":"done","host":"/etc/passwd"}"#)), Act::Silence],
        ),
        ("a message that is none", vec![send(control(r#"{"is":"root"}"#)), Act::Silence]),
        ("a message without a name", vec![send(control("{}")), Act::Silence]),
        ("a list", vec![send(control(r#"[{"is":"done"}]"#)), Act::Silence]),
        ("a number", vec![send(control("1e999999")), Act::Silence]),
        ("two values", vec![send(control(r#"{"is":"done"}{"is":"done"}"#)), Act::Silence]),
        (
            "a number for a text",
            vec![send(control(r#"{"is":"failed","message":1}"#)), Act::Silence],
        ),
        (
            "input for an answer",
            vec![send(encode(Kind::Stdin, b"{\"is\":\"done\"}")), Act::Silence],
        ),
        (
            "complaints for an answer",
            vec![send(encode(Kind::Stderr, b"{\"is\":\"done\"}")), Act::Silence],
        ),
        (
            "frames of no bytes without an end",
            vec![Act::Repeat(encode(Kind::Stderr, b"").repeat(1000))],
        ),
        ("a request for an answer", vec![send(control(r#"{"do":"watch"}"#)), Act::Silence]),
    ];
    values.into_iter().map(|(name, acts)| (name.to_string(), acts)).collect()
}

/// Every answer that there is: all but one are the wrong ones.
fn replies() -> Vec<(&'static str, Reply)> {
    vec![
        ("state", Reply::State(ready(1))),
        ("done", Reply::Done),
        ("failed", Reply::Failed { message: "\u{1b}]0;x\u{7}".repeat(2000) }),
        ("started", Reply::Started),
        ("taken", Reply::Taken),
        ("exit", Reply::Exit { code: 0 }),
        ("ports", Reply::Ports { ports: Vec::new() }),
        ("into", Reply::Into { name: Some("../../x".into()) }),
        ("took", Reply::Took { files: u64::MAX, bytes: u64::MAX, same: u64::MAX }),
        ("workspace", Reply::Workspace { at: "/etc".into(), revision: u64::MAX }),
    ]
}

/// What is asked of the guest in a call, and which answer is due.
const CALLS: [(Call, &str, &[&str]); 9] = [
    (Call::Observe, "watch", &["state"]),
    (Call::Identify, "identify", &["done"]),
    // Whatever it answers: its processes are stopped afterwards.
    (Call::ShutDown, "shutdown", &[]),
    (Call::Ship, "ship", &["workspace"]),
    (Call::Fetch, "survey", &["workspace"]),
    (Call::Ports, "ports", &["ports"]),
    (Call::Ssh, "ssh", &["done"]),
    // What comes is the client's to judge.
    (Call::Exec, "exec", &[]),
    (Call::Copy, "get", &[]),
];

fn states() -> Vec<(&'static str, Vec<Act>, Want)> {
    let one = |bytes: Vec<u8>| vec![send(bytes), Act::Silence];
    let json = |text: &str| one(control(text));
    let flood: Vec<u8> = (0..200u64)
        .flat_map(|n| state(|said| (said.generation, said.detail) = (Generation(n), n.to_string())))
        .collect();
    vec![
        ("states without an end", vec![Act::Repeat(flood)], Want::Value),
        (
            "goodbyes without an end",
            vec![Act::Repeat(state(|said| said.phase = Phase::Leaving))],
            Want::Value,
        ),
        ("one state, and an end", vec![send(state(|_| {}))], Want::Either),
        ("long texts", one(state(|said| said.detail = "x".repeat(900_000))), Want::Value),
        (
            "texts for a terminal",
            one(state(|said| said.detail = "\u{1b}]52;c;YQ==\u{7}\u{202e}\n".repeat(100))),
            Want::Value,
        ),
        (
            "another boot in each state",
            vec![Act::Repeat(
                [state(|s| s.boot_id = "a".into()), state(|s| s.boot_id = "b".into())].concat(),
            )],
            Want::Value,
        ),
        (
            "the last generation",
            one(state(|said| said.generation = Generation(u64::MAX))),
            Want::Value,
        ),
        (
            "a generation below zero",
            json(
                r#"{"is":"state","version":"","boot_id":"","generation":-1,"phase":"ready","detail":""}"#,
            ),
            Want::Error,
        ),
        (
            "a generation above all",
            json(
                r#"{"is":"state","version":"","boot_id":"","generation":18446744073709551616,"phase":"ready","detail":""}"#,
            ),
            Want::Error,
        ),
        (
            "a phase that is none",
            json(
                r#"{"is":"state","version":"","boot_id":"","generation":1,"phase":"root","detail":""}"#,
            ),
            Want::Error,
        ),
        (
            "another guest's name",
            json(
                r#"{"is":"state","sandbox":"good","version":"","boot_id":"","generation":1,"phase":"ready","detail":""}"#,
            ),
            Want::Error,
        ),
        (
            "a state and then garbage",
            vec![send([state(|_| {}), framed(u32::MAX, 0, b"")].concat()), Act::Silence],
            Want::Either,
        ),
    ]
}

fn ports() -> Vec<(&'static str, Vec<Act>, Want)> {
    let one = |port: &str, more: &str| {
        format!(r#"{{"protocol":"tcp","address":"127.0.0.1","port":{port},"program":"x"{more}}}"#)
    };
    let all = |ports: String| {
        vec![send(control(format!(r#"{{"is":"ports","ports":[{ports}]}}"#))), Act::Silence]
    };
    let many = |count: usize| all(vec![one("80", ""); count].join(","));
    vec![
        ("port 0", all(one("0", "")), Want::Value),
        ("port 65536", all(one("65536", "")), Want::Error),
        ("port -1", all(one("-1", "")), Want::Error),
        ("half a port", all(one("80.5", "")), Want::Error),
        ("a published port", all(one("80", r#","published":22"#)), Want::Error),
        (
            "a name for an address",
            all(one("80", "").replace("127.0.0.1", "localhost")),
            Want::Error,
        ),
        ("1,900 ports", many(1900), Want::Value),
        ("3,000 ports", many(3000), Want::Error),
        (
            "100,000 ports",
            vec![
                send(control(format!(r#"{{"is":"ports","ports":[{}0]}}"#, "0,".repeat(100_000)))),
                Act::Silence,
            ],
            Want::Error,
        ),
        (
            "a long program",
            all(one("80", "").replace("\"x\"", &format!("\"{}\"", "\\u001b[6n".repeat(50_000)))),
            Want::Value,
        ),
    ]
}

/// Answers of the guest's git.
fn commands() -> Vec<(&'static str, Vec<Act>, Want)> {
    let started = message(&Reply::Started);
    let exit = |code: &str| control(format!(r#"{{"is":"exit","code":{code}}}"#));
    let after = |rest: Vec<Act>| [vec![send(started.clone())], rest].concat();
    let out = |bytes: &[u8]| encode(Kind::Stdout, bytes);
    let ended = |code: &str| after(vec![send(exit(code))]);
    vec![
        ("exit -1", ended("-1"), Want::Value),
        ("exit 256", ended("256"), Want::Value),
        ("exit above all", ended("4294967296"), Want::Value),
        ("exit and a half", ended("0.5"), Want::Value),
        ("two exits", after(vec![send([exit("0"), exit("1")].concat())]), Want::Value),
        ("output without an end", after(vec![Act::Repeat(out(&[b'a'; MAX_CHUNK]))]), Want::Value),
        (
            "complaints without an end",
            after(vec![Act::Repeat(encode(Kind::Stderr, &[b'a'; MAX_CHUNK]))]),
            Want::Error,
        ),
        (
            "input without an end",
            after(vec![Act::Repeat(encode(Kind::Stdin, &[b'a'; MAX_CHUNK]))]),
            Want::Error,
        ),
        (
            "taken without an end",
            after(vec![Act::Repeat(message(&Reply::Taken).repeat(100))]),
            Want::Error,
        ),
        (
            "output of no text",
            after(vec![send([out(b"\xff\0\xfe\n\x1b[6n\n"), exit("0")].concat()), Act::Silence]),
            Want::Value,
        ),
        (
            "a branch that is an option",
            after(vec![send([out(b"--upload-pack=reboot\n"), exit("0")].concat()), Act::Silence]),
            Want::Value,
        ),
        (
            "a bundle that is none",
            after(vec![send([out(&[b'#'; 60_000]), exit("0")].concat()), Act::Silence]),
            Want::Value,
        ),
        ("nothing after the start", after(vec![Act::Silence]), Want::Either),
        ("an end after the start", after(vec![]), Want::Value),
    ]
}

/// Trees where files, or what was left alone, are due. They come after the workspace.
fn trees() -> Vec<(&'static str, Vec<u8>)> {
    let stream = |bytes: &[u8]| {
        let chunks = bytes.chunks(MAX_CHUNK).flat_map(|chunk| encode(Kind::Stdout, chunk));
        chunks.chain(encode(Kind::Stdout, &[])).collect::<Vec<u8>>()
    };
    let named = |name: &[u8]| tree(|to| drop(to.file(name, 0o644, &mut &b"x"[..])));
    let head = |kind: u8, length: u16| [&[kind][..], &length.to_be_bytes()].concat();
    vec![
        ("no tree", stream(b"")),
        ("a record that is none", stream(b"Z\0\x01aE")),
        ("a zero in a name", named(b"a\0b")),
        ("a name upwards", named(b"../../etc/passwd")),
        ("a name from the root", named(b"/etc/passwd")),
        ("no name", named(b"")),
        ("a name in .git", named(b".git/config")),
        ("a name in .GIT", named(b"a/.GIT/hooks/x")),
        ("a name of 65535", stream(&[head(b'F', u16::MAX), vec![b'a'; 65535]].concat())),
        (
            "a piece of 4 GiB",
            stream(&[head(b'F', 1), b"a\0\0\x01\xa4\xff\xff\xff\xfe".to_vec()].concat()),
        ),
        (
            "permissions out of bounds",
            stream(&[head(b'F', 1), b"a\xff\xff\xff\xff".to_vec()].concat()),
        ),
        (
            "a file without an end",
            stream(&[head(b'F', 1), b"a\0\0\x01\xa4\0\0\0\x01x".to_vec()].concat()),
        ),
        ("half a record", stream(b"F\0\x05a")),
        (
            "a hundred thousand things left out",
            tree(|to| (0..100_001).for_each(|_| drop(to.left_out(b"a", "")))),
        ),
        ("a link without a target", stream(&[head(b'L', 1), b"aX".to_vec()].concat())),
    ]
}

/// On the line of names.
fn names() -> Vec<(&'static str, Vec<Act>)> {
    let done = message(&Reply::Done);
    let after = |bytes: Vec<u8>| vec![send([done.clone(), bytes].concat()), Act::Silence];
    let asked = |question: &[u8]| encode(Kind::Stdout, &[&[0, 0, 0, 0, 1][..], question].concat());
    let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x04good\x01p\x02vm\0\0\x01\0\x01";
    vec![
        ("a question of no bytes", after(encode(Kind::Stdout, b""))),
        ("a question without a header", after(encode(Kind::Stdout, b"\0\0\0\0\0"))),
        ("a question of 5 kB", after(asked(&[7; 5000]))),
        ("a question of 64 kB", after(encode(Kind::Stdout, &[7; MAX_CHUNK]))),
        ("a message for a question", after(done.clone())),
        ("input for a question", after(encode(Kind::Stdin, question))),
        (
            "a compressed name that leads to itself",
            after(asked(b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01")),
        ),
        (
            "65535 questions in one",
            after(asked(b"\0\x01\x01\0\xff\xff\0\0\0\0\0\0\x01a\0\0\x01\0\x01")),
        ),
        (
            "an answer for a question",
            after(asked(b"\0\x01\x81\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01")),
        ),
        (
            "questions without an end, and no answer is read",
            vec![send(done.clone()), Act::Repeat(asked(question).repeat(50))],
        ),
        ("half a question", after(asked(question)[..12].to_vec())),
        ("no line of names", vec![send(failed("no")), Act::Silence]),
        ("a line that ends at once", vec![send(done.clone())]),
    ]
}

/// All of it.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |call: Call, at: At, name: &str, acts: Vec<Act>, want: Want| {
        all.push(Case { name: name.to_string(), call, at, acts, want });
    };
    for (name, acts) in lines() {
        for call in [Call::Observe, Call::Identify, Call::Fetch] {
            let want =
                if name == "an answer before the question" { Want::Either } else { Want::Error };
            add(call, At::Connect, name, acts.clone(), want);
        }
    }
    for (call, asked, due) in CALLS {
        let raw = [Call::Exec, Call::Copy, Call::ShutDown].contains(&call);
        for (name, acts) in broken() {
            // A key that a message without any has too much is not looked at.
            let either = raw || due == ["done"] && name == "a key too much";
            add(
                call,
                At::Asked(asked),
                &name,
                acts,
                if either { Want::Either } else { Want::Error },
            );
        }
        for (name, reply) in replies() {
            let want = if due.contains(&name) || raw { Want::Either } else { Want::Error };
            add(call, At::Asked(asked), name, vec![send(message(&reply)), Act::Silence], want);
        }
    }
    for (name, acts, want) in states() {
        add(Call::Observe, At::Asked("watch"), name, acts, want);
    }
    for (name, acts, want) in ports() {
        add(Call::Ports, At::Asked("ports"), name, acts, want);
    }
    for (name, acts, want) in commands() {
        add(Call::Fetch, At::Asked("exec"), name, acts.clone(), want);
        add(Call::Exec, At::Asked("exec"), name, acts, Want::Either);
    }
    for (name, bytes) in trees() {
        let acts = vec![send([workspace(1), bytes.clone()].concat()), Act::Silence];
        // What may not come back is named, and the rest comes.
        let want = if name.to_lowercase().ends_with(".git") { Want::Value } else { Want::Error };
        add(Call::Fetch, At::Asked("survey"), name, acts, want);
        let acts = vec![send([workspace(0), bytes].concat()), Act::Silence];
        add(Call::Ship, At::Asked("ship"), name, acts, Want::Error);
    }
    for call in [Call::Ship, Call::Fetch] {
        let (asked, first) = if call == Call::Ship { ("ship", 0) } else { ("survey", 1) };
        let chunks =
            encode(Kind::Stdout, &tree(|to| drop(to.left_out(b"a", "why")))[HEADER..HEADER + 9]);
        let started = |rest: Vec<Act>| [vec![send(workspace(first))], rest].concat();
        add(
            call,
            At::Asked(asked),
            "a tree without an end",
            started(vec![Act::Repeat(chunks)]),
            Want::Error,
        );
        add(
            call,
            At::Asked(asked),
            "a tree a byte a second",
            started(vec![Act::Drip(vec![0; 10_000])]),
            Want::Error,
        );
        add(
            call,
            At::Asked(asked),
            "nothing after the start",
            started(vec![Act::Silence]),
            Want::Error,
        );
        add(
            call,
            At::Asked(asked),
            "everything is read, nothing is said",
            started(vec![Act::Swallow]),
            Want::Error,
        );
        add(call, At::Asked(asked), "an end after the start", started(vec![]), Want::Error);
        add(
            call,
            At::Asked(asked),
            "a failure after the start",
            started(vec![send(failed("no"))]),
            Want::Error,
        );
    }
    for (name, acts) in names() {
        add(Call::Names, At::Asked("names"), name, acts, Want::Either);
    }
    all
}
