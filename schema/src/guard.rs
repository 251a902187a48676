//! Refuses text that the KDL parser cannot survive, before it sees it (R-B10).
//!
//! `kdl` 6.7 doubles its time with each nested `/-{` (a 160-byte file takes half a minute) and overflows its
//! stack on deep nesting, on nested comments and on long runs of errors. So: a size limit, a scan that knows
//! strings and comments, and then a parse in a thread with a large stack and a deadline.

use crate::report::Problem;
use std::sync::mpsc;
use std::time::Duration;

/// The largest Bangerfile in bytes.
pub(crate) const MAX_BYTES: usize = 256 << 10;
const MAX_DEPTH: usize = 16;
const MAX_SLASHDASH_BLOCKS: usize = 2;
const MAX_COMMENT_DEPTH: usize = 16;
/// Address space only: the pages that a sane file never touches are never there.
const STACK: usize = 512 << 20;
const DEADLINE: Duration = Duration::from_secs(1);

/// Checks the size, which both languages share.
pub(crate) fn size(text: &str) -> Result<(), Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::new(
            format!("the file has {} bytes, more than {MAX_BYTES}", text.len()),
            0..0,
        )
        .help("a Bangerfile describes machines; put data into files of its own"));
    }
    Ok(())
}

/// Checks how deep KDL text nests.
pub(crate) fn depth(text: &str) -> Result<(), Problem> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut slashdash_blocks) = (0, 0usize, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(too_deep("blocks nest", MAX_DEPTH, at..at + 1));
                }
                if follows_slashdash(&bytes[..at]) {
                    slashdash_blocks += 1;
                    if slashdash_blocks > MAX_SLASHDASH_BLOCKS {
                        return Err(too_deep("/-{ is used", MAX_SLASHDASH_BLOCKS, at..at + 1));
                    }
                }
                at += 1;
            }
            b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'"' => at = end_of_string(bytes, at, 0),
            b'#' => at = end_of_hashes(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = end_of_line(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => at = end_of_comment(bytes, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

fn too_deep(what: &str, limit: usize, span: std::ops::Range<usize>) -> Problem {
    Problem::new(format!("{what} more than {limit} times"), span).help("no Bangerfile needs this")
}

/// Whether the `{` behind this text belongs to a `/-`: only white space may stand between.
fn follows_slashdash(before: &[u8]) -> bool {
    let end = before.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |last| last + 1);
    before[..end].ends_with(b"/-")
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| matches!(b, b'\n' | b'\r')).map_or(bytes.len(), |n| at + n)
}

/// The end of a `/* */` comment, which may nest.
fn end_of_comment(bytes: &[u8], start: usize) -> Result<usize, Problem> {
    let (mut at, mut depth) = (start, 0usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            if depth > MAX_COMMENT_DEPTH {
                return Err(too_deep("comments nest", MAX_COMMENT_DEPTH, at..at + 2));
            }
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += 1;
        }
    }
    Ok(at)
}

/// The end of a string that starts at `at` and has `hashes` marks around it; `"""` opens a long one.
fn end_of_string(bytes: &[u8], at: usize, hashes: usize) -> usize {
    let quotes = if bytes[at..].starts_with(b"\"\"\"") { 3 } else { 1 };
    let mut closing = vec![b'"'; quotes];
    closing.extend(std::iter::repeat_n(b'#', hashes));
    let mut here = at + quotes;
    while here < bytes.len() {
        if bytes[here..].starts_with(&closing) {
            return here + closing.len();
        }
        here += if bytes[here] == b'\\' && hashes == 0 { 2 } else { 1 };
    }
    here
}

/// The end of `#true` and the like (just the mark), or of a raw string `#"…"#`.
fn end_of_hashes(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(at + hashes) == Some(&b'"') {
        end_of_string(bytes, at + hashes, hashes)
    } else {
        at + hashes
    }
}

/// Runs a parser where it can neither overflow the stack nor hang its caller.
///
/// A parser past its deadline keeps its thread until it ends or the process does.
pub(crate) fn contained<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let (sender, receiver) = mpsc::channel();
    let spawned =
        std::thread::Builder::new().name("parser".into()).stack_size(STACK).spawn(move || {
            // The receiver is gone when the deadline has passed; then the answer has no reader.
            let _ = sender.send(work());
        });
    if let Err(error) = spawned {
        return Err(Problem::new(format!("no thread for the parser: {error}"), 0..0));
    }
    receiver.recv_timeout(DEADLINE).map_err(|_| {
        Problem::new("the file takes longer than a second to read", 0..0)
            .help("it is nested or broken in a way that no Bangerfile needs")
    })
}
