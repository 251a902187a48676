//! `vm …` and `ps`: each writes a small spec or looks at one sandbox.

use super::artifact::{kernel_declaration, picture_declaration};
use super::{agree, copy, follow, look, snapshot, ssh, workspace};
use crate::arguments::{Global, How, Shape, Target, Vm};
use crate::client::Client;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::{project, show, terminal};
use anyhow::Result;
use banger_schema::Spec;
use banger_schema::spec::{NetworkSpec, SandboxSpec, WorkspaceSpec};
use banger_wire::agent::{Exec, Tty};
use banger_wire::api::{Applied, Edit, SandboxStatus, Status};
use banger_wire::id::Name;
use banger_wire::stream::{Reader, send_message};
use http_body_util::BodyExt;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

pub(super) async fn run(global: &Global, command: Vm) -> Result<ExitCode> {
    if let Vm::Run { path: Some(path), .. } = &command
        && !path.exists()
    {
        let word = path.display();
        let hint = format!("a folder is meant; an image is --image {word}, a command -- {word}");
        let message = format!("there is no {word} here");
        return Err(Failure::new(FAILED, message).hint(hint).into());
    }
    match command {
        Vm::Run { path, ship, dry_run: true, .. } => {
            super::run::list(global, path.as_deref(), &ship)
        }
        Vm::Run { path, ship, detach: true, name, shape, .. } => {
            super::run::detached(global, name, path.as_deref(), &ship, &shape).await
        }
        Vm::Run { path, ship, sync, discard, shape, how, command, .. } => {
            let repository = super::run::Repository { path, ship, sync, discard };
            super::run::once(global, &repository, &shape, how, command).await
        }
        Vm::Create { name, path, ship, shape, no_wait } => {
            let workspace = super::run::workspace(path.as_deref(), &ship)?;
            create(global, name, workspace, &shape, no_wait).await
        }
        Vm::Start(target) => edit(global, target, |name| Edit::Start { name }).await,
        Vm::Stop(target) => edit(global, target, |name| Edit::Stop { name }).await,
        Vm::Suspend(target) => edit(global, target, |name| Edit::Suspend { name }).await,
        Vm::Snapshot(take) => snapshot::take(global, take).await,
        Vm::Restore(restore) => snapshot::restore(global, restore).await,
        Vm::Fork(fork) => snapshot::fork(global, fork).await,
        Vm::Restart(target) => edit(global, target, |name| Edit::Restart { name }).await,
        Vm::Kill(target) => edit(global, target, |name| Edit::Kill { name }).await,
        Vm::Delete { target, yes } => delete(global, target, yes).await,
        Vm::List => list(global).await,
        Vm::Show { name } => show_one(global, &name).await,
        Vm::Exec { name, how, command } => exec(global, &name, how, command).await,
        Vm::Ssh { name, arguments } => ssh_into(global, &name, &arguments).await,
        Vm::Workspace(command) => workspace::run(global, command).await,
        Vm::Cp(copy) => copy::run(global, &copy).await,
        Vm::Ports { name } => look::ports(global, &name).await,
        Vm::Stats { name, watch } => look::stats(global, name.as_ref(), watch).await,
        Vm::Logs { name, follow } => logs(global, &name, follow).await,
    }
}

pub(super) async fn list(global: &Global) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let query =
        global.project.as_ref().map(|project| format!("?project={project}")).unwrap_or_default();
    let status: Status = client.get(&format!("/v1/status{query}")).await?;
    if global.json {
        show::json(&status.sandboxes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = status.sandboxes.iter().map(|s| {
        vec![
            s.project.to_string(),
            s.name.to_string(),
            s.phase.to_string(),
            s.image.clone(),
            s.uptime_secs.map(show::age).unwrap_or_default(),
            s.ports.join(" "),
            s.reason.clone(),
        ]
    });
    show::table(&["project", "name", "phase", "image", "up", "ports", "reason"], rows.collect());
    Ok(ExitCode::SUCCESS)
}

/// A sandbox by name: in the project that was named or is here, else among those made by command. Where nothing is taken
/// away from it, else wherever there is just one.
pub(super) async fn find(
    client: &Client,
    global: &Global,
    name: &Name,
    look_only: bool,
) -> Result<SandboxStatus> {
    let status: Status = client.get("/v1/status").await?;
    let of = |project: &Name| {
        status.sandboxes.iter().find(|s| s.project == *project && s.name == *name).cloned()
    };
    let here = match &global.project {
        Some(project) => Some(project.clone()),
        None => project::here(global)?,
    };
    let project = here.clone().unwrap_or_else(project::default);
    if let Some(found) = of(&project) {
        return Ok(found);
    }
    let mut elsewhere = status.sandboxes.iter().filter(|s| s.name == *name);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(only), None) if look_only && global.project.is_none() => Ok(only.clone()),
        (Some(other), _) => {
            let message = format!("there is no sandbox {name} in project {project}");
            let hint = format!("there is one in project {}: name it with -p", other.project);
            Err(Failure::new(FAILED, message).hint(hint).into())
        }
        (None, _) => {
            let message = format!("there is no sandbox {name} in project {project}");
            Err(Failure::new(FAILED, message).hint("banger ps lists them all").into())
        }
    }
}

async fn delete(global: &Global, target: Target, yes: bool) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, &target.name, false).await?;
    let title = format!("{}/{}", found.project, found.name);
    if !yes && !agree(&format!("This destroys the disk of {title}. Go on?")) {
        let message = format!("this would destroy the disk of {title}; nothing was done");
        return Err(Failure::new(REFUSED, message).hint("to agree: --yes").into());
    }
    edit(global, target, |name| Edit::Delete { name }).await
}

