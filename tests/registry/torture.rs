//! A registry that does everything wrong that registries, proxies and networks do (F38): the right error, bounded
//! tries, and nothing half-made under a final name.

use super::fake::{Act, Behaviour, Fake, Image, Request, sha256};
use banger_reconciler::registry::Registry;
use banger_schema::spec::OciImage;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What has to become of it.
enum Verdict {
    Pulled,
    /// Refused with this in the message or a hint.
    Error(&'static str),
}
use Verdict::{Error, Pulled};

struct Case {
    name: &'static str,
    image: Image,
    behaviour: Behaviour,
    verdict: Verdict,
}

fn case(
    name: &'static str,
    verdict: Verdict,
    behaviour: impl Fn(&Request, &Image) -> Act + Send + Sync + 'static,
) -> Case {
    Case { name, image: Image::new(), behaviour: Box::new(behaviour), verdict }
}

/// An image that is wrong in itself, from a registry that does nothing wrong.
fn wrong(name: &'static str, error: &'static str, change: impl FnOnce(&mut Image)) -> Case {
    let mut image = Image::new();
    change(&mut image);
    Case { name, image, behaviour: Box::new(|_, _| Act::Right), verdict: Error(error) }
}

fn status(status: u16, headers: &[&str]) -> Act {
    Act::Say(status, headers.iter().map(ToString::to_string).collect(), b"{}".to_vec())
}

fn page() -> Act {
    let headers = vec!["Content-Type: text/html; charset=utf-8".to_string()];
    Act::Say(200, headers, b"<html><body>Please log in to this network</body></html>".to_vec())
}

fn is_manifest(request: &Request) -> bool {
    request.path.contains("/manifests/")
}

fn is_layer(request: &Request, image: &Image) -> bool {
    request.path.ends_with(&sha256(&image.layer))
}

/// Does it for every manifest.
fn manifests(
    act: impl Fn(&Request) -> Act + Send + Sync + 'static,
) -> impl Fn(&Request, &Image) -> Act {
    move |request, _| if is_manifest(request) { act(request) } else { Act::Right }
}

/// Does it for the layer.
fn layers(
    act: impl Fn(&Request, &Image) -> Act + Send + Sync + 'static,
) -> impl Fn(&Request, &Image) -> Act {
    move |request, image| if is_layer(request, image) { act(request, image) } else { Act::Right }
}

/// Does it for the first request of the layer only.
fn once(
    act: impl Fn(&Request, &Image) -> Act + Send + Sync + 'static,
) -> impl Fn(&Request, &Image) -> Act {
    layers(move |request, image| if request.before == 0 { act(request, image) } else { Act::Right })
}

fn head(length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

/// The layer from where it was asked, cut after so many bytes.
fn cut(request: &Request, image: &Image, after: usize) -> Act {
    let rest = &image.layer[request.from()..];
    let total = image.layer.len();
    let mut bytes = match request.from() {
        0 => head(total),
        from => format!(
            "HTTP/1.1 206 OK\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{total}\r\n\r\n",
            rest.len(),
            total - 1
        )
        .into_bytes(),
    };
    bytes.extend_from_slice(&rest[..after.min(rest.len())]);
    Act::Raw(bytes)
}

fn answers() -> Vec<Case> {
    let busy = |request: &Request| {
        if request.before == 0 { status(429, &["Retry-After: 1"]) } else { Act::Right }
    };
    let down = |request: &Request| {
        if request.before < 2 { status(503, &["Retry-After: 1"]) } else { Act::Right }
    };
    vec![
        case("429 once", Pulled, manifests(busy)),
        case("429 for ever", Error("too often"), manifests(|_| status(429, &[]))),
        case("503 twice", Pulled, manifests(down)),
        case("500 for ever", Error("has trouble: it answers 500"), manifests(|_| status(500, &[]))),
        case("404", Error("has no image"), manifests(|_| status(404, &[]))),
        case("403", Error("does not let us have"), manifests(|_| status(403, &[]))),
        case("401 without a challenge", Error("do not know"), manifests(|_| status(401, &[]))),
        case(
            "401 basic",
            Error("image login"),
            manifests(|_| status(401, &["WWW-Authenticate: Basic realm=\"x\""])),
        ),
        case("a login page for a manifest", Error("web page"), manifests(|_| page())),
        case("a login page for a blob", Error("web page"), layers(|_, _| page())),
        case("a large manifest", Error("larger than"), manifests(|_| Act::Raw(head(5 << 20)))),
        case(
            "an endless manifest",
            Error("larger than"),
            manifests(|_| {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                let chunk = [b"10000\r\n".as_slice(), &[b' '; 65536], b"\r\n"].concat();
                Act::Drip(head, chunk, 0, 0)
            }),
        ),
        case(
            "no HTTP at all",
            Error("127.0.0.1"),
            manifests(|_| Act::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec())),
        ),
        case("nothing at all", Error("127.0.0.1"), manifests(|_| Act::Raw(Vec::new()))),
        case(
            "endless headers",
            Error("127.0.0.1"),
            manifests(|_| {
                Act::Drip(
                    b"HTTP/1.1 200 OK\r\n".to_vec(),
                    b"X-Y: zzzzzzzzzzzzzzzz\r\n".repeat(1000),
                    100,
                    0,
                )
            }),
        ),
        case(
            "another manifest",
            Error("another manifest"),
            manifests(|_| {
                let mut other = Image::new();
                other.layer.truncate(100);
                other.seal();
                Act::Say(200, Vec::new(), other.manifest.to_string().into_bytes())
            }),
        ),
        case(
            "no JSON",
            Error("manifest is broken"),
            manifests(|_| Act::Say(200, Vec::new(), b"{".to_vec())),
        ),
        case(
            "said to be an index",
            Error("was said to be"),
            manifests(|_| {
                let kind = "Content-Type: application/vnd.oci.image.index.v1+json".to_string();
                Act::Say(200, vec![kind], Image::new().manifest.to_string().into_bytes())
            }),
        ),
    ]
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn images() -> Vec<Case> {
    let field = |path: &'static str, value: Value| {
        move |image: &mut Image| {
            *image.manifest.pointer_mut(path).expect("a field") = value;
        }
    };
    vec![
        wrong("an index and an image at once", "at once", |image| {
            image.manifest["manifests"] = json!([])
        }),
        wrong("no layers", "no layers", field("/layers", json!([]))),
        wrong("128 layers", "more than 127", |image| {
            let layer = image.manifest["layers"][0].clone();
            image.manifest["layers"] = json!(vec![layer; 128]);
        }),
        wrong("fewer diff_ids than layers", "diff_ids", |image| {
            image.config["rootfs"]["diff_ids"] = json!([]);
            image.seal();
        }),
        wrong("for another processor", "for linux/arm64", |image| {
            image.config["architecture"] = json!("arm64");
            image.seal();
        }),
        wrong("the first format", "first format", |image| {
            image.manifest = json!({ "schemaVersion": 1, "fsLayers": [] })
        }),
        wrong("a negative size", "negative", field("/layers/0/size", json!(-1))),
        wrong(
            "another kind of digest",
            "not a SHA-256",
            field("/layers/0/digest", json!("sha512:aa")),
        ),
        wrong(
            "a path for a digest",
            "not a SHA-256",
            field("/layers/0/digest", json!("sha256:../../../../etc/passwd")),
        ),
        wrong("a large configuration", "too large", field("/config/size", json!(9 << 20))),
        wrong(
            "a layer of something else",
            "kind",
            field("/layers/0/mediaType", json!("application/wasm")),
        ),
        wrong("no configuration", "broken", |image| {
            drop(image.manifest.as_object_mut().expect("an object").remove("config"))
        }),
        wrong("an index without us", "no image for linux/amd64", |image| {
            image.manifest = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.digest(), "size": 1, "platform": { "os": "linux", "architecture": "s390x" } }] });
        }),
        wrong("an index that leads on and on", "more than 4 times", |image| {
            for _ in 0..6 {
                let below = image.manifest.to_string();
                image.more.insert(sha256(below.as_bytes()), below.clone().into_bytes());
                image.manifest = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "mediaType": "application/vnd.oci.image.index.v1+json",
                    "digest": sha256(below.as_bytes()), "size": below.len() }] });
            }
        }),
    ]
}

