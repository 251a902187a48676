//! One archive of the corpus, and what must come of it.

use super::{image, listing};
use banger_rootfs::{Built, Error, Layer, Limits, build};
use sha2::{Digest as _, Sha256};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use tempfile::NamedTempFile;

pub(super) enum Verdict {
    /// An image is built, `e2fsck` has nothing to say, and this is in it.
    Contained(Vec<String>),
    Refused(&'static str),
    Budget(&'static str),
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) limits: Limits,
    pub(super) verdict: Verdict,
}

impl Case {
    fn new(name: &'static str, layers: Vec<Vec<u8>>, verdict: Verdict) -> Self {
        Self { name, layers, limits: Limits::default(), verdict }
    }

    pub(super) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }
}

/// One layer that becomes an image with these lines.
pub(super) fn ok(name: &'static str, layer: Vec<u8>, lines: &[&str]) -> Case {
    oks(name, vec![layer], lines)
}

/// Layers that become an image with these lines.
pub(super) fn oks(name: &'static str, layers: Vec<Vec<u8>>, lines: &[&str]) -> Case {
    let lines = lines.iter().map(ToString::to_string).collect();
    Case::new(name, layers, Verdict::Contained(lines))
}

/// One layer that is refused with this text.
pub(super) fn no(name: &'static str, layer: Vec<u8>, why: &'static str) -> Case {
    nos(name, vec![layer], why)
}

/// Layers that are refused with this text.
pub(super) fn nos(name: &'static str, layers: Vec<Vec<u8>>, why: &'static str) -> Case {
    Case::new(name, layers, Verdict::Refused(why))
}

/// One layer that is over a budget.
pub(super) fn over(name: &'static str, layer: Vec<u8>, why: &'static str) -> Case {
    Case::new(name, vec![layer], Verdict::Budget(why))
}

/// The line of a file that is `1` in these pieces and zero elsewhere.
pub(super) fn filled(path: &str, size: usize, pieces: &[(usize, usize)]) -> String {
    let mut bytes = vec![0; size];
    for (offset, length) in pieces {
        bytes[*offset..offset + length].fill(b'1');
    }
    format!("{path}={size}#{}", &listing::hex(&Sha256::digest(&bytes))[..8])
}

/// Builds an image of layers that are in memory.
pub(super) fn make(layers: &[Vec<u8>], limits: &Limits) -> Result<(Built, NamedTempFile), Error> {
    let file = NamedTempFile::new().expect("a file");
    let layer =
        |bytes: &Vec<u8>| Layer { read: Box::new(Cursor::new(bytes.clone())), diff_id: None };
    let layers = layers.iter().map(layer).collect();
    let built = build(layers, file.reopen().expect("opens"), limits, &|_| {})?;
    Ok((built, file))
}

/// What `e2fsck` has to say, when it has.
pub(super) fn fsck(path: &Path) -> Result<(), String> {
    let said = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(path).output().expect("e2fsck");
    if said.status.success() {
        return Ok(());
    }
    Err(format!("e2fsck: {}", String::from_utf8_lossy(&said.stdout)))
}

fn judge(case: &Case) -> Result<(), String> {
    let outcome = make(&case.layers, &case.limits);
    match (&case.verdict, outcome) {
        (Verdict::Contained(wanted), Ok((_, file))) => {
            fsck(file.path())?;
            let items = image::read(&file.reopen().expect("opens"));
            let found = listing::lines(&items, true);
            if found == *wanted {
                return Ok(());
            }
            Err(format!("wanted {wanted:#?}\nfound {found:#?}"))
        }
        (Verdict::Refused(part), Err(Error::Refused { why, .. }))
        | (Verdict::Budget(part), Err(Error::Budget { why, .. }))
            if why.contains(part) =>
        {
            Ok(())
        }
        (Verdict::Contained(_), Err(error)) => Err(format!("it is refused: {error}")),
        (Verdict::Refused(part) | Verdict::Budget(part), Err(error)) => {
            Err(format!("wanted \"{part}\", got {error:?}"))
        }
        (Verdict::Refused(part) | Verdict::Budget(part), Ok((_, file))) => {
            let items = image::read(&file.reopen().expect("opens"));
            Err(format!("wanted \"{part}\", got {:#?}", listing::lines(&items, true)))
        }
    }
}

/// Judges all cases, and tells of all that failed.
pub(super) fn check(cases: &[Case]) {
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| judge(case).err().map(|why| format!("{}: {why}", case.name)))
        .collect();
    assert!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
}