async fn edit(
    global: &Global,
    target: Target,
    command: impl FnOnce(Name) -> Edit<Spec>,
) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, &target.name, false).await?;
    let path = format!("/v1/projects/{}/edit", found.project);
    let applied: Applied = client.post(&path, &command(target.name)).await?;
    if !target.no_wait {
        follow(&client, &found.project, Some(&found.name), applied.change, global.json).await?;
    }
    if global.json {
        show::json(&applied)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn shaped(shape: &Shape) -> SandboxSpec {
    let mut spec = SandboxSpec::new(shape.image.name());
    spec.kernel = shape.kernel.clone();
    (spec.vmm, spec.cold) = (shape.vmm, shape.cold);
    spec.cpus = shape.cpus.unwrap_or(spec.cpus);
    spec.memory = shape.memory.unwrap_or(spec.memory);
    spec.disk = shape.disk.unwrap_or(spec.disk);
    (spec.disk_rate, spec.net_rate) = (shape.disk_rate, shape.net_rate);
    spec.publish = shape.publish.clone();
    spec.provision = shape.provision.clone();
    spec.user = shape.service_user.clone();
    spec.entrypoint = shape.entrypoint.clone();
    spec.networks = shape.network.iter().cloned().collect();
    spec.egress = shape.egress;
    spec
}

/// The image and the networks that a command names.
pub(super) async fn declared(client: &Client, global: &Global, shape: &Shape) -> Result<Spec> {
    let mut spec = picture_declaration(client, global, &shape.image).await?;
    let kernel = kernel_declaration(client, global, shape.kernel.as_ref()).await?;
    spec.kernels.extend(kernel.kernels);
    spec.networks = shape.network.iter().map(|n| (n.clone(), NetworkSpec::default())).collect();
    Ok(spec)
}

pub(super) async fn create(
    global: &Global,
    name: Name,
    workspace: Option<WorkspaceSpec>,
    shape: &Shape,
    no_wait: bool,
) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let mut spec = declared(&client, global, shape).await?;
    let sandbox = SandboxSpec { workspace, ..shaped(shape) };
    spec.sandboxes.insert(name.clone(), sandbox);
    let project = global.project.clone().unwrap_or_else(project::default);
    let applied: Applied =
        client.post(&format!("/v1/projects/{project}/edit"), &Edit::Create { spec }).await?;
    if !no_wait {
        follow(&client, &project, Some(&name), applied.change, global.json).await?;
    }
    if global.json {
        show::json(&applied)?;
    } else {
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn wanted(how: How, command: Vec<String>, tty: Option<Tty>) -> Exec {
    let argv =
        if command.is_empty() { vec!["/bin/sh".to_string(), "-l".to_string()] } else { command };
    Exec { argv, env: how.env.into_iter().collect(), cwd: how.workdir, user: how.user, tty }
}

async fn exec(global: &Global, name: &Name, how: How, command: Vec<String>) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    exec_in(&client, &found, how, command).await
}

/// Runs a command in a sandbox that was found.
pub(super) async fn exec_in(
    client: &Client,
    found: &SandboxStatus,
    how: How,
    command: Vec<String>,
) -> Result<ExitCode> {
    let tty = terminal::wanted(how.no_tty);
    let on_terminal = tty.is_some();
    let exec = wanted(how, command, tty);
    let path = format!("/v1/projects/{}/sandboxes/{}/exec", found.project, found.name);
    let (read, mut write) = tokio::io::split(client.upgrade(&path).await?);
    send_message(&mut write, &exec).await?;
    Ok(ExitCode::from(terminal::carry(Reader::new(read), write, on_terminal).await?))
}

async fn ssh_into(global: &Global, name: &Name, arguments: &[String]) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    ssh::into(&format!("{}.{}.vm", found.name, found.project), arguments).await
}

async fn show_one(global: &Global, name: &Name) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    let project: Spec = client.get(&format!("/v1/projects/{}", found.project)).await?;
    let spec = project.sandboxes.get(name);
    if global.json {
        show::json(&json!({ "status": found, "spec": spec }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let clean = banger_wire::text::clean_line;
    println!("{} in project {}", found.name, found.project);
    println!("phase:      {} {}", found.phase, clean(&found.reason));
    println!("id:         {}", found.id);
    println!("generation: {} (guest: {})", found.generation.0, found.observed_generation.0);
    println!("image:      {}", clean(&found.image));
    println!("shape:      {} cpus, {}", found.cpus, clean(&found.memory));
    println!("vmm:        {}", clean(found.vmm.as_deref().unwrap_or("none")));
    println!("up:         {}", found.uptime_secs.map(show::age).unwrap_or_default());
    println!("boot id:    {}", clean(found.boot_id.as_deref().unwrap_or("")));
    let address = found.address.map(|address| address.to_string());
    println!("address:    {}", address.as_deref().unwrap_or("none"));
    let networks: Vec<&str> = found.networks.iter().map(Name::as_str).collect();
    println!("network:    egress {} {}", found.egress, networks.join(" "));
    println!("ports:      {}", clean(&found.ports.join(" ")));
    println!("failures:   {}", found.failures);
    if let Some(spec) = spec {
        println!("spec:       {}", clean(&serde_json::to_string(spec)?));
    }
    Ok(ExitCode::SUCCESS)
}

async fn logs(global: &Global, name: &Name, follow: bool) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    let path = format!("/v1/projects/{}/sandboxes/{name}/logs?follow={follow}", found.project);
    let mut body = client.stream(&path).await?;
    let mut cleaner = terminal::Cleaner::new(std::io::stdout().is_terminal());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let mut out = std::io::stdout();
            if out.write_all(&cleaner.pass(&data)).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
