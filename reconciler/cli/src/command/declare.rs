//! `apply`, `plan`, `status`, `destroy`: the file and what is.

use super::watch::{Folders, folders_of, until_interrupted};
use super::workspace::push_once;
use super::{agree, follow, project_or_default};
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::{self, FAILED, Failure, REFUSED, USAGE};
use crate::project::Bangerfile;
use crate::{lock, project, show};
use anyhow::Result;
use banger_wire::api::{Applied, Apply, Destroy, Phase, Status};
use banger_wire::id::Name;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

fn read(global: &Global) -> Result<(Bangerfile, Name, banger_schema::Spec)> {
    let file = project::need(global)?;
    let spec = file.parse()?;
    let project = file.project(global, &spec)?;
    Ok((file, project, spec))
}

pub(super) async fn lock(global: &Global, update: &[Name]) -> Result<ExitCode> {
    let (file, project, spec) = read(global)?;
    lock::make(&Client::connect().await?, &file, &project, spec, update).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn plan(global: &Global) -> Result<ExitCode> {
    // 2 says that there are changes: it must not say that there is no telling.
    match plan_with(global, false).await {
        Err(error) => Ok(ExitCode::from(match failure::show(&error) {
            USAGE => FAILED,
            code => code,
        })),
        planned => planned,
    }
}

async fn plan_with(global: &Global, frozen: bool) -> Result<ExitCode> {
    let (file, project, spec) = read(global)?;
    let client = Client::connect().await?;
    let spec = lock::locked(&client, &file, spec, frozen).await?;
    let apply = Apply { spec, dry_run: true, consent: false };
    let applied: Applied = client.post(&format!("/v1/projects/{project}/apply"), &apply).await?;
    let changes = !applied.plan.lines.is_empty();
    if global.json {
        show::json(&applied.plan)?;
    } else if changes {
        show::plan(&applied.plan);
    } else {
        println!("no changes");
    }
    Ok(ExitCode::from(if changes { USAGE } else { 0 }))
}

pub(super) async fn dry_run(global: &Global, frozen: bool) -> Result<ExitCode> {
    plan_with(global, frozen).await?;
    Ok(ExitCode::SUCCESS)
}

/// Applies the file, and again whenever it changes; ships every change of its workspaces.
pub(super) async fn follow_file(global: &Global, yes: bool, frozen: bool) -> Result<ExitCode> {
    let mut before = read(global)?.0.text;
    apply(global, yes, false, frozen).await?;
    let client = Client::connect().await?;
    let mut folders = Folders::new();
    until_interrupted(async {
        loop {
            // What cannot be read now is being written: what was watched is watched on.
            if let Ok(all) = watched(global).await {
                folders.set(all);
            }
            // Also the first time: something may have changed before anybody watched.
            if let Err(error) = follow_once(global, &client, yes, frozen, &mut before).await {
                // The next change may mend it.
                crate::failure::show(&error);
            }
            folders.changed().await;
        }
    })
    .await
}

/// The folders of the file and of its workspaces.
async fn watched(global: &Global) -> Result<BTreeSet<PathBuf>> {
    let (file, _, spec) = read(global)?;
    let path = std::fs::canonicalize(&file.path)?;
    let mut all: BTreeSet<PathBuf> = path.parent().map(PathBuf::from).into_iter().collect();
    for workspace in spec.sandboxes.values().filter_map(|sandbox| sandbox.workspace.as_ref()) {
        all.extend(folders_of(workspace).await?);
    }
    Ok(all)
}

/// One look after a change.
async fn follow_once(
    global: &Global,
    client: &Client,
    yes: bool,
    frozen: bool,
    before: &mut String,
) -> Result<()> {
    let (file, project, spec) = read(global)?;
    if file.text != *before {
        before.clone_from(&file.text);
        apply(global, yes, false, frozen).await?;
    }
    let status: Status = client.get(&format!("/v1/status?project={project}")).await?;
    for found in status.sandboxes.iter().filter(|found| found.phase == Phase::Ready) {
        if spec.sandboxes.get(&found.name).is_some_and(|sandbox| sandbox.workspace.is_some()) {
            push_once(client, found, true).await?;
        }
    }
    Ok(())
}

pub(super) async fn apply(
    global: &Global,
    yes: bool,
    no_wait: bool,
    frozen: bool,
) -> Result<ExitCode> {
    let (file, project, spec) = read(global)?;
    let client = Client::connect().await?;
    let spec = lock::locked(&client, &file, spec, frozen).await?;
    let wanted = spec.clone();
    let path = format!("/v1/projects/{project}/apply");
    let mut apply = Apply { spec, dry_run: false, consent: yes };
    let mut applied: Applied = client.post(&path, &apply).await?;
    let nothing = applied.plan.lines.is_empty();
    if !global.json {
        if nothing {
            println!("no changes");
        } else {
            show::plan(&applied.plan);
        }
    }
    if !applied.accepted {
        consent(&applied, "apply --yes")?;
        apply.consent = true;
        applied = client.post(&path, &apply).await?;
    }
    if global.json {
        show::json(&applied)?;
    }
    if !no_wait {
        follow(&client, &project, None, applied.change, global.json).await?;
        if frozen {
            lock::verify(&client, &file, &wanted).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks before data is destroyed.
fn consent(applied: &Applied, command: &str) -> Result<()> {
    let what = banger_wire::text::clean_line(&applied.destroys.join(", "));
    if agree(&format!("This destroys the data of {what}. Go on?")) {
        return Ok(());
    }
    let message = format!("this would destroy the data of {what}; nothing was done");
    Err(Failure::new(REFUSED, message).hint(format!("to agree: banger {command}")).into())
}

pub(super) async fn destroy(global: &Global, yes: bool) -> Result<ExitCode> {
    let project = match &global.project {
        Some(project) => project.clone(),
        None => read(global)?.1,
    };
    let client = Client::connect().await?;
    let path = format!("/v1/projects/{project}/destroy");
    let mut applied: Applied =
        client.post(&path, &Destroy { dry_run: true, consent: false }).await?;
    if !global.json {
        if applied.plan.lines.is_empty() {
            println!("nothing to destroy");
        } else {
            show::plan(&applied.plan);
        }
    }
    if !yes && !applied.destroys.is_empty() {
        consent(&applied, "destroy --yes")?;
    }
    applied = client.post(&path, &Destroy { dry_run: false, consent: true }).await?;
    follow(&client, &project, None, applied.change, global.json).await?;
    if global.json {
        show::json(&applied)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn status(global: &Global) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let project = project_or_default(global)?;
    let status: Status = client.get(&format!("/v1/status?project={project}")).await?;
    if global.json {
        show::json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("project {project}");
    let rows = status.sandboxes.iter().map(|s| {
        let reason = match s.next_try_secs {
            Some(seconds) => format!("{} (next try in {})", s.reason, show::age(seconds)),
            None => s.reason.clone(),
        };
        vec![
            s.name.to_string(),
            s.phase.to_string(),
            s.image.clone(),
            s.cpus.to_string(),
            s.memory.clone(),
            s.uptime_secs.map(show::age).unwrap_or_default(),
            s.ports.join(" "),
            reason,
        ]
    });
    show::table(
        &["sandbox", "phase", "image", "cpus", "memory", "up", "ports", "reason"],
        rows.collect(),
    );
    for volume in &status.volumes {
        let there = if volume.present { "" } else { ", not there yet" };
        let size = banger_wire::text::clean_line(&volume.size);
        println!("volume {} ({size}{there})", volume.name);
    }
    for foreign in &status.foreign {
        println!("not ours, left alone: {}", banger_wire::text::clean_line(foreign));
    }
    Ok(ExitCode::SUCCESS)
}
