//! `catalog update`, and `sign` and `verify` for those who publish images and kernels by name.

use crate::arguments::Catalog;
use crate::catalog::{self, check};
use crate::client::Client;
use crate::signature;
use anyhow::{Result, anyhow};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) async fn run(command: Catalog) -> Result<ExitCode> {
    match command {
        Catalog::Update => {
            let new = catalog::update(&Client::connect().await?).await?;
            println!("{}", count(&new));
        }
        Catalog::Sign { file, key } => {
            let text = read(&file)?;
            let checked = check(&file.display().to_string(), &text)?;
            let signature = signature::sign(&read(&key)?, text.as_bytes())?;
            let to = beside(&file);
            std::fs::write(&to, signature)?;
            let to = banger_wire::text::clean_line(&to.display().to_string());
            println!("{to}: {}", count(&checked));
        }
        Catalog::Verify { file, key } => {
            let text = read(&file)?;
            let signature = std::fs::read(beside(&file))
                .map_err(|error| anyhow!("reading {}: {error}", beside(&file).display()))?;
            signature::verify(&read(&key)?, text.as_bytes(), &signature)?;
            println!("signed: {}", count(&check(&file.display().to_string(), &text)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| anyhow!("reading {}: {error}", path.display()))
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(".sig");
    PathBuf::from(name)
}

fn count(catalog: &catalog::Catalog) -> String {
    let (images, kernels) = (catalog.spec.images.len(), catalog.spec.kernels.len());
    format!(
        "catalog {}: {images} images, {kernels} kernels, until {}",
        catalog.sequence, catalog.expires
    )
}
