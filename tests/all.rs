//! One test binary: what needs more than one package.

mod archives;
mod end_to_end;
mod engine;
mod helper;
mod helper_network;
mod hostile_guest;
mod lab;
mod names;
mod namespace;
mod property;
mod registry;
mod repositories;
mod resolver;
mod returns;
mod scenario;
mod terminal;
mod walls;
