//! `image` and `kernel`.

use super::follow;
use crate::arguments::{Cache, Global, Image, Kernel, Picture};
use crate::catalog::fetched;
use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::{local, project, show};
use anyhow::Result;
use banger_schema::spec::{ImageSource, ImageSpec, KernelSource, KernelSpec, OciImage};
use banger_schema::{Spec, catalog};
use banger_wire::api::{Applied, Artifact, CachedBlob, Edit, Login, Prune, Resolve, Resolved};
use banger_wire::id::Name;
use std::collections::BTreeSet;
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
        Image::Pull { image, name, update, yes } => {
            pull(&client, global, &image, name, update, yes).await?;
        }
        Image::Register { name, path, kernel } => {
            let source = ImageSource::Path(local::named(&path)?);
            let image = ImageSpec { source, kernel: kernel.clone() };
            let mut spec = kernel_declaration(&client, global, kernel.as_ref()).await?;
            spec.images.insert(name.clone(), image);
            keep(&client, global, Edit::Update { spec, consent: false }).await?;
            show_one(&find(&client, "/v1/images", name.as_str()).await?, global.json)?;
        }
        Image::Promote { image, name } => promote(&client, global, &image, name).await?,
        Image::Login { registry, user, password_stdin } => {
            let password = password(&registry, password_stdin)?;
            let login = Login { registry: registry.clone(), user, password };
            client.post::<()>("/v1/registries/login", &login).await?;
            println!("{registry} knows us");
        }
        Image::Logout { registry } => {
            let (user, password) = (String::new(), String::new());
            let login = Login { registry: registry.clone(), user, password };
            let there: bool = client.post("/v1/registries/logout", &login).await?;
            println!("{}", if there { "forgotten" } else { "there was nothing to forget" });
        }
        Image::Cache(Cache::List) => {
            blobs(&client.get::<Vec<CachedBlob>>("/v1/blobs").await?, global.json)?;
        }
        Image::Cache(Cache::Prune { dry_run }) => {
            let gone: Vec<CachedBlob> = client.post("/v1/blobs/prune", &Prune { dry_run }).await?;
            blobs(&gone, global.json)?;
            if !global.json {
                let bytes = show::bytes(gone.iter().map(|blob| blob.bytes).sum());
                println!("{bytes} {}", if dry_run { "would be freed" } else { "freed" });
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn blobs(blobs: &[CachedBlob], json: bool) -> Result<()> {
    if json {
        return show::json(&blobs);
    }
    let rows = blobs.iter().map(|blob| {
        let state = if blob.whole { "whole" } else { "in part" };
        vec![show::short(&blob.digest), show::bytes(blob.bytes), state.to_string()]
    });
    show::table(&["blob", "size", "state"], rows.collect());
    Ok(())
}

/// The password, from standard input or asked for without showing it.
fn password(registry: &str, stdin: bool) -> Result<String> {
    if stdin {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text)?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_string());
    }
    crate::terminal::secret(&format!("Password for {registry}: "))?.ok_or_else(|| {
        Failure::new(FAILED, "there is no terminal to ask for the password")
            .hint("give it by --password-stdin")
            .into()
    })
}

