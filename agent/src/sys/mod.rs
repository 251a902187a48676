//! The system calls that have no safe wrapper. The only `unsafe` of the agent.
#![allow(unsafe_code)]

use nix::libc;
use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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

/// Makes the kernel's generator begin anew from its pool, at once.
pub(crate) fn reseed(random: BorrowedFd<'_>) -> io::Result<()> {
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    // SAFETY: it takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Forgets what was read of a disk.
pub(crate) fn forget_blocks(disk: BorrowedFd<'_>) -> io::Result<()> {
    const BLKFLSBUF: libc::Ioctl = 0x1261;
    // SAFETY: it takes no argument.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKFLSBUF, 0) })
}

/// Gives an interface that is not open another hardware address.
pub(crate) fn set_mac(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request_for(name)?;
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: the kernel only reads the request, whose name ends with a zero.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR as libc::Ioctl, &request) })
}

/// Grows a mounted ext4 filesystem to so many blocks.
pub(crate) fn grow_ext4(folder: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
    // SAFETY: the kernel reads one u64 behind the pointer.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_RESIZE_FS, &blocks) })
}

/// Lets nobody write to a mounted filesystem, after all that was written is on its disk; or lets them again.
pub(crate) fn freeze(folder: BorrowedFd<'_>, frozen: bool) -> io::Result<()> {
    const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
    const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;
    // SAFETY: neither reads its argument.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), if frozen { FIFREEZE } else { FITHAW }, 0) })
}

/// A socket to configure interfaces with. It carries nothing.
fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new and nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket)?;
        Ok(OwnedFd::from_raw_fd(socket))
    }
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a zeroed `ifreq` is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// An IPv4 address as the kernel takes it.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inner = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain data that begin with the family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inner) }
}

/// Opens an interface.
pub(crate) fn set_up(name: &str) -> io::Result<()> {
    set_flags(name, libc::IFF_UP | libc::IFF_RUNNING)
}

/// Takes an interface down, and all routes by it away.
pub(crate) fn set_down(name: &str) -> io::Result<()> {
    set_flags(name, 0)
}

fn set_flags(name: &str, flags: libc::c_int) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request_for(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel only reads the request, whose name ends with a zero.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) })
}

/// Gives an interface its one address.
pub(crate) fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = control_socket()?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    for (ioctl, value) in
        [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::from_bits(mask))]
    {
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_addr = socket_address(value);
        // SAFETY: as above.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), ioctl as libc::Ioctl, &request) })?;
    }
    Ok(())
}

/// Adds a route by an interface: to one host next door, or (with a gateway) to everywhere.
pub(crate) fn add_route(
    name: &str,
    host: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
) -> io::Result<()> {
    let socket = control_socket()?;
    let name = CString::new(name)?;
    // SAFETY: a zeroed `rtentry` is valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    let any = Ipv4Addr::UNSPECIFIED;
    route.rt_dst = socket_address(host.unwrap_or(any));
    route.rt_genmask = socket_address(if host.is_some() { Ipv4Addr::BROADCAST } else { any });
    route.rt_flags = libc::RTF_UP;
    if host.is_some() {
        route.rt_flags |= libc::RTF_HOST;
    }
    if let Some(gateway) = gateway {
        route.rt_gateway = socket_address(gateway);
        route.rt_flags |= libc::RTF_GATEWAY;
    }
    route.rt_dev = name.as_ptr().cast_mut();
    // SAFETY: the kernel only reads the entry and the name, which live until after the call.
    let added =
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as libc::Ioctl, &route) });
    match added {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}
