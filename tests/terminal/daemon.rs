//! A daemon that answers every request with hostile text wherever text may stand.

use super::corpus;
use banger_schema::Spec;
use banger_schema::spec::{ImageSource, ImageSpec, OciImage, SandboxSpec};
use banger_tree::stream::Sender;
use banger_wire::agent::Reply;
use banger_wire::api::facts::{Bridge, Facts};
use banger_wire::api::workspace::{Branch, Change, Pushed, Returned};
use banger_wire::api::{
    Applied, Artifact, CachedBlob, Event, Phase, Plan, PlanLine, Port, Problem, ProblemKind,
    Programs, RemoteCatalog, Resolved, SandboxStats, SandboxStatus, Snapshot, Status, Version,
    VolumeStatus,
};
use banger_wire::frame::{Kind, encode};
use banger_wire::helper::{self, NetworkSupport};
use banger_wire::id::{Generation, Name, SandboxId};
use banger_wire::machine::Backend;
use banger_wire::net::{Egress, Subnet};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What kind of answers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Those that are due, with hostile text in them.
    Due,
    /// As these, and a change needs a yes.
    Asks,
    /// Problems with hostile messages and hints.
    Problem,
    /// Errors that are hostile bytes.
    Garbage,
    /// Names that are none.
    BadNames,
}

enum Answer {
    Body(u16, Vec<u8>),
    Upgrade,
}

/// The daemon. Its threads end with the test's process.
pub(super) struct Daemon {
    mode: Arc<Mutex<Mode>>,
}

struct World {
    texts: Vec<String>,
    /// All of them in one.
    all: String,
    returned: Returned,
    count: AtomicU32,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

impl Daemon {
    pub(super) fn start(home: &Path, repository: &Repository) -> Self {
        std::fs::create_dir_all(home.join("run")).expect("a folder");
        let listener = UnixListener::bind(home.join("run/bangerd.sock")).expect("listens");
        let mode = Arc::new(Mutex::new(Mode::Due));
        let texts = corpus::texts();
        let all = texts.join("|");
        let returned = returned(&texts, &all, repository);
        let world = Arc::new(World { texts, all, returned, count: AtomicU32::new(0) });
        let told = mode.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (world, mode) = (world.clone(), *told.lock().expect("no holder panics"));
                // A client that goes away is no error of ours.
                std::thread::spawn(move || drop(world.serve(stream, mode)));
            }
        });
        Self { mode }
    }

    pub(super) fn set(&self, mode: Mode) {
        *self.mode.lock().expect("no holder panics") = mode;
    }
}

/// A repository of the daemon's with hostile names, commits and content in it, and the folder that it came from.
pub(super) struct Repository {
    pub(super) folder: PathBuf,
    pub(super) kept: PathBuf,
    pub(super) base: String,
    pub(super) files: String,
    pub(super) commit: String,
    pub(super) shipped: String,
}

fn returned(texts: &[String], all: &str, repository: &Repository) -> Returned {
    let change = |text: &String| Change {
        sign: '\u{9b}',
        name: text.clone(),
        habit: text.len().is_multiple_of(2),
    };
    Returned {
        folder: repository.folder.display().to_string(),
        kept: repository.kept.display().to_string(),
        at: all.into(),
        revision: 1,
        shipped_head: Some(repository.shipped.clone()),
        base: repository.base.clone(),
        files: repository.files.clone(),
        head: Some(repository.commit.clone()),
        branch: Some(all.into()),
        branches: vec![Branch { name: all.into(), commit: repository.commit.clone() }],
        commits: 3,
        uncommitted: None,
        changes: texts.iter().map(change).collect(),
        left_out: texts.to_vec(),
        notes: texts.to_vec(),
        failed: Some(all.into()),
    }
}

