//! `banger fmt`: one layout for every Bangerfile, without losing a comment or changing its meaning.

use crate::report::{Problem, Report};
use crate::{Language, front, parse};
use kdl::{KdlDocument, KdlEntry, KdlNode};

/// The text in the standard layout: four spaces a level, one node a line, at most one empty line in a row.
///
/// # Errors
/// When the file cannot be parsed, is not KDL, or its meaning would change.
pub fn format(name: &str, text: &str, language: Language) -> Result<String, Report> {
    let fail = |problem: Problem| Report::new(name, text, vec![problem]);
    if language == Language::Toml {
        let problem = Problem::new("banger formats KDL only", 0..0);
        return Err(fail(problem.help("use a TOML formatter, for example: taplo fmt")));
    }
    let before = parse(name, text, language)?;
    let formatted = front::kdl::document(text, |document| {
        lay_out(document, 0);
        document.to_string()
    })
    .map_err(|problems| Report::new(name, text, problems))?;
    let same = parse(name, &formatted, language).is_ok_and(|after| after == before);
    if !same || comments(text) != comments(&formatted) {
        let message = "formatting would change this file, so it is left alone";
        let help = "a comment behind a closing } is lost by the parser; give it a line of its own";
        return Err(fail(Problem::new(message, 0..0).help(help)));
    }
    Ok(formatted)
}

/// How many comment marks a text has: none may get lost.
fn comments(text: &str) -> (usize, usize, usize) {
    (text.matches("//").count(), text.matches("/*").count(), text.matches("/-").count())
}

/// Lays out the nodes of one block.
fn lay_out(document: &mut KdlDocument, level: usize) {
    let indent = "    ".repeat(level);
    for (index, node) in document.nodes_mut().iter_mut().enumerate() {
        let first = index == 0;
        lay_out_node(node, &indent, first, level);
    }
    if let Some(format) = document.format_mut() {
        let closing = if level == 0 { String::new() } else { "    ".repeat(level - 1) };
        format.trailing = format!("{}{closing}", between(&format.trailing, &indent, false));
        if level > 0 {
            format.leading = between(&format.leading, &indent, true);
        }
    }
}

fn lay_out_node(node: &mut KdlNode, indent: &str, first: bool, level: usize) {
    for entry in node.entries_mut() {
        lay_out_entry(entry);
    }
    if let Some(children) = node.children_mut() {
        lay_out(children, level + 1);
    }
    let Some(format) = node.format_mut() else { return };
    let open = if first && level > 0 { "\n" } else { "" };
    format.leading = format!("{open}{}{indent}", between(&format.leading, indent, first));
    format.before_children = " ".to_string();
    let comment = format!("{}{}", format.before_terminator, format.terminator);
    let comment = comment.trim_matches(|c: char| c.is_whitespace() || c == ';');
    format.before_terminator =
        if comment.is_empty() { String::new() } else { format!(" {comment}") };
    format.terminator = "\n".to_string();
    format.trailing = String::new();
}

fn lay_out_entry(entry: &mut KdlEntry) {
    if let Some(format) = entry.format_mut() {
        let comment = format.leading.trim().trim_matches('\\').trim();
        format.leading = if comment.is_empty() { " ".to_string() } else { format!(" {comment} ") };
        let trailing = format.trailing.trim();
        format.trailing = if trailing.is_empty() { String::new() } else { format!(" {trailing}") };
    }
}

/// What stands between two nodes: each comment on its own line, and at most one empty line in a row.
fn between(text: &str, indent: &str, first: bool) -> String {
    let mut out = String::new();
    let mut empty = first;
    // What follows the last line break is the old indentation.
    let lines = text.split('\n').map(str::trim);
    let count = text.split('\n').count();
    for (index, line) in lines.enumerate() {
        if line.is_empty() {
            if !empty && index + 1 < count {
                out.push('\n');
                empty = true;
            }
        } else {
            out.push_str(&format!("{indent}{line}\n"));
            empty = false;
        }
    }
    out
}
