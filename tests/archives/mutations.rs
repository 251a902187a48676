//! Archives that chance has changed: never a panic, and what is accepted is a clean filesystem.

use super::case::{fsck, make};
use super::header::repair;
use super::{differential::shell, image};
use banger_rootfs::{Error, Limits};

/// xorshift64: the same numbers every time.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).expect("48 bits") % bound.max(1)
    }
}

const EACH: u64 = 1000;
const CHECKED: usize = 200;

/// Where headers are in an archive of a real program: marked, with a checksum that is right.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let starts = (0..bytes.len() / 512).map(|block| block * 512);
    starts.filter(|at| &bytes[at + 257..at + 262] == b"ustar").collect()
}

fn change(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let headers = headers(bytes);
    let blocks = bytes.len() / 512;
    let block = |chance: &mut Chance| chance.below(blocks) * 512;
    match chance.below(8) {
        // Mostly headers, and mostly the places that mean something.
        0..=3 => {
            let at = headers[chance.below(headers.len())];
            for _ in 0..=chance.below(3) {
                let place =
                    at + [0, 100, 108, 124, 136, 156, 157, 257, 345, 386, 482][chance.below(11)];
                let place = place + chance.below(13);
                bytes[place] = match chance.below(4) {
                    0 => bytes[place] ^ 1 << chance.below(8),
                    1 => (chance.next() & 0xff) as u8,
                    2 => b"0127/.\0 LKxgS1235"[chance.below(17)],
                    _ => 0xff,
                };
            }
            if chance.below(2) == 0 {
                repair(&mut bytes[at..at + 512], false);
            }
        }
        4 => {
            let at = chance.below(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
        }
        5 => {
            let at = block(chance);
            bytes.drain(at..at + 512);
        }
        6 => {
            let (one, two) = (block(chance), block(chance));
            for index in 0..512 {
                bytes.swap(one + index, two + index);
            }
        }
        _ => bytes.truncate(chance.below(bytes.len())),
    }
}

fn archives() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    shell(
        folder.path(),
        "mkdir -p t/d/e; cd t; echo hello > d/a; ln d/a d/b; ln -s d/a l; mkfifo p; echo x > .wh.q; \
         printf 1 > hole; truncate -s 100000 hole; printf 2 >> hole; mknod null c 1 3; \
         head -c 5000 /dev/zero | tr '\\0' 'z' > d/e/z; echo n > $(printf 'n%.0s' $(seq 1 150)); cd ..; \
         tar --format=gnu --sparse -cf g.tar -C t .; \
         tar --format=posix --sparse --mtime=@1.5 -cf p.tar -C t .; \
         bsdtar --format=ustar -cf u.tar -C t d l p null .wh.q",
    );
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("reads");
    ["g.tar", "p.tar", "u.tar"].into_iter().map(read).collect()
}

#[test]
fn changed_archives_never_break_anything() {
    let (mut accepted, mut refused) = (0usize, 0usize);
    for (index, archive) in (0u64..).zip(archives()) {
        for round in 0..EACH {
            let mut chance = Chance::new(index * EACH + round + 1);
            let mut bytes = archive.clone();
            for _ in 0..=chance.below(3) {
                if bytes.len() >= 1024 && !headers(&bytes).is_empty() {
                    change(&mut bytes, &mut chance);
                }
            }
            match make(&[bytes], &Limits::default()) {
                Ok((_, file)) => {
                    // e2fsck is slow; the reader here is not, and checks folders too.
                    image::read(&file.reopen().expect("opens"));
                    if accepted % 7 == 0 && accepted / 7 < CHECKED {
                        let clean = fsck(file.path());
                        assert!(clean.is_ok(), "archive {index}, round {round}: {clean:?}");
                    }
                    accepted += 1;
                }
                Err(Error::Refused { .. } | Error::Budget { .. }) => refused += 1,
                Err(error @ (Error::DiffId { .. } | Error::Read { .. } | Error::Write(_))) => {
                    panic!("archive {index}, round {round}: {error:?}")
                }
            }
        }
    }
    assert!(accepted > 300 && refused > 300, "{accepted} accepted, {refused} refused");
}