fn blobs() -> Vec<Case> {
    let garbage = |image: &Image| Act::Say(200, Vec::new(), vec![7; image.layer.len()]);
    let lead = |to: String| Act::Say(307, vec![format!("Location: {to}")], Vec::new());
    vec![
        case("other bytes for ever", Error("other bytes"), layers(move |_, image| garbage(image))),
        case("other bytes once", Pulled, once(move |_, image| garbage(image))),
        case(
            "too long",
            Error("would send"),
            layers(|_, image| Act::Raw(head(image.layer.len() + 1))),
        ),
        case(
            "too short",
            Error("would send"),
            layers(|_, image| Act::Raw(head(image.layer.len() - 1))),
        ),
        case(
            "cut at once, for ever",
            Error("broke"),
            layers(|_, image| Act::Raw(head(image.layer.len()))),
        ),
        case("cut now and then", Pulled, layers(|request, image| cut(request, image, 150 << 10))),
        case(
            "no ranges after a cut",
            Pulled,
            layers(|request, image| {
                if request.before == 0 {
                    return cut(request, image, 100 << 10);
                }
                let mut whole = request.clone();
                whole.headers.clear();
                cut(&whole, image, usize::MAX)
            }),
        ),
        case(
            "another range than was asked",
            Pulled,
            layers(|request, image| match request.before {
                0 => cut(request, image, 100 << 10),
                1 => Act::Say(206, vec!["Content-Range: bytes 5-9/307200".into()], vec![0; 5]),
                _ => Act::Right,
            }),
        ),
        case(
            "416 after a cut",
            Pulled,
            layers(|request, image| match request.before {
                0 => cut(request, image, 100 << 10),
                1 => status(416, &[]),
                _ => Act::Right,
            }),
        ),
        case(
            "chunks for ever",
            Error("sends more than"),
            layers(|_, _| {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                Act::Drip(head, [b"1000\r\n".as_slice(), &[1; 4096], b"\r\n"].concat(), 0, 0)
            }),
        ),
        case(
            "leads in a circle",
            Error("and nowhere"),
            layers(move |request, _| lead(request.path.clone())),
        ),
        case(
            "leads to http elsewhere",
            Error("not https"),
            layers(move |_, _| lead("http://192.0.2.1/x".into())),
        ),
        case(
            "leads to a password",
            Error("password"),
            layers(move |request, _| lead(format!("http://a:b@127.0.0.1{}", request.path))),
        ),
        case(
            "leads to a file",
            Error("not https"),
            layers(move |_, _| lead("file:///etc/passwd".into())),
        ),
        case("leads to no address", Error("no address"), layers(|_, _| status(302, &[]))),
        case(
            "silence, then better",
            Pulled,
            once(|_, image| Act::Drip(head(image.layer.len()), vec![1], 1, 40_000)),
        ),
        case(
            "a byte now and then",
            Pulled,
            once(|request, image| {
                let bytes = image.layer[request.from()..][..64].to_vec();
                Act::Drip(head(image.layer.len()), bytes[..1].to_vec(), 80, 1000)
            }),
        ),
    ]
}

