//! What the kernel's files say of a host: text in, a fact out. Whoever runs there reads the files.

use banger_wire::derive::{FIRST_JAIL_USER, JAIL_USERS};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;

/// What `/dev/kvm` is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kvm {
    /// It is not there.
    Absent {
        /// The module that would make it, when the processor has the instructions.
        module: Option<&'static str>,
    },
    /// This user may not open it.
    Refused,
    /// It opens, but the processor does not run the kernels of guests.
    NoKernels,
    /// It works.
    Works,
}

impl Kvm {
    /// By how opening the device ended, and by `/proc/cpuinfo`.
    pub fn of(opened: Result<(), ErrorKind>, cpuinfo: &str) -> Self {
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or("");
        let has = |flag: &str| flags.split_whitespace().any(|own| own == flag);
        let modules = [("vmx", "kvm_intel"), ("svm", "kvm_amd")];
        let module = modules.into_iter().find(|(flag, _)| has(flag)).map(|(_, module)| module);
        match (opened, module) {
            (Ok(()), Some(_)) => Kvm::Works,
            (Ok(()), None) => Kvm::NoKernels,
            (Err(ErrorKind::NotFound), module) => Kvm::Absent { module },
            (Err(_), _) => Kvm::Refused,
        }
    }

    /// In words.
    pub fn says(self) -> &'static str {
        match self {
            Kvm::Works => "/dev/kvm works",
            Kvm::NoKernels => {
                "/dev/kvm is there, but the processor shows neither vmx nor svm: it cannot run a stock kernel"
            }
            Kvm::Absent { .. } => "there is no /dev/kvm",
            Kvm::Refused => "/dev/kvm cannot be opened by this user",
        }
    }
}

/// Where the v2 hierarchy of cgroups is mounted, by `/proc/self/mountinfo`.
pub fn cgroup2(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| before.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

/// How many of the users of jails somebody else has, by `/etc/passwd` and `/etc/subuid`.
pub fn jail_users_taken(passwd: &str, subuid: &str) -> u32 {
    let all = FIRST_JAIL_USER..FIRST_JAIL_USER + JAIL_USERS;
    let number = |line: &str, field| line.split(':').nth(field)?.trim().parse::<u32>().ok();
    let named = passwd.lines().filter_map(|line| Some((number(line, 2)?, 1)));
    let given = subuid.lines().filter_map(|line| Some((number(line, 1)?, number(line, 2)?)));
    let taken: BTreeSet<u32> = named
        .chain(given)
        .flat_map(|(first, count)| {
            first.max(all.start)..first.saturating_add(count).min(all.end).max(all.start)
        })
        .collect();
    u32::try_from(taken.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_jails_are_nobody_elses() {
        let first = FIRST_JAIL_USER;
        let taken = |passwd: &str, subuid: &str| jail_users_taken(passwd, subuid);
        assert_eq!(taken("root:x:0:0::/root:/bin/sh\nbad", "a:100000:65536\nbad\nb:7"), 0);
        assert_eq!(taken(&format!("a:x:{first}:1::/:"), ""), 1);
        assert_eq!(taken(&format!("a:x:{}:1::/:", first + JAIL_USERS), ""), 0);
        assert_eq!(taken(&format!("a:x:{first}:1::/:"), &format!("a:{first}:10")), 10);
        assert_eq!(taken("", &format!("a:{}:10", first - 5)), 5);
        assert_eq!(taken("", &format!("a:0:{}", u32::MAX)), JAIL_USERS);
    }

    #[test]
    fn kvm_is_judged_by_the_device_and_the_processor() {
        let (intel, amd, none) =
            ("flags\t\t: fpu vmx", "x\nflags\t\t: svm fpu", "flags\t\t: fpu vmxx");
        let absent = |module| Kvm::Absent { module };
        assert_eq!(Kvm::of(Ok(()), intel), Kvm::Works);
        assert_eq!(Kvm::of(Ok(()), amd), Kvm::Works);
        assert_eq!(Kvm::of(Ok(()), none), Kvm::NoKernels);
        assert_eq!(Kvm::of(Ok(()), ""), Kvm::NoKernels);
        assert_eq!(Kvm::of(Err(ErrorKind::NotFound), intel), absent(Some("kvm_intel")));
        assert_eq!(Kvm::of(Err(ErrorKind::NotFound), amd), absent(Some("kvm_amd")));
        assert_eq!(Kvm::of(Err(ErrorKind::NotFound), none), absent(None));
        assert_eq!(Kvm::of(Err(ErrorKind::PermissionDenied), intel), Kvm::Refused);
    }

    #[test]
    fn the_second_hierarchy_is_found() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2(&hybrid.replace("cgroup2", "other")), None);
    }
}
