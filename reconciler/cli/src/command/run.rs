//! `vm run`: a sandbox for one command or session, with a repository in it when one is named; or one that stays.

use super::vm::{create, declared, exec_in, find, shaped, wanted};
use super::workspace::{failed, keep};
use super::{ssh, watch};
use crate::arguments::workspace::{Ship, whole};
use crate::arguments::{Global, How, Shape};
use crate::client::Client;
use crate::failure::{FAILED, Failure, UNREACHABLE, USAGE};
use crate::{show, terminal};
use anyhow::Result;
use banger_schema::spec::{SandboxSpec, WorkspaceSpec};
use banger_tree::name::shown;
use banger_wire::api::{Event, Run, SandboxStatus};
use banger_wire::derive::RUN_PROJECT;
use banger_wire::frame::Kind;
use banger_wire::id::Name;
use banger_wire::stream::{Reader, send, send_message};
use banger_wire::text::clean_line;
use banger_workspace::listing::{self, Why};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The repository of a run.
pub(super) struct Repository {
    pub(super) path: Option<PathBuf>,
    pub(super) ship: Ship,
    pub(super) sync: bool,
    pub(super) discard: bool,
}

/// What is shipped, as a part of the spec. That it is a repository is known now, not when the sandbox waits for it.
pub(super) fn workspace(path: Option<&Path>, ship: &Ship) -> Result<Option<WorkspaceSpec>> {
    let Some(path) = path else {
        if !ship.include.is_empty() || ship.depth.is_some() {
            return Err(
                Failure::new(USAGE, "there is no repository to ship: name its folder").into()
            );
        }
        return Ok(None);
    };
    let folder = whole(path)?;
    banger_workspace::listing::Repository::of(&folder).map_err(failed)?;
    let text = folder
        .to_str()
        .ok_or_else(|| Failure::new(FAILED, format!("{} is not UTF-8", folder.display())))?;
    Ok(Some(WorkspaceSpec {
        folder: text.to_string(),
        at: ship.at.clone(),
        include: ship.include.clone(),
        depth: ship.depth,
    }))
}

