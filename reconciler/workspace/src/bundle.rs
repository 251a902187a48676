//! The header of a bundle of commits, as a guest's git writes it: read by lines, bounded, and strictly.

use crate::WorkspaceError;
use std::io::{BufRead, Read};

/// The longest line in bytes.
const MAX_LINE: u64 = 4096;
/// The most lines.
const MAX_LINES: usize = 10_000;

/// The references that a bundle says it has: names and commits. What follows in the reader is the pack.
///
/// # Errors
/// When it is no bundle, one that leaves objects out, or too long.
pub(crate) fn tips(from: &mut impl BufRead) -> Result<Vec<(String, String)>, WorkspaceError> {
    let bad = |why: &str| {
        WorkspaceError::Refused(format!("the sandbox's git sent no bundle of commits: {why}"))
    };
    let first = line(from)?.ok_or_else(|| bad("it is empty"))?;
    if first != "# v2 git bundle" && first != "# v3 git bundle" {
        return Err(bad("its version is not known"));
    }
    let mut tips = Vec::new();
    for _ in 0..MAX_LINES {
        let line = line(from)?.ok_or_else(|| bad("it ends in its header"))?;
        if line.is_empty() {
            return Ok(tips);
        }
        if let Some(capability) = line.strip_prefix('@') {
            // How objects are named is known from the repository; a bundle that leaves some out is of no use.
            if !capability.starts_with("object-format=") {
                return Err(bad("it has a capability that is not known"));
            }
        } else if !line.starts_with('-') {
            let (tip, name) = line.split_once(' ').ok_or_else(|| bad("a reference has no name"))?;
            let good = matches!(tip.len(), 40 | 64) && tip.bytes().all(|b| b.is_ascii_hexdigit());
            if !good {
                return Err(bad("a reference leads to no commit"));
            }
            tips.push((name.to_string(), tip.to_string()));
        }
    }
    Err(bad("its header is too long"))
}

/// The next line, without its end. `None` at the end of the file.
fn line(from: &mut impl BufRead) -> Result<Option<String>, WorkspaceError> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_LINE).read_until(b'\n', &mut bytes);
    let count = read.map_err(|error| WorkspaceError::Io("bundle".into(), error))?;
    if count == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(WorkspaceError::Refused("a line of the bundle's header is too long".into()));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
