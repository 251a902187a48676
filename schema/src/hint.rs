//! What to write instead: for mistakes that the grammar or a parser sees as something else than what they are.

use crate::grammar::{Rule, Ty};
use crate::tree::{Data, Span, Value};

/// The longest value that is repeated, in characters.
const LONGEST: usize = 40;

/// A value as KDL writes it. One that is long or odd is not repeated.
fn shown(value: Option<&Value>) -> String {
    match value.map(|value| &value.data) {
        Some(Data::Text(text))
            if text.chars().count() <= LONGEST && !text.contains(['"', '\\', '\n', '\r']) =>
        {
            format!("\"{text}\"")
        }
        Some(Data::Int(number)) => number.to_string(),
        Some(Data::Text(_) | Data::Other(_)) | None => "\"…\"".to_string(),
    }
}

/// For a property that is a node of its own here, or a node that is an argument or a property.
pub(crate) fn other_kind(rule: &Rule, name: &str, value: Option<&Value>) -> Option<String> {
    let shown = shown(value);
    if rule.child(name).is_some() {
        return Some(format!("write it inside the block: {name} {shown}"));
    }
    if rule.args.iter().any(|slot| slot.name == name) {
        return Some(format!("write it behind the word: {} {shown}", rule.name));
    }
    let property = rule.open_props || rule.props.iter().any(|slot| slot.name == name);
    property.then(|| format!("write it as a property: {} {name}={shown}", rule.name))
}

/// For a text that is what flags of the command line take, and not what the file does.
pub(crate) fn other_form(text: &str, ty: Ty) -> Option<String> {
    match ty {
        // An image of a registry has a name of its own in a file.
        Ty::Artifact if text.contains([':', '/']) => {
            Some(format!("a name is meant; an image of a registry is declared with oci \"{text}\""))
        }
        Ty::Int(..) => match text.split_once(':') {
            Some((host, guest)) if is_number(host) && is_number(guest) => {
                Some(format!("write it as {host} guest={guest}; in TOML as host and guest"))
            }
            Some(_) | None => is_number(text).then(|| format!("without quotes: {text}")),
        },
        Ty::Name | Ty::Artifact | Ty::Text | Ty::Size | Ty::Time | Ty::Choice(_) => None,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// For a text that is no KDL, by the line where the parser stopped.
pub(crate) fn kdl(text: &str, at: &Span) -> Option<String> {
    let line = line_of(text, at);
    let first = line.split_whitespace().next()?;
    if first.starts_with('[') {
        return Some("this is TOML; a file in TOML is called Bangerfile.toml".to_string());
    }
    if first.starts_with('#') {
        return Some("comments begin with //".to_string());
    }
    if let Some((name, value)) = line.split_once(" = ") {
        return Some(format!(
            "KDL has no = behind a node's name: {} {}",
            name.trim(),
            value.trim()
        ));
    }
    // Between quotes everything is text.
    let outside = line.split('"').step_by(2);
    outside.flat_map(|part| part.split([' ', '\t', ';', '{', '}'])).find_map(unquoted)
}

/// A word that needs quotes.
fn unquoted(word: &str) -> Option<String> {
    let value = word.rsplit('=').next()?;
    let number = value.starts_with(|c: char| c.is_ascii_digit()) && !is_number(value);
    (number || matches!(value, "true" | "false" | "null")).then(|| {
        let before = word.strip_suffix(value).unwrap_or_default();
        format!("put it in quotes: {before}\"{value}\"")
    })
}

/// For a text that is no TOML: a file of that name in KDL.
pub(crate) fn toml(text: &str, at: &Span) -> Option<String> {
    let line = line_of(text, at);
    let mut words = line.split_whitespace();
    let named = words.next().is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
    let quoted = words.next().is_some_and(|word| word.starts_with('"'));
    (named && quoted).then(|| "this is KDL; a file in KDL is called Bangerfile".to_string())
}

fn line_of<'t>(text: &'t str, at: &Span) -> &'t str {
    let (before, after) = text.split_at_checked(at.start.min(text.len())).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = after.find('\n').map_or(text.len(), |at| before.len() + at);
    text.get(start..end).unwrap_or_default().trim()
}