/// Lists what would be shipped.
pub(super) fn list(global: &Global, path: Option<&Path>, ship: &Ship) -> Result<ExitCode> {
    let folder = whole(path.unwrap_or(Path::new(".")))?;
    let scratch = tempfile::tempdir()?;
    let listed = listing::list(&folder, &ship.include, true, &scratch.path().join("listing"))
        .map_err(failed)?;
    if global.json {
        let files: Vec<_> = listed
            .items
            .iter()
            .map(|item| json!({ "name": shown(&item.name), "bytes": item.size }))
            .collect();
        let left_out: Vec<_> = listed
            .left_out
            .iter()
            .map(|(name, why)| json!({ "name": shown(name), "why": why }))
            .collect();
        show::json(&json!({ "files": files, "left_out": left_out }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for item in &listed.items {
        let why = match item.why {
            Why::Tracked => "",
            Why::Included => "  (included)",
            Why::Submodule => "  (submodule)",
        };
        println!("{}{why}", clean_line(&shown(&item.name)));
    }
    for (name, why) in &listed.left_out {
        eprintln!("left out: {}: {}", clean_line(&shown(name)), clean_line(why));
    }
    let bytes: u64 = listed.items.iter().map(|item| item.size).sum();
    let count = listed.items.len();
    let plural = if count == 1 { "" } else { "s" };
    eprintln!("{count} file{plural}, {}", show::bytes(bytes));
    Ok(ExitCode::SUCCESS)
}

/// A name for a sandbox that nobody has to type.
fn fresh_name(of: &str) -> Name {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let number = (now.as_nanos() ^ (u128::from(std::process::id()) << 20)) & 0xffff_ffff;
    let of = Name::from_lossy(of, "run");
    let of: String = of.as_str().chars().take(40).collect();
    Name::new(format!("{}-{number:08x}", of.trim_end_matches('-'))).expect("a valid name")
}

/// Makes a sandbox that stays.
pub(super) async fn detached(
    global: &Global,
    name: Option<Name>,
    path: Option<&Path>,
    ship: &Ship,
    shape: &Shape,
) -> Result<ExitCode> {
    let workspace = workspace(path, ship)?;
    let folder = workspace.as_ref().and_then(|workspace| Path::new(&workspace.folder).file_name());
    let of =
        folder.map_or_else(|| "run".to_string(), |folder| folder.to_string_lossy().into_owned());
    create(global, name.unwrap_or_else(|| fresh_name(&of)), workspace, shape, false).await
}

/// Runs one command, or a session.
pub(super) async fn once(
    global: &Global,
    repository: &Repository,
    shape: &Shape,
    how: How,
    command: Vec<String>,
) -> Result<ExitCode> {
    let workspace = workspace(repository.path.as_deref(), &repository.ship)?;
    let client = Client::connect().await?;
    let mut spec = declared(&client, global, shape).await?;
    let name = fresh_name("run");
    spec.sandboxes
        .insert(name.clone(), SandboxSpec { workspace: workspace.clone(), ..shaped(shape) });
    let tty = terminal::wanted(how.no_tty);
    let on_terminal = tty.is_some();
    // On a terminal and without a command it is a session by SSH, where there is one to be had.
    let plain = how.env.is_empty() && how.workdir.is_none() && how.user.is_none();
    let by_ssh = command.is_empty() && on_terminal && plain && ssh::command()?.is_some();
    // With a repository the sandbox has to outlive the command: what was done is still to come back.
    let held = by_ssh || workspace.is_some();
    let (how, command) = (Some(how), Some(command));
    let (exec, how, command) = match (held, how, command) {
        (false, Some(how), Some(command)) => (Some(wanted(how, command, tty)), None, None),
        (_, how, command) => (None, how, command),
    };
    let path = format!("/v1/projects/{RUN_PROJECT}/run");
    let (read, mut write) = tokio::io::split(client.upgrade(&path).await?);
    send_message(&mut write, &Run { spec, exec }).await?;
    let mut reader = Reader::new(read);
    // What takes long is shown; a boot that takes as long as boots take is not worth a line.
    let mut happening = show::Happening::new(global.json || !std::io::stderr().is_terminal());
    loop {
        let Some(frame) = reader.next().await? else {
            return Err(Failure::new(UNREACHABLE, "the daemon went away").into());
        };
        if frame.kind != Kind::Control {
            continue;
        }
        let event: Event = serde_json::from_slice(&frame.payload)?;
        happening.event(&event);
        let Event::Settled { ok, problems } = event else { continue };
        happening.end();
        if !ok {
            return Err(show::failure(problems).into());
        }
        let (Some(how), Some(command)) = (how, command) else {
            return Ok(ExitCode::from(terminal::carry(reader, write, on_terminal).await?));
        };
        // The sandbox lives until this returns: its connection is held meanwhile.
        let own = Global {
            project: Some(Name::new(RUN_PROJECT).expect("a valid name")),
            ..global.clone()
        };
        let found = find(&client, &own, &name, true).await?;
        let ended =
            session(&client, &found, repository, workspace.as_ref(), by_ssh, how, command).await;
        if workspace.is_some()
            && !repository.discard
            && let Err(error) = keep(&client, &found).await
        {
            // Its connection ends without a word: it stays.
            let why = format!("what was done in {name} cannot be brought back: {error:#}");
            let failure = Failure::new(FAILED, why).hint(format!(
                "the sandbox stays: banger -p {RUN_PROJECT} vm workspace status {name}"
            ));
            return Err(failure
                .hint(format!("to give it up: banger -p {RUN_PROJECT} vm delete {name}"))
                .into());
        }
        send(&mut write, Kind::Control, b"{}").await?;
        return ended;
    }
}

/// What happens in a sandbox that is held.
async fn session(
    client: &Client,
    found: &SandboxStatus,
    repository: &Repository,
    workspace: Option<&WorkspaceSpec>,
    by_ssh: bool,
    how: How,
    command: Vec<String>,
) -> Result<ExitCode> {
    let work = async {
        if by_ssh {
            return ssh::into(&format!("{}.{RUN_PROJECT}.vm", found.name), &[]).await;
        }
        exec_in(client, found, how, command).await
    };
    let (true, Some(workspace)) = (repository.sync, workspace) else { return work.await };
    let follow = async {
        loop {
            if let Err(error) = watch::push(client, found, workspace).await {
                crate::failure::show(&error);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    };
    tokio::select! {
        ended = work => ended,
        () = follow => unreachable!("it goes on for as long as it is asked"),
    }
}
