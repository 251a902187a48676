//! JSON from a guest, bounded before it is parsed (R-G6). Behind the feature `tokio`, as what reads it.
//!
//! The parser keeps a message in memory until it has found which one it is, and a short text can be a large value:
//! a megabyte of `[0,0,…` takes thirty.

use serde::de::DeserializeOwned;
use std::io;

/// How deep a message may nest.
pub const MAX_DEPTH: usize = 16;
/// How many values a message may have.
pub const MAX_ITEMS: usize = 10_000;

/// Reads a message of a guest.
///
/// # Errors
/// When it is none, nests too deep or has too many values (`InvalidData`).
pub fn from_guest<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let broken = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    bounded(bytes).map_err(|why| broken(why.into()))?;
    serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))
}

/// Counts outside of strings. What is no JSON is left to the parser.
fn bounded(bytes: &[u8]) -> Result<(), &'static str> {
    let (mut depth, mut items) = (0usize, 1usize);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => loop {
                match rest.next() {
                    Some(b'\\') => drop(rest.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b'[' | b'{' => (depth, items) = (depth + 1, items + 1),
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => items += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err("the message nests too deep");
        }
        if items > MAX_ITEMS {
            return Err("the message has too many values");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn depth_and_values_are_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        from_guest::<Value>(nested(MAX_DEPTH).as_bytes()).expect("just deep enough");
        for deep in [nested(MAX_DEPTH + 1), "[".repeat(1 << 20), "{\"a\":".repeat(10_000)] {
            let error = from_guest::<Value>(deep.as_bytes()).expect_err("too deep");
            assert_eq!(error.to_string(), "the message nests too deep");
        }
        let many = |count: usize| format!("[{}0]", "0,".repeat(count));
        from_guest::<Value>(many(MAX_ITEMS - 2).as_bytes()).expect("just enough");
        assert!(from_guest::<Value>(many(MAX_ITEMS).as_bytes()).is_err());
        let quoted = format!("[\"{}\\\"[[[\"]", "[,".repeat(100_000));
        from_guest::<Value>(quoted.as_bytes()).expect("one string");
        for broken in ["", "\"", "\"\\", "]]]]", "{", "\u{0}"] {
            assert!(from_guest::<Value>(broken.as_bytes()).is_err(), "{broken:?}");
        }
    }
}
