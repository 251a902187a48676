//! Which project a command is about, and its Bangerfile.

use crate::arguments::Global;
use crate::failure::{FAILED, Failure, USAGE};
use crate::{catalog, local};
use anyhow::Result;
use banger_schema::{Language, Spec};
use banger_wire::derive::{DEFAULT_PROJECT, RUN_PROJECT};
use banger_wire::id::Name;
use std::path::{Path, PathBuf};

/// A Bangerfile that was read.
pub(crate) struct Bangerfile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) language: Language,
}

/// What a Bangerfile may be called, in the order of looking.
const NAMES: [&str; 2] = ["Bangerfile", "Bangerfile.toml"];

/// The Bangerfile of this folder, or the one that was named. `None` when there is none.
pub(crate) fn find(global: &Global) -> Result<Option<Bangerfile>> {
    let path = match &global.file {
        Some(path) => Some(path.clone()),
        None => NAMES.iter().map(PathBuf::from).find(|path| path.is_file()),
    };
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::new(USAGE, format!("reading {}: {error}", path.display())))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(Bangerfile { language: Language::of_file(&name), path, text }))
}

/// As [`find`], but there has to be one.
pub(crate) fn need(global: &Global) -> Result<Bangerfile> {
    find(global)?.ok_or_else(|| {
        Failure::new(USAGE, "there is no Bangerfile here")
            .hint("banger init writes a first one; -f names another")
            .into()
    })
}

impl Bangerfile {
    /// What it says.
    pub(crate) fn parse(&self) -> Result<Spec> {
        let name = self.path.display().to_string();
        let fetched = catalog::fetched()?;
        let known = catalog::all(&fetched);
        let mut spec = banger_schema::parse_beside(&name, &self.text, self.language, &known)?;
        catalog::declare(&mut spec, &fetched);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        local::complete(&mut spec, folder.unwrap_or(Path::new(".")))?;
        Ok(spec)
    }

    /// The project's name: given, or the file's, or its folder's.
    pub(crate) fn project(&self, global: &Global, spec: &Spec) -> Result<Name> {
        let given = global.project.clone().or_else(|| spec.project.clone());
        let name = match given {
            Some(name) => name,
            None => {
                let full = std::fs::canonicalize(&self.path)?;
                let folder = full.parent().and_then(Path::file_name).unwrap_or_default();
                Name::from_lossy(&folder.to_string_lossy(), "project")
            }
        };
        if [DEFAULT_PROJECT, RUN_PROJECT].contains(&name.as_str()) {
            let message = format!(
                "a Bangerfile's project cannot be called \"{name}\": that one is for commands"
            );
            return Err(Failure::new(FAILED, message)
                .hint("add a line like: project \"shop\"; or use -p")
                .into());
        }
        Ok(name)
    }
}

/// The project of the Bangerfile here. `None` when there is no file; one that cannot be read is an error, or a
/// command would go to another project than was meant.
pub(crate) fn here(global: &Global) -> Result<Option<Name>> {
    let Some(file) = find(global)? else { return Ok(None) };
    let spec = file.parse()?;
    Ok(Some(file.project(global, &spec)?))
}

/// The project of sandboxes that are made by command.
pub(crate) fn default() -> Name {
    Name::new(DEFAULT_PROJECT).expect("a valid name")
}
