//! The only code of banger that runs as root: a closed list of operations ([`table`]) for one owner's daemon.
//!
//! It is synchronous and has one thread and one caller, on its standard input: a sequenced-packet socket. It
//! takes ids, enums, bounded numbers and descriptors, never a path, a name, a pid or an argument vector; it
//! derives every name itself. It runs no other program and reads no format but JSON of its own.
#![forbid(unsafe_code)]

mod answer;
mod cgroup;
mod op;
mod serve;
mod table;

fn main() -> std::process::ExitCode {
    match serve::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("banger-helper: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
