//! Problems of a Bangerfile and how they are shown: place, caret, label, help; all of a file at once.

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity};
use std::fmt;
use std::ops::Range;

/// One problem at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes.
    pub span: Range<usize>,
    /// What to write at the caret.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>, span: Range<usize>) -> Self {
        Self { message: message.into(), span, label: None, help: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Every problem of one file, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    name: String,
    text: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// More than this many problems are counted, not shown.
const SHOWN: usize = 20;

impl Report {
    pub(crate) fn new(name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.start);
        problems.dedup();
        Self { name: name.to_string(), text: text.to_string(), problems }
    }

    /// Line and column, both from 1, of a problem.
    pub fn place(&self, problem: &Problem) -> (usize, usize) {
        let start = problem.span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// What to point at: where there is nothing, as at a file's end, the character beside it. None for what has no place.
    fn caret(&self, problem: &Problem) -> Option<Range<usize>> {
        if !problem.span.is_empty() || problem.span.start == 0 {
            return Some(problem.span.clone()).filter(|span| !span.is_empty());
        }
        let (before, after) = self.text.split_at_checked(problem.span.start)?;
        let next = after.chars().next().filter(|c| !matches!(c, '\n' | '\r'));
        Some(match next {
            Some(c) => before.len()..before.len() + c.len_utf8(),
            None => {
                let line = before.trim_end();
                let last = line.chars().next_back()?;
                line.len() - last.len_utf8()..line.len()
            }
        })
    }

    /// The problems as a person reads them. `color` needs a terminal.
    pub fn render(&self, color: bool) -> String {
        let theme =
            if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100);
        let mut out = String::new();
        for problem in self.problems.iter().take(SHOWN) {
            let message = banger_wire::text::clean(&problem.message);
            let mut shown = miette::MietteDiagnostic::new(message).with_severity(Severity::Error);
            if let Some(span) = self.caret(problem) {
                let label = problem.label.as_deref().unwrap_or("here");
                let label = banger_wire::text::clean_line(label);
                shown = shown.with_label(LabeledSpan::at(span, label));
            }
            if let Some(help) = &problem.help {
                shown = shown.with_help(banger_wire::text::clean(help));
            }
            let name = banger_wire::text::clean_line(&self.name);
            let source = NamedSource::new(name, clean_in_place(&self.text));
            let shown = miette::Report::new(shown).with_source_code(source);
            let _ = handler.render_report(&mut out, shown.as_ref());
        }
        let count = self.problems.len();
        if count > SHOWN {
            out.push_str(&format!("… and {} more\n", count - SHOWN));
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{} has {count} problem{plural}", banger_wire::text::clean_line(&self.name))
    }
}

impl std::error::Error for Report {}

/// As [`banger_wire::text::clean`], but every place stays where it is: what is replaced keeps its length in bytes.
fn clean_in_place(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (c, clean) in text.chars().zip(banger_wire::text::clean(text).chars()) {
        match (c == clean, c.len_utf8()) {
            (true, _) => out.push(c),
            (false, _) if c == '\r' => out.push(' '),
            (false, 3) => out.push('\u{fffd}'),
            (false, length) => out.extend(std::iter::repeat_n('?', length)),
        }
    }
    out
}

/// The candidate that was probably meant: at most a third of its letters differ.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance with transpositions (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
