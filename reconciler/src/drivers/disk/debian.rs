//! Debian packages as one tar archive, by `mmdebstrap`. The archive's own signatures are the trust.
//!
//! `mmdebstrap` works in a folder of its own; from there on there is only the archive, never a tree on the host.

use crate::drivers::Progress;
use crate::fault::{During, Fault};
use banger_wire::derive::MARK;
use banger_wire::id::{Digest, InstallId};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How an archive is made.
pub(super) enum Variant {
    /// A system that can be booted.
    System,
    /// Packages only laid out, with the modules' dependencies worked out.
    Kernel,
}

/// What to get.
pub(super) struct Wanted<'a> {
    pub(super) variant: Variant,
    pub(super) suite: &'a str,
    pub(super) packages: &'a [String],
    pub(super) recipe: &'a Digest,
    pub(super) install: &'a InstallId,
}

/// Time stamps of files are cut to this, so that the same packages give the same archive.
const EPOCH: &str = "1700000000";
/// Lines of errors that are shown.
const SHOWN: usize = 6;
/// A constant; nothing that a user wrote is in it.
const DEPMOD: &str = r#"for tree in "$1"/lib/modules/* "$1"/usr/lib/modules/*; do
    if [ -d "$tree/kernel" ]; then PATH="$PATH:/usr/sbin:/sbin" depmod -b "$1" "${tree##*/}"; fi
done"#;

/// `mmdebstrap` at work.
pub(super) struct Running {
    child: Child,
    errors: JoinHandle<Vec<String>>,
}

impl Running {
    /// Waits for its end.
    pub(super) async fn end(mut self, wanted: &Wanted<'_>) -> Result<(), Fault> {
        let status = self.child.wait().await.during(|| "waiting for mmdebstrap".into())?;
        let errors = self.errors.await.unwrap_or_default();
        if status.success() { Ok(()) } else { Err(explain(&errors, wanted)) }
    }
}

/// Starts it. Its archive comes out of the pipe.
pub(super) fn stream(
    wanted: &Wanted<'_>,
    progress: &Progress,
) -> Result<(OwnedFd, Running), Fault> {
    let (reader, writer) = std::io::pipe().during(|| "making a pipe".into())?;
    let mut command = command(wanted)?;
    let mut child = command.stdout(writer).spawn().during(|| "starting mmdebstrap".into())?;
    // Ours of the writing end goes with the command.
    drop(command);
    let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
    let errors = tokio::spawn(follow(stderr, progress.clone()));
    Ok((reader.into(), Running { child, errors }))
}

/// Writes the archive into a file.
pub(super) async fn archive(
    wanted: &Wanted<'_>,
    to: &Path,
    progress: &Progress,
) -> Result<(), Fault> {
    let (archive, running) = stream(wanted, progress)?;
    let path = to.to_path_buf();
    let written = super::blocking(move || {
        let writing = || format!("writing {}", path.display());
        let mut file = File::create(&path).during(writing)?;
        std::io::copy(&mut File::from(archive), &mut file).map(drop).during(writing)
    });
    let written = written.await;
    running.end(wanted).await?;
    written
}

fn command(wanted: &Wanted<'_>) -> Result<Command, Fault> {
    let program = crate::process::find_program("mmdebstrap")
        .ok_or_else(|| Fault::host("mmdebstrap is not installed").hint("apt install mmdebstrap"))?;
    let mut command = Command::new(program);
    match wanted.variant {
        Variant::System => command.arg("--variant=minbase"),
        Variant::Kernel => command.arg("--variant=extract").arg(format!("--extract-hook={DEPMOD}")),
    };
    if !wanted.packages.is_empty() {
        command.arg(format!("--include={}", wanted.packages.join(",")));
    }
    let mark = super::build_mark(wanted.install, wanted.recipe);
    command
        .args(["--format=tar", "--", wanted.suite, "-"])
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("LC_ALL", "C")
        .env(MARK, mark)
        .stdin(Stdio::null())
        // Not killed when we are done with it: its output closes, and it cleans up after itself.
        .stderr(Stdio::piped());
    Ok(command)
}

/// Turns what it says into progress, in hundredths, and keeps its errors.
async fn follow(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    progress: Progress,
) -> Vec<String> {
    const STAGES: [(&str, u64); 7] = [
        ("running apt-get update", 5),
        ("downloading packages", 15),
        ("extracting archives", 30),
        ("installing essential", 45),
        ("installing remaining", 60),
        ("cleaning", 85),
        ("creating tarball", 90),
    ];
    let mut errors: Vec<String> = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, percent)) = STAGES.iter().find(|(stage, _)| line.contains(stage)) {
            progress(*percent, 100);
        }
        if line.starts_with("E:") && errors.len() < SHOWN {
            errors.push(line);
        }
    }
    errors
}

fn explain(errors: &[String], wanted: &Wanted<'_>) -> Fault {
    let text = errors.join("; ");
    let missing = errors.iter().find_map(|line| line.split("Unable to locate package ").nth(1));
    if let Some(package) = missing {
        return Fault::user(format!("Debian {} has no package {package}", wanted.suite))
            .hint("look for its name: apt search, or packages.debian.org");
    }
    let fault = Fault::host(format!("mmdebstrap failed: {text}"));
    if text.contains("No space left") || text.contains("enough free space") {
        return fault.hint("the disk is full: free some space; nothing was left half made");
    }
    fault.hint("it needs Debian's archive: is the network there?")
}

/// Where an archive is put while it is made.
pub(super) fn scratch(folder: &Path, recipe: &Digest) -> PathBuf {
    folder.join(format!("{recipe}.tar"))
}
