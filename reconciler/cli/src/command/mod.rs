//! The commands, by what they are about.

mod artifact;
mod catalog;
mod copy;
mod declare;
mod doctor;
mod look;
mod run;
mod snapshot;
mod ssh;
mod text;
mod vm;
mod watch;
mod workspace;

use crate::arguments::{Arguments, Command};
use crate::client::Client;
use crate::{project, show};
use anyhow::Result;
use banger_wire::api::{Event, Version};
use banger_wire::id::Name;
use http_body_util::BodyExt;
use serde_json::json;
use std::process::ExitCode;

/// Carries out one command.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Check => text::check(&global),
        Command::Fmt { check } => text::format(&global, check),
        Command::Init => text::init(&global),
        Command::Apply { dry_run: true, frozen, .. } => declare::dry_run(&global, frozen).await,
        Command::Apply { yes, frozen, watch: true, .. } => {
            declare::follow_file(&global, yes, frozen).await
        }
        Command::Apply { yes, no_wait, frozen, .. } => {
            declare::apply(&global, yes, no_wait, frozen).await
        }
        Command::Lock { update } => declare::lock(&global, &update).await,
        Command::Plan => declare::plan(&global).await,
        Command::Status => declare::status(&global).await,
        Command::Destroy { yes } => declare::destroy(&global, yes).await,
        Command::Vm(command) => vm::run(&global, command).await,
        Command::Ps => vm::list(&global).await,
        Command::Image(command) => artifact::image(&global, command).await,
        Command::Kernel(command) => artifact::kernel(&global, command).await,
        Command::Snapshot(command) => snapshot::run(&global, command).await,
        Command::Catalog(command) => catalog::run(command).await,
        Command::SshConfig { uninstall, print } => ssh::config(&global, uninstall, print),
        Command::SshProxy { name } => ssh::proxy(&name).await,
        Command::SshHostKeys { name, shown } => ssh::host_keys(&name, &shown).await,
        Command::Doctor => doctor::run(global.json).await,
        Command::Version => version(global.json).await,
    }
}

async fn version(as_json: bool) -> Result<ExitCode> {
    // The command itself must answer even where no daemon can run.
    let daemon: Option<Version> = match Client::connect().await {
        Ok(client) => client.get("/v1/version").await.ok(),
        Err(_) => None,
    };
    let (version, commit, built) =
        (env!("CARGO_PKG_VERSION"), env!("BANGER_COMMIT"), env!("BANGER_BUILT"));
    if as_json {
        show::json(
            &json!({ "version": version, "commit": commit, "built": built, "daemon": daemon }),
        )?;
    } else {
        println!("banger {version} (commit {commit}, built {built})");
        match daemon {
            Some(daemon) => {
                let clean = banger_wire::text::clean_line;
                let (version, vmm) = (clean(&daemon.version), clean(&daemon.vmm));
                println!("bangerd {version} (process {}), {vmm}", daemon.pid);
            }
            None => println!("bangerd does not run"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what happens to a project until it stands still. An error when it is not as it should be.
///
/// With `only` it is about that sandbox and what it needs.
async fn follow(
    client: &Client,
    project: &Name,
    only: Option<&Name>,
    after: u64,
    quiet: bool,
) -> Result<()> {
    let only = only.map(|name| format!("&sandbox={name}")).unwrap_or_default();
    let path = format!("/v1/projects/{project}/events?after={after}{only}");
    let mut body = client.stream(&path).await?;
    let mut happening = show::Happening::new(quiet);
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Event = serde_json::from_slice(&line)?;
            happening.event(&event);
            if let Event::Settled { ok, problems } = event {
                happening.end();
                return if ok { Ok(()) } else { Err(show::failure(problems).into()) };
            }
        }
    }
    happening.end();
    let gone = crate::failure::Failure::new(crate::failure::UNREACHABLE, "the daemon went away");
    Err(gone.hint("run the command again; a new daemon goes on where it was").into())
}

/// Asks on the terminal. Without one the answer is no.
fn agree(question: &str) -> bool {
    use std::io::{BufRead, IsTerminal, Write};
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

/// The project that a command without a Bangerfile is about.
fn project_or_default(global: &crate::arguments::Global) -> Result<Name> {
    let given = match &global.project {
        Some(project) => Some(project.clone()),
        None => project::here(global)?,
    };
    Ok(given.unwrap_or_else(project::default))
}
