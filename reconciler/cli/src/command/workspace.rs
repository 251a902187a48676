//! `vm workspace …`: what a sandbox did with the repository that was shipped into it, and how it comes back.
//!
//! The daemon takes it from the guest into a repository of its own; from there it is shown, and comes into the user's
//! repository or files, here and nowhere else.

use super::vm::find;
use super::{agree, watch};
use crate::arguments::Global;
use crate::arguments::workspace::Workspace;
use crate::client::Client;
use crate::failure::{FAILED, Failure, REFUSED, color};
use crate::show;
use anyhow::Result;
use banger_tree::name::shown;
use banger_wire::api::SandboxStatus;
use banger_wire::api::workspace::{Pushed, Returned};
use banger_wire::id::Name;
use banger_wire::text::{clean, clean_line};
use banger_workspace::diff::{self, Form};
use banger_workspace::pull::{self, Pulled};
use banger_workspace::{WorkspaceError, apply};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) async fn run(global: &Global, command: Workspace) -> Result<ExitCode> {
    match command {
        Workspace::Status { name } => status(global, &name).await,
        Workspace::Diff { name, stat, paths } => {
            let form = if stat { Form::Stat } else { Form::Text };
            differences(global, &name, form, &paths).await
        }
        Workspace::Export { name, paths } => differences(global, &name, Form::Binary, &paths).await,
        Workspace::Pull { name, as_branch, committed_only, yes } => {
            pull(global, &name, as_branch.as_deref(), committed_only, yes).await
        }
        Workspace::Apply { name, dry_run, symlinks, yes } => {
            change_files(global, &name, dry_run, symlinks, yes).await
        }
        Workspace::Push { name, watch } => push(global, &name, watch).await,
    }
}

/// A failure of ours, with what to do about it.
pub(super) fn failed(error: WorkspaceError) -> anyhow::Error {
    let failure = Failure::new(FAILED, error.whole());
    match error {
        WorkspaceError::NoRepository(_) => failure.hint("git init makes one").into(),
        WorkspaceError::NotTop { .. } => {
            failure.hint("a workspace is a whole repository: name its folder").into()
        }
        WorkspaceError::NoGit(_)
        | WorkspaceError::Include { .. }
        | WorkspaceError::Git { .. }
        | WorkspaceError::Io(..)
        | WorkspaceError::Stream(_)
        | WorkspaceError::Stage(_)
        | WorkspaceError::Refused(_) => failure.into(),
    }
}

/// The path of a sandbox's workspace in the API.
fn path(found: &SandboxStatus, what: &str) -> String {
    format!("/v1/projects/{}/sandboxes/{}/workspace/{what}", found.project, found.name)
}

async fn fetch(global: &Global, name: &Name) -> Result<Returned> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    fetch_from(&client, &found).await
}

/// What a sandbox did, taken from it now.
pub(super) async fn fetch_from(client: &Client, found: &SandboxStatus) -> Result<Returned> {
    let mut returned: Returned = client.post(&path(found, "fetch"), &json!({})).await?;
    returned.notes = returned.notes.iter().map(|note| clean_line(note)).collect();
    Ok(returned)
}

fn repository(returned: &Returned) -> PathBuf {
    Path::new(&returned.kept).join("git")
}

async fn status(global: &Global, name: &Name) -> Result<ExitCode> {
    let returned = fetch(global, name).await?;
    if global.json {
        show::json(&returned)?;
        return Ok(ExitCode::SUCCESS);
    }
    let commit = returned.shipped_head.as_deref().map_or("no commit".into(), show::short);
    println!(
        "{} in {name}, from {}, shipped at {commit}",
        clean_line(&returned.at),
        clean_line(&returned.folder)
    );
    if returned.is_empty() {
        println!("nothing changed");
    }
    let lines = diff::log(
        &repository(&returned),
        returned.shipped_head.as_deref(),
        returned.head.as_deref(),
    );
    let lines = lines.map_err(failed)?;
    if !lines.is_empty() {
        let on = returned
            .branch
            .as_deref()
            .map_or_else(String::new, |branch| format!(" on {}", clean_line(branch)));
        println!(
            "{} commit{}{on}:",
            returned.commits,
            if returned.commits == 1 { "" } else { "s" }
        );
    }
    for line in lines {
        println!("  {}", clean_line(&line));
    }
    let (habit, plain): (Vec<_>, Vec<_>) = returned.changes.iter().partition(|change| change.habit);
    list("files that differ from what was shipped:", &plain, |c| {
        clean_line(&format!("{} {}", c.sign, c.name))
    });
    list("and these, which run on this host by habit:", &habit, |c| {
        clean_line(&format!("{} {}", c.sign, c.name))
    });
    list("does not come back:", &returned.left_out, |line| clean_line(line));
    for note in &returned.notes {
        println!("{note}");
    }
    if let Some(why) = &returned.failed {
        println!("its commits cannot be taken: {}", clean_line(why));
    }
    Ok(ExitCode::SUCCESS)
}