/// The challenge of a registry whose tokens are at a path of its own.
fn challenge(request: &Request, realm: &str) -> Act {
    let host = request.headers.iter().find_map(|line| line.strip_prefix("host: ")).unwrap_or("");
    let realm = realm.replace("HOST", host);
    status(401, &[&format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"it\"")])
}

fn tokens() -> Vec<Case> {
    let token =
        |text: &str| Act::Say(200, Vec::new(), format!("{{\"token\":\"{text}\"}}").into_bytes());
    let known = |request: &Request| request.has("authorization: bearer good");
    vec![
        case("a token", Pulled, move |request, _| match request.path.starts_with("/token") {
            true => token("good"),
            false if known(request) => Act::Right,
            false => challenge(request, "http://HOST/token"),
        }),
        case("a token that ends within a layer", Pulled, move |request, image| {
            if request.path.starts_with("/token") {
                return token(if request.before == 0 { "good" } else { "good2" });
            }
            match (known(request), is_layer(request, image), request.from()) {
                (false, _, _) => challenge(request, "http://HOST/token"),
                (true, true, 0) => cut(request, image, 100 << 10),
                (true, true, _) if !request.has("authorization: bearer good2") => {
                    challenge(request, "http://HOST/token")
                }
                (true, _, _) => Act::Right,
            }
        }),
        case("a token that never is good", Error("does not let us have"), move |request, _| {
            if request.path.starts_with("/token") {
                token("bad")
            } else {
                challenge(request, "http://HOST/token")
            }
        }),
        case("an endless token", Error("larger than"), move |request, _| {
            if !request.path.starts_with("/token") {
                return challenge(request, "http://HOST/token");
            }
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            Act::Drip(head, [b"1000\r\n".as_slice(), &[b' '; 4096], b"\r\n"].concat(), 0, 0)
        }),
        case("tokens by http elsewhere", Error("not https"), |request, _| {
            challenge(request, "http://192.0.2.1/token")
        }),
        case("no address of tokens", Error("where tokens are"), |_, _| {
            status(401, &["WWW-Authenticate: Bearer service=\"x\""])
        }),
    ]
}

