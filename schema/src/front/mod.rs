//! The two languages that a Bangerfile can be written in, each lowered to the same tree.

pub(crate) mod kdl;
pub(crate) mod toml;
