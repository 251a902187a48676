//! What a machine that was taken over puts in the place of its sockets and FIFOs leads nobody anywhere (R-G9).

use super::home::{Home, can_run, firecracker};
use super::jail::{ONE, helper_of, home, open};
use banger_wire::helper::{Line, Reply};
use banger_wire::machine::{AGENT, API, CONSOLE, CONSOLE_SOCKET, LOG, METRICS};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const STRANGER: u32 = 60_104;

/// Puts something at a place.
type Put = Box<dyn Fn(&Path)>;

/// What a machine that was taken over can put in the place of a socket or a FIFO. `kept` is what was there.
fn things(home: &Home, kept: &'static str) -> Vec<(&'static str, Put)> {
    let elsewhere = home.path().join("elsewhere.sock");
    let link =
        |target: PathBuf| -> Put { Box::new(move |place| symlink(&target, place).expect("links")) };
    let bound = |place: &Path| {
        // By its folder's descriptor: the path may be longer than a socket's name.
        let folder = fs::File::open(place.parent().expect("a folder")).expect("opens");
        let name = place.file_name().expect("a name").display();
        let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        drop(UnixListener::bind(short).expect("binds"));
    };
    let fifo = |place: &Path| mknodat(CWD, place, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
    let theirs = |place: &Path| lchown(place, Some(STRANGER), Some(STRANGER)).expect("theirs");
    vec![
        ("a link to a socket elsewhere", link(elsewhere)),
        ("a link to what was there", link(kept.into())),
        ("a link to /etc/passwd", link("/etc/passwd".into())),
        ("a link to a descriptor", link("/proc/self/fd/0".into())),
        ("a link to nothing", link("nothing".into())),
        ("a link that leads out", link("../../../../elsewhere.sock".into())),
        ("a file", Box::new(|place| fs::write(place, "x").expect("writes"))),
        ("a folder", Box::new(|place| fs::create_dir(place).expect("a folder"))),
        (
            "another's socket",
            Box::new(move |place| {
                bound(place);
                theirs(place);
            }),
        ),
        (
            "another's FIFO",
            Box::new(move |place| {
                fifo(place);
                theirs(place);
            }),
        ),
        ("a FIFO", Box::new(fifo)),
        ("a socket where nobody listens", Box::new(bound)),
    ]
}

#[test]
fn what_a_machine_puts_in_the_place_of_its_sockets_is_refused() {
    if !can_run() {
        return;
    }
    let home = home(ONE);
    let (_, root) = home.jails().remove(0);
    let uid = fs::metadata(&root).expect("a root").uid();
    let (helper, id) = helper_of(&home);
    let boot = home.boot_id("a");
    let listener = UnixListener::bind(home.path().join("elsewhere.sock")).expect("binds");
    listener.set_nonblocking(true).expect("sets");
    lchown(home.path().join("elsewhere.sock"), Some(uid), Some(uid)).expect("the jail's");
    let ways: &[_] = if firecracker() {
        &[
            (Line::Agent, AGENT),
            (Line::Api, API),
            (Line::Console, CONSOLE),
            (Line::Log, LOG),
            (Line::Metrics, METRICS),
        ]
    } else {
        &[(Line::Agent, AGENT), (Line::Console, CONSOLE_SOCKET), (Line::Log, LOG)]
    };
    let mut refused = 0;
    for (line, name) in ways.iter().copied() {
        let (place, kept) = (root.join(name), root.join("kept"));
        for (what, put) in things(&home, "kept") {
            // One of these is what belongs there.
            if what == "a FIFO" && [CONSOLE, LOG, METRICS].contains(&name) {
                continue;
            }
            fs::rename(&place, &kept).expect("moves");
            put(&place);
            if fs::symlink_metadata(&place).expect("there").uid() == 0 {
                lchown(&place, Some(uid), Some(uid)).expect("the jail's");
            }
            let (reply, descriptor) = open(&helper, &id, line);
            assert!(
                matches!(reply, Reply::Refused { .. } | Reply::Failed { .. }),
                "{name}, {what}: {reply:?}"
            );
            assert!(descriptor.is_none(), "{name}, {what}");
            refused += 1;
            let removed = fs::remove_file(&place).or_else(|_| fs::remove_dir(&place));
            removed.and_then(|()| fs::rename(&kept, &place)).expect("as it was");
        }
    }
    assert_eq!(refused, if firecracker() { 57 } else { 35 });
    let reached = listener.accept().map(drop).expect_err("nobody was led there");
    assert_eq!(reached.kind(), std::io::ErrorKind::WouldBlock);
    // A name that leads away is refused above the sockets, too.
    let aside = root.with_file_name("aside");
    fs::rename(&root, &aside).expect("moves");
    symlink(&aside, &root).expect("links");
    assert!(open(&helper, &id, Line::Agent).1.is_none(), "the root is a link");
    fs::remove_file(&root).and_then(|()| fs::rename(&aside, &root)).expect("as it was");

    let last = if firecracker() { Line::Api } else { Line::Vsock };
    for line in [Line::Agent, Line::Log, Line::Vmm, last] {
        let (reply, descriptor) = open(&helper, &id, line);
        assert_eq!((reply, descriptor.is_some()), (Reply::Changed, true), "{line:?}");
    }
    assert_eq!(home.ok(&["vm", "exec", "a", "--", "echo", "works"]), "works\n");
    assert_eq!(home.boot_id("a"), boot);
    helper.hang_up();
    home.ok(&["destroy", "--yes"]);
    home.assert_nothing_left();
}
