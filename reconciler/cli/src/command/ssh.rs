//! SSH to sandboxes with the system's own `ssh`: its configuration, the stream that it asks for, and the host keys.

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::{FAILED, Failure, REFUSED};
use anyhow::Result;
use banger_wire::derive::{SSH_CONFIG, SSH_FOLDER, SSH_KEY};
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::io::AsyncWriteExt;

/// Variables that lead to this installation: whoever starts `ssh` may have others.
const WAYS: [&str; 3] = ["BANGER_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"];

/// What `ssh` is told about every sandbox. It comes before all else that a person configured, and `ssh` takes the
/// first value that it finds: a `Host *` of theirs cannot change any of these (R-S2). What it can only add to (variables
/// that are sent, forwarded ports, further keys) is shown by [`additions`].
///
/// # Errors
/// When a path has a letter that `ssh` or its shell would take for something else.
fn configuration(state: &Path, program: &Path, ways: &[(String, String)]) -> Result<String> {
    let key = plain(&state.join(SSH_FOLDER).join(SSH_KEY))?;
    // One of these is run by a shell, the other is taken apart by ssh itself: both know these quotes, and ssh puts
    // something in the place of every percent sign.
    let quoted = |text: &str| {
        Ok::<_, anyhow::Error>(format!("'{}'", plain(Path::new(text))?.replace('%', "%%")))
    };
    let mut run = String::new();
    if !ways.is_empty() {
        run.push_str("/usr/bin/env ");
    }
    for (name, value) in ways {
        run.push_str(&format!("{name}={} ", quoted(value)?));
    }
    run.push_str(&quoted(&program.display().to_string())?);
    let lines = [
        format!("ProxyCommand {run} ssh-proxy %n"),
        format!("KnownHostsCommand {run} ssh-host-keys %n %H"),
        "ProxyUseFdpass no".into(),
        "UserKnownHostsFile none".into(),
        "GlobalKnownHostsFile none".into(),
        "StrictHostKeyChecking yes".into(),
        "VerifyHostKeyDNS no".into(),
        "UpdateHostKeys no".into(),
        "CheckHostIP no".into(),
        "HostKeyAlgorithms ssh-ed25519".into(),
        "User root".into(),
        format!("IdentityFile \"{}\"", key.replace('%', "%%")),
        "IdentitiesOnly yes".into(),
        "IdentityAgent none".into(),
        "AddKeysToAgent no".into(),
        "PreferredAuthentications publickey".into(),
        "PasswordAuthentication no".into(),
        "KbdInteractiveAuthentication no".into(),
        "ForwardAgent no".into(),
        "ForwardX11 no".into(),
        "ForwardX11Trusted no".into(),
        "PermitLocalCommand no".into(),
        "ControlMaster no".into(),
        "ControlPath none".into(),
        "Tunnel no".into(),
    ];
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    Ok(format!(
        "# Written by banger, for every sandbox. What is changed here is lost.\nHost *.vm\n{lines}"
    ))
}

/// A path without letters that mean something to a shell or to `ssh`.
fn plain(path: &Path) -> Result<String> {
    let text = path.to_str().unwrap_or("\0");
    let odd = |c: char| c.is_control() || "\"'\\*?[]${}".contains(c);
    if text.contains(odd) {
        let message = format!("the path {} cannot stand in a configuration of ssh", path.display());
        return Err(Failure::new(FAILED, message)
            .hint("use one of letters, digits and / . - _")
            .into());
    }
    Ok(text.to_string())
}

/// Writes the configuration and says where it is.
fn write_configuration() -> Result<PathBuf> {
    let state = std::path::absolute(crate::client::state()?)?;
    let folder = state.join(SSH_FOLDER);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let mut ways = Vec::new();
    for name in WAYS {
        if let Ok(value) = std::env::var(name)
            && !value.is_empty()
        {
            let value = std::path::absolute(value)?.display().to_string();
            ways.push((name.to_string(), value));
        }
    }
    let text = configuration(&state, &std::env::current_exe()?, &ways)?;
    let path = folder.join(SSH_CONFIG);
    if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
        replace(&path, text.as_bytes(), 0o600)?;
    }
    Ok(path)
}

/// What the user's own configuration adds for sandboxes, which ours cannot take away.
fn additions(config: &Path) -> Vec<String> {
    let asked =
        std::process::Command::new("ssh").arg("-G").arg("-F").arg(config).arg("any.vm").output();
    let Ok(asked) = asked else { return Vec::new() };
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    let adds = [
        "sendenv ",
        "setenv ",
        "localforward ",
        "remoteforward ",
        "dynamicforward ",
        "remotecommand ",
    ];
    let added = text.lines().filter(|line| adds.iter().any(|word| line.starts_with(word)));
    added.filter(|line| !line.ends_with(" none")).map(banger_wire::text::clean_line).collect()
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let beside = path.with_extension(format!("banger-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    Ok(())
}

/// `ssh` with our configuration alone. `None` where it is not installed.
pub(super) fn command() -> Result<Option<tokio::process::Command>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("ssh").is_file()) {
        return Ok(None);
    }
    let mut command = tokio::process::Command::new("ssh");
    command.arg("-F").arg(write_configuration()?);
    Ok(Some(command))
}

