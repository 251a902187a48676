//! The users of jails: numbers that nobody else on the host has, given out in turn, so that one rests before it comes again.

use super::records;
use crate::answer::{At, Bad};
use banger_wire::derive::{FIRST_JAIL_USER, JAIL_USERS};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The next free user. Called with the lock of jails held.
pub(crate) fn next(base: &Path) -> Result<u32, Bad> {
    let file = base.join("next");
    let begin: u32 =
        fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut taken: BTreeSet<u32> = records(base).iter().map(|record| record.uid).collect();
    taken.extend(running());
    taken.extend(named(&fs::read_to_string("/etc/passwd").unwrap_or_default()));
    taken.extend(named(&fs::read_to_string("/etc/group").unwrap_or_default()));
    let given = ranges(&fs::read_to_string("/etc/subuid").unwrap_or_default());
    let free = |uid: &u32| {
        let is_given =
            given.iter().any(|(first, count)| (*first..first.saturating_add(*count)).contains(uid));
        !taken.contains(uid) && !is_given
    };
    let found = (0..JAIL_USERS)
        .map(|step| begin.wrapping_add(step) % JAIL_USERS)
        .find(|n| free(&(FIRST_JAIL_USER + n)));
    let number = found.ok_or(Bad::Refused("no user is left for a jail"))?;
    fs::write(&file, (number + 1).to_string()).at("remembering a jail's user")?;
    Ok(FIRST_JAIL_USER + number)
}

/// The users of all processes.
fn running() -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| {
        entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit())
    });
    processes.filter_map(|entry| Some(entry.metadata().ok()?.uid())).collect()
}

/// The numbers in `/etc/passwd` or `/etc/group`.
fn named(text: &str) -> BTreeSet<u32> {
    text.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

/// The ranges in `/etc/subuid`: the first and how many.
fn ranges(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_users_are_told() {
        assert_eq!(named("root:x:0:0:root:/root:/bin/sh\nbad\na:x:7:7"), [0, 7].into());
        assert_eq!(ranges("a:100000:65536\nbad\nb:7"), [(100_000, 65_536)]);
    }

    #[test]
    fn a_user_rests_before_it_comes_again() {
        let folder = std::env::temp_dir().join(format!("bp-users-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let given: Vec<u32> = (0..3).map(|_| next(&folder).expect("a user")).collect();
        fs::write(folder.join("next"), (JAIL_USERS - 1).to_string()).expect("writes");
        let last = next(&folder).expect("the last");
        fs::remove_dir_all(&folder).expect("removes");
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(
            given.iter().all(|uid| (FIRST_JAIL_USER..FIRST_JAIL_USER + JAIL_USERS).contains(uid))
        );
        assert!((FIRST_JAIL_USER..FIRST_JAIL_USER + JAIL_USERS).contains(&last));
    }
}
