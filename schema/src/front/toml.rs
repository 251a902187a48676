//! TOML to the tree.
//!
//! A key with a plain value is a node with that argument, with a list one with those arguments. A table is a
//! node whose plain keys are properties where the grammar has such a property, and children otherwise. At the
//! top, and for lists of tables, there is a node for each.

use crate::grammar::{self, Rule};
use crate::guard;
use crate::hint;
use crate::report::Problem;
use crate::tree::{Data, Node, Span, Value};
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

/// The top-level nodes of a file.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Vec<Problem>> {
    guard::size(text).map_err(|problem| vec![problem])?;
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                let help = hint::toml(text, &span);
                Problem { help, ..Problem::new(error.message(), span) }
            })
            .collect());
    }
    let mut root = Node::new("", 0..0);
    fill(&mut root, table.get_ref(), &grammar::ROOT);
    Ok(root.children)
}

fn by_place<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t str, Span, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> =
        table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

/// Puts the keys of a table into a node.
fn fill(node: &mut Node, table: &DeTable<'_>, rule: &Rule) {
    for (key, span, value) in by_place(table) {
        let slot = rule.slot(key).is_some() || rule.open_props;
        match (value.get_ref(), slot) {
            (DeValue::Table(_) | DeValue::Array(_), _) | (_, false) => {
                children(&mut node.children, key, span, value, rule.child(key));
            }
            (_, true) => node.props.push((key.to_string(), span, scalar(value))),
        }
    }
}

/// Adds the node or nodes that one key stands for.
fn children(
    out: &mut Vec<Node>,
    key: &str,
    span: Span,
    value: &Spanned<DeValue<'_>>,
    rule: Option<&Rule>,
) {
    let rule = rule.unwrap_or(&grammar::UNKNOWN);
    match value.get_ref() {
        DeValue::Table(table) if rule.keyed => {
            for (name, name_span, value) in by_place(table) {
                let mut node = Node::new(key, name_span.clone());
                node.args.push(Value { data: Data::Text(name.to_string()), span: name_span });
                match value.get_ref() {
                    DeValue::Table(table) => fill(&mut node, table, rule),
                    DeValue::Array(_)
                    | DeValue::String(_)
                    | DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_) => node.args.push(scalar(value)),
                }
                out.push(node);
            }
        }
        DeValue::Table(table) => {
            let mut node = Node::new(key, span);
            fill(&mut node, table, rule);
            out.push(node);
        }
        DeValue::Array(array)
            if !array.is_empty() && array.iter().all(|item| item.get_ref().is_table()) =>
        {
            for item in array.iter() {
                children(out, key, item.span(), item, Some(rule));
            }
        }
        DeValue::Array(array) => {
            let mut node = Node::new(key, span);
            node.args = array.iter().map(scalar).collect();
            out.push(node);
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {
            let mut node = Node::new(key, span);
            node.args.push(scalar(value));
            out.push(node);
        }
    }
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Value {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Data::Other("a number out of range"), Data::Int),
        DeValue::Float(_) => Data::Other("a fraction"),
        DeValue::Boolean(_) => Data::Other("true or false"),
        DeValue::Datetime(_) => Data::Other("a date"),
        DeValue::Array(_) => Data::Other("a list"),
        DeValue::Table(_) => Data::Other("a table"),
    };
    Value { data, span: value.span() }
}
