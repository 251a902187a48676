//! What a guest boots from: the agent as `/init` and the kernel's modules. Made once per content.
//!
//! It is not compressed: unpacking would cost an emulated guest more than reading does.

use crate::fault::{During, Fault};
use crate::folders::{self, Folders};
use banger_wire::id::Digest;
use cpio::newc::{self, ModeFileType};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// The archive for this kernel and this agent, made when it is not there yet.
///
/// # Errors
/// When a part cannot be read or the archive cannot be written.
pub fn ensure(folders: &Folders, kernel: &Digest, agent: &Path) -> Result<PathBuf, Fault> {
    let init = fs::read(agent).during(|| format!("reading the agent {}", agent.display()))?;
    let mut hash = Sha256::new();
    hash.update(kernel.as_str());
    hash.update(&init);
    let digest = Digest::from_bytes(&hash.finalize().into());
    let path = folders.initramfs().join(format!("{digest}.cpio"));
    if !path.exists() {
        let archive = archive(&folders.kernel(kernel).join("modules"), init)?;
        folders::write_whole(&path, &archive)?;
    }
    Ok(path)
}

fn archive(modules: &Path, init: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let folder = |name: &str| {
        (
            newc::Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Directory),
            Vec::new(),
        )
    };
    let file = |name: &str, mode, bytes| {
        (newc::Builder::new(name).mode(mode).set_mode_file_type(ModeFileType::Regular), bytes)
    };
    let mut entries = vec![folder("modules"), folder("dev"), file("init", 0o755, init)];
    let reading = || format!("reading {}", modules.display());
    let mut names: Vec<_> =
        fs::read_dir(modules).during(reading)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let bytes = fs::read(modules.join(&name)).during(reading)?;
        entries.push(file(&format!("modules/{}", name.display()), 0o644, bytes));
    }
    let inputs = entries.into_iter().enumerate().map(|(inode, (builder, bytes))| {
        (builder.ino(u32::try_from(inode + 1).unwrap_or(u32::MAX)), Cursor::new(bytes))
    });
    cpio::write_cpio(inputs, Vec::new()).during(|| "writing the initramfs".into())
}
