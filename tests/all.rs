//! One test binary: what needs more than one package.

mod end_to_end;
mod helper;
mod lab;
mod property;
mod scenario;
mod walls;
