//! What was done as root, for root to read: one entry in the host's journal for each operation that is not only a look, and for
//! each that was refused or failed. An entry that the journal does not take at once is dropped, and the next one says how many were.
//!
//! Source: the native protocol of systemd's journal, one datagram of `NAME=value` lines.

use banger_wire::helper::{Line, Reply, Request};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Where the journal listens. Whoever starts the helper may name another place.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How much of a request an entry shows, in bytes.
const SHOWN: usize = 1024;

/// The journal, as long as there is one.
pub(crate) struct Audit {
    socket: Option<UnixDatagram>,
    journal: PathBuf,
    uid: u32,
    missed: u64,
}

impl Audit {
    /// For the operations of one caller.
    pub(crate) fn open(uid: u32) -> Self {
        let named = std::env::var_os("BANGER_JOURNAL").filter(|path| !path.is_empty());
        let journal = named.map_or_else(|| JOURNAL.into(), PathBuf::from);
        let socket = UnixDatagram::unbound().ok();
        let socket = socket.filter(|socket| socket.set_nonblocking(true).is_ok());
        Self { socket, journal, uid, missed: 0 }
    }

    /// Writes down how one operation ended, when that is worth it. None stands for a message that is no request.
    pub(crate) fn note(
        &mut self,
        request: Option<&Request>,
        only_looks: bool,
        reply: &Reply,
        took: Duration,
    ) {
        if !is_worth_it(request, only_looks, reply) {
            return;
        }
        let (outcome, priority) = match reply {
            Reply::Refused { rule } => (format!("refused, {rule}"), 4),
            Reply::Failed { errno, at } => (format!("failed, {at}, errno {errno}"), 4),
            Reply::Ended { .. } => ("its program ended at once".to_string(), 4),
            Reply::Unchanged => ("unchanged".to_string(), 6),
            Reply::Changed => ("changed".to_string(), 6),
            Reply::Hello { .. }
            | Reply::Facts(_)
            | Reply::Rules { .. }
            | Reply::Jails { .. }
            | Reply::Memories { .. } => ("answered".to_string(), 6),
        };
        // Ids, numbers and names of variants, on one line: there is no secret in a request.
        let value = request.and_then(|request| serde_json::to_value(request).ok());
        let value = value.unwrap_or_default();
        let word = |name: &str| value[name].as_str().unwrap_or("-");
        let (operation, sandbox) = (word("op"), word("sandbox"));
        let mut whole = value.to_string();
        whole.truncate(whole.floor_char_boundary(SHOWN));
        let (uid, micros, missed) = (self.uid, took.as_micros(), self.missed);
        let entry = format!(
            "MESSAGE={operation} of {sandbox} for uid {uid}: {outcome}, {micros} us\n\
             PRIORITY={priority}\nSYSLOG_IDENTIFIER=banger-helper\nBANGER_OPERATION={operation}\n\
             BANGER_SANDBOX={sandbox}\nBANGER_UID={uid}\nBANGER_OUTCOME={outcome}\n\
             BANGER_MICROS={micros}\nBANGER_REQUEST={whole}\nBANGER_MISSED={missed}\n"
        );
        // By its name each time: the journal may be started anew.
        let sent = match &self.socket {
            Some(socket) => socket.send_to(entry.as_bytes(), &self.journal),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        self.missed = if sent.is_ok() { 0 } else { self.missed + 1 };
    }
}

fn is_worth_it(request: Option<&Request>, only_looks: bool, reply: &Reply) -> bool {
    let failed = matches!(reply, Reply::Failed { .. });
    let rule = if let Reply::Refused { rule } = reply { Some(rule) } else { None };
    let (refused, missing) =
        (rule.is_some(), rule.is_some_and(|rule| rule.starts_with("there is no such")));
    match request {
        // A way that is not there yet, or any more, is what a daemon asks for all the time. Who has Firecracker's API can do
        // anything to that machine.
        Some(Request::VmOpen { what, .. }) => {
            !failed && !missing && (refused || *what == Line::Api)
        }
        Some(_) => refused || failed || !only_looks,
        None => true,
    }
}
