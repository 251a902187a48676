//! Connections to guests that are open, so that they can be cut. A guest whose memory is written down forgets its connections,
//! and Firecracker tells nobody on this side: whoever waits for an answer would wait for ever.

use banger_wire::id::SandboxId;
use rustix::net::{Shutdown, shutdown};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

/// Those that somebody holds, by sandbox.
#[derive(Debug, Default)]
pub struct Lines(Mutex<BTreeMap<SandboxId, Vec<Weak<OwnedFd>>>>);

impl Lines {
    /// Remembers another descriptor of a connection for as long as it is held.
    pub fn hold(&self, sandbox: &SandboxId, connection: OwnedFd) -> Arc<OwnedFd> {
        let held = Arc::new(connection);
        let mut all = self.0.lock().expect("no holder panics");
        all.retain(|_, lines| {
            lines.retain(|line| line.strong_count() > 0);
            !lines.is_empty()
        });
        all.entry(sandbox.clone()).or_default().push(Arc::downgrade(&held));
        held
    }

    /// Ends all of a sandbox's: whoever reads sees the end.
    pub fn cut(&self, sandbox: &SandboxId) {
        let lines = self.0.lock().expect("no holder panics").remove(sandbox).unwrap_or_default();
        for line in lines.iter().filter_map(Weak::upgrade) {
            // One that has ended is as it should be.
            let _ = shutdown(&line, Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_held_can_be_cut_and_nothing_else() {
        let lines = Lines::default();
        let ids = [1, 2].map(SandboxId::from_bits);
        let pairs = [1, 2, 3].map(|_| UnixStream::pair().expect("a pair"));
        let own = |n: usize| OwnedFd::from(pairs[n].0.try_clone().expect("another"));
        let held = [lines.hold(&ids[0], own(0)), lines.hold(&ids[1], own(1))];
        drop(lines.hold(&ids[0], own(2)));
        lines.cut(&ids[0]);
        let ended = |n: usize| {
            let mut end = &pairs[n].1;
            end.set_nonblocking(true).expect("a mode");
            end.read(&mut [0]).is_ok_and(|count| count == 0)
        };
        assert_eq!([0, 1, 2].map(ended), [true, false, false]);
        lines.cut(&ids[0]);
        drop(held);
        lines.cut(&ids[1]);
        assert!(!ended(1), "nobody held it any more");
    }
}
