//! Snapshots: taken, listed, gone back to, begun from, removed.

use super::vm::find;
use super::{agree, follow};
use crate::arguments::Global;
use crate::arguments::snapshot::{Fork, Restore, Snapshots, Take};
use crate::client::Client;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::{project, show};
use anyhow::Result;
use banger_schema::Spec;
use banger_wire::api::{Applied, Edit, Snapshot};
use banger_wire::id::Name;
use banger_wire::text::clean_line;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) async fn run(global: &Global, command: Snapshots) -> Result<ExitCode> {
    match command {
        Snapshots::List => list(global).await,
        Snapshots::Delete { name, yes } => delete(global, &name, yes).await,
    }
}

/// Asks for a change, and shows what happens until the sandbox stands still.
async fn change(
    client: &Client,
    global: &Global,
    project: &Name,
    sandbox: &Name,
    command: Edit<Spec>,
) -> Result<()> {
    let applied: Applied = client.post(&format!("/v1/projects/{project}/edit"), &command).await?;
    follow(client, project, Some(sandbox), applied.change, global.json).await
}

async fn all(client: &Client) -> Result<Vec<Snapshot>> {
    client.get("/v1/snapshots").await
}

async fn one(client: &Client, project: &Name, name: &Name) -> Result<Option<Snapshot>> {
    Ok(all(client).await?.into_iter().find(|s| s.project == *project && s.name == *name))
}

/// The project that was named or is here, else that of commands.
fn here(global: &Global) -> Result<Name> {
    let here = match &global.project {
        Some(project) => Some(project.clone()),
        None => project::here(global)?,
    };
    Ok(here.unwrap_or_else(project::default))
}

/// The first of `s1`, `s2`, … that the project has not.
async fn free(client: &Client, project: &Name) -> Result<Name> {
    let all = all(client).await?;
    let taken = |name: &str| all.iter().any(|s| s.project == *project && s.name.as_str() == name);
    let free = (1..).map(|number: u32| format!("s{number}")).find(|name| !taken(name));
    Ok(Name::new(free.unwrap_or_default())?)
}

async fn drop_it(client: &Client, project: &Name, snapshot: &Name) -> Result<()> {
    let command = Edit::<Spec>::DropSnapshot { snapshot: snapshot.clone() };
    let _: Applied = client.post(&format!("/v1/projects/{project}/edit"), &command).await?;
    Ok(())
}

/// Takes a snapshot and makes sure that it is there.
async fn take_one(
    client: &Client,
    global: &Global,
    project: &Name,
    (name, snapshot): (&Name, &Name),
    disk_only: bool,
) -> Result<Snapshot> {
    let (name, called) = (name.clone(), snapshot.clone());
    let command = Edit::<Spec>::Snapshot { name: name.clone(), snapshot: called, disk_only };
    let applied: Applied = client.post(&format!("/v1/projects/{project}/edit"), &command).await?;
    let outcome = follow(client, project, Some(&name), applied.change, global.json).await;
    match one(client, project, snapshot).await? {
        // What else is wrong with the sandbox is not the snapshot's matter.
        Some(taken) if taken.taken => Ok(taken),
        Some(_) | None => {
            // What failed is not wanted any more: it would be tried for ever.
            drop_it(client, project, snapshot).await?;
            outcome?;
            let message = format!("snapshot {snapshot} of {name} could not be taken");
            let hint = "a sandbox needs a disk and, if it runs, a guest that answers: banger ps";
            Err(Failure::new(FAILED, message).hint(hint).into())
        }
    }
}

pub(super) async fn take(global: &Global, take: Take) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, &take.name, true).await?;
    let snapshot = match take.snapshot {
        Some(name) => name,
        None => free(&client, &found.project).await?,
    };
    let names = (&found.name, &snapshot);
    let taken = take_one(&client, global, &found.project, names, take.disk_only).await?;
    if global.json {
        show::json(&taken)?;
    } else {
        println!("{snapshot}");
        if !taken.memory && !take.disk_only {
            eprintln!("its memory is not in it: what begins from it boots");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn restore(global: &Global, restore: Restore) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, &restore.name, false).await?;
    let title = format!("{}/{}", found.project, found.name);
    let question = format!("This destroys what is on the disk of {title} now. Go on?");
    if !restore.yes && !agree(&question) {
        let message =
            format!("this would destroy what is on the disk of {title}; nothing was done");
        let hint = "to agree: --yes; to keep it: banger vm snapshot";
        return Err(Failure::new(REFUSED, message).hint(hint).into());
    }
    let Restore { name, snapshot, .. } = restore;
    let command = Edit::Restore { name, snapshot };
    change(&client, global, &found.project, &found.name, command).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn fork(global: &Global, fork: Fork) -> Result<ExitCode> {
    let client = Client::connect().await?;
    // One that is only for this goes with it.
    let own = fork.snapshot.is_none();
    let (project, snapshot) = match fork.snapshot {
        // The sandbox may be gone.
        Some(snapshot) => (here(global)?, snapshot),
        None => {
            let found = find(&client, global, &fork.name, true).await?;
            let name = free(&client, &found.project).await?;
            let names = (&found.name, &name);
            take_one(&client, global, &found.project, names, fork.disk_only).await?;
            (found.project, name)
        }
    };
    let project = &project;
    let command = Edit::<Spec>::Fork { snapshot: snapshot.clone(), name: fork.new.clone() };
    let made = client.post(&format!("/v1/projects/{project}/edit"), &command).await;
    let made: Result<Applied> = made;
    if own {
        // It stays until the new one has begun from it.
        drop_it(&client, project, &snapshot).await?;
    }
    let made = made?;
    follow(&client, project, Some(&fork.new), made.change, global.json).await?;
    if global.json {
        show::json(&made)?;
    } else {
        println!("{}", fork.new);
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(global: &Global) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let mut all = all(&client).await?;
    all.retain(|s| global.project.as_ref().is_none_or(|project| s.project == *project));
    if global.json {
        show::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let rows = all.iter().map(|s| {
        let (age, what) = if s.taken {
            let what = if s.memory { "disk and memory" } else { "disk" };
            (show::age(now.saturating_sub(s.taken_secs)), what)
        } else {
            (String::new(), "not taken yet")
        };
        vec![
            s.project.to_string(),
            s.name.to_string(),
            s.sandbox.to_string(),
            age,
            what.to_string(),
            clean_line(&s.size),
            clean_line(&s.reason),
        ]
    });
    let titles = ["project", "name", "sandbox", "age", "what", "size", "reason"];
    show::table(&titles, rows.collect());
    Ok(ExitCode::SUCCESS)
}

async fn delete(global: &Global, name: &Name, yes: bool) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let project = here(global)?;
    if one(&client, &project, name).await?.is_none() {
        let message = format!("there is no snapshot {name} in project {project}");
        return Err(Failure::new(FAILED, message).hint("banger snapshot list shows all").into());
    }
    if !yes && !agree(&format!("This destroys snapshot {name} of {project}. Go on?")) {
        let message = format!("this would destroy snapshot {name}; nothing was done");
        return Err(Failure::new(REFUSED, message).hint("to agree: --yes").into());
    }
    drop_it(&client, &project, name).await?;
    Ok(ExitCode::SUCCESS)
}