async fn pull(case: Case) -> Result<(), String> {
    let Case { name, image, behaviour, verdict } = case;
    let folder = tempfile::tempdir().expect("a folder");
    let (digest, layer) = (image.digest(), sha256(&image.layer));
    let fake = Fake::start(image, behaviour);
    let registry = Registry::open(folder.path()).expect("opens");
    let reference = format!("127.0.0.1:{}/it:1", fake.port);
    let wanted = OciImage { reference, digest: Some(digest) };
    let outcome = tokio::time::timeout(Duration::from_secs(200), registry.fetch(&wanted));
    let outcome = outcome.await.map_err(|_| format!("{name}: it does not end"))?;
    let place = folder.path().join("blobs/sha256").join(&layer[7..]);
    let asked = fake.requests().len();
    if asked > 40 {
        return Err(format!("{name}: {asked} requests"));
    }
    match (outcome, verdict) {
        (Ok(()), Pulled) => {
            let bytes = std::fs::read(&place).map_err(|error| format!("{name}: {error}"))?;
            if sha256(&bytes) == layer { Ok(()) } else { Err(format!("{name}: wrong bytes")) }
        }
        (Err(fault), Error(part)) => {
            let problem = fault.problem();
            let text = format!("{} {}", problem.message, problem.hints.join(" "));
            if !text.contains(part) {
                return Err(format!("{name}: {text}"));
            }
            if place.exists() { Err(format!("{name}: a blob is there")) } else { Ok(()) }
        }
        (Ok(()), Error(part)) => Err(format!("{name}: pulled, not \"{part}\"")),
        (Err(fault), Pulled) => Err(format!("{name}: {}", fault.problem().message)),
    }
}

#[test]
fn what_a_registry_does_wrong_is_named_and_leaves_nothing() {
    let cases: Vec<Case> = [answers(), images(), blobs(), tokens()].into_iter().flatten().collect();
    assert!(cases.len() >= 50, "{}", cases.len());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let failures = runtime.expect("a runtime").block_on(async {
        // All at once: some of them wait for a minute.
        let tasks: Vec<_> = cases.into_iter().map(|case| tokio::spawn(pull(case))).collect();
        let mut failures = Vec::new();
        for task in tasks {
            failures.extend(task.await.expect("no panic").err());
        }
        failures
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

/// CVE-2020-15157: a password goes to no other host than the registry's, whoever asks for it.
#[test]
fn passwords_stay_with_their_registry() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = Arc::new(Fake::start(Image::new(), Box::new(|_, _| Act::Right)));
    let realm = format!("http://localhost:{}/token", other.port);
    let there = format!("http://localhost:{}", other.port);
    let fake = Fake::start(
        Image::new(),
        Box::new(move |request, image| match () {
            () if is_manifest(request) && request.path.contains("asks/") => {
                challenge(request, &realm)
            }
            () if is_layer(request, image) => {
                Act::Say(307, vec![format!("Location: {there}{}", request.path)], Vec::new())
            }
            () if request.has("authorization:") => Act::Right,
            () => status(401, &["WWW-Authenticate: Basic realm=\"x\""]),
        }),
    );
    let host = format!("127.0.0.1:{}", fake.port);
    let auth = json!({ "auths": { host.clone(): { "auth": "bWU6c2VjcmV0" } } });
    std::fs::write(folder.path().join("auth.json"), auth.to_string()).expect("writes");
    let registry = Registry::open(folder.path()).expect("opens");
    let digest = Some(Image::new().digest());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (asked, led) = runtime.expect("a runtime").block_on(async {
        let image =
            |name: &str| OciImage { reference: format!("{host}/{name}:1"), digest: digest.clone() };
        (registry.fetch(&image("asks/it")).await, registry.fetch(&image("leads/it")).await)
    });
    let problem = asked.expect_err("refused").problem();
    assert!(problem.message.contains("it was not sent"), "{}", problem.message);
    led.expect("storage elsewhere is no harm");
    assert!(!other.requests().is_empty(), "the layer came from there");
    for request in other.requests() {
        assert!(!request.has("authorization:"), "{} had a password", request.path);
    }
}
