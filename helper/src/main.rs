//! The only code of banger that runs as root: a closed list of operations ([`table`]) for one owner's daemon.
//!
//! It is synchronous and has one thread and one caller, on its standard input: a sequenced-packet socket. It
//! takes ids, enums, bounded numbers and descriptors, never a path, a name, a pid or an argument vector; it
//! derives every name itself. It runs programs by their full paths, nft and resolvectl, the jailer and QEMU, and gives
//! them only text that it made.
#![deny(unsafe_code)]

mod answer;
mod audit;
mod cgroup;
mod claim;
mod jail;
mod link;
mod netlink;
mod op;
mod programs;
mod rules;
mod serve;
#[allow(unsafe_code)]
mod sys;
mod sysctl;
mod table;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let (Some(jail::ARGUMENT), Some(plan)) = (arguments.next().as_deref(), arguments.next()) {
        eprintln!("banger-helper: starting a program: {}", jail::launched(&plan));
        return std::process::ExitCode::FAILURE;
    }
    match serve::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("banger-helper: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