fn list<T>(title: &str, items: &[T], line: impl Fn(&T) -> String) {
    if !items.is_empty() {
        println!("{title}");
    }
    for item in items {
        println!("  {}", line(item));
    }
}

/// Paths as they are named from here, from the top of the repository.
fn from_top(returned: &Returned, paths: &[String]) -> Vec<String> {
    let here = std::env::current_dir().ok().and_then(|here| std::fs::canonicalize(here).ok());
    let prefix =
        here.and_then(|here| here.strip_prefix(&returned.folder).ok().map(Path::to_path_buf));
    let join = |path: &String| match &prefix {
        Some(prefix) => prefix.join(path).display().to_string(),
        None => path.clone(),
    };
    paths.iter().map(join).collect()
}

async fn differences(
    global: &Global,
    name: &Name,
    form: Form,
    paths: &[String],
) -> Result<ExitCode> {
    let returned = fetch(global, name).await?;
    let paths = from_top(&returned, paths);
    let patch = diff::patch(&repository(&returned), &returned.base, &returned.files, &paths, form);
    let patch = patch.map_err(failed)?;
    let mut out = std::io::stdout().lock();
    // Whoever applies a patch takes it from a pipe or a file: a terminal gets none of its bytes as they are.
    let written = if !std::io::stdout().is_terminal() {
        out.write_all(&patch)
    } else {
        out.write_all(readable(&String::from_utf8_lossy(&patch)).as_bytes())
    };
    // A reader that has seen enough is no error.
    let _ = written.and_then(|()| out.flush());
    for line in returned.left_out.iter().chain(&returned.notes) {
        eprintln!("does not come back: {}", clean_line(line));
    }
    Ok(ExitCode::SUCCESS)
}

/// A patch for a terminal: cleaned, and then coloured by ourselves.
fn readable(patch: &str) -> String {
    let colored = color();
    let paint = |line: &str| {
        let code = match line.as_bytes().first() {
            _ if line.starts_with("diff ")
                || line.starts_with("+++")
                || line.starts_with("---") =>
            {
                "1"
            }
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => return line.to_string(),
        };
        format!("\u{1b}[{code}m{line}\u{1b}[0m")
    };
    let lines = patch.lines().map(|line| {
        let line = clean(line);
        if colored { paint(&line) } else { line }
    });
    lines.map(|line| line + "\n").collect()
}

/// Lists apart what runs on the host by habit, and asks (R-P5).
fn agree_to_habits(names: &BTreeSet<Vec<u8>>, yes: bool, what: &str, command: &str) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    eprintln!(
        "these run on this host by habit, when somebody enters, builds, tests or opens the folder:"
    );
    for name in names {
        eprintln!("  {}", clean_line(&shown(name)));
    }
    if yes || agree(&format!("{what} all the same?")) {
        return Ok(());
    }
    let failure = Failure::new(
        REFUSED,
        "the sandbox changed files that run on this host by habit; nothing was done",
    );
    Err(failure.hint(format!("look at them, then: {command} --yes")).into())
}

