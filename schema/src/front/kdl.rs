//! KDL version 2 to the tree.

use crate::guard;
use crate::hint;
use crate::report::Problem;
use crate::tree::{Data, Node, Span, Value};
use ::kdl::{KdlDocument, KdlEntry, KdlError, KdlNode, KdlValue};

/// The top-level nodes of a file.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Vec<Problem>> {
    document(text, |document| document.nodes().iter().map(lower).collect())
}

/// Parses behind the guard and hands the document to `read`, still inside.
///
/// What leaves is what `read` returns: dropping a deep document takes as much stack as parsing it.
pub(crate) fn document<T: Send + 'static>(
    text: &str,
    read: impl FnOnce(&mut KdlDocument) -> T + Send + 'static,
) -> Result<T, Vec<Problem>> {
    guard::size(text).and_then(|()| guard::depth(text)).map_err(|problem| vec![problem])?;
    let owned = text.to_string();
    guard::contained(move || match KdlDocument::parse_v2(&owned) {
        Ok(mut document) => Ok(read(&mut document)),
        Err(error) => Err(problems(&owned, &error)),
    })
    .map_err(|problem| vec![problem])?
}

/// One problem for each line, and of mistakes that are known only those: the parser finds more in what comes after them.
fn problems(text: &str, error: &KdlError) -> Vec<Problem> {
    let mut problems: Vec<(bool, Problem)> = error
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let start = diagnostic.span.offset();
            let span = start..start + diagnostic.span.len();
            let hint = hint::kdl(text, &span);
            let known = hint.is_some();
            let problem = Problem {
                message: diagnostic
                    .message
                    .clone()
                    .unwrap_or_else(|| "this is not KDL".to_string()),
                help: hint.or_else(|| diagnostic.help.clone()),
                label: diagnostic.label.clone(),
                span,
            };
            (known, problem)
        })
        .collect();
    if problems.iter().any(|(known, _)| *known) {
        problems.retain(|(known, _)| *known);
    }
    let mut problems: Vec<Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
    problems.sort_by_key(|problem| problem.span.start);
    problems.dedup_by(|later, earlier| {
        let between = text.get(earlier.span.start..later.span.start);
        between.is_some_and(|between| !between.contains('\n'))
    });
    if problems.is_empty() {
        problems.push(Problem::new("this is not KDL", 0..0));
    }
    problems
}

fn span(span: miette::SourceSpan) -> Span {
    span.offset()..span.offset() + span.len()
}

fn lower(node: &KdlNode) -> Node {
    let mut out = Node::new(node.name().value(), span(node.name().span()));
    for entry in node.entries() {
        let value = Value { data: data(entry), span: span(entry.span()) };
        match entry.name() {
            Some(name) => out.props.push((name.value().to_string(), span(name.span()), value)),
            None => out.args.push(value),
        }
    }
    if let Some(children) = node.children() {
        out.children = children.nodes().iter().map(lower).collect();
    }
    out
}

fn data(entry: &KdlEntry) -> Data {
    match entry.value() {
        KdlValue::String(text) => Data::Text(text.clone()),
        KdlValue::Integer(number) => Data::Int(*number),
        KdlValue::Float(_) => Data::Other("a fraction"),
        KdlValue::Bool(_) => Data::Other("#true or #false"),
        KdlValue::Null => Data::Other("#null"),
    }
}