fn sandbox(project: &str, own: &str, text: &str) -> SandboxStatus {
    SandboxStatus {
        project: name(project),
        name: name(own),
        id: SandboxId::from_bits(7),
        phase: Phase::Degraded,
        reason: text.into(),
        settled: false,
        generation: Generation(1),
        observed_generation: Generation(1),
        image: text.into(),
        cpus: 1,
        memory: text.into(),
        uptime_secs: Some(1),
        boot_id: Some(text.into()),
        vmm: Some(text.into()),
        address: None,
        networks: Vec::new(),
        egress: Egress::Public,
        ports: vec![text.into(), text.into()],
        failures: 1,
        next_try_secs: Some(3),
        ephemeral: false,
    }
}

fn framed(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(kind.limit()).flat_map(|chunk| encode(kind, chunk)).collect()
}

fn message(of: &Value) -> Vec<u8> {
    encode(Kind::Control, of.to_string().as_bytes())
}

impl World {
    fn problem(&self) -> Problem {
        Problem { kind: ProblemKind::User, message: self.all.clone(), hints: self.texts.clone() }
    }

    fn artifact(&self, own: &str, recipe: &str) -> Artifact {
        Artifact {
            recipe: recipe.into(),
            source: self.all.clone(),
            names: vec![format!("p/{own}"), self.all.clone()],
            content: Some(self.all.clone()),
            bytes: Some(1),
            details: self.texts.clone(),
            used_by: self.texts.clone(),
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for text in &self.texts {
            let (resource, action) = (text.clone(), text.clone());
            events.push(Event::Started { resource: resource.clone(), action: action.clone() });
            for (done, total) in [(1, 0), (u64::MAX, 3)] {
                let (resource, action) = (resource.clone(), action.clone());
                events.push(Event::Progress { resource, action, done, total });
            }
            events.push(Event::Phase {
                resource: text.clone(),
                phase: Phase::Failed,
                reason: text.clone(),
            });
            events.push(match text.len() % 2 {
                0 => Event::Done { resource, action },
                _ => Event::Failed {
                    resource,
                    action,
                    error: Problem { message: text.clone(), ..self.problem() },
                },
            });
        }
        events
    }

    fn applied(&self, accepted: bool) -> Applied {
        let line = |text: &String| PlanLine {
            sign: text.chars().nth(1).unwrap_or('\u{1b}'),
            resource: text.chars().take(60).collect(),
            action: text.clone(),
            cause: text.clone(),
            destroys: true,
        };
        let plan = Plan { lines: self.texts.iter().map(line).collect() };
        Applied { plan, accepted, destroys: self.texts.clone(), change: 1 }
    }

    fn spec(&self) -> Spec {
        let mut spec = Spec::default();
        let image = OciImage { reference: self.all.clone(), digest: None };
        spec.images
            .insert(name("kept"), ImageSpec { source: ImageSource::Oci(image), kernel: None });
        let sandbox =
            SandboxSpec { provision: self.texts.clone(), ..SandboxSpec::new(name("kept")) };
        spec.sandboxes.insert(name("web"), sandbox);
        spec
    }

    fn status(&self, mode: Mode) -> Value {
        let mut sandboxes = vec![sandbox("p", "web", "a\u{9b}6n")];
        let groups = corpus::groups();
        sandboxes.extend(
            groups.iter().enumerate().map(|(n, text)| sandbox("q", &format!("s{n}"), text)),
        );
        let volume = |text: &String| VolumeStatus {
            project: name("p"),
            name: name("data"),
            size: text.clone(),
            present: false,
        };
        let volumes = self.texts.iter().map(volume).collect();
        let mut status = json!(Status { sandboxes, volumes, foreign: self.texts.clone() });
        if mode == Mode::BadNames {
            status["sandboxes"][0]["phase"] = json!(self.all);
        }
        status
    }

    /// With everything that can be said in words.
    fn facts(&self, mode: Mode) -> Facts {
        let helper = helper::Facts {
            cgroup2: false,
            controllers: Vec::new(),
            network: NetworkSupport::NoNft,
            firecracker: Err(self.all.clone()),
            qemu: Err(self.all.clone()),
        };
        let why = |backend| (backend, self.all.clone());
        Facts {
            vmm: Backend::Qemu,
            why: self.all.clone(),
            missing: [Backend::Firecracker, Backend::Qemu].map(why).into(),
            helper: Some(if mode == Mode::Due { Ok(helper) } else { Err(self.problem()) }),
            lacks: self.texts.iter().cloned().chain(["mke2fs".to_string()]).collect(),
            subnet: None,
            free: Some(Subnet::all().collect()),
            bridge: Some(Bridge { forwards: false, enforced: false, names_routed: None }),
        }
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let one = |text: &String| Snapshot {
            project: name("p"),
            name: name("early"),
            sandbox: name("web"),
            taken: true,
            taken_secs: u64::MAX,
            memory: false,
            size: text.clone(),
            bytes: u64::MAX,
            reason: text.clone(),
        };
        self.texts.iter().map(one).collect()
    }

    fn stats(&self) -> Vec<SandboxStats> {
        let zero = SandboxStats {
            project: name("p"),
            name: name("web"),
            at_ns: 0,
            cpus: 1,
            cpu_ns: u64::MAX,
            memory_bytes: 0,
            memory_limit_bytes: 0,
            disk_bytes: 0,
            disk_limit_bytes: 0,
            disk_read_bytes: 0,
            disk_written_bytes: 0,
            net_received_bytes: 0,
            net_sent_bytes: 0,
            processes: 1,
        };
        vec![zero]
    }

    /// What follows an upgrade.
    fn stream(&self, path: &str, first: &[u8]) -> Vec<u8> {
        let output = || {
            let bytes = corpus::stream();
            let exit = message(&json!(Reply::Exit { code: -7 }));
            [framed(Kind::Stdout, &bytes), framed(Kind::Stderr, &bytes), exit].concat()
        };
        if path.ends_with("/exec") {
            return [message(&json!(Reply::Started)), output()].concat();
        }
        if path.ends_with("/run") {
            let events: Vec<u8> =
                self.events().iter().flat_map(|event| message(&json!(event))).collect();
            let ready = message(&json!(Event::Settled { ok: true, problems: Vec::new() }));
            return [events, ready, message(&json!(Reply::Started)), output()].concat();
        }
        // A copy: what is asked for stands in the first frame.
        if first.windows(5).any(|part| part == b"/fail") {
            return message(&json!(Reply::Failed { message: self.all.clone() }));
        }
        if first.windows(5).any(|part| part == b"\"put\"") {
            let took = Reply::Took { files: 1, bytes: 1, same: 1 };
            return [message(&json!(Reply::Into { name: None })), message(&json!(took))].concat();
        }
        let mut tree = Sender::new(Vec::new());
        tree.file(b"got/\x1b[6n", 0o644, &mut &b"x"[..]).expect("sends");
        for text in &self.texts {
            tree.left_out(text.get(..text.len().min(200)).unwrap_or("x").as_bytes(), "why")
                .expect("sends");
        }
        let tree = tree.end().expect("ends");
        [message(&json!(Reply::Done)), framed(Kind::Stdout, &tree), encode(Kind::Stdout, &[])]
            .concat()
    }

    fn answer(&self, method: &str, path: &str, mode: Mode) -> Answer {
        let (bare, _) = path.split_once('?').unwrap_or((path, ""));
        let last = bare.rsplit('/').next().unwrap_or_default();
        let one = "0123456789abcdef".repeat(4);
        let body = match (method, last) {
            ("GET", "version") => {
                json!(Version { version: self.all.clone(), pid: 1, vmm: self.all.clone() })
            }
            ("GET", "facts") => json!(self.facts(mode)),
            ("GET", "programs") => {
                json!(Programs { agent: self.all.clone(), vmm: self.all.clone() })
            }
            ("GET", "status") => self.status(mode),
            ("GET", "images" | "kernels") => {
                json!([
                    self.artifact("base", &one),
                    self.artifact("evil", &self.all),
                    self.artifact("tiny", "\u{9b}")
                ])
            }
            ("GET", "snapshots") => json!(self.snapshots()),
            ("GET", "spec") => json!(self.spec()),
            ("POST", "resolve") => {
                let now = format!("{}{}", self.all, self.count.fetch_add(1, Ordering::SeqCst));
                json!(Resolved { now, known: Some(self.all.clone()) })
            }
            ("GET", "catalog") => {
                let (address, text, signature) =
                    (self.all.clone(), self.all.clone(), self.all.clone());
                json!(RemoteCatalog { address, text, signature })
            }
            ("POST", "login") => Value::Null,
            ("POST", "logout") => json!(true),
            ("GET", "blobs") | ("POST", "prune") => {
                let blob =
                    |digest: &String| CachedBlob { digest: digest.clone(), bytes: 1, whole: false };
                json!(self.texts.iter().map(blob).collect::<Vec<_>>())
            }
            ("POST", "apply" | "destroy" | "edit") => json!(self.applied(mode != Mode::Asks)),
            ("GET", "events") => {
                let problems = self
                    .texts
                    .iter()
                    .map(|text| Problem { message: text.clone(), ..self.problem() });
                let settled = Event::Settled { ok: false, problems: problems.take(3).collect() };
                let lines = self.events().into_iter().chain([settled]);
                let lines = lines.map(|event| serde_json::to_string(&event).expect("JSON") + "\n");
                return Answer::Body(200, lines.collect::<String>().into_bytes());
            }
            ("GET", "logs") => return Answer::Body(200, corpus::stream()),
            ("GET", "ports") => {
                let port = |text: &String| Port {
                    protocol: text.clone(),
                    address: None,
                    port: 1,
                    program: text.clone(),
                    published: Some(1),
                };
                json!(corpus::groups().iter().map(port).collect::<Vec<_>>())
            }
            ("GET", "stats") => json!(self.stats()),
            ("GET", "key") => json!(self.all),
            ("POST", "push") => {
                let (conflicts, left_out) = (self.texts.clone(), self.texts.clone());
                json!(Pushed { files: 1, bytes: 1, removed: 1, conflicts, left_out })
            }
            ("POST", "fetch") => json!(self.returned),
            ("POST", "exec" | "run" | "files") => return Answer::Upgrade,
            ("GET", _) if bare.contains("/projects/") => json!(self.spec()),
            ("DELETE", _) => Value::Null,
            _ => return Answer::Body(422, serde_json::to_vec(&self.problem()).expect("JSON")),
        };
        Answer::Body(200, serde_json::to_vec(&body).expect("JSON"))
    }

    fn serve(&self, mut stream: UnixStream, mode: Mode) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // Names and places are told as they are, or nothing else would be asked for.
        let known =
            ["/v1/status", "/v1/version"].contains(&path.split('?').next().unwrap_or_default());
        let answer = match mode {
            Mode::Problem if !known => {
                Answer::Body(409, serde_json::to_vec(&self.problem()).expect("JSON"))
            }
            Mode::Garbage if !known => Answer::Body(500, corpus::stream()),
            Mode::Due | Mode::Asks | Mode::Problem | Mode::Garbage | Mode::BadNames => {
                self.answer(method, path, mode)
            }
        };
        match answer {
            Answer::Body(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(&[head.as_bytes(), &body].concat())
            }
            Answer::Upgrade => {
                stream.write_all(
                    b"HTTP/1.1 101 Said\r\nconnection: upgrade\r\nupgrade: banger\r\n\r\n",
                )?;
                let mut first = [0; 5];
                reader.read_exact(&mut first)?;
                let length = u32::from_be_bytes([first[0], first[1], first[2], first[3]]);
                let mut first = vec![0; length as usize];
                reader.read_exact(&mut first)?;
                stream.write_all(&self.stream(path, &first))?;
                // Until the client has seen enough.
                std::io::copy(&mut reader, &mut std::io::sink()).map(drop)
            }
        }
    }
}
