//! What was done as root, for root to read: one entry in the host's journal for each operation that is not only a look, and for
//! each that was refused or failed. An entry that the journal does not take at once is dropped, and the next one says how many were.
//!
//! Source: the native protocol of systemd's journal, one datagram of `NAME=value` lines.

use banger_wire::helper::{Reply, Request};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Where the journal listens. Whoever starts the helper may name another place.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The journal, where there is one.
pub(crate) struct Audit {
    socket: Option<UnixDatagram>,
    uid: u32,
    dropped: u64,
}

impl Audit {
    /// For the operations of one caller.
    pub(crate) fn open(uid: u32) -> Self {
        let named =
            std::env::var_os("BANGER_JOURNAL").map_or_else(|| JOURNAL.into(), PathBuf::from);
        let socket = UnixDatagram::unbound().ok().filter(|socket| {
            socket.connect(named).and_then(|()| socket.set_nonblocking(true)).is_ok()
        });
        Self { socket, uid, dropped: 0 }
    }

    /// Writes down one operation and how it ended. None stands for a message that is no request.
    pub(crate) fn note(&mut self, request: Option<&Request>, reply: &Reply, took: Duration) {
        let Some(socket) = &self.socket else { return };
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
        // Ids and names of variants: what a message holds beside them is nobody's business here.
        let said = request.and_then(|request| serde_json::to_value(request).ok());
        let word = |name: &str| said.as_ref().and_then(|said| said[name].as_str()).unwrap_or("-");
        let (operation, sandbox) = (word("op"), word("sandbox"));
        let Self { uid, dropped, .. } = self;
        let micros = took.as_micros();
        let entry = format!(
            "MESSAGE={operation} of {sandbox} for uid {uid}: {outcome}, {micros} us\n\
             PRIORITY={priority}\nSYSLOG_IDENTIFIER=banger-helper\nBANGER_OPERATION={operation}\n\
             BANGER_SANDBOX={sandbox}\nBANGER_UID={uid}\nBANGER_OUTCOME={outcome}\n\
             BANGER_MICROS={micros}\nBANGER_DROPPED={dropped}\n"
        );
        self.dropped = if socket.send(entry.as_bytes()).is_ok() { 0 } else { self.dropped + 1 };
    }
}
