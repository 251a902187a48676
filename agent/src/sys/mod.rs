//! The system calls that have no safe wrapper. The only `unsafe` of the agent.
#![allow(unsafe_code)]

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::process::Command;

/// Who a command runs as, and whether it gets a session with a terminal of its own.
pub(crate) struct Prepare {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups.
    pub(crate) groups: Vec<u32>,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub(crate) tty: bool,
}

/// Makes a command start in a session of its own, as the given user.
pub(crate) fn prepare(command: &mut Command, prepare: Prepare) {
    let groups: Vec<libc::gid_t> = prepare.groups;
    // SAFETY: the closure runs between fork and exec. It makes system calls only, allocates nothing, and
    // reads only what it owns.
    unsafe {
        command.pre_exec(move || {
            check(libc::setsid())?;
            if prepare.tty {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setgid(prepare.gid))?;
            check(libc::setuid(prepare.uid))
        });
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a terminal's size.
pub(crate) fn set_window(terminal: BorrowedFd<'_>, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the call, and the kernel only reads the structure.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) })
}

/// Adds entropy to the kernel's pool and credits it.
pub(crate) fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8; 32]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    let info = PoolInfo { entropy_bits: 256, size: 32, bytes: *bytes };
    // SAFETY: the structure has the layout of `struct rand_pool_info` with 32 bytes; the kernel only reads it.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &info) })
}

/// Grows a mounted ext4 filesystem to so many blocks.
pub(crate) fn grow_ext4(folder: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
    // SAFETY: the kernel reads one u64 behind the pointer.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_RESIZE_FS, &blocks) })
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: a zeroed `ifreq` is valid; the name fits with its terminator; the socket is closed below.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let result = check(libc::ioctl(socket, libc::SIOCSIFFLAGS as libc::Ioctl, &request));
        libc::close(socket);
        result
    }
}
