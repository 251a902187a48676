//! The programs and the folders of an installation.

use super::{Daemon, Folder, Gathered, Said};
use crate::actual::Seen;
use crate::admit::LEAST_FREE_MIB;
use banger_wire::api::Version;
use banger_wire::derive::{LOG, sockets_fit};
use banger_wire::helper::PROTOCOL;

/// Below this much it is worth saying: an image and a few disks fill it.
const ROOMY_MIB: u64 = 10 << 10;

pub(super) fn daemon(gathered: &Gathered) -> Option<Said> {
    let ours = &gathered.version;
    let who = |daemon: &Version| format!("bangerd {} (process {})", daemon.version, daemon.pid);
    // Running sandboxes outlive it.
    let anew = |daemon: &Version| {
        format!("kill {}: the next command starts another, and sandboxes go on", daemon.pid)
    };
    match &gathered.daemon {
        Daemon::Gone { why, hint } => {
            let hint = hint.clone().unwrap_or_else(|| format!("see {LOG} in the state folder"));
            Said::fail(why, hint)
        }
        Daemon::Silent { version, why } => {
            Said::warn(format!("{} does not say what it sees: {why}", who(version)), anew(version))
        }
        Daemon::Tells { version, .. } if version.version != *ours => {
            Said::warn(format!("{}, and this is banger {ours}", who(version)), anew(version))
        }
        Daemon::Tells { version, .. } => Said::ok(who(version)),
    }
}

pub(super) fn helper(gathered: &Gathered) -> Option<Said> {
    match &gathered.facts()?.helper {
        Some(Ok(_)) => Said::ok(format!("it answers, by protocol {PROTOCOL}")),
        Some(Err(problem)) => {
            let hint = "install banger-helper beside bangerd, of the same release".to_string();
            Said::fail(&problem.message, problem.hints.first().unwrap_or(&hint))
        }
        None => Said::warn(
            "there is none, as the daemon is not root's: sandboxes have no jail, no limits, and no network but that of \
             egress \"none\" and \"host\"",
            "run banger as root",
        ),
    }
}

pub(super) fn state_folder(gathered: &Gathered) -> Option<Said> {
    folder(gathered, &gathered.host.folders.as_ref()?.state)
}

pub(super) fn run_folder(gathered: &Gathered) -> Option<Said> {
    let run = &gathered.host.folders.as_ref()?.run;
    if !sockets_fit(&run.path) {
        let path = run.path.display();
        return Said::fail(
            format!("the path {path} is too long for the sockets below it"),
            "set BANGER_HOME to a shorter path",
        );
    }
    folder(gathered, run)
}

fn folder(gathered: &Gathered, folder: &Folder) -> Option<Said> {
    let (path, uid) = (folder.path.display(), gathered.host.uid);
    let owned = match &folder.is {
        Seen::Absent => return Said::ok(format!("{path} is not there yet")),
        Seen::Unknown(why) => {
            return Said::fail(format!("{path}: {why}"), format!("ls -ld {path}"));
        }
        Seen::Present(owned) => owned,
    };
    if !owned.is_folder {
        Said::fail(format!("{path} is no folder"), format!("rm {path}"))
    } else if owned.uid != uid {
        let whose = format!("{path} belongs to user {}, and we are {uid}", owned.uid);
        Said::fail(whose, format!("chown -R {uid} {path}"))
    } else if owned.mode & 0o777 != 0o700 {
        let mode = owned.mode & 0o777;
        Said::fail(
            format!("{path} has mode {mode:o}: it is for its owner, and nobody else"),
            format!("chmod 700 {path}"),
        )
    } else {
        Said::ok(format!("{path} is ours alone"))
    }
}

pub(super) fn disk_space(gathered: &Gathered) -> Option<Said> {
    let folders = gathered.host.folders.as_ref()?;
    let (free, path) = (folders.free_mib?, folders.state.path.display());
    let hint = "free some space, or: banger image list, banger image delete";
    if free < LEAST_FREE_MIB {
        Said::fail(
            format!(
                "only {free} MiB are free at {path}, and nothing is made below {LEAST_FREE_MIB}"
            ),
            hint,
        )
    } else if free < ROOMY_MIB {
        Said::warn(
            format!("{free} MiB are free at {path}; nothing is made below {LEAST_FREE_MIB}"),
            hint,
        )
    } else {
        Said::ok(format!("{} GiB are free at {path}", free >> 10))
    }
}

/// A program of others that we start by its name.
pub(super) fn program(gathered: &Gathered, name: &'static str) -> Option<Said> {
    if !gathered.lacks(name) {
        return Said::ok("it is there");
    }
    let lacking = |without: &str| format!("it is not there: {without}");
    match name {
        "mke2fs" => Said::fail(lacking("no sandbox gets a disk"), "apt install e2fsprogs"),
        "mmdebstrap" => Said::warn(
            lacking("images and kernels of Debian cannot be made"),
            "apt install mmdebstrap debian-archive-keyring",
        ),
        "depmod" => Said::warn(lacking("kernels of Debian cannot be made"), "apt install kmod"),
        "git" => Said::warn(lacking("no repository can be shipped"), "apt install git"),
        "ssh" => {
            Said::warn(lacking("vm ssh does not work; vm exec does"), "apt install openssh-client")
        }
        _ => None,
    }
}
