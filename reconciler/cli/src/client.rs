//! The daemon, over its socket. Where none runs, it is started.

use crate::failure::{FAILED, Failure, UNREACHABLE};
use anyhow::{Context, Result};
use banger_wire::api::Problem;
use banger_wire::derive::{LOG, SOCKET, roots};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// How long a daemon may take to start: it looks at everything first.
const START: Duration = Duration::from_secs(20);
/// The exit code of a daemon that found another one.
const ALREADY: i32 = 75;
/// A log larger than this is begun anew, in bytes.
const MAX_LOG: u64 = 4 << 20;

/// The folder of what survives a reboot.
pub(crate) fn state() -> Result<PathBuf> {
    let is_root = nix::unistd::geteuid().is_root();
    let found = roots(|name| std::env::var_os(name), is_root);
    let failure = || Failure::new(UNREACHABLE, "HOME is not set").hint("set HOME or BANGER_HOME");
    Ok(found.ok_or_else(failure)?.0)
}

/// A way to the daemon. Every request has a connection of its own.
pub(crate) struct Client {
    state: PathBuf,
    socket: PathBuf,
}

impl Client {
    /// Finds the daemon, and starts one where there is none.
    pub(crate) async fn connect() -> Result<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let (state, run) = roots(|name| std::env::var_os(name), is_root).ok_or_else(|| {
            Failure::new(UNREACHABLE, "HOME is not set").hint("set HOME or BANGER_HOME")
        })?;
        let client = Self { socket: run.join(SOCKET), state };
        if UnixStream::connect(&client.socket).await.is_err() {
            client.start().await?;
        }
        Ok(client)
    }

    async fn start(&self) -> Result<()> {
        let program = daemon()?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state).map_err(
            |error| Failure::new(UNREACHABLE, format!("making {}: {error}", self.state.display())),
        )?;
        let log = self.state.join(LOG);
        let large = std::fs::metadata(&log).is_ok_and(|meta| meta.len() > MAX_LOG);
        let begun = if large { 0 } else { std::fs::metadata(&log).map_or(0, |meta| meta.len()) };
        let file = File::options().create(true).append(true).open(&log).and_then(|file| {
            if large {
                file.set_len(0)?;
            }
            Ok(file)
        });
        let file = file.map_err(|error| {
            Failure::new(UNREACHABLE, format!("opening {}: {error}", log.display()))
        })?;
        let mut child = Command::new(&program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::new(UNREACHABLE, format!("starting {}: {error}", program.display()))
            })?;
        let start = Instant::now();
        loop {
            if UnixStream::connect(&self.socket).await.is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = child.try_wait() {
                if status.code() != Some(ALREADY) {
                    return Err(ended(&log, begun).into());
                }
                // Another one holds the lock: it is on its way up, or on its way out.
                tokio::time::sleep(Duration::from_millis(100)).await;
                child = Command::new(&program)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .process_group(0)
                    .spawn()?;
            }
            if start.elapsed() > START {
                let message = format!("the daemon does not answer at {}", self.socket.display());
                return Err(Failure::new(UNREACHABLE, message)
                    .hint(format!("see {}", log.display()))
                    .into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        upgrade: bool,
    ) -> Result<Response<Incoming>> {
        let gone = |why: String| {
            Failure::new(UNREACHABLE, format!("the daemon went away: {why}"))
                .hint("run the command again; a new daemon goes on where it was")
        };
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| gone(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| gone(error.to_string()))?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "banger");
        if upgrade {
            request = request.header("connection", "upgrade").header("upgrade", "banger");
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        sender.send_request(request).await.map_err(|error| gone(error.to_string()).into())
    }

    async fn answer(response: Response<Incoming>) -> Result<Bytes> {
        let status = response.status();
        let body =
            response.into_body().collect().await.context("the daemon's answer was cut")?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(Failure::from(problem).into()),
            Err(_) => {
                let text = String::from_utf8_lossy(&body).into_owned();
                Err(Failure::new(FAILED, format!("the daemon answered {status}: {text}")).into())
            }
        }
    }

    /// A request with an answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(Method::GET, path, Vec::new(), false).await?;
        Ok(serde_json::from_slice(&Self::answer(response).await?)?)
    }

    /// A change with an answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let response = self.send(Method::POST, path, serde_json::to_vec(body)?, false).await?;
        Ok(serde_json::from_slice(&Self::answer(response).await?)?)
    }

    /// A removal.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let response = self.send(Method::DELETE, path, Vec::new(), false).await?;
        Self::answer(response).await.map(drop)
    }

    /// An answer that goes on.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming> {
        let response = self.send(Method::GET, path, Vec::new(), false).await?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(match Self::answer(response).await {
            Err(error) => error,
            Ok(_) => {
                Failure::new(FAILED, "the daemon answered something else than was asked").into()
            }
        })
    }

    /// A connection that becomes a stream of frames both ways.
    pub(crate) async fn upgrade(&self, path: &str) -> Result<TokioIo<Upgraded>> {
        let response = self.send(Method::POST, path, Vec::new(), true).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(TokioIo::new(hyper::upgrade::on(response).await?));
        }
        Err(match Self::answer(response).await {
            Err(error) => error,
            Ok(_) => {
                Failure::new(FAILED, "the daemon answered something else than was asked").into()
            }
        })
    }
}

/// Named by the environment, beside this program, or where packages put it.
fn daemon() -> Result<PathBuf> {
    let named = std::env::var_os("BANGER_DAEMON").map(PathBuf::from);
    let own = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join("bangerd")));
    let installed = ["/usr/local/lib/banger/bangerd", "/usr/lib/banger/bangerd"].map(PathBuf::from);
    let found = named.into_iter().chain(own).chain(installed).find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::new(UNREACHABLE, "bangerd is not there")
            .hint("install it beside banger, or set BANGER_DAEMON")
            .into()
    })
}

/// Why a daemon ended: its own last words.
fn ended(log: &Path, begun: u64) -> Failure {
    let text = std::fs::read(log).unwrap_or_default();
    let begun = usize::try_from(begun).unwrap_or(0).min(text.len());
    let text = String::from_utf8_lossy(&text[begun..]).into_owned();
    let errors: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("ERROR ")).map(|(_, rest)| rest).collect();
    let message = errors.first().map_or("it said nothing", |line| *line);
    let mut failure = Failure::new(UNREACHABLE, format!("the daemon did not start: {message}"));
    for hint in errors.iter().filter_map(|line| line.strip_prefix("hint: ")) {
        failure = failure.hint(hint);
    }
    failure.hint(format!("see {}", log.display()))
}
