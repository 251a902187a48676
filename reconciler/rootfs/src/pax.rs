//! PAX extension headers. A malformed one ends the archive: two readers must not see two things (R-I3).

use crate::error::{Fault, refuse, shown};

/// What extension headers say about the next entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Sparse,
}

/// The records of GNU's three ways to write sparse files with PAX.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
    /// The map is one record, not many.
    whole: bool,
}

impl Sparse {
    pub(crate) fn is_there(&self) -> bool {
        self.major.is_some()
            || self.minor.is_some()
            || self.name.is_some()
            || self.map.is_some()
            || self.real_size.is_some()
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Whether it says nothing about entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.path.is_none()
            && self.link.is_none()
            && self.size.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.mtime.is_none()
            && self.xattrs.is_empty()
            && !self.sparse.is_there()
    }

    /// Reads the records of one header.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let (record, rest) = cut(bytes)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let Some(equals) = equals.filter(|at| *at > 0) else {
                return refuse("a PAX record has no key");
            };
            self.take(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        if self.sparse.offset.is_some() {
            return refuse("a PAX sparse map ends in the middle of a piece");
        }
        // The last of each name counts.
        self.xattrs.reverse();
        self.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        self.xattrs.dedup_by(|a, b| a.0 == b.0);
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.major" => self.sparse.major = number(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = number(value)?,
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = number(value)?,
            b"GNU.sparse.offset" => {
                if self.sparse.offset.is_some() {
                    return refuse("a PAX sparse map has two offsets in a row");
                }
                self.sparse.offset = number(value)?;
            }
            b"GNU.sparse.numbytes" => {
                let (Some(offset), Some(bytes)) = (self.sparse.offset.take(), number(value)?)
                else {
                    return refuse("a PAX sparse map has a length without an offset");
                };
                if self.sparse.whole {
                    return refuse("a PAX sparse file has two maps");
                }
                self.sparse.map.get_or_insert_default().push((offset, bytes));
            }
            b"GNU.sparse.map" => {
                if self.sparse.map.is_some() {
                    return refuse("a PAX sparse file has two maps");
                }
                (self.sparse.map, self.sparse.whole) = (Some(map(value)?), true);
            }
            key if key.starts_with(XATTR) => {
                let name = key[XATTR.len()..].to_vec();
                self.xattrs.push((name, value.to_vec()));
            }
            _ => {}
        }
        Ok(())
    }
}

/// One record without its length and line end, and what follows it.
fn cut(bytes: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ');
    let length = space.and_then(|at| digits(&bytes[..at]));
    let (Some(space), Some(length)) = (space, length) else {
        return refuse("a PAX record has no length");
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length < space + 3 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return refuse("a PAX record is not as long as it says");
    }
    Ok((&bytes[space + 1..length - 1], &bytes[length..]))
}

fn digits(bytes: &[u8]) -> Option<u64> {
    let plain = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| plain).and_then(|text| text.parse().ok())
}

/// An empty value takes back what an earlier header said.
fn number(value: &[u8]) -> Result<Option<u64>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    match digits(value) {
        Some(number) => Ok(Some(number)),
        None => refuse(format!("{} in a PAX record is not a number", shown(value))),
    }
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    if value.contains(&0) {
        return refuse("a PAX record has a NUL in a path");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// Seconds with a fraction, maybe before 1970.
fn time(value: &[u8]) -> Result<Option<(i64, u32)>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, plain) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match plain.iter().position(|byte| *byte == b'.') {
        Some(at) => (&plain[..at], &plain[at + 1..]),
        None => (plain, &plain[plain.len()..]),
    };
    let seconds = digits(whole).and_then(|seconds| i64::try_from(seconds).ok());
    let Some(seconds) = seconds.filter(|_| fraction.iter().all(u8::is_ascii_digit)) else {
        return refuse(format!("{} in a PAX record is not a time", shown(value)));
    };
    let nine = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nine.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    }))
}

/// `offset,length,offset,length…`
fn map(value: &[u8]) -> Result<Vec<(u64, u64)>, Fault> {
    let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(digits).collect();
    match numbers {
        Some(numbers) if numbers.len() % 2 == 0 => {
            Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
        }
        _ => refuse("a PAX sparse map is not pairs of numbers"),
    }
}