async fn pull(
    global: &Global,
    name: &Name,
    branch: Option<&str>,
    committed_only: bool,
    yes: bool,
) -> Result<ExitCode> {
    let returned = fetch(global, name).await?;
    if returned.is_empty() {
        return nothing(global, &returned);
    }
    let habits = pull::habits(&returned).map_err(failed)?;
    match branch {
        Some(branch) => {
            let command = format!("banger vm workspace pull {name} --as-branch {branch}");
            agree_to_habits(&habits, yes, "Make them a branch", &command)?;
        }
        None if !habits.is_empty() => {
            eprintln!("among what came are files that run on this host by habit:");
            habits.iter().for_each(|name| eprintln!("  {}", clean_line(&shown(name))));
        }
        None => {}
    }
    let folder = PathBuf::from(&returned.folder);
    let pulled =
        pull::pull(&returned, &folder, name.as_str(), branch, committed_only).map_err(failed)?;
    if global.json {
        show::json(
            &json!({ "references": pulled.references, "branch": pulled.branch, "returned": returned }),
        )?;
    } else {
        tell(&returned, &pulled);
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing(global: &Global, returned: &Returned) -> Result<ExitCode> {
    if global.json {
        show::json(&json!({ "references": [], "branch": null, "returned": returned }))?;
    } else {
        println!("nothing to pull");
    }
    returned.notes.iter().for_each(|note| eprintln!("{note}"));
    Ok(ExitCode::SUCCESS)
}

fn tell(returned: &Returned, pulled: &Pulled) {
    for (name, commit) in &pulled.references {
        println!("{} {}", show::short(commit), clean_line(name));
    }
    if let Some((branch, commit)) = &pulled.branch {
        println!("{} {branch}", show::short(commit));
        println!("hint: git log {branch}; git merge {branch}");
    }
    for line in returned.left_out.iter().chain(&returned.notes).chain(&returned.failed) {
        eprintln!("does not come back: {}", clean_line(line));
    }
}

async fn change_files(
    global: &Global,
    name: &Name,
    dry_run: bool,
    symlinks: bool,
    yes: bool,
) -> Result<ExitCode> {
    let returned = fetch(global, name).await?;
    if !dry_run {
        let habits = returned.changes.iter().filter(|change| change.habit);
        let habits: BTreeSet<Vec<u8>> =
            habits.map(|change| change.name.clone().into_bytes()).collect();
        let command = format!("banger vm workspace apply {name}");
        agree_to_habits(&habits, yes, "Write them", &command)?;
    }
    let applied = apply::apply(&returned, symlinks, dry_run).map_err(|error| {
        let failure = Failure::new(FAILED, format!("{}; nothing was changed", error.whole()));
        failure.hint(format!("banger vm workspace pull {name} brings it without touching files"))
    })?;
    if global.json {
        let names = |names: &[Vec<u8>]| names.iter().map(|name| shown(name)).collect::<Vec<_>>();
        let (written, removed) = (names(&applied.written), names(&applied.removed));
        show::json(&json!({ "written": written, "removed": removed, "same": applied.same }))?;
        return Ok(ExitCode::SUCCESS);
    }
    applied.written.iter().for_each(|name| println!("wrote {}", clean_line(&shown(name))));
    applied.removed.iter().for_each(|name| println!("removed {}", clean_line(&shown(name))));
    let count = applied.written.len() + applied.removed.len();
    let same =
        if applied.same == 0 { String::new() } else { format!(", {} already so", applied.same) };
    let would = if dry_run { "would change: " } else { "" };
    println!("{would}{count} file{}{same}", if count == 1 { "" } else { "s" });
    returned.left_out.iter().for_each(|line| eprintln!("does not come back: {}", clean_line(line)));
    Ok(ExitCode::SUCCESS)
}

/// Ships what changed here. Whether the sandbox took all of it.
pub(super) async fn push_once(
    client: &Client,
    found: &SandboxStatus,
    quiet: bool,
) -> Result<(Pushed, bool)> {
    let pushed: Pushed = client.post(&path(found, "push"), &json!({})).await?;
    let changed = pushed.files + pushed.removed;
    if !quiet || changed > 0 {
        eprintln!(
            "{}: shipped {} file{} ({}), removed {}",
            found.name,
            pushed.files,
            if pushed.files == 1 { "" } else { "s" },
            show::bytes(pushed.bytes),
            pushed.removed
        );
    }
    for conflict in &pushed.conflicts {
        eprintln!("left alone: {}", clean_line(conflict));
    }
    let whole = pushed.conflicts.is_empty();
    Ok((pushed, whole))
}

async fn push(global: &Global, name: &Name, go_on: bool) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    let (pushed, whole) = push_once(&client, &found, global.json).await?;
    if global.json {
        show::json(&pushed)?;
    }
    if go_on {
        let returned: banger_schema::Spec =
            client.get(&format!("/v1/projects/{}", found.project)).await?;
        let workspace = returned.sandboxes.get(name).and_then(|sandbox| sandbox.workspace.clone());
        if let Some(workspace) = workspace {
            return watch::push(&client, &found, &workspace).await;
        }
    }
    if !whole {
        return Err(Failure::new(FAILED, "the sandbox has something else in some places")
            .hint(format!("banger vm workspace diff {name} shows it; pull brings it"))
            .into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings what a sandbox did that is about to go into its repository, so that nothing is lost with it.
///
/// # Errors
/// When not all of it can be brought.
pub(super) async fn keep(client: &Client, found: &SandboxStatus) -> Result<()> {
    let returned = fetch_from(client, found).await?;
    if returned.is_empty() {
        return Ok(());
    }
    if let Some(why) = &returned.failed {
        return Err(Failure::new(FAILED, format!("its commits cannot be taken: {why}")).into());
    }
    let folder = PathBuf::from(&returned.folder);
    let pulled =
        pull::pull(&returned, &folder, found.name.as_str(), None, false).map_err(failed)?;
    for line in returned.left_out.iter().chain(&returned.notes) {
        eprintln!("does not come back: {}", clean_line(line));
    }
    let own = format!("refs/banger/{}/", found.name);
    let wanted = [pull::uncommitted_name(), "HEAD", "files"].map(|name| format!("{own}{name}"));
    let best = wanted.iter().find_map(|name| pulled.references.iter().find(|(n, _)| n == name));
    let Some((tip, _)) = best.or(pulled.references.first()) else {
        // It changed back to what it was.
        return Ok(());
    };
    let commits = match returned.commits {
        0 => String::new(),
        1 => "1 commit and ".to_string(),
        count => format!("{count} commits and "),
    };
    let files = returned.changes.len();
    let plural = if files == 1 { "" } else { "s" };
    eprintln!("kept {commits}{files} changed file{plural}: git log -p {}", clean_line(tip));
    Ok(())
}
