//! The guest's `/init` and its server.
//!
//! The kernel starts it as process 1 in an initramfs: it mounts, loads modules, starts itself a second time as
//! the server, and waits ([`boot`]). The server ([`server`]) listens on vsock for the host. When the host has
//! sent an identity, process 1 hands over to the image's own init, or stays and reaps; the server stays beside
//! it either way. It trusts the host and nobody else: only the host can reach its vsock port.

mod boot;
mod exec;
mod files;
mod forward;
mod hold;
mod identity;
mod names;
mod network;
mod ports;
mod provision;
mod root;
mod server;
mod shutdown;
mod ssh;
mod state;
mod sys;
mod users;

fn main() {
    // The same program in other parts: only the one that is needed is ever touched.
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(ssh::SERVE) => ssh::run(),
        Some(ssh::SFTP) => ssh::run_sftp().map_err(Error::from),
        Some(_) | None if std::process::id() == 1 => boot::run(),
        Some(_) | None => server::run(),
    };
    if let Err(error) = outcome {
        eprintln!("banger-agent: {error}");
        if std::process::id() == 1 {
            // A dead process 1 is a kernel panic; an orderly end tells the host the same without the noise.
            shutdown::power_off();
        }
        std::process::exit(1);
    }
}

/// What can go wrong, as a sentence for the console or the host.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Adds what was being done to a system error.
pub(crate) fn at<T, E: std::fmt::Display>(
    what: impl std::fmt::Display,
    result: Result<T, E>,
) -> Result<T, Error> {
    result.map_err(|error| format!("{what}: {error}").into())
}
