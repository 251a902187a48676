//! Git as a program, with nothing of it that anybody could have set: no configuration but the command line's, no hooks,
//! filters, monitors, helpers, prompts or protocols.

use crate::WorkspaceError;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What holds for every call.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.safecrlf=false",
    "core.quotePath=true",
    "credential.helper=",
    "fetch.fsckObjects=true",
    "fetch.unpackLimit=1",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
    "submodule.recurse=false",
    "log.showSignature=false",
];

/// Calls of git that do not look at anybody's settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Git {
    folder: Option<OsString>,
    environment: Vec<(&'static str, OsString)>,
    settings: Vec<String>,
    /// The user's own settings count: only for asking for them.
    own: bool,
    /// It reads what a guest sent.
    bounded: bool,
}

/// Kibibytes of memory, seconds of processor time, and blocks of 512 bytes of a file, at most.
const BOUNDS: &str = "ulimit -v 3145728 && ulimit -t 300 && ulimit -f 8388608 && exec git \"$@\"";
/// Bytes that are taken of what git writes, at most.
const MAX_OUTPUT: u64 = 256 << 20;

impl Git {
    /// In a repository of ours.
    pub(crate) fn at(git_dir: &Path) -> Self {
        Self::default().with("GIT_DIR", git_dir)
    }

    /// In a folder of the user's.
    pub(crate) fn within(folder: &Path) -> Self {
        Self { folder: Some(folder.into()), ..Self::default() }
    }

    /// In a folder of the user's, as the user has set it: for asking what is set.
    pub(crate) fn asking(folder: &Path) -> Self {
        Self { own: true, ..Self::within(folder) }
    }

    /// For reading what a guest sent.
    pub(crate) fn bounded(mut self) -> Self {
        self.bounded = true;
        self.set("core.packedGitWindowSize=32m")
            .set("core.packedGitLimit=256m")
            .set("core.bigFileThreshold=16m")
    }

    /// From within a folder.
    pub(crate) fn inside(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// With a variable of its environment.
    pub(crate) fn with(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name, value.as_ref().to_os_string()));
        self
    }

    /// With another setting.
    pub(crate) fn set(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }

    fn command(&self) -> Command {
        // What comes from a guest can be made to need any amount of memory, time and space: a shell sets bounds to that.
        let mut command = Command::new(if self.bounded { "/bin/sh" } else { "git" });
        if self.bounded {
            command.args(["-c", BOUNDS, "git"]);
        }
        for (name, _) in std::env::vars_os() {
            let traced = name.to_string_lossy().starts_with("GIT_TRACE2");
            if name.to_string_lossy().starts_with("GIT_") && !traced {
                command.env_remove(name);
            }
        }
        if let Some(folder) = &self.folder {
            command.arg("-C").arg(folder);
        }
        if !self.own {
            command
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("XDG_CONFIG_HOME", "/nonexistent")
                .env("GIT_ATTR_NOSYSTEM", "1");
        }
        for setting in SETTINGS.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_PAGER", "cat")
            .env("LC_ALL", "C")
            .envs(self.environment.iter().cloned());
        command
    }

    /// Runs it; what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or ends badly.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Vec<u8>, WorkspaceError> {
        self.feed(arguments, Vec::new())
    }

    /// Starts it with all that is read from here as its input. What it writes is to be read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        mut from: impl Read + Send + 'static,
    ) -> Result<Child, WorkspaceError> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(WorkspaceError::NoGit)?;
        let stdin = child.stdin.take();
        // Fed from beside, or both could wait for the other to read. A git that does not want it all says so itself.
        std::thread::spawn(move || stdin.map(|mut stdin| std::io::copy(&mut from, &mut stdin)));
        Ok(child)
    }

    /// Runs it with all that is read from here as its input; what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or ends badly.
    pub(crate) fn pour<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        from: impl Read + Send + 'static,
    ) -> Result<Vec<u8>, WorkspaceError> {
        let mut child = self.start(arguments, from)?;
        let what = arguments.first().map(|first| first.as_ref().to_string_lossy().into_owned());
        let (mut out, mut said) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let complaints = std::thread::spawn(move || {
            let read = stderr.map(|stderr| stderr.take(64 << 10).read_to_end(&mut said));
            drop(read);
            said
        });
        if let Some(stdout) = stdout {
            let read = stdout.take(MAX_OUTPUT).read_to_end(&mut out);
            read.map_err(WorkspaceError::NoGit)?;
        }
        if out.len() as u64 == MAX_OUTPUT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(WorkspaceError::Git {
                what: what.unwrap_or_default(),
                said: "it says too much".into(),
            });
        }
        let status = child.wait().map_err(WorkspaceError::NoGit)?;
        if status.success() {
            return Ok(out);
        }
        let said = complaints.join().unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said =
            said.trim().trim_start_matches("fatal: ").trim_start_matches("error: ").to_string();
        Err(WorkspaceError::Git { what: what.unwrap_or_default(), said })
    }

    /// Runs it with this input; what it writes goes into a file.
    ///
    /// # Errors
    /// When it cannot be started, or ends badly.
    pub(crate) fn write<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        input: Vec<u8>,
        to: File,
    ) -> Result<(), WorkspaceError> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(to).stderr(Stdio::null());
        let mut child = command.spawn().map_err(WorkspaceError::NoGit)?;
        let stdin = child.stdin.take();
        std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
        let status = child.wait().map_err(WorkspaceError::NoGit)?;
        let what = arguments.first().map(|first| first.as_ref().to_string_lossy().into_owned());
        let said = format!("it ended with {status}");
        let failed = || WorkspaceError::Git { what: what.unwrap_or_default(), said };
        status.success().then_some(()).ok_or_else(failed)
    }

    /// Runs it with this input; what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or ends badly.
    pub(crate) fn feed<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        input: Vec<u8>,
    ) -> Result<Vec<u8>, WorkspaceError> {
        self.pour(arguments, Cursor::new(input))
    }

    /// Those of these names of a working tree that have a filter.
    ///
    /// # Errors
    /// When git cannot tell.
    pub(crate) fn filtered(
        &self,
        top: &Path,
        names: &[&[u8]],
    ) -> Result<Vec<Vec<u8>>, WorkspaceError> {
        let git = self.clone().with("GIT_WORK_TREE", top).set("core.bare=false").inside(top);
        let out = git.feed(&["check-attr", "-z", "--stdin", "filter"], names.join(&0u8))?;
        let fields: Vec<&[u8]> = pieces(&out).collect();
        let filtered =
            fields.chunks_exact(3).filter(|field| !matches!(field[2], b"unspecified" | b"unset"));
        Ok(filtered.map(|field| field[0].to_vec()).collect())
    }

    /// As [`Git::run`], as one line of text. `None` when git ends badly: there is no such thing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn line<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
    ) -> Result<Option<String>, WorkspaceError> {
        match self.run(arguments) {
            Ok(out) => Ok(Some(String::from_utf8_lossy(&out).trim_end_matches('\n').to_string())),
            Err(WorkspaceError::Git { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The pieces of what git wrote with `-z`.
pub(crate) fn pieces(out: &[u8]) -> impl Iterator<Item = &[u8]> {
    out.split(|byte| *byte == 0).filter(|piece| !piece.is_empty())
}
