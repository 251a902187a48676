//! Who may log in, and what each channel is for.

use super::forward::{self, Listen};
use super::process::{self, Process, Terminal, What};
use banger_wire::agent::Identity;
use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, Pty, Sig};
use rustix::process::Signal;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

type Outcome<T> = Result<T, russh::Error>;

/// What a session channel has been asked for so far.
#[derive(Default)]
struct Wanted {
    channel: Option<Channel<Msg>>,
    env: BTreeMap<String, String>,
    terminal: Option<Terminal>,
}

/// What outlives a callback: shared with the tasks of channels.
#[derive(Default)]
pub(super) struct Shared {
    logged_in: Notify,
    running: Mutex<Everything>,
}

#[derive(Default)]
struct Everything {
    processes: HashMap<ChannelId, Process>,
    tasks: HashMap<ChannelId, AbortHandle>,
    listeners: HashMap<Listen, AbortHandle>,
    forwards: Vec<AbortHandle>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Everything> {
        self.running.lock().expect("no holder panics")
    }

    /// Runs the task of a channel until it ends or the channel is closed.
    pub(super) fn spawn(
        self: &Arc<Self>,
        id: ChannelId,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let shared = self.clone();
        let mut running = self.lock();
        let handle = tokio::spawn(async move {
            task.await;
            let mut running = shared.lock();
            running.tasks.remove(&id);
            running.processes.remove(&id);
        });
        running.tasks.insert(id, handle.abort_handle());
    }

    /// Runs the task of a forwarded stream: it sees the close of its channel by itself.
    pub(super) fn spawn_forward(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        running.forwards.retain(|forward| !forward.is_finished());
        running.forwards.push(tokio::spawn(task).abort_handle());
    }

    /// The client closed a channel: nothing else tells a task that waits for its window.
    fn close(&self, id: ChannelId) {
        let mut running = self.lock();
        if let Some(process) = running.processes.remove(&id) {
            process.signal(Signal::HUP);
        }
        if let Some(task) = running.tasks.remove(&id) {
            task.abort();
        }
    }

    /// The end of the connection is the end of all that it started.
    pub(super) fn hang_up(&self) {
        let mut running = self.lock();
        for (_, process) in running.processes.drain() {
            process.signal(Signal::HUP);
        }
        let Everything { tasks, listeners, forwards, .. } = &mut *running;
        let tasks = tasks.drain().map(|(_, task)| task);
        let listeners = listeners.drain().map(|(_, task)| task);
        for task in tasks.chain(listeners).chain(forwards.drain(..)) {
            task.abort();
        }
    }

    /// Returns only when nobody has logged in by then.
    pub(super) async fn no_login_within(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.logged_in.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    }
}

/// One connection.
pub(super) struct Server {
    authorized: Vec<PublicKey>,
    identity: Identity,
    user: String,
    wanted: HashMap<ChannelId, Wanted>,
    shared: Arc<Shared>,
}

impl Server {
    pub(super) fn new(authorized: Vec<PublicKey>, identity: Identity) -> (Self, Arc<Shared>) {
        let shared = Arc::<Shared>::default();
        let (user, wanted) = (String::new(), HashMap::new());
        (Self { authorized, identity, user, wanted, shared: shared.clone() }, shared)
    }

    /// A key counts without its comment, which is part of the value.
    fn check(&self, user: &str, key: &PublicKey) -> Auth {
        let known = self.authorized.iter().any(|own| own.key_data() == key.key_data());
        if known && crate::users::find(Some(user)).is_ok() { Auth::Accept } else { Auth::reject() }
    }

