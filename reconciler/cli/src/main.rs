//! `banger`: parses arguments, asks the daemon, shows what it says. There is no engine in it.
#![forbid(unsafe_code)]

mod arguments;
mod catalog;
mod client;
mod command;
mod failure;
mod host;
mod local;
mod lock;
mod project;
mod show;
mod signature;
mod terminal;

use arguments::Arguments;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::show(&error.into()).into(),
    };
    let outcome = runtime.block_on(command::run(arguments));
    // A read of standard input cannot be cancelled; it must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => failure::show(&error).into(),
    }
}
