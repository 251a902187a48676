//! `Bangerfile.lock`: what a file's references led to, beside the file and committed with it.
//!
//! A digest of a registry's image is what `apply` then asks for. What is built here has the digest of its content:
//! `--frozen` compares it, and the programs, with what there is.

use crate::client::Client;
use crate::failure::{FAILED, Failure, REFUSED};
use crate::project::Bangerfile;
use crate::show;
use anyhow::Result;
use banger_plan::{pin, recipe};
use banger_schema::Spec;
use banger_schema::spec::{ImageSource, OciImage};
use banger_wire::api::{Artifact, Programs, Resolve, Resolved};
use banger_wire::id::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

const HEAD: &str = "# What the Bangerfile's references led to. Made by `banger lock`; commit it beside the file.\n\n";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    #[serde(default)]
    images: BTreeMap<Name, Entry>,
    #[serde(default)]
    kernels: BTreeMap<Name, Entry>,
    programs: Option<Programs>,
}

/// One image or kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// What the file said, in words.
    source: String,
    /// The digest of the manifest, for an image of a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// The digest of what was built, once it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

fn path(file: &Bangerfile) -> PathBuf {
    file.path.with_file_name("Bangerfile.lock")
}

/// What is written, without a digest that only a lock has.
fn words(source: &ImageSource) -> String {
    match source {
        ImageSource::Oci(image) => image.reference.clone(),
        ImageSource::Debian(_) | ImageSource::Path(_) => recipe::describe_image(source),
    }
}

impl Lock {
    /// The lock beside a file. `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read: it is never taken for one that says nothing.
    pub(crate) fn read(file: &Bangerfile) -> Result<Option<Self>> {
        let path = path(file);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let lock = toml::from_str(&text).map_err(|error| {
            let message = format!("{}: {}", path.display(), error.message());
            Failure::new(FAILED, message).hint("make it anew: remove it, then banger lock")
        })?;
        Ok(Some(lock))
    }

    fn write(&self, file: &Bangerfile) -> Result<()> {
        let (path, text) = (path(file), format!("{HEAD}{}", toml::to_string(self)?));
        let beside = path.with_extension("lock.new");
        std::fs::write(&beside, text)?;
        Ok(std::fs::rename(&beside, &path)?)
    }

    /// Gives open references the digests that are locked.
    pub(crate) fn pin(&self, spec: &mut Spec) {
        pin::declare(spec);
        for (name, image) in &mut spec.images {
            let Some(entry) = self.images.get(name) else { continue };
            if let ImageSource::Oci(OciImage { reference, digest: digest @ None }) =
                &mut image.source
                && entry.source == *reference
            {
                digest.clone_from(&entry.digest);
            }
        }
    }

    /// Everything that is not as it is locked, one line each. What is not built yet is no difference.
    async fn differences(&self, client: &Client, spec: &Spec) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut missing =
            |what: &str, name: &Name, entry: Option<&Entry>, source: String| match entry {
                None => found.push(format!("{what} {name} is not in it")),
                Some(entry) if entry.source != source => {
                    found.push(format!("{what} {name} was {} and is {source}", entry.source));
                }
                Some(_) => {}
            };
        for (name, image) in &spec.images {
            missing("image", name, self.images.get(name), words(&image.source));
        }
        for (name, kernel) in &spec.kernels {
            let source = recipe::describe_kernel(&kernel.source);
            missing("kernel", name, self.kernels.get(name), source);
        }
        for (what, name, locked, built) in self.contents(client, spec).await? {
            if let (Some(locked), Some(built)) = (locked, built)
                && locked != built
            {
                let (locked, built) = (show::short(&locked), show::short(&built));
                found.push(format!("{what} {name} is {built}, and was {locked}"));
            }
        }
        let programs: Programs = client.get("/v1/programs").await?;
        match &self.programs {
            None => found.push("the programs are not in it".to_string()),
            Some(locked) if *locked != programs => {
                found.push(format!("the programs are {programs}, and were {locked}"));
            }
            Some(_) => {}
        }
        Ok(found)
    }

    /// Each image and kernel of a spec with the content that is locked and the one that is here.
    async fn contents(
        &self,
        client: &Client,
        spec: &Spec,
    ) -> Result<Vec<(&'static str, Name, Option<String>, Option<String>)>> {
        let (images, kernels): (Vec<Artifact>, Vec<Artifact>) =
            (client.get("/v1/images").await?, client.get("/v1/kernels").await?);
        let content = |all: &[Artifact], recipe: &str| {
            all.iter().find(|a| a.recipe == recipe).and_then(|a| a.content.clone())
        };
        let locked = |entry: Option<&Entry>| entry.and_then(|entry| entry.content.clone());
        let of_image = spec.images.iter().map(|(name, image)| {
            let here = content(&images, recipe::image(&image.source).as_str());
            ("image", name.clone(), locked(self.images.get(name)), here)
        });
        let of_kernel = spec.kernels.iter().map(|(name, kernel)| {
            let here = content(&kernels, recipe::kernel(&kernel.source).as_str());
            ("kernel", name.clone(), locked(self.kernels.get(name)), here)
        });
        Ok(of_image.chain(of_kernel).collect())
    }
}