/// `vm ssh`: a shell or a command in a sandbox.
pub(super) async fn into(full_name: &str, arguments: &[String]) -> Result<ExitCode> {
    let Some(mut command) = command()? else {
        return Err(Failure::new(FAILED, "ssh is not installed")
            .hint("apt install openssh-client; or use: banger vm exec")
            .into());
    };
    let status = command.arg(full_name).args(arguments).status().await?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255)))
}

/// Carries `ssh`'s stream to a sandbox.
pub(super) async fn proxy(name: &str) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let stream = client.upgrade(&format!("/v1/ssh/{}", path_of(name)?)).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let inward = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to).await?;
        to.shutdown().await?;
        std::future::pending::<std::io::Result<()>>().await
    };
    let outward = async {
        tokio::io::copy(&mut from, &mut tokio::io::stdout()).await?;
        tokio::io::stdout().flush().await
    };
    tokio::select! {
        broken = inward => broken?,
        done = outward => done?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the one host key that a sandbox must have, as a line of `known_hosts`.
pub(super) async fn host_keys(name: &str, shown: &str) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let key: String = client.get(&format!("/v1/ssh/{}/key", path_of(name)?)).await?;
    println!("{} {}", banger_wire::text::clean_line(shown), banger_wire::text::clean_line(&key));
    Ok(ExitCode::SUCCESS)
}

/// A name as a part of a path: letters, digits, dots and hyphens are all that a name has.
fn path_of(name: &str) -> Result<&str> {
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    if good && !name.is_empty() && name.len() < 128 {
        Ok(name)
    } else {
        Err(Failure::new(FAILED, "this is not the name of a sandbox").into())
    }
}

/// `ssh-config`: lets plain `ssh web.vm` work, by one line at the top of the user's own file.
pub(super) fn config(global: &Global, uninstall: bool, print: bool) -> Result<ExitCode> {
    let own = write_configuration()?;
    if print {
        print!("{}", fs::read_to_string(&own)?);
        return Ok(ExitCode::SUCCESS);
    }
    let line = format!("Include \"{}\"\n", plain(&own)?);
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.ok_or_else(|| Failure::new(FAILED, "HOME is not set"))?;
    let folder = Path::new(&home).join(".ssh");
    let path = folder.join("config");
    let changed = if uninstall { take_out(&path, &line)? } else { put_in(&folder, &path, &line)? };
    if global.json {
        crate::show::json(&serde_json::json!({ "file": path, "changed": changed }))?;
    } else if changed && !uninstall {
        println!("{}: added one line; from now on: ssh NAME.vm", path.display());
        for added in additions(&path) {
            eprintln!("hint: your own configuration holds for sandboxes too: {added}");
        }
    } else if changed {
        println!("{}: removed our line", path.display());
    } else if std::io::stdout().is_terminal() {
        println!("{}: nothing to change", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn put_in(folder: &Path, path: &Path, line: &str) -> Result<bool> {
    match fs::symlink_metadata(folder) {
        Ok(meta) => own_only(folder, &meta)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        Err(error) => return Err(error.into()),
    }
    let Some((before, mode)) = read(path)? else {
        replace(path, line.as_bytes(), 0o600)?;
        return Ok(true);
    };
    if before.starts_with(line.as_bytes()) || before == line.trim_end().as_bytes() {
        return Ok(false);
    }
    // One line, wherever it was before.
    let rest = without(&before, line);
    if rest == before {
        replace(&backup(path), &before, mode)?;
    }
    replace(path, &[line.as_bytes(), &rest].concat(), mode)?;
    Ok(true)
}

fn take_out(path: &Path, line: &str) -> Result<bool> {
    let Some((before, mode)) = read(path)? else { return Ok(false) };
    let rest = without(&before, line);
    if rest == before {
        return Ok(false);
    }
    let backup = backup(path);
    let kept = fs::read(&backup).ok();
    if rest.is_empty() && kept.is_none() {
        // It was not there before us.
        fs::remove_file(path)?;
    } else {
        replace(path, &rest, mode)?;
    }
    if kept.is_some_and(|kept| kept == rest) {
        fs::remove_file(backup)?;
    }
    Ok(true)
}

fn without(text: &[u8], line: &str) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let ours = line.trim_end().as_bytes();
    lines.filter(|own| own.trim_ascii_end() != ours).flatten().copied().collect()
}

/// How the file was before our line came.
fn backup(path: &Path) -> PathBuf {
    path.with_extension("before-banger")
}

/// A file that is its owner's alone to change: its bytes and mode. `None` when it is not there.
fn read(path: &Path) -> Result<Option<(Vec<u8>, u32)>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
        Ok(meta) => {
            own_only(path, &meta)?;
            Ok(Some((fs::read(path)?, meta.mode() & 0o777)))
        }
    }
}

/// What others can redirect or change is not written to (R-S4).
fn own_only(path: &Path, meta: &Metadata) -> Result<()> {
    let why = if meta.is_symlink() {
        "it is a link"
    } else if meta.mode() & 0o022 != 0 {
        "others may write to it"
    } else if meta.uid() != nix::unistd::geteuid().as_raw() {
        "it is not yours"
    } else {
        return Ok(());
    };
    Err(Failure::new(REFUSED, format!("{} is left alone: {why}", path.display()))
        .hint("banger ssh-config --print shows what to include by hand")
        .into())
}

#[cfg(test)]
mod tests;