    fn start(&mut self, id: ChannelId, what: What, session: &mut Session) -> Outcome<()> {
        let Some(wanted) = self.wanted.get_mut(&id) else { return session.channel_failure(id) };
        // A session is for one thing.
        let Wanted { channel: Some(channel), env, terminal } = std::mem::take(wanted) else {
            return session.channel_failure(id);
        };
        self.wanted.remove(&id);
        match process::start(&self.identity, &self.user, what, env, terminal) {
            Ok((process, running)) => {
                session.channel_success(id)?;
                self.shared.lock().processes.insert(id, process);
                self.shared.spawn(id, running.serve(channel, session.handle()));
                Ok(())
            }
            Err(why) => {
                eprintln!("banger-agent: ssh: {why}");
                session.channel_failure(id)
            }
        }
    }

    fn cancel(&self, listen: &Listen) -> bool {
        let task = self.shared.lock().listeners.remove(listen);
        task.inspect(AbortHandle::abort).is_some()
    }
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Outcome<Auth> {
        Ok(self.check(user, offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Outcome<Auth> {
        self.user = user.to_string();
        Ok(self.check(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Outcome<()> {
        self.shared.logged_in.notify_one();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        answer: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome<()> {
        let id = channel.id();
        self.wanted.insert(id, Wanted { channel: Some(channel), ..Wanted::default() });
        answer.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Outcome<()> {
        self.wanted.remove(&id);
        self.shared.close(id);
        Ok(())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Outcome<()> {
        match self.wanted.get_mut(&id) {
            // Only what says how text is to look.
            Some(wanted) if name == "LANG" || name.starts_with("LC_") || name == "COLORTERM" => {
                wanted.env.insert(name.to_string(), value.to_string());
                session.channel_success(id)
            }
            Some(_) | None => session.channel_failure(id),
        }
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Outcome<()> {
        let Some(wanted) = self.wanted.get_mut(&id) else { return session.channel_failure(id) };
        wanted.terminal = Some(Terminal { term: term.to_string(), columns, rows });
        session.channel_success(id)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Outcome<()> {
        if let Some(process) = self.shared.lock().processes.get(&id) {
            process.resize(columns, rows);
        }
        session.channel_success(id)
    }

    async fn signal(&mut self, id: ChannelId, name: Sig, _: &mut Session) -> Outcome<()> {
        let running = self.shared.lock();
        if let (Some(signal), Some(process)) = (process::signal(&name), running.processes.get(&id))
        {
            process.signal(signal);
        }
        Ok(())
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Outcome<()> {
        self.start(id, What::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Outcome<()> {
        match String::from_utf8(line.to_vec()) {
            Ok(line) if !line.contains('\0') => self.start(id, What::Line(line), session),
            Ok(_) | Err(_) => session.channel_failure(id),
        }
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Outcome<()> {
        if name == "sftp" {
            self.start(id, What::Files, session)
        } else {
            session.channel_failure(id)
        }
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        answer: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome<()> {
        let host = host.to_string();
        self.shared.spawn_forward(forward::to_tcp(channel, host, port, answer));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        answer: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome<()> {
        let path = path.to_string();
        self.shared.spawn_forward(forward::to_unix(channel, path, answer));
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Outcome<bool> {
        let (handle, shared) = (session.handle(), self.shared.clone());
        let Ok((bound, task)) = forward::listen_tcp(address, *port, handle, shared).await else {
            return Ok(false);
        };
        *port = bound;
        self.shared.lock().listeners.insert(Listen::Tcp(address.to_string(), bound), task);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut Session,
    ) -> Outcome<bool> {
        Ok(self.cancel(&Listen::Tcp(address.to_string(), port)))
    }

    async fn streamlocal_forward(&mut self, path: &str, session: &mut Session) -> Outcome<bool> {
        let Ok(user) = crate::users::find(Some(&self.user)) else { return Ok(false) };
        let (handle, shared) = (session.handle(), self.shared.clone());
        let Ok(task) = forward::listen_unix(path, (user.uid, user.gid), handle, shared) else {
            return Ok(false);
        };
        self.shared.lock().listeners.insert(Listen::Unix(path.to_string()), task);
        Ok(true)
    }

    async fn cancel_streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Outcome<bool> {
        Ok(self.cancel(&Listen::Unix(path.to_string())))
    }
}
