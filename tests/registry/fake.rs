//! A registry that misbehaves: one small image, and whatever a test wants to answer instead.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request, as far as it matters here.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) path: String,
    /// Header lines in lower case.
    pub(super) headers: Vec<String>,
    /// How often this path was asked for before.
    pub(super) before: usize,
}

impl Request {
    pub(super) fn has(&self, start: &str) -> bool {
        self.headers.iter().any(|line| line.starts_with(start))
    }

    /// The first byte that is asked for.
    pub(super) fn from(&self) -> usize {
        let range = self.headers.iter().find_map(|line| line.strip_prefix("range: bytes="));
        range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0)
    }
}

/// What is done instead of the right thing.
pub(super) enum Act {
    /// The right thing.
    Right,
    /// A status, header lines and a body, with its length said.
    Say(u16, Vec<String>, Vec<u8>),
    /// These bytes as they are, then the end.
    Raw(Vec<u8>),
    /// A header, then this chunk so often (0: for ever) with a pause in milliseconds between.
    Drip(Vec<u8>, Vec<u8>, usize, u64),
}

pub(super) type Behaviour = Box<dyn Fn(&Request, &Image) -> Act + Send + Sync>;

/// The image that the fake serves, by paths.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) layer: Vec<u8>,
    pub(super) config: Value,
    pub(super) manifest: Value,
    /// More documents, by digest.
    pub(super) more: BTreeMap<String, Vec<u8>>,
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Image {
    /// A layer of 300 KiB that nothing can make smaller.
    pub(super) fn new() -> Self {
        let mut number = 1u32;
        let noise = std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 24) as u8
        });
        let layer: Vec<u8> = noise.take(300 << 10).collect();
        let config = json!({ "os": "linux", "architecture": "amd64",
            "rootfs": { "type": "layers", "diff_ids": [sha256(&layer)] } });
        let mut image = Self { layer, config, manifest: Value::Null, more: BTreeMap::new() };
        image.seal();
        image
    }

    /// Makes the manifest name what is there.
    pub(super) fn seal(&mut self) {
        let config = self.config.to_string();
        self.manifest = json!({ "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config.as_bytes()), "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": sha256(&self.layer), "size": self.layer.len() }] });
    }

    pub(super) fn digest(&self) -> String {
        sha256(self.manifest.to_string().as_bytes())
    }

    /// The right answer: media type and bytes.
    fn right(&self, path: &str) -> Option<(&'static str, Vec<u8>)> {
        let digest = path.rsplit('/').next().unwrap_or_default();
        let (config, manifest) = (self.config.to_string(), self.manifest.to_string());
        if let Some(bytes) = self.more.get(digest) {
            return Some(("application/json", bytes.clone()));
        }
        if path.contains("/manifests/") {
            let whole = digest == "1" || digest == self.digest();
            // Only a registry that is wrong on purpose says another kind than the document.
            return whole.then(|| ("application/json", manifest.into_bytes()));
        }
        if digest == sha256(config.as_bytes()) {
            return Some(("application/octet-stream", config.into_bytes()));
        }
        (digest == sha256(&self.layer)).then(|| ("application/octet-stream", self.layer.clone()))
    }
}

/// A running fake.
pub(super) struct Fake {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub(super) fn start(image: Image, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let (shared, inner) = (asked.clone(), Arc::new((image, behaviour)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (asked, inner) = (shared.clone(), inner.clone());
                std::thread::spawn(move || serve(client, &asked, &inner.0, &inner.1));
            }
        });
        Self { port, asked }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

/// One request for each connection.
fn serve(client: TcpStream, asked: &Mutex<Vec<Request>>, image: &Image, behaviour: &Behaviour) {
    let mut reader = BufReader::new(client.try_clone().expect("clones"));
    let (mut line, mut headers) = (String::new(), Vec::new());
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(1..) if !header.trim().is_empty() => headers.push(header.trim().to_lowercase()),
            _ => break,
        }
    }
    let request = {
        let mut all = asked.lock().expect("no holder panics");
        let before = all.iter().filter(|earlier| earlier.path == path).count();
        let request = Request { path, headers, before };
        all.push(request.clone());
        request
    };
    let mut client = client;
    // Whoever hangs up early has seen enough.
    let _ = answer(&mut client, &request, image, behaviour(&request, image));
    let _ = client.shutdown(std::net::Shutdown::Write);
    let _ = client.set_read_timeout(Some(std::time::Duration::from_secs(1)));
    let _ = client.read(&mut [0; 1]);
}

fn answer(
    client: &mut TcpStream,
    request: &Request,
    image: &Image,
    act: Act,
) -> std::io::Result<()> {
    let say = |client: &mut TcpStream, status: u16, headers: &[String], body: &[u8]| {
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str("Connection: close\r\n\r\n");
        client.write_all(head.as_bytes())?;
        client.write_all(body)
    };
    match act {
        Act::Right => match image.right(&request.path) {
            None => say(client, 404, &[], b"{}"),
            Some((kind, body)) => {
                let from = request.from().min(body.len());
                let status = if request.has("range:") { 206 } else { 200 };
                let range =
                    format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len());
                let headers = [format!("Content-Type: {kind}"), range];
                say(client, status, &headers[..if status == 206 { 2 } else { 1 }], &body[from..])
            }
        },
        Act::Say(status, headers, body) => say(client, status, &headers, &body),
        Act::Raw(bytes) => client.write_all(&bytes),
        Act::Drip(head, chunk, times, pause) => {
            client.write_all(&head)?;
            let mut sent = 0;
            while times == 0 || sent < times {
                client.write_all(&chunk)?;
                std::thread::sleep(std::time::Duration::from_millis(pause));
                sent += 1;
            }
            Ok(())
        }
    }
}
