//! A terminal of the test's own, for one command.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a command whose three streams are a terminal. Its status, and everything that reached the terminal.
pub(super) fn run(mut command: Command, input: &[u8]) -> (i32, Vec<u8>) {
    let master =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("ours");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name").into_bytes();
    let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).expect("a size");
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NOCTTY.bits())
        .open(std::ffi::OsString::from_vec(name))
        .expect("its other end");
    let end = || slave.try_clone().expect("a descriptor");
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts");
    // The last other ends are the child's.
    drop((command, slave));
    let mut master = File::from(master);
    let mut reader = master.try_clone().expect("a descriptor");
    let reading = std::thread::spawn(move || {
        let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        // A terminal whose other end is closed fails to be read.
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
        }
        all
    });
    master.write_all(input).expect("types");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill().expect("ends it");
            child.wait().expect("ended");
            panic!("it did not end: {}", String::from_utf8_lossy(&reading.join().expect("reads")));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code().unwrap_or(-1), reading.join().expect("reads"))
}
