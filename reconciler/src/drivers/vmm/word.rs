//! The word that an agent says on its console when it listens: until then nobody connects to it.
//!
//! `vhost-device-vsock` 0.3.0 ends its only worker, for good and without a word, when somebody connects after it was told the
//! guest's memory and before the guest's driver has set up its queues. A guest whose agent listens is past that.

use super::{RECORD, recorded_in};
use banger_wire::agent::LISTENS;
use banger_wire::machine::Backend;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file in a run's folder that tells that the word was read.
pub(super) const SAID: &str = "listens";
/// How long a machine that was started may take for the word. Then it is tried without: it may have been lost, or something
/// written into the middle of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the guest of a run may be connected to: it said the word, or had the time to, or Firecracker runs it, whose vsock
/// takes everything.
pub(crate) fn listens(run: &Path) -> bool {
    if run.join(SAID).exists() {
        return true;
    }
    let started = std::fs::metadata(run.join(RECORD)).and_then(|meta| meta.modified());
    let recent = started.is_ok_and(|at| at.elapsed().is_ok_and(|since| since < PATIENCE));
    !recent || recorded_in(run).is_some_and(|boot| boot.backend == Backend::Firecracker)
}

/// Looks for the word in what comes piece by piece.
pub(super) struct Word {
    /// The file that tells of it.
    file: PathBuf,
    /// The end of what came, too short to hold the word; nothing once it was found.
    tail: Option<Vec<u8>>,
}

impl Word {
    /// To be told in the folder of a run.
    pub(super) fn of(run: &Path) -> Self {
        let file = run.join(SAID);
        let tail = (!file.exists()).then(Vec::new);
        Self { file, tail }
    }

    /// Looks at what came next. A guest may say anything: at worst it is then reached too soon, which harms it alone.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let Some(tail) = &mut self.tail else { return };
        tail.extend_from_slice(bytes);
        let word = LISTENS.as_bytes();
        if tail.windows(word.len()).any(|piece| piece == word) {
            // Whoever does not see it waits a while longer, and no more.
            let _ = std::fs::write(&self.file, b"");
            self.tail = None;
        } else {
            tail.drain(..tail.len().saturating_sub(word.len() - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_boots_is_reached_when_it_says_so_or_after_a_while() {
        let run = tempfile::tempdir().expect("a folder");
        assert!(listens(run.path()), "nothing was started");
        let record = std::fs::File::create(run.path().join(RECORD)).expect("a file");
        assert!(!listens(run.path()));
        std::fs::write(run.path().join(SAID), b"").expect("a word");
        assert!(listens(run.path()));
        std::fs::remove_file(run.path().join(SAID)).expect("no word");
        assert!(!listens(run.path()));
        record.set_modified(std::time::SystemTime::now() - PATIENCE).expect("older");
        assert!(listens(run.path()));
    }

    #[test]
    fn the_word_is_found_wherever_its_pieces_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("[    0.5] PCI: Fatal\r\n{LISTENS}\r\n");
        for at in 0..=text.len() {
            let mut word = Word::of(folder.path());
            let (one, two) = text.as_bytes().split_at(at);
            word.read(one);
            word.read(two);
            std::fs::remove_file(folder.path().join(SAID)).expect("it was told");
            word.read(text.as_bytes());
            assert!(!folder.path().join(SAID).exists(), "once is enough");
        }
    }

    #[test]
    fn what_is_not_the_word_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut word = Word::of(folder.path());
        for _ in 0..1000 {
            word.read(&LISTENS.as_bytes()[1..]);
            word.read(b"\n");
        }
        assert!(!folder.path().join(SAID).exists());
        assert!(word.tail.is_some_and(|tail| tail.len() < LISTENS.len()));
    }
}
