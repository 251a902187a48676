//! The Bangerfile: text in KDL or TOML becomes one [`Spec`], or a list of every problem in it.
//!
//! Two fronts (`front`) lower to one spanned tree; [`grammar`] says what may stand where; `decode`
//! makes the typed value; [`check`] looks at what the parts say about each other. Nothing here reads a
//! file, runs a program or asks the network: text comes in, a value goes out.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod check;
mod decode;
pub mod format;
mod front;
pub mod grammar;
mod guard;
mod hint;
pub mod reference;
pub mod report;
pub mod spec;
mod tree;

pub use report::{Problem, Report};
pub use spec::Spec;

/// Which language a Bangerfile is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// KDL version 2, the default.
    Kdl,
    /// TOML.
    Toml,
}

impl Language {
    /// By the file's name: `.toml` is TOML, everything else is KDL.
    pub fn of_file(name: &str) -> Self {
        if name.ends_with(".toml") { Language::Toml } else { Language::Kdl }
    }
}

/// Reads a Bangerfile. `name` is only shown in errors.
///
/// # Errors
/// A [`Report`] with every problem of the file, each with its place.
pub fn parse(name: &str, text: &str, language: Language) -> Result<Spec, Report> {
    parse_beside(name, text, language, catalog::embedded())
}

/// As [`parse`], with another set of names that need no declaration.
///
/// # Errors
/// A [`Report`] with every problem of the file, each with its place.
pub fn parse_beside(
    name: &str,
    text: &str,
    language: Language,
    builtin: &Spec,
) -> Result<Spec, Report> {
    let report = |problems| Report::new(name, text, problems);
    let nodes = match language {
        Language::Kdl => front::kdl::parse(text),
        Language::Toml => front::toml::parse(text),
    }
    .map_err(report)?;
    let (spec, places, mut problems) = decode::decode(&nodes, builtin);
    if problems.is_empty() {
        problems.extend(check::check(&spec, builtin).into_iter().map(|fault| places.locate(fault)));
    }
    if problems.is_empty() { Ok(spec) } else { Err(report(problems)) }
}

#[cfg(test)]
mod tests;