/// Brings an image here and says what it is. What a reference led to before stays, unless told otherwise (R-N6).
async fn pull(
    client: &Client,
    global: &Global,
    image: &Picture,
    name: Option<Name>,
    update: bool,
    yes: bool,
) -> Result<()> {
    let own = image.name();
    let name = name.unwrap_or_else(|| own.clone());
    let mut spec = picture_declaration(client, global, image).await?;
    if let Some(found) = catalog::embedded().images.get(&own).filter(|_| spec.images.is_empty()) {
        spec.images.insert(own.clone(), found.clone());
    }
    if let Some(found) = spec.images.remove(&own) {
        spec.images.insert(name.clone(), found);
    }
    let open = spec.images.get_mut(&name).map(|image| &mut image.source);
    if let Some(ImageSource::Oci(OciImage { reference, digest: digest @ None })) = open {
        let ask = Resolve { reference: reference.clone(), project: project::default() };
        let Resolved { now, known } = client.post("/v1/resolve", &ask).await?;
        if let Some(known) = known.filter(|known| *known != now) {
            let clean = banger_wire::text::clean_line;
            eprintln!("{reference} moved: {} \u{2192} {}", clean(&known), clean(&now));
            if update {
                *digest = Some(now);
            } else {
                eprintln!("hint: the known one stays; to take the newer one: --update");
                *digest = Some(known);
            }
        } else {
            *digest = Some(now);
        }
    }
    keep(client, global, Edit::Update { spec, consent: yes }).await?;
    show_one(&find(client, "/v1/images", name.as_str()).await?, global.json)
}

async fn promote(client: &Client, global: &Global, image: &str, name: Option<Name>) -> Result<()> {
    let found = find(client, "/v1/images", image).await?;
    let mut spec: Spec = client.get(&format!("/v1/images/{}/spec", found.recipe)).await?;
    let (own, image) = spec
        .images
        .pop_first()
        .ok_or_else(|| Failure::new(FAILED, format!("no project declares {image}")))?;
    let name = name.unwrap_or(own);
    spec.images.insert(name.clone(), image);
    keep(client, global, Edit::Create { spec }).await?;
    show_one(&find(client, "/v1/images", name.as_str()).await?, global.json)
}

/// Declares something by command, and waits until it is there. What cannot be made is not declared any more then.
async fn keep(client: &Client, global: &Global, edit: Edit<Spec>) -> Result<()> {
    let project = project::default();
    let applied: Applied = client.post(&format!("/v1/projects/{project}/edit"), &edit).await?;
    let outcome = follow(client, &project, None, applied.change, global.json).await;
    if let (Err(_), Edit::Create { spec } | Edit::Update { spec, .. }) = (&outcome, &edit) {
        for (path, names) in [
            ("/v1/images", spec.images.keys().collect::<Vec<_>>()),
            ("/v1/kernels", spec.kernels.keys().collect()),
        ] {
            for name in names {
                let found = find(client, path, &format!("{project}/{name}")).await;
                if let Some(found) = found.ok().filter(|found| found.content.is_none()) {
                    // It may be used by now, and stays then.
                    let _ = client.delete(&format!("{path}/{}", found.recipe)).await;
                }
            }
        }
    }
    outcome
}

