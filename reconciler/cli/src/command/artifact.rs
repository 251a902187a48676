//! `image` and `kernel`.

use super::follow;
use crate::arguments::{Global, Image, Kernel};
use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::{project, show};
use anyhow::Result;
use banger_schema::{Spec, catalog};
use banger_wire::api::{Applied, Artifact, Edit};
use banger_wire::id::Name;
use std::process::ExitCode;

pub(super) async fn image(global: &Global, command: Image) -> Result<ExitCode> {
    let client = Client::connect().await?;
    match command {
        Image::List => list(&client, "/v1/images", global.json).await?,
        Image::Show { image } => {
            show_one(&find(&client, "/v1/images", &image).await?, global.json)?
        }
        Image::Delete { image } => remove(&client, "/v1/images", &image).await?,
        Image::Build { image } => build(&client, global, &image).await?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn kernel(global: &Global, command: Kernel) -> Result<ExitCode> {
    let client = Client::connect().await?;
    match command {
        Kernel::List => list(&client, "/v1/kernels", global.json).await?,
        Kernel::Show { kernel } => {
            show_one(&find(&client, "/v1/kernels", &kernel).await?, global.json)?
        }
        Kernel::Rm { kernel } => remove(&client, "/v1/kernels", &kernel).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, path: &str, json: bool) -> Result<()> {
    let artifacts: Vec<Artifact> = client.get(path).await?;
    if json {
        return show::json(&artifacts);
    }
    let rows = artifacts.iter().map(|artifact| {
        vec![
            artifact.names.join(" "),
            artifact.recipe[..12].to_string(),
            artifact.bytes.map_or_else(|| "not built".to_string(), show::bytes),
            artifact.used_by.len().to_string(),
            artifact.source.clone(),
        ]
    });
    show::table(&["names", "recipe", "size", "used", "source"], rows.collect());
    Ok(())
}

async fn find(client: &Client, path: &str, wanted: &str) -> Result<Artifact> {
    let artifacts: Vec<Artifact> = client.get(path).await?;
    let named = |artifact: &&Artifact| {
        artifact.names.iter().any(|name| name == wanted || name.rsplit('/').next() == Some(wanted))
            || (wanted.len() >= 6 && artifact.recipe.starts_with(wanted))
    };
    let mut found: Vec<Artifact> = artifacts.iter().filter(named).cloned().collect();
    match (found.pop(), found.is_empty()) {
        (Some(artifact), true) => Ok(artifact),
        (None, _) => Err(Failure::new(FAILED, format!("nothing here is called \"{wanted}\""))
            .hint("list shows what there is")
            .into()),
        (Some(_), false) => {
            let message = format!("\"{wanted}\" is more than one thing");
            Err(Failure::new(FAILED, message)
                .hint("use project/name or the recipe's digest")
                .into())
        }
    }
}

fn show_one(artifact: &Artifact, json: bool) -> Result<()> {
    if json {
        return show::json(artifact);
    }
    let clean = banger_wire::text::clean_line;
    println!("names:   {}", clean(&artifact.names.join(" ")));
    println!("source:  {}", clean(&artifact.source));
    println!("recipe:  {}", artifact.recipe);
    println!("content: {}", artifact.content.as_deref().unwrap_or("not built"));
    println!("size:    {}", artifact.bytes.map_or_else(String::new, show::bytes));
    println!("used by: {}", clean(&artifact.used_by.join(" ")));
    for detail in &artifact.details {
        println!("{}", clean(detail));
    }
    Ok(())
}

async fn remove(client: &Client, path: &str, wanted: &str) -> Result<()> {
    let artifact = find(client, path, wanted).await?;
    client.delete(&format!("{path}/{}", artifact.recipe)).await?;
    println!("deleted {wanted}");
    Ok(())
}

/// An image of the Bangerfile here or of the catalog, with the kernel it needs, as a spec of its own.
pub(super) fn declaration(global: &Global, image: &Name) -> Result<Spec> {
    let own = match project::find(global)? {
        Some(file) => file.parse()?,
        None => Spec::default(),
    };
    let mut spec = Spec::default();
    let Some(found) = own.images.get(image) else {
        if catalog::image(&own, image).is_some() {
            return Ok(spec);
        }
        let known: Vec<&str> =
            own.images.keys().chain(catalog::embedded().images.keys()).map(Name::as_str).collect();
        let message = format!("there is no image \"{image}\"");
        return Err(Failure::new(FAILED, message)
            .hint(format!("known: {}", known.join(", ")))
            .into());
    };
    spec.images.insert(image.clone(), found.clone());
    if let Some(name) = &found.kernel
        && let Some(kernel) = own.kernels.get(name)
    {
        spec.kernels.insert(name.clone(), kernel.clone());
    }
    Ok(spec)
}

async fn build(client: &Client, global: &Global, image: &Name) -> Result<()> {
    let mut spec = declaration(global, image)?;
    if let Some(found) = catalog::embedded().images.get(image).filter(|_| spec.images.is_empty()) {
        spec.images.insert(image.clone(), found.clone());
    }
    let project = project::default();
    let applied: Applied =
        client.post(&format!("/v1/projects/{project}/edit"), &Edit::Create { spec }).await?;
    follow(client, &project, None, applied.change, global.json).await?;
    show_one(&find(client, "/v1/images", image.as_str()).await?, global.json)
}
