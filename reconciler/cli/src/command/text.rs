//! `check`, `fmt`, `init`: the file alone, without a daemon.

use crate::arguments::Global;
use crate::failure::{FAILED, Failure};
use crate::{project, show};
use anyhow::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(global: &Global) -> Result<ExitCode> {
    let file = project::need(global)?;
    let spec = file.parse()?;
    if global.json {
        show::json(&spec)?;
    } else {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        println!(
            "{}: {}, {}, {}, {}",
            banger_wire::text::clean_line(&file.path.display().to_string()),
            match spec.sandboxes.len() {
                1 => "1 sandbox".to_string(),
                n => format!("{n} sandboxes"),
            },
            count(spec.images.len(), "image"),
            count(spec.kernels.len(), "kernel"),
            count(spec.volumes.len(), "volume")
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn format(global: &Global, check: bool) -> Result<ExitCode> {
    let file = project::need(global)?;
    let name = file.path.display().to_string();
    let formatted = banger_schema::format::format(&name, &file.text, file.language)?;
    if formatted == file.text {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        return Err(Failure::new(FAILED, format!("{name} is not in the standard layout"))
            .hint("banger fmt")
            .into());
    }
    write_whole(&file.path, &formatted)?;
    println!("formatted {}", banger_wire::text::clean_line(&name));
    Ok(ExitCode::SUCCESS)
}

/// Beside it, then renamed into its place: the file is whole at every moment.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("banger-fmt");
    let write = || {
        let mut file = File::create_new(&beside)?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        Failure::new(FAILED, format!("writing {}: {error}", path.display())).into()
    })
}

const FIRST: &str = r#"// Sandboxes of this repository. Try: banger apply, banger status, banger vm exec dev
sandbox "dev" {
    image "debian-bookworm"
    cpus 1
    memory "512MiB"
    disk "10GiB"
    // provision "echo runs once, before the sandbox is ready"
    // publish 8080 guest=80
}
"#;

pub(super) fn init(global: &Global) -> Result<ExitCode> {
    if let Some(file) = project::find(global)? {
        let message = format!("there is a {} already", file.path.display());
        return Err(Failure::new(FAILED, message).hint("it is left as it is").into());
    }
    let path = Path::new("Bangerfile");
    let written = File::create_new(path).and_then(|mut file| file.write_all(FIRST.as_bytes()));
    written.map_err(|error| Failure::new(FAILED, format!("writing Bangerfile: {error}")))?;
    println!("wrote Bangerfile");
    Ok(ExitCode::SUCCESS)
}