pub(super) async fn kernel(global: &Global, command: Kernel) -> Result<ExitCode> {
    let client = Client::connect().await?;
    match command {
        Kernel::List => list(&client, "/v1/kernels", global.json).await?,
        Kernel::Show { kernel } => {
            show_one(&find(&client, "/v1/kernels", &kernel).await?, global.json)?
        }
        Kernel::Rm { kernel } => remove(&client, "/v1/kernels", &kernel).await?,
        Kernel::Pull { kernel } => {
            let spec = kernel_declaration(&client, global, Some(&kernel)).await?;
            keep(&client, global, Edit::Update { spec, consent: false }).await?;
            show_one(&find(&client, "/v1/kernels", kernel.as_str()).await?, global.json)?;
        }
        Kernel::Import { name, path } => {
            let source = KernelSource::Path(local::named(&path)?);
            let mut spec = Spec::default();
            spec.kernels.insert(name.clone(), KernelSpec { source });
            keep(&client, global, Edit::Update { spec, consent: false }).await?;
            show_one(&find(&client, "/v1/kernels", name.as_str()).await?, global.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A kernel of the Bangerfile here, of a catalog, or kept by command, as a spec of its own.
pub(super) async fn kernel_declaration(
    client: &Client,
    global: &Global,
    kernel: Option<&Name>,
) -> Result<Spec> {
    let mut spec = Spec::default();
    let Some(name) = kernel else { return Ok(spec) };
    let own = match project::find(global)? {
        Some(file) => file.parse()?,
        None => Spec::default(),
    };
    let (fetched, kept) = (fetched()?, kept(client).await);
    let by_name = [&own, &fetched, catalog::embedded(), &kept];
    let Some(found) = by_name.iter().find_map(|spec| spec.kernels.get(name)) else {
        let all: BTreeSet<&Name> = by_name.iter().flat_map(|spec| spec.kernels.keys()).collect();
        let known: Vec<&str> = all.into_iter().map(Name::as_str).collect();
        return Err(Failure::new(FAILED, format!("there is no kernel \"{name}\""))
            .hint(format!("known: {}", known.join(", ")))
            .into());
    };
    spec.kernels.insert(name.clone(), found.clone());
    Ok(spec)
}

/// The image that a command names, declared under the name that it has there.
pub(super) async fn picture_declaration(
    client: &Client,
    global: &Global,
    picture: &Picture,
) -> Result<Spec> {
    match picture {
        Picture::Name(name) => declaration(client, global, name).await,
        Picture::Oci(image) => {
            let mut spec = Spec::default();
            let source = ImageSource::Oci(image.clone());
            spec.images.insert(picture.name(), ImageSpec { source, kernel: None });
            Ok(spec)
        }
    }
}

async fn list(client: &Client, path: &str, json: bool) -> Result<()> {
    let artifacts: Vec<Artifact> = client.get(path).await?;
    if json {
        return show::json(&artifacts);
    }
    let rows = artifacts.iter().map(|artifact| {
        vec![
            artifact.names.join(" "),
            show::short(&artifact.recipe),
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
    println!("recipe:  {}", clean(&artifact.recipe));
    println!("content: {}", clean(artifact.content.as_deref().unwrap_or("not built")));
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

/// An image of the Bangerfile here, of the catalog, or kept by command, with the kernel it needs, as a spec of its own.
async fn declaration(client: &Client, global: &Global, image: &Name) -> Result<Spec> {
    let own = match project::find(global)? {
        Some(file) => file.parse()?,
        None => Spec::default(),
    };
    let fetched = fetched()?;
    for from in [&own, &fetched] {
        if let Some(spec) = taken_from(from, image) {
            return Ok(spec);
        }
    }
    if catalog::image(&own, image).is_some() {
        return Ok(Spec::default());
    }
    let kept = kept(client).await;
    if let Some(spec) = taken_from(&kept, image) {
        return Ok(spec);
    }
    let by_name = [&own, &kept, &fetched, catalog::embedded()];
    let all: BTreeSet<&Name> = by_name.iter().flat_map(|spec| spec.images.keys()).collect();
    let known: Vec<&str> = all.into_iter().map(Name::as_str).collect();
    Err(Failure::new(FAILED, format!("there is no image \"{image}\""))
        .hint(format!("known: {}", known.join(", ")))
        .into())
}

/// What was declared by command; nothing where nothing was.
async fn kept(client: &Client) -> Spec {
    client.get(&format!("/v1/projects/{}", project::default())).await.unwrap_or_default()
}

/// An image of a spec and its kernel.
fn taken_from(from: &Spec, image: &Name) -> Option<Spec> {
    let mut spec = Spec::default();
    let found = from.images.get(image)?;
    spec.images.insert(image.clone(), found.clone());
    if let Some(name) = &found.kernel
        && let Some(kernel) = from.kernels.get(name)
    {
        spec.kernels.insert(name.clone(), kernel.clone());
    }
    Some(spec)
}

async fn build(client: &Client, global: &Global, image: &Name) -> Result<()> {
    let mut spec = declaration(client, global, image).await?;
    if let Some(found) = catalog::embedded().images.get(image).filter(|_| spec.images.is_empty()) {
        spec.images.insert(image.clone(), found.clone());
    }
    keep(client, global, Edit::Create { spec }).await?;
    show_one(&find(client, "/v1/images", image.as_str()).await?, global.json)
}