/// The spec of a file with what is locked. With `frozen` nothing may be otherwise.
///
/// # Errors
/// When the lock cannot be read; with `frozen` when there is none, or anything is not as it says.
pub(crate) async fn locked(
    client: &Client,
    file: &Bangerfile,
    mut spec: Spec,
    frozen: bool,
) -> Result<Spec> {
    let lock = Lock::read(file)?;
    match lock {
        Some(lock) => {
            lock.pin(&mut spec);
            if frozen {
                refuse(&lock.differences(client, &spec).await?)?;
            }
        }
        None if frozen => {
            return Err(Failure::new(REFUSED, "there is no Bangerfile.lock")
                .hint("banger lock makes it")
                .into());
        }
        None => {}
    }
    Ok(spec)
}

/// After an apply: whether what was built meanwhile is what was locked.
///
/// # Errors
/// When it is not.
pub(crate) async fn verify(client: &Client, file: &Bangerfile, spec: &Spec) -> Result<()> {
    match Lock::read(file)? {
        Some(lock) => refuse(&lock.differences(client, spec).await?),
        None => Ok(()),
    }
}

fn refuse(differences: &[String]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let lines = banger_wire::text::clean_line(&differences.join("; "));
    Err(Failure::new(REFUSED, format!("not as Bangerfile.lock says: {lines}"))
        .hint("banger lock, or banger lock --update NAME, takes what is now")
        .into())
}

/// Makes or completes the lock. What is locked already stays, but for the names in `update`.
///
/// # Errors
/// When a registry cannot be asked, a name is not in the file, or the lock cannot be written.
pub(crate) async fn make(
    client: &Client,
    file: &Bangerfile,
    project: &Name,
    mut spec: Spec,
    update: &[Name],
) -> Result<()> {
    let old = Lock::read(file)?.unwrap_or_default();
    pin::declare(&mut spec);
    let all = |name: &&Name| !spec.images.contains_key(*name) && !spec.kernels.contains_key(*name);
    if let Some(unknown) = update.iter().find(all) {
        let message = format!("the file has no image or kernel \"{unknown}\"");
        return Err(Failure::new(FAILED, message).into());
    }
    let mut new = Lock::default();
    for (name, image) in &mut spec.images {
        let source = words(&image.source);
        let known = old.images.get(name).filter(|entry| entry.source == source);
        let mut entry = Entry { source, digest: None, content: None };
        if let ImageSource::Oci(OciImage { reference, digest }) = &mut image.source {
            let kept = known.filter(|_| !update.contains(name)).and_then(|k| k.digest.clone());
            if digest.is_none() {
                *digest = kept;
            }
            if digest.is_none() {
                let ask = Resolve { reference: reference.clone(), project: project.clone() };
                let Resolved { now, .. } = client.post("/v1/resolve", &ask).await?;
                if let Some(before) = known.and_then(|k| k.digest.as_ref()).filter(|b| **b != now) {
                    let clean = banger_wire::text::clean_line;
                    println!("{name}: {} \u{2192} {}", clean(before), clean(&now));
                }
                *digest = Some(now);
            }
            entry.digest.clone_from(digest);
        }
        new.images.insert(name.clone(), entry);
    }
    for (name, kernel) in &spec.kernels {
        let source = recipe::describe_kernel(&kernel.source);
        new.kernels.insert(name.clone(), Entry { source, digest: None, content: None });
    }
    for (what, name, _, here) in new.contents(client, &spec).await? {
        let (entries, before) = match what {
            "image" => (&mut new.images, &old.images),
            _ => (&mut new.kernels, &old.kernels),
        };
        let entry = entries.get_mut(&name).expect("just made");
        let same =
            before.get(&name).filter(|b| (&b.source, &b.digest) == (&entry.source, &entry.digest));
        let kept = same.filter(|_| !update.contains(&name)).and_then(|b| b.content.clone());
        entry.content = kept.or(here);
    }
    new.programs = Some(client.get("/v1/programs").await?);
    new.write(file)
}
