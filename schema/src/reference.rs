//! References to images of a registry, as Docker writes them: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
//!
//! The grammar is that of `github.com/distribution/reference`. A short one is of Docker Hub, as everywhere.

use crate::spec::OciImage;

const HUB: &str = "docker.io";
/// The longest name of a repository, host included.
const MAX_NAME: usize = 255;

/// A whole reference, and the digest when it has one.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<OciImage, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest
        && !good_digest(digest)
    {
        return Err(format!("\"{digest}\" is not a digest: sha256: and 64 hex digits"));
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag
        && !good_tag(tag)
    {
        return Err(format!("\"{tag}\" is not a tag"));
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path.to_string()),
        Some(_) => (HUB, name.to_string()),
        None => (HUB, format!("library/{name}")),
    };
    let host = if host == "index.docker.io" { HUB } else { host };
    let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
    {
        return Err(format!("\"{host}\" is not the host of a registry"));
    }
    if let Some(part) = path.split('/').find(|part| !good_part(part)) {
        return Err(format!(
            "\"{part}\" is not part of an image's name: it has a-z, 0-9 and . _ - between them"
        ));
    }
    if host.len() + path.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} characters"));
    }
    let tag = match (tag, digest) {
        (Some(tag), _) => format!(":{tag}"),
        (None, None) => ":latest".to_string(),
        // By digest alone: there is no tag to look up.
        (None, Some(_)) => String::new(),
    };
    Ok(OciImage { reference: format!("{host}/{path}{tag}"), digest: digest.map(String::from) })
}

/// Whether a text looks like a reference rather than a name of a Bangerfile.
pub fn looks_like_one(text: &str) -> bool {
    text.contains(['/', ':', '@'])
}

/// Whether it is `sha256:` and 64 hex digits.
pub fn good_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(good_hex)
}

/// Whether it is 64 hex digits in lower case.
pub fn good_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first part of a name is a host when it cannot be a folder of Docker Hub.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn good_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn good_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (first, last) = (part.bytes().next(), part.bytes().last());
    first.is_some_and(plain)
        && last.is_some_and(plain)
        && part.bytes().all(|b| plain(b) || b"._-".contains(&b))
        && !part.contains("..")
        && !part.contains("___")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ones_are_of_docker_hub() {
        let whole = |text| parse(text).map(|image| image.reference);
        assert_eq!(whole("alpine").as_deref(), Ok("docker.io/library/alpine:latest"));
        assert_eq!(whole("docker.io/alpine:3").as_deref(), Ok("docker.io/library/alpine:3"));
        assert_eq!(whole("me/tool:v1").as_deref(), Ok("docker.io/me/tool:v1"));
        assert_eq!(whole("localhost:5000/a/b").as_deref(), Ok("localhost:5000/a/b:latest"));
        assert_eq!(whole("ghcr.io/a/b:x_1.2-3").as_deref(), Ok("ghcr.io/a/b:x_1.2-3"));
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = parse(&format!("ghcr.io/a/b@{digest}")).expect("good");
        assert_eq!((image.reference.as_str(), image.digest), ("ghcr.io/a/b", Some(digest.clone())));
        assert_eq!(whole(&format!("a:1@{digest}")).as_deref(), Ok("docker.io/library/a:1"));
    }

    #[test]
    fn others_are_refused() {
        for bad in [
            "",
            ":",
            "a:",
            "A",
            "a//b",
            "a/",
            "/a",
            "a/../b",
            "a b",
            "a:b c",
            "a@sha256:1",
            "a@b",
            "x_/y",
            "ho st.io/a",
            "a.b/c:d:e",
            "https://ghcr.io/a",
            "a\n",
            "ghcr.io/",
            "-a",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}: {:?}", parse(bad));
        }
    }
}
